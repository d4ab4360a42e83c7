//! Programs in the file system on a disk, which the kernel mounts at `/mnt`.
//!
//! The tool looks at them by the crate that the kernel reads the file system with, before anything boots: so what can't run
//! is refused with its reason, and traces and debuggers have its symbols. The machine gets the disk and the path.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use faultline_ext4::{Error, InodeKind, ROOT, Source, Volume};

use crate::disks::Disk;
use crate::program::{self, Unsuitable};
use crate::session::Task;

/// Where the kernel mounts it.
const MOUNTED: &str = "/mnt";

/// Symbolic links on the way to a program, as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// The largest program that is looked at.
const MOST_BYTES: u64 = 1 << 30;

struct Image<'a>(&'a Disk);

impl Source for Image<'_> {
    type Error = io::Error;

    async fn read<T: Send>(&self, at: u64, length: usize, with: impl FnOnce(&[u8]) -> T + Send) -> io::Result<T> {
        let mut bytes = vec![0; length];
        self.0.read(at, &mut bytes)?;
        Ok(with(&bytes))
    }
}

/// The value of a future that never waits, because its source does not.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the host's files are read at once"),
    }
}

/// What a path leads to.
struct Found {
    data: Vec<u8>,
    is_executable: bool,
}

/// The program `name` on the first disk with a file system: below `MOUNTED`, or below the root of the disk. None if there
/// is no such file system or nothing of that name.
///
/// # Errors
/// Says why the file can't be a user task.
pub fn task(disks: &[Disk], name: &str, args: &[OsString]) -> Result<Option<Task>, Unsuitable> {
    let inside = name.strip_prefix(MOUNTED).filter(|rest| rest.starts_with('/'));
    let (roots, others) = (disks.iter(), disks.iter());
    let in_order = roots
        .filter(|disk| disk.is_root())
        .chain(others.filter(|disk| !disk.is_root()));
    let Some((volume, is_root)) = in_order
        .filter(|disk| !disk.is_swap())
        .find_map(|disk| Some((now(Volume::open(Image(disk))).ok()?, disk.is_root())))
    else {
        return Ok(None);
    };
    let mounted = if is_root { "" } else { MOUNTED };
    let path = format!("{mounted}/{}", inside.unwrap_or(name).trim_start_matches('/'));
    let shown = PathBuf::from(&path);
    match find(&volume, &path, mounted) {
        Ok(Found {
            is_executable: false, ..
        }) => Err(Unsuitable::NotExecutable(shown)),
        Ok(Found { data, .. }) => match program::check(&data) {
            // Its dynamic linker may be on this disk or in the ramdisk; the kernel says so if it is not.
            Err(reason) => Err(Unsuitable::NotAProgram { path: shown, reason }),
            Ok(_) => Ok(Some(Task {
                path: None,
                name: path,
                program: data,
                args: args.to_vec(),
            })),
        },
        Err(Error::NotFound | Error::WrongKind) if inside.is_some() => Err(Unsuitable::Missing(shown)),
        Err(Error::NotFound | Error::WrongKind) => Ok(None),
        Err(error) => Err(Unsuitable::Unreadable {
            path: shown,
            source: io::Error::other(error.to_string()),
        }),
    }
}

/// The file that an absolute path below `mounted`, where the file system is, leads to.
fn find(volume: &Volume<Image<'_>>, path: &str, mounted: &str) -> Result<Found, Error<io::Error>> {
    let parts = |path: &[u8]| {
        path.split(|&byte| byte == b'/')
            .map(<[u8]>::to_vec)
            .collect::<VecDeque<_>>()
    };
    let root = now(volume.inode(ROOT))?;
    // The directories that lead to where the walk is.
    let mut way = vec![root];
    let mut left = parts(path.strip_prefix(mounted).unwrap_or(path).as_bytes());
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        let here = *way.last().ok_or(Error::NotFound)?;
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                way.pop();
                continue;
            }
            _ => {}
        }
        let extents = now(volume.extents(&here))?;
        let inode = now(volume.inode(now(volume.find(&here, &extents, &part))?))?;
        if inode.kind != InodeKind::Link {
            way.push(inode);
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::NotFound);
        }
        let target = now(volume.target(&inode))?;
        let inside = match target.strip_prefix(mounted.as_bytes()) {
            Some(inside) if inside.starts_with(b"/") => {
                way.truncate(1);
                inside
            }
            // It leads out of this file system.
            _ if target.starts_with(b"/") => return Err(Error::NotFound),
            _ => &target[..],
        };
        let mut longer = parts(inside);
        longer.append(&mut left);
        left = longer;
    }
    let inode = *way.last().ok_or(Error::NotFound)?;
    if inode.kind != InodeKind::File || inode.size > MOST_BYTES {
        return Err(Error::NotFound);
    }
    let extents = now(volume.extents(&inode))?;
    let mut data = vec![0; inode.size as usize];
    let mut at = 0;
    while at < data.len() {
        let piece = extents.piece(at as u64);
        let length = piece.length.min((data.len() - at) as u64) as usize;
        if let Some(place) = piece.at {
            let part = &mut data[at..at + length];
            volume.source().0.read(place, part).map_err(Error::Read)?;
        }
        at += length;
    }
    Ok(Found {
        data,
        is_executable: inode.permissions & 0o111 != 0,
    })
}
