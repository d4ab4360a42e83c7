//! Calls that name files by path.

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, has_headroom, user};
use crate::fs::path::{LastLink, Place, locate, look_up};
use crate::fs::proc::ProcFile;
use crate::fs::stat::Status;
use crate::fs::tree::{self, Content, NodeKind};
use crate::fs::{Directory, FileKind, Node, OpenFile, changes};
use crate::machine;
use crate::process::{Pid, tree as processes};

/// The working directory, where a descriptor of a directory is asked for.
pub const AT_CWD: u64 = linux::AT_FDCWD as i64 as u64;

const W_OK: u64 = 2;
const X_OK: u64 = 1;

const UTIME_NOW: u64 = 0x3fff_ffff;
const UTIME_OMIT: u64 = 0x3fff_fffe;

/// The permissions of a new file that is asked for with `mode`.
fn permissions(caller: &Caller, mode: u64) -> u32 {
    mode as u32 & 0o7777 & !caller.thread.process.umask.load(Ordering::Relaxed)
}

/// The directory that a descriptor stands for.
fn base(caller: &Caller, descriptor: u64, path: &[u8]) -> Result<Arc<Node>, Errno> {
    if descriptor as i32 == linux::AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(caller.thread.process.directory.lock().0.clone());
    }
    let file = caller.thread.process.files().lock().get(descriptor)?;
    match (&file.kind, &file.node) {
        (FileKind::Directory, Some(node)) => Ok(node.clone()),
        (FileKind::Path, Some(node)) if node.is_directory() => Ok(node.clone()),
        _ => Err(Errno::ENOTDIR),
    }
}

/// The place that a path names, for calls that change it.
fn place(caller: &Caller, descriptor: u64, path: &[u8], last_link: LastLink) -> Result<Place, Errno> {
    locate(
        &base(caller, descriptor, path)?,
        path,
        last_link,
        caller.thread.process.pid,
    )
}

fn find(caller: &Caller, descriptor: u64, path: &[u8], last_link: LastLink) -> Result<Arc<Node>, Errno> {
    let viewer = caller.thread.process.pid;
    let node = look_up(&base(caller, descriptor, path)?, path, last_link, viewer)?;
    // `/proc/PID/exe` names the running program itself.
    match &node.kind {
        NodeKind::Proc(ProcFile::Executable, pid) if last_link == LastLink::Follow => {
            program_of(pid.unwrap_or(viewer)).ok_or(Errno::ENOENT)
        }
        _ => Ok(node),
    }
}

/// The file of the program that a process runs.
fn program_of(pid: Pid) -> Option<Arc<Node>> {
    processes::find_process(pid)?.started.lock().node.clone()
}

/// `openat`.
pub async fn openat(caller: Caller, descriptor: u64, path: u64, flags: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    has_headroom()?;
    let flags = flags as u32;
    let exclusive = flags & (linux::O_CREAT | linux::O_EXCL) == linux::O_CREAT | linux::O_EXCL;
    let last_link = if flags & linux::O_NOFOLLOW != 0 || exclusive {
        LastLink::Keep
    } else {
        LastLink::Follow
    };
    let node = if flags & linux::O_CREAT == 0 {
        find(&caller, descriptor, &path, last_link)?
    } else {
        let place = place(&caller, descriptor, &path, last_link)?;
        match &place.node {
            Some(_) if exclusive => return Err(Errno::EEXIST),
            Some(node) if node.is_directory() => return Err(Errno::EISDIR),
            Some(_) => find(&caller, descriptor, &path, last_link)?,
            None if place.wants_directory => return Err(Errno::EISDIR),
            None => {
                let node = changes::empty_file(permissions(&caller, mode))?;
                changes::make(&place, node.clone())?;
                node
            }
        }
    };
    let file = OpenFile::open(&caller, node, flags)?;
    let files = caller.thread.process.files();
    files.lock().add(Arc::try_new(file)?, flags & linux::O_CLOEXEC != 0, 0)
}

