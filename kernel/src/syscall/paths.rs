//! Calls that name files by path.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, has_headroom, processes, user};
use crate::fs::path::{LastLink, look_up};
use crate::fs::proc::ProcFile;
use crate::fs::stat::Status;
use crate::fs::tree::{self, NodeId, NodeKind};
use crate::fs::{Directory, FileKind, OpenFile};

/// The working directory, where a descriptor of a directory is asked for.
pub const AT_CWD: u64 = linux::AT_FDCWD as i64 as u64;

const W_OK: u64 = 2;
const X_OK: u64 = 1;

/// The directory that a descriptor stands for.
fn base(caller: &Caller, descriptor: u64, path: &[u8]) -> Result<NodeId, Errno> {
    if descriptor as i32 == linux::AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(caller.thread.process.directory.lock().0);
    }
    let file = caller.thread.process.files().lock().get(descriptor)?;
    match (&file.kind, file.node) {
        (FileKind::Directory, Some(node)) => Ok(node),
        _ => Err(Errno::ENOTDIR),
    }
}

fn find(caller: &Caller, descriptor: u64, path: &[u8], last_link: LastLink) -> Result<NodeId, Errno> {
    let node = look_up(base(caller, descriptor, path)?, path, last_link)?;
    // `/proc/self/exe` names the running program itself.
    if matches!(tree::tree().node(node).kind, NodeKind::Proc(ProcFile::Executable)) && last_link == LastLink::Follow {
        return caller.thread.process.started.lock().node.ok_or(Errno::ENOENT);
    }
    Ok(node)
}

/// `openat`.
pub async fn openat(caller: Caller, descriptor: u64, path: u64, flags: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    has_headroom()?;
    let flags = flags as u32;
    let last_link = if flags & linux::O_NOFOLLOW != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    };
    let node = match find(&caller, descriptor, &path, last_link) {
        Ok(_) if flags & (linux::O_CREAT | linux::O_EXCL) == linux::O_CREAT | linux::O_EXCL => {
            return Err(Errno::EEXIST);
        }
        Err(Errno::ENOENT) if flags & linux::O_CREAT != 0 => return Err(Errno::EROFS),
        found => found?,
    };
    let file = OpenFile::open(&caller, node, flags)?;
    let files = caller.thread.process.files();
    files.lock().add(Arc::new(file), flags & linux::O_CLOEXEC != 0, 0)
}

/// What `stat` and its relatives look at.
fn status(caller: &Caller, descriptor: u64, path: &[u8], flags: u32) -> Result<Status, Errno> {
    if path.is_empty() && flags & linux::AT_EMPTY_PATH != 0 {
        if descriptor as i32 == linux::AT_FDCWD {
            return Ok(Status::of_node(caller.thread.process.directory.lock().0));
        }
        return Ok(Status::of_file(&*caller.thread.process.files().lock().get(descriptor)?));
    }
    let last_link = if flags & linux::AT_SYMLINK_NOFOLLOW != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    };
    Ok(Status::of_node(find(caller, descriptor, path, last_link)?))
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

/// `faccessat`: everything is readable, the archive is not writable, execution is as the mode says.
pub async fn faccessat(caller: Caller, descriptor: u64, path: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = tree::tree().node(find(&caller, descriptor, &path, LastLink::Follow)?);
    if mode & W_OK != 0 && !matches!(node.kind, NodeKind::Device(_)) {
        return Err(Errno::EROFS);
    }
    if mode & X_OK != 0 && node.permissions & 0o111 == 0 {
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
    let node = find(&caller, descriptor, &path, LastLink::Keep)?;
    let target: Vec<u8> = match &tree::tree().node(node).kind {
        NodeKind::Link(target) => target.clone(),
        NodeKind::Proc(ProcFile::Executable) => {
            processes::executable_path(&caller.thread.process).ok_or(Errno::ENOENT)?
        }
        _ => return Err(Errno::EINVAL),
    };
    let length = target.len().min(size as usize);
    user::write(&caller.space, to, &target[..length]).await?;
    Ok(length as u64)
}

/// `getcwd`.
pub async fn getcwd(caller: Caller, to: u64, size: u64) -> Result<u64, Errno> {
    let node = caller.thread.process.directory.lock().0;
    let mut path = tree::tree().path(node);
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    user::write(&caller.space, to, &path).await?;
    Ok(path.len() as u64)
}

/// `chdir`.
pub async fn chdir(caller: Caller, path: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = find(&caller, AT_CWD, &path, LastLink::Follow)?;
    tree::tree().entries(node).ok_or(Errno::ENOTDIR)?;
    *caller.thread.process.directory.lock() = Directory(node);
    Ok(0)
}

/// A call that would change the tree, which is read-only.
pub async fn change_nothing(caller: Caller, path: u64) -> Result<u64, Errno> {
    user::read_path(&caller.space, path).await?;
    Err(Errno::EROFS)
}
