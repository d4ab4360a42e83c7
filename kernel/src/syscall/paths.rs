//! Calls that name files by path.

use core::sync::atomic::Ordering;

use faultline_ext4::InodeKind;
use faultline_fallible::{Arc, Vec, Weak, try_future};
use linux_raw_sys::general as linux;

use super::{Caller, Errno, descriptors, has_headroom, user};
use crate::fs::path::{LastLink, Place, locate, look_up};
use crate::fs::pipe::named::Fifo;
use crate::fs::proc::ProcNode;
use crate::fs::stat::Status;
use crate::fs::tree::{self, Content, InTree, NodeKind, Target};
use crate::fs::{Directory, FileKind, Node, OpenFile, changes};
use crate::machine;
use crate::process::tree as processes;

/// The working directory, where a descriptor of a directory is asked for.
pub const AT_CWD: u64 = linux::AT_FDCWD as i64 as u64;

const X_OK: u64 = 1;
const W_OK: u64 = 2;

const UTIME_NOW: u64 = 0x3fff_ffff;
const UTIME_OMIT: u64 = 0x3fff_fffe;

/// The permissions of a new file that is asked for with `mode`.
fn permissions(caller: &Caller, mode: u64) -> u32 {
    mode as u32 & 0o7777 & !caller.thread.process.umask.load(Ordering::Relaxed)
}

/// The directory that a descriptor stands for.
fn base(caller: &Caller, descriptor: u64, path: &[u8]) -> Result<Arc<Node>, Errno> {
    if path.is_empty() {
        // Whatever the descriptor is.
        return Err(Errno::ENOENT);
    }
    if descriptor as i32 == linux::AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(caller.thread.process.directory.lock().0.clone());
    }
    let file = caller.thread.process.files().lock().get(descriptor)?;
    match &file.node {
        Some(node) if node.is_directory() => Ok(node.clone()),
        _ => Err(Errno::ENOTDIR),
    }
}

/// The place that a path names, for calls that change it.
async fn place(caller: &Caller, descriptor: u64, path: &[u8], last_link: LastLink) -> Result<Place, Errno> {
    locate(&base(caller, descriptor, path)?, path, last_link, &caller.thread).await
}

pub(super) async fn find(
    caller: &Caller,
    descriptor: u64,
    path: &[u8],
    last_link: LastLink,
) -> Result<Arc<Node>, Errno> {
    look_up(&base(caller, descriptor, path)?, path, last_link, &caller.thread).await
}

/// How the last link of a path is taken, if `flags` has `no_follow`.
const fn last_link(flags: u32, no_follow: u32) -> LastLink {
    if flags & no_follow != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    }
}

/// The node that a path names or, with `AT_EMPTY_PATH` and an empty path, a descriptor's.
async fn find_or_own(caller: &Caller, descriptor: u64, path: &[u8], flags: u32) -> Result<Arc<Node>, Errno> {
    if path.is_empty() && flags & linux::AT_EMPTY_PATH != 0 {
        if descriptor as i32 == linux::AT_FDCWD {
            return Ok(caller.thread.process.directory.lock().0.clone());
        }
        let file = caller.thread.process.files().lock().get(descriptor)?;
        return file.node.clone().ok_or(Errno::ENOENT);
    }
    find(caller, descriptor, path, last_link(flags, linux::AT_SYMLINK_NOFOLLOW)).await
}