/// What `stat` and its relatives look at.
fn status(caller: &Caller, descriptor: u64, path: &[u8], flags: u32) -> Result<Status, Errno> {
    if path.is_empty() && flags & linux::AT_EMPTY_PATH != 0 {
        if descriptor as i32 == linux::AT_FDCWD {
            return Ok(Status::of_node(&caller.thread.process.directory.lock().0));
        }
        return Ok(Status::of_file(&*caller.thread.process.files().lock().get(descriptor)?));
    }
    let last_link = if flags & linux::AT_SYMLINK_NOFOLLOW != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    };
    Ok(Status::of_node(&*find(caller, descriptor, path, last_link)?))
}

/// `newfstatat`.
pub async fn newfstatat(caller: Caller, descriptor: u64, path: u64, to: u64, flags: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let status = status(&caller, descriptor, &path, flags as u32)?;
    user::write(&caller.space, to, &status.to_stat()).await?;
    Ok(0)
}

/// `statx`.
pub async fn statx(caller: Caller, descriptor: u64, path: u64, flags: u64, to: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let status = status(&caller, descriptor, &path, flags as u32)?;
    user::write(&caller.space, to, &status.to_statx()).await?;
    Ok(0)
}

/// `faccessat`: everything is readable and, but for `/proc`, writable; execution is as the mode says.
pub async fn faccessat(caller: Caller, descriptor: u64, path: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = find(&caller, descriptor, &path, LastLink::Follow)?;
    if mode & W_OK != 0 && matches!(node.kind, NodeKind::Proc(..)) {
        return Err(Errno::EACCES);
    }
    if mode & X_OK != 0 && node.permissions.load(Ordering::Relaxed) & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    Ok(0)
}

/// `readlinkat`.
pub async fn readlinkat(caller: Caller, descriptor: u64, path: u64, to: u64, size: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    if size == 0 || size > i32::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let viewer = caller.thread.process.pid;
    let node = find(&caller, descriptor, &path, LastLink::Keep)?;
    let target: Vec<u8> = match &node.kind {
        NodeKind::Link(target) => target.clone(),
        NodeKind::OwnProcess => format!("{viewer}").into_bytes(),
        NodeKind::Proc(ProcFile::Executable, pid) => program_of(pid.unwrap_or(viewer))
            .and_then(|program| Node::path(&program))
            .ok_or(Errno::ENOENT)?,
        _ => return Err(Errno::EINVAL),
    };
    let length = target.len().min(size as usize);
    user::write(&caller.space, to, &target[..length]).await?;
    Ok(length as u64)
}

/// `getcwd`.
pub async fn getcwd(caller: Caller, to: u64, size: u64) -> Result<u64, Errno> {
    let node = caller.thread.process.directory.lock().0.clone();
    let mut path = Node::path(&node).ok_or(Errno::ENOENT)?;
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    user::write(&caller.space, to, &path).await?;
    Ok(path.len() as u64)
}

fn enter(caller: &Caller, node: Arc<Node>) -> Result<u64, Errno> {
    if !node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let old = core::mem::replace(&mut *caller.thread.process.directory.lock(), Directory(node));
    drop(old);
    Ok(0)
}

/// `chdir`.
pub async fn chdir(caller: Caller, path: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = find(&caller, AT_CWD, &path, LastLink::Follow)?;
    enter(&caller, node)
}

/// `fchdir`.
pub async fn fchdir(caller: Caller, descriptor: u64) -> Result<u64, Errno> {
    let node = base(&caller, descriptor, b".")?;
    enter(&caller, node)
}

/// `mkdirat`.
pub async fn mkdirat(caller: Caller, descriptor: u64, path: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let place = place(&caller, descriptor, &path, LastLink::Keep)?;
    changes::make(&place, tree::directory(permissions(&caller, mode), tree::now())?)?;
    Ok(0)
}

/// `unlinkat`; `rmdir` with `AT_REMOVEDIR`.
pub async fn unlinkat(caller: Caller, descriptor: u64, path: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(linux::AT_REMOVEDIR) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::read_path(&caller.space, path).await?;
    let place = place(&caller, descriptor, &path, LastLink::Keep)?;
    changes::remove(&place, flags != 0)?;
    Ok(0)
}

