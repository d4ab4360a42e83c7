//! Images made by `mkfs.ext4 -d`, and a source over their bytes.
#![allow(dead_code, reason = "each test uses its part of it")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use faultline_ext4::{Error, Extents, Inode, ROOT, Source, UNIT, Volume};

/// A read beyond the end of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeyondEnd(pub u64);

/// The bytes of an image.
#[derive(Default)]
pub struct Image {
    pub bytes: Vec<u8>,
    /// Reads so far.
    pub reads: AtomicU64,
}

impl Image {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

impl Source for &Image {
    type Error = BeyondEnd;

    async fn read<T: Send>(
        &self,
        at: u64,
        length: usize,
        with: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<T, BeyondEnd> {
        assert!(
            length > 0 && at % UNIT + length as u64 <= UNIT,
            "{length} bytes at {at}"
        );
        self.reads.fetch_add(1, Ordering::Relaxed);
        let start = usize::try_from(at).map_err(|_| BeyondEnd(at))?;
        let bytes = self.bytes.get(start..).and_then(|bytes| bytes.get(..length));
        bytes.map(with).ok_or(BeyondEnd(at))
    }
}

/// The value of a future that never waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("an image in memory never waits"),
    }
}

fn run(command: &mut Command, success: &[i32]) {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{name} (of e2fsprogs) could not be started: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    let is_success = output.status.code().is_some_and(|code| success.contains(&code));
    assert!(is_success, "{command:?}: {text}");
}

/// A file system of `mebibytes` MiB with what is in `folder`.
pub fn make(folder: &Path, mebibytes: u64, options: &[&str]) -> Image {
    build(folder, mebibytes, options, |_| {})
}

/// The same, changed by commands of `debugfs`.
pub fn make_and_change(folder: &Path, mebibytes: u64, options: &[&str], changes: &[String]) -> Image {
    build(folder, mebibytes, options, |image| {
        let script = image.with_extension("script");
        fs::write(&script, changes.join("\n")).unwrap();
        run(
            Command::new("/usr/sbin/debugfs")
                .arg("-w")
                .arg("-f")
                .arg(&script)
                .arg(image),
            &[0],
        );
    })
}

/// The same with indexes of its directories, which `mkfs.ext4 -d` does not make.
pub fn make_indexed(folder: &Path, mebibytes: u64, options: &[&str]) -> Image {
    build(folder, mebibytes, options, |image| {
        run(Command::new("/usr/sbin/e2fsck").arg("-fyD").arg(image), &[0, 1]);
    })
}

fn build(folder: &Path, mebibytes: u64, options: &[&str], change: impl FnOnce(&Path)) -> Image {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("image");
    let mut command = Command::new("/usr/sbin/mkfs.ext4");
    command.args(["-q", "-F", "-E", "hash_seed=d1ab1e00-0000-4000-8000-000000000001"]);
    command.args(options).arg("-d").arg(folder).arg(&file);
    run(command.arg(format!("{mebibytes}M")), &[0]);
    change(&file);
    Image::new(fs::read(&file).unwrap())
}

/// Bytes that differ from one place to the next.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// A folder with one of everything that can be read.
pub fn fill(folder: &Path) {
    for size in [0, 1, 1023, 1024, 4095, 4096, 4097, 300_000] {
        fs::write(folder.join(format!("file{size}")), bytes(size as u64, size)).unwrap();
    }
    fs::create_dir(folder.join("many")).unwrap();
    for number in 0..600 {
        fs::write(folder.join(format!("many/a name that is number {number}")), []).unwrap();
    }
    let deep = folder.join(["deep"; 60].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "here").unwrap();
    symlink("file4097", folder.join("short")).unwrap();
    symlink("no/such/place/".repeat(20), folder.join("long")).unwrap();
    fs::write(folder.join("naïve – \u{1f600}"), "name in UTF-8").unwrap();
    sparse(&folder.join("sparse"), &[(0, 10), (5 << 20, 5000), (9 << 20, 1)]);
    let holes: Vec<_> = (0..400).map(|number| (number * 8192, 3000)).collect();
    sparse(&folder.join("holes"), &holes);
}

/// A file with bytes at some places and holes between.
pub fn sparse(path: &Path, places: &[(u64, usize)]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    for &(at, length) in places {
        file.write_all_at(&bytes(at, length), at).unwrap();
    }
}

/// A volume, and ways to read it as a program would.
pub struct Reader<'a> {
    pub volume: Volume<&'a Image>,
    pub image: &'a Image,
}

pub type Read<T> = Result<T, Error<BeyondEnd>>;

impl<'a> Reader<'a> {
    pub fn open(image: &'a Image) -> Read<Self> {
        let volume = now(Volume::open(image))?;
        Ok(Self { volume, image })
    }

    pub fn inode(&self, path: &str) -> Read<Inode> {
        let mut inode = now(self.volume.inode(ROOT))?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let extents = now(self.volume.extents(&inode))?;
            let number = now(self.volume.find(&inode, &extents, part.as_bytes()))?;
            inode = now(self.volume.inode(number))?;
        }
        Ok(inode)
    }

    /// The bytes of a file from `start` to `end`.
    pub fn read(&self, extents: &Extents, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut at = start;
        while at < end {
            let piece = extents.piece(at);
            let length = piece.length.min(end - at) as usize;
            assert!(length > 0);
            match piece.at {
                Some(place) => {
                    let from = self.image.bytes.get(place as usize..).unwrap_or_default();
                    bytes.extend_from_slice(from.get(..length).unwrap_or_default());
                }
                None => bytes.resize(bytes.len() + length, 0),
            }
            at += length as u64;
        }
        bytes
    }

    pub fn content(&self, inode: &Inode) -> Read<Vec<u8>> {
        let extents = now(self.volume.extents(inode))?;
        Ok(self.read(&extents, 0, inode.size))
    }

    /// Names of a directory, with the numbers of what they name.
    pub fn list(&self, inode: &Inode) -> Read<Vec<(Vec<u8>, u32)>> {
        let extents = now(self.volume.extents(inode))?;
        let mut names = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = now(self.volume.list(inode, &extents, from, |entry| {
                names.push((entry.name.to_vec(), entry.inode));
                true
            }))?;
        }
        Ok(names)
    }
}