/// `openat`.
pub async fn openat(caller: Caller, descriptor: u64, path: u64, flags: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    has_headroom()?;
    let flags = flags as u32;
    if flags & linux::O_TMPFILE == linux::O_TMPFILE {
        return Err(Errno::EOPNOTSUPP);
    }
    let exclusive = flags & (linux::O_CREAT | linux::O_EXCL) == linux::O_CREAT | linux::O_EXCL;
    let creates = flags & linux::O_CREAT != 0 && flags & linux::O_PATH == 0;
    let last_link = if creates && exclusive {
        LastLink::Keep
    } else {
        last_link(flags, linux::O_NOFOLLOW)
    };
    let node = if creates {
        let place = place(&caller, descriptor, &path, last_link).await?;
        match &place.node {
            Some(_) if exclusive => return Err(Errno::EEXIST),
            Some(node) if node.is_directory() => return Err(Errno::EISDIR),
            _ if place.wants_directory => return Err(Errno::EISDIR),
            Some(node) => node.clone(),
            None => {
                let node = changes::empty_file(permissions(&caller, mode))?;
                match changes::make(&place, node.clone()) {
                    Ok(()) => node,
                    // Somebody else was faster.
                    Err(Errno::EEXIST) if !exclusive => place.directory.child(&place.name)?,
                    Err(errno) => return Err(errno),
                }
            }
        }
    } else {
        find(&caller, descriptor, &path, last_link).await?
    };
    let files = caller.thread.process.files();
    let close_on_exec = flags & linux::O_CLOEXEC != 0;
    if let NodeKind::Proc(ProcNode::Descriptor(pid, number)) = &node.kind
        && last_link == LastLink::Follow
    {
        // What it leads to has no node of the tree, so it is opened by being shared.
        let process = processes::find_process(*pid).ok_or(Errno::ENOENT)?;
        let file = process
            .files()
            .lock()
            .get(u64::from(*number))
            .map_err(|_| Errno::ENOENT)?;
        return files.lock().add(file, close_on_exec, 0);
    }
    let file = match &node.kind {
        NodeKind::Fifo(fifo) if flags & (linux::O_PATH | linux::O_DIRECTORY) == 0 => {
            try_future(fifo.open(&caller.thread, node.clone(), flags))?.await?
        }
        _ => OpenFile::open(node, flags).await?,
    };
    let file = Arc::try_new(file)?;
    files.lock().add(file, close_on_exec, 0)
}

/// What `stat` and its relatives look at.
async fn status(caller: &Caller, descriptor: u64, path: &[u8], flags: u32) -> Result<Status, Errno> {
    if path.is_empty() && flags & linux::AT_EMPTY_PATH != 0 && descriptor as i32 != linux::AT_FDCWD {
        return Ok(Status::of_file(&*caller.thread.process.files().lock().get(descriptor)?));
    }
    Ok(Status::of_node(&*find_or_own(caller, descriptor, path, flags).await?))
}

/// The path of a call that takes `AT_EMPTY_PATH`, with which Linux also takes no pointer for an empty path.
async fn optional_path(caller: &Caller, path: u64, flags: u32) -> Result<faultline_fallible::Vec<u8>, Errno> {
    if path == 0 && flags & linux::AT_EMPTY_PATH != 0 {
        return Ok(faultline_fallible::Vec::new());
    }
    user::read_path(&caller.space, path).await
}

/// `newfstatat`.
pub async fn newfstatat(caller: Caller, descriptor: u64, path: u64, to: u64, flags: u64) -> Result<u64, Errno> {
    let known = linux::AT_SYMLINK_NOFOLLOW | linux::AT_NO_AUTOMOUNT | linux::AT_EMPTY_PATH | AT_STATX_SYNC;
    let flags = check_flags(flags, known)?;
    let path = optional_path(&caller, path, flags).await?;
    let status = status(&caller, descriptor, &path, flags).await?;
    user::write(&caller.space, to, &status.to_stat()).await?;
    Ok(0)
}

/// `statx`.
pub async fn statx(caller: Caller, descriptor: u64, path: u64, flags: u64, mask: u64, to: u64) -> Result<u64, Errno> {
    let known = linux::AT_SYMLINK_NOFOLLOW | linux::AT_NO_AUTOMOUNT | linux::AT_EMPTY_PATH | AT_STATX_SYNC;
    if mask as u32 & linux::STATX__RESERVED != 0 || flags as u32 & AT_STATX_SYNC == AT_STATX_SYNC {
        return Err(Errno::EINVAL);
    }
    let flags = check_flags(flags, known)?;
    let path = optional_path(&caller, path, flags).await?;
    let status = status(&caller, descriptor, &path, flags).await?;
    user::write(&caller.space, to, &status.to_statx()).await?;
    Ok(0)
}

/// `AT_STATX_SYNC_TYPE`: both of its bits.
const AT_STATX_SYNC: u32 = linux::AT_STATX_FORCE_SYNC | linux::AT_STATX_DONT_SYNC;

/// The flags of a call, an `int`.
fn check_flags(flags: u64, known: u32) -> Result<u32, Errno> {
    if flags as u32 & !known != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(flags as u32)
}