/// `renameat2`.
pub async fn renameat2(caller: Caller, from: [u64; 2], to: [u64; 2], flags: u64) -> Result<u64, Errno> {
    let (keep, exchange) = (u64::from(linux::RENAME_NOREPLACE), u64::from(linux::RENAME_EXCHANGE));
    if flags & !(keep | exchange) != 0 || flags == keep | exchange {
        return Err(Errno::EINVAL);
    }
    let [old, new] = [from, to].map(|[_, path]| path);
    let (old, new) = (
        user::read_path(&caller.space, old).await?,
        user::read_path(&caller.space, new).await?,
    );
    let old = place(&caller, from[0], &old, LastLink::Keep)?;
    let new = place(&caller, to[0], &new, LastLink::Keep)?;
    if flags == exchange {
        changes::exchange(&old, &new)?;
    } else {
        changes::rename(&old, &new, flags == keep)?;
    }
    Ok(0)
}

/// `linkat`.
pub async fn linkat(caller: Caller, from: [u64; 2], to: [u64; 2], flags: u64) -> Result<u64, Errno> {
    let (old, new) = (
        user::read_path(&caller.space, from[1]).await?,
        user::read_path(&caller.space, to[1]).await?,
    );
    let last_link = if flags & u64::from(linux::AT_SYMLINK_FOLLOW) != 0 {
        LastLink::Follow
    } else {
        LastLink::Keep
    };
    let node = find(&caller, from[0], &old, last_link)?;
    changes::link(&node, &place(&caller, to[0], &new, LastLink::Keep)?)?;
    Ok(0)
}

/// `symlinkat`.
pub async fn symlinkat(caller: Caller, target: u64, descriptor: u64, path: u64) -> Result<u64, Errno> {
    let target = user::read_path(&caller.space, target).await?;
    let path = user::read_path(&caller.space, path).await?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let place = place(&caller, descriptor, &path, LastLink::Keep)?;
    changes::make(&place, Node::new(NodeKind::Link(target), 0o777, tree::now())?)?;
    Ok(0)
}

/// `truncate`.
pub async fn truncate(caller: Caller, path: u64, length: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    if length > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    match &find(&caller, AT_CWD, &path, LastLink::Follow)?.kind {
        NodeKind::File(content) => changes::writable(content, length == 0)?.truncate(length)?,
        NodeKind::Directory(_) | NodeKind::Process(_) => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `fchmodat`.
pub async fn fchmodat(caller: Caller, descriptor: u64, path: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = find(&caller, descriptor, &path, LastLink::Follow)?;
    node.permissions.store(mode as u32 & 0o7777, Ordering::Relaxed);
    Ok(0)
}

/// `fchownat`: there is one user, to whom everything belongs.
pub async fn fchownat(caller: Caller, descriptor: u64, path: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    find(&caller, descriptor, &path, LastLink::Keep).map(|_| 0)
}

/// `utimensat`: the time of the last change; there is no other.
pub async fn utimensat(caller: Caller, descriptor: u64, path: u64, times: u64) -> Result<u64, Errno> {
    let seconds = match times {
        0 => tree::now(),
        pointer => {
            let [_, _, seconds, nanoseconds] = user::read_words(&caller.space, pointer).await?;
            match nanoseconds {
                UTIME_NOW => tree::now(),
                UTIME_OMIT => return Ok(0),
                _ => seconds,
            }
        }
    };
    let node = if path == 0 {
        let file = caller.thread.process.files().lock().get(descriptor)?;
        file.node.clone().ok_or(Errno::EINVAL)?
    } else {
        let path = user::read_path(&caller.space, path).await?;
        find(&caller, descriptor, &path, LastLink::Follow)?
    };
    node.modified.store(seconds, Ordering::Relaxed);
    if let NodeKind::File(content) = &node.kind
        && let Content::Memory(file) = &*content.lock()
    {
        file.set_modified(seconds);
    }
    Ok(0)
}

/// `statfs` and `fstatfs`: a file system in memory that can take all frames.
pub async fn statfs(caller: Caller, to: u64) -> Result<u64, Errno> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let (total, free) = machine::frame_totals();
    // type, block size, blocks, free, available, files, free files, identity, name length, fragment size
    let words = [TMPFS_MAGIC, 4096, total, free, free, 0, 0, 0, 255, 4096, 0, 0, 0, 0, 0];
    user::write_words(&caller.space, to, words).await?;
    Ok(0)
}