/// `faccessat`, and `faccessat2` with flags: everything is readable and, but for `/proc` and `/mnt`, writable; execution is
/// as the mode says.
pub async fn faccessat(caller: Caller, descriptor: u64, path: u64, mode: u64, flags: u64) -> Result<u64, Errno> {
    const KNOWN: u32 = linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH | linux::AT_EACCESS;
    let flags = check_flags(flags, KNOWN)?;
    if mode as u32 & !0o7 != 0 {
        return Err(Errno::EINVAL);
    }
    let path = optional_path(&caller, path, flags).await?;
    let node = match find_or_own(&caller, descriptor, &path, flags).await {
        // A pipe or its like can be read and written.
        Err(Errno::ENOENT) if path.is_empty() && flags & linux::AT_EMPTY_PATH != 0 => return Ok(0),
        node => node?,
    };
    if mode & W_OK != 0 {
        changes::check_not_mounted(&node)?;
    }
    if mode & X_OK != 0 && !node.is_directory() && node.permissions.load(Ordering::Relaxed) & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    Ok(0)
}

/// `readlinkat`.
pub async fn readlinkat(caller: Caller, descriptor: u64, path: u64, to: u64, size: u64) -> Result<u64, Errno> {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let size = size as u32 as usize;
    let path = user::read_path(&caller.space, path).await?;
    let node = match path.is_empty() {
        true => find_or_own(&caller, descriptor, &path, linux::AT_EMPTY_PATH).await?,
        false => find(&caller, descriptor, &path, LastLink::Keep).await?,
    };
    let mut buffer;
    let target: &[u8] = match &node.kind {
        _ if let Some(target) = node.target() => target,
        NodeKind::Proc(proc) if proc.is_link() => {
            buffer = Vec::try_of(0, user::PATH_MAX)?;
            let start = crate::fs::proc::read_link(*proc, &caller.thread, &mut buffer)?;
            &buffer[start..]
        }
        _ if path.is_empty() => return Err(Errno::ENOENT),
        _ => return Err(Errno::EINVAL),
    };
    let length = target.len().min(size);
    user::write(&caller.space, to, &target[..length]).await?;
    Ok(length as u64)
}

/// `getcwd`.
pub async fn getcwd(caller: Caller, to: u64, size: u64) -> Result<u64, Errno> {
    let node = caller.thread.process.directory.lock().0.clone();
    let mut buffer = Vec::try_of(0, user::PATH_MAX)?;
    let end = buffer.len() - 1;
    let start = node.path(&mut buffer[..end])?;
    let path = &buffer[start..];
    if path.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    user::write(&caller.space, to, path).await?;
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
    let node = find(&caller, AT_CWD, &path, LastLink::Follow).await?;
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
    let place = place(&caller, descriptor, &path, LastLink::Keep).await?;
    changes::make(&place, tree::directory(permissions(&caller, mode), tree::now())?)?;
    Ok(0)
}

/// `mknodat`: files, named pipes, and names of sockets that nobody has; devices can't be made.
///
/// # Errors
/// `EPERM`, `EINVAL`, and those of [`changes::make`].
pub async fn mknodat(caller: Caller, descriptor: u64, path: u64, mode: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let kind = mode as u32 & linux::S_IFMT;
    let kind = match kind {
        0 | linux::S_IFREG => None,
        linux::S_IFIFO => Some(NodeKind::Fifo(Fifo::default())),
        linux::S_IFSOCK => Some(NodeKind::Socket(Weak::new())),
        linux::S_IFCHR | linux::S_IFBLK | linux::S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let place = place(&caller, descriptor, &path, LastLink::Keep).await?;
    if place.node.is_none() && place.wants_directory {
        return Err(Errno::ENOENT);
    }
    let node = match kind {
        None => changes::empty_file(permissions(&caller, mode))?,
        Some(kind) => Node::new(kind, permissions(&caller, mode), tree::now())?,
    };
    changes::make(&place, node)?;
    Ok(0)
}

/// `unlinkat`; `rmdir` with `AT_REMOVEDIR`.
pub async fn unlinkat(caller: Caller, descriptor: u64, path: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(linux::AT_REMOVEDIR) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::read_path(&caller.space, path).await?;
    let place = place(&caller, descriptor, &path, LastLink::Keep).await?;
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
    loop {
        let old = place(&caller, from[0], &old, LastLink::Keep).await?;
        let new = place(&caller, to[0], &new, LastLink::Keep).await?;
        let renamed = if flags == exchange {
            changes::exchange(&old, &new).await
        } else {
            changes::rename(&old, &new, flags == keep).await
        };
        match renamed {
            Err(changes::MOVED) => faultline_executor::yield_now().await,
            other => return other.map(|()| 0),
        }
    }
}

/// `linkat`.
pub async fn linkat(caller: Caller, from: [u64; 2], to: [u64; 2], flags: u64) -> Result<u64, Errno> {
    let flags = check_flags(flags, linux::AT_SYMLINK_FOLLOW | linux::AT_EMPTY_PATH)?;
    let (old, new) = (
        user::read_path(&caller.space, from[1]).await?,
        user::read_path(&caller.space, to[1]).await?,
    );
    let own = flags & linux::AT_EMPTY_PATH;
    let keep = if flags & linux::AT_SYMLINK_FOLLOW != 0 {
        0
    } else {
        linux::AT_SYMLINK_NOFOLLOW
    };
    let node = find_or_own(&caller, from[0], &old, own | keep).await?;
    changes::link(&node, &place(&caller, to[0], &new, LastLink::Keep).await?)?;
    Ok(0)
}

/// `symlinkat`.
pub async fn symlinkat(caller: Caller, target: u64, descriptor: u64, path: u64) -> Result<u64, Errno> {
    let target = user::read_path(&caller.space, target).await?;
    let path = user::read_path(&caller.space, path).await?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let place = place(&caller, descriptor, &path, LastLink::Keep).await?;
    if place.node.is_none() && place.wants_directory {
        return Err(Errno::ENOENT);
    }
    let link = NodeKind::Link(Target::Own(Vec::try_from_slice(&target)?));
    changes::make(&place, Node::new(link, 0o777, tree::now())?)?;
    Ok(0)
}

/// `truncate`.
pub async fn truncate(caller: Caller, path: u64, length: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    if length > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let node = find(&caller, AT_CWD, &path, LastLink::Follow).await?;
    match &node.kind {
        NodeKind::File(content) => {
            descriptors::check_size(&caller.thread, length)?;
            let file = changes::writable(content, length == 0).await?;
            file.truncate_waiting(length).await?;
        }
        NodeKind::Mounted(file) if file.kind() == InodeKind::File => return Err(Errno::EROFS),
        _ if node.is_directory() => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `fchmodat`, and `fchmodat2` with flags.
pub async fn fchmodat(caller: Caller, descriptor: u64, path: u64, mode: u64, flags: u64) -> Result<u64, Errno> {
    let flags = check_flags(flags, linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH)?;
    let path = user::read_path(&caller.space, path).await?;
    let node = find_or_own(&caller, descriptor, &path, flags).await?;
    changes::check_not_mounted(&node)?;
    match &node.kind {
        NodeKind::Link(_) => return Err(Errno::EOPNOTSUPP),
        NodeKind::Proc(_) => return Err(Errno::EPERM),
        _ => node.permissions.store(mode as u32 & 0o7777, Ordering::Relaxed),
    }
    Ok(0)
}

/// `fchownat`: there is one user, to whom everything belongs.
pub async fn fchownat(caller: Caller, descriptor: u64, path: u64, flags: u64) -> Result<u64, Errno> {
    let flags = check_flags(flags, linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH)?;
    let path = user::read_path(&caller.space, path).await?;
    let node = find_or_own(&caller, descriptor, &path, flags).await?;
    changes::check_not_mounted(&node).map(|()| 0)
}

/// `utime`.
pub async fn utime(caller: Caller, path: u64, times: u64) -> Result<u64, Errno> {
    let seconds = match times {
        0 => tree::now(),
        pointer => user::read_words::<2>(&caller.space, pointer).await?[1],
    };
    set_modified(&caller, AT_CWD, path, 0, seconds).await
}

/// `futimesat`, and `utimes` with the working directory.
pub async fn futimesat(caller: Caller, descriptor: u64, path: u64, times: u64) -> Result<u64, Errno> {
    let seconds = match times {
        0 => tree::now(),
        pointer => {
            let [_, first, seconds, second] = user::read_words(&caller.space, pointer).await?;
            if first >= 1_000_000 || second >= 1_000_000 {
                return Err(Errno::EINVAL);
            }
            seconds
        }
    };
    set_modified(&caller, descriptor, path, 0, seconds).await
}

/// `utimensat`: the time of the last change; there is no other.
pub async fn utimensat(caller: Caller, descriptor: u64, path: u64, times: u64, flags: u64) -> Result<u64, Errno> {
    let flags = check_flags(flags, linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH)?;
    let seconds = match times {
        0 => tree::now(),
        pointer => {
            let [_, first, seconds, nanoseconds] = user::read_words(&caller.space, pointer).await?;
            let is_valid = |part: u64| part < 1_000_000_000 || matches!(part, UTIME_NOW | UTIME_OMIT);
            if !is_valid(first) || !is_valid(nanoseconds) {
                return Err(Errno::EINVAL);
            }
            match nanoseconds {
                UTIME_NOW => tree::now(),
                UTIME_OMIT => return Ok(0),
                _ => seconds,
            }
        }
    };
    set_modified(&caller, descriptor, path, flags, seconds).await
}

/// Sets the time of the last change of what a path names or, without a path, of an open file.
async fn set_modified(caller: &Caller, descriptor: u64, path: u64, flags: u32, seconds: u64) -> Result<u64, Errno> {
    let node = if path == 0 {
        let file = caller.thread.process.files().lock().get(descriptor)?;
        if matches!(file.kind, FileKind::Path) {
            return Err(Errno::EBADF);
        }
        file.node.clone().ok_or(Errno::EINVAL)?
    } else {
        let path = user::read_path(&caller.space, path).await?;
        find_or_own(caller, descriptor, &path, flags).await?
    };
    changes::check_not_mounted(&node)?;
    node.modified.store(seconds, Ordering::Relaxed);
    if let NodeKind::File(content) = &node.kind
        && let Content::Memory(file) = &*content.lock()
    {
        file.set_modified(seconds);
    }
    Ok(0)
}

/// `statfs`.
pub async fn statfs(caller: Caller, path: u64, to: u64) -> Result<u64, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = find(&caller, AT_CWD, &path, LastLink::Follow).await?;
    write_statfs(&caller, Some(&node), to).await
}

/// `fstatfs`.
pub async fn fstatfs(caller: Caller, descriptor: u64, to: u64) -> Result<u64, Errno> {
    let file = caller.thread.process.files().lock().get(descriptor)?;
    write_statfs(&caller, file.node.as_ref(), to).await
}

/// A file system in memory that can take all frames; `/proc` has none.
async fn write_statfs(caller: &Caller, node: Option<&Arc<Node>>, to: u64) -> Result<u64, Errno> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const PROC_MAGIC: u64 = 0x9fa0;
    const EXT4_MAGIC: u64 = 0xef53;
    /// `ST_RDONLY`, and `ST_VALID`: the flags are there.
    const READ_ONLY: u64 = 0x21;
    if let Some(mounted) = node.and_then(|node| node.mounted()) {
        let superblock = mounted.body.mount().superblock();
        let size = superblock.block_size();
        let available = superblock.free_blocks.saturating_sub(superblock.reserved_blocks);
        let [low, high] =
            [0, 8].map(|at| u64::from_le_bytes(superblock.uuid[at..at + 8].try_into().unwrap_or_default()));
        let words = [
            EXT4_MAGIC,
            size,
            superblock.blocks,
            superblock.free_blocks,
            available,
            superblock.inodes.into(),
            superblock.free_inodes.into(),
            low ^ high,
            255,
            size,
            READ_ONLY,
            0,
            0,
            0,
            0,
        ];
        user::write_words(&caller.space, to, words).await?;
        return Ok(0);
    }
    let of_proc = node.is_some_and(|node| match &node.kind {
        NodeKind::Proc(_) => true,
        NodeKind::Directory(entries) => entries.processes,
        _ => false,
    });
    let (kind, total, free) = match of_proc {
        true => (PROC_MAGIC, 0, 0),
        false => {
            let (total, free) = machine::frame_totals();
            (TMPFS_MAGIC, total, free)
        }
    };
    // type, block size, blocks, free, available, files, free files, identity, name length, fragment size
    let words = [kind, 4096, total, free, free, 0, 0, 0, 255, 4096, 0, 0, 0, 0, 0];
    user::write_words(&caller.space, to, words).await?;
    Ok(0)
}
