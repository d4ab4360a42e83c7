//! Calls on file descriptors, which never wait.
//!
//! A file that is closed is let go of after the lock of the table, because the end of a pipe wakes others.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;

use super::Errno;
use crate::fs::changes::check_not_mounted;
use crate::fs::memory_file::Part;
use crate::fs::{Descriptor, FileKind};
use crate::process::limits::Resource;
use crate::process::{Process, Thread};
use crate::signal::{Signal, SignalInfo, raise};

/// `close`.
///
/// # Errors
/// `EBADF`.
pub fn close(process: &Process, descriptor: u64) -> Result<u64, Errno> {
    // The lock is gone before the file is: the end of a pipe wakes others.
    let removed = process.files().lock().remove(descriptor)?;
    drop(removed);
    Ok(0)
}

/// `close_range`.
///
/// # Errors
/// `EINVAL` for an inverted range, and for unknown flags.
pub fn close_range(process: &Process, first: u64, last: u64, flags: u64) -> Result<u64, Errno> {
    const UNSHARE: u64 = 2;
    const MARK: u64 = 4;
    let (first, last) = (first as u32 as usize, last as u32 as usize);
    if flags & !(UNSHARE | MARK) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        process.unshare_files()?;
    }
    let files = process.files();
    if flags & MARK != 0 {
        files.lock().mark(first, last);
        return Ok(0);
    }
    // One at a time, and each is closed when the lock is gone.
    loop {
        let closed = files.lock().take(first, last, false);
        if closed.is_none() {
            return Ok(0);
        }
    }
}

/// A call that only wants to know that the descriptor is open, and not only by name.
///
/// # Errors
/// `EBADF`.
pub fn check(process: &Process, descriptor: u64) -> Result<u64, Errno> {
    match process.files().lock().entry(descriptor)?.file.kind {
        FileKind::Path => Err(Errno::EBADF),
        _ => Ok(0),
    }
}

/// `fsync`, `fdatasync`: there is nothing to write to.
///
/// # Errors
/// `EBADF`; `EINVAL` for what is no file.
pub fn fsync(process: &Process, descriptor: u64) -> Result<u64, Errno> {
    match process.files().lock().entry(descriptor)?.file.kind {
        FileKind::Path => Err(Errno::EBADF),
        FileKind::PipeReader(_)
        | FileKind::PipeWriter(_)
        | FileKind::Fifo(..)
        | FileKind::Signals(_)
        | FileKind::Process(_)
        | FileKind::Socket(_)
        | FileKind::Timer(_)
        | FileKind::Device(_)
        | FileKind::Console(_) => Err(Errno::EINVAL),
        _ => Ok(0),
    }
}

/// `fadvise64`: pages of a file on a disk that are wanted begin to be read; those that are not wanted are dropped if nothing
/// maps them; whatever else is advised is so.
///
/// # Errors
/// `EBADF`, `ESPIPE` for a pipe, `EINVAL` for what is no advice; [`Errno::EWAIT`] if there is more to drop than one step of
/// a call may.
pub fn fadvise(process: &Process, descriptor: u64, offset: u64, length: i64, advice: u32) -> Result<u64, Errno> {
    let file = process.files().lock().get(descriptor)?;
    match &file.kind {
        FileKind::Path => Err(Errno::EBADF),
        FileKind::PipeReader(_) | FileKind::PipeWriter(_) | FileKind::Fifo(..) => Err(Errno::ESPIPE),
        _ if length < 0 || advice > linux::POSIX_FADV_NOREUSE => Err(Errno::EINVAL),
        FileKind::Mounted(body) if advice == linux::POSIX_FADV_WILLNEED => {
            body.will_need(offset, advised_end(offset, length as u64));
            Ok(0)
        }
        FileKind::Mounted(body) if advice == linux::POSIX_FADV_DONTNEED => {
            match body.drop_pages(offset, advised_end(offset, length as u64)) {
                Some(_) => Err(Errno::EWAIT),
                None => Ok(0),
            }
        }
        _ => Ok(0),
    }
}

/// The end of the part of a file that an advice is for; a length of 0 reaches to the end of the file.
pub(super) const fn advised_end(offset: u64, length: u64) -> u64 {
    match length {
        0 => u64::MAX,
        _ => offset.saturating_add(length),
    }
}

/// Whether a file may have a length, by `RLIMIT_FSIZE`.
///
/// # Errors
/// `EFBIG`, and the thread gets `SIGXFSZ`.
pub fn check_size(thread: &Thread, length: u64) -> Result<(), Errno> {
    if length > thread.process.limits.current(Resource::FSIZE) {
        raise::to_thread(thread, SignalInfo::kernel(Signal::SIGXFSZ));
        return Err(Errno::EFBIG);
    }
    Ok(())
}

/// `ftruncate`, if it need not wait.
///
/// # Errors
/// `EBADF`, `EINVAL` for what is no file in memory, `EFBIG`; [`Errno::EWAIT`] if it has to bring a page in first.
pub fn ftruncate(thread: &Thread, descriptor: u64, length: u64) -> Result<u64, Errno> {
    let file = thread.process.files().lock().get(descriptor)?;
    match &file.kind {
        _ if length > i64::MAX as u64 => Err(Errno::EINVAL),
        FileKind::Path => Err(Errno::EBADF),
        FileKind::Memory(memory) if file.is_writable() => {
            if length > memory.length() {
                check_size(thread, length)?;
            }
            memory.truncate(length)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `fchmod`.
///
/// # Errors
/// `EBADF`, `EROFS`.
pub fn fchmod(process: &Process, descriptor: u64, mode: u32) -> Result<u64, Errno> {
    let file = process.files().lock().get(descriptor)?;
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    if let Some(node) = &file.node {
        check_not_mounted(node)?;
        node.permissions.store(mode & 0o7777, Ordering::Relaxed);
    }
    Ok(0)
}

/// `fchown`: there is one user, to whom everything belongs.
///
/// # Errors
/// `EBADF`, `EROFS`.
pub fn fchown(process: &Process, descriptor: u64) -> Result<u64, Errno> {
    check(process, descriptor)?;
    let file = process.files().lock().get(descriptor)?;
    file.node.as_ref().map_or(Ok(()), |node| check_not_mounted(node))?;
    Ok(0)
}

/// `lseek`.
///
/// # Errors
/// `EBADF`, `ESPIPE`, `EINVAL`.
pub fn lseek(process: &Process, descriptor: u64, distance: i64, whence: u32) -> Result<u64, Errno> {
    let file = process.files().lock().get(descriptor)?;
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    if !file.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    let mut offset = file.offset.lock();
    let part = match whence {
        linux::SEEK_DATA => Some(Part::Data),
        linux::SEEK_HOLE => Some(Part::Hole),
        _ => None,
    };
    if let Some(part) = part {
        let start = u64::try_from(distance).map_err(|_| Errno::ENXIO)?;
        *offset = match &file.kind {
            FileKind::Memory(memory) => memory.next(start, part),
            FileKind::Ramdisk(_) if start >= file.length() => None,
            // All of it is data.
            FileKind::Ramdisk(_) if part == Part::Data => Some(start),
            FileKind::Ramdisk(_) => Some(file.length()),
            FileKind::Mounted(body) => body.next(start, part),
            _ => return Err(Errno::EINVAL),
        }
        .ok_or(Errno::ENXIO)?;
        return Ok(*offset);
    }
    let base = match whence {
        linux::SEEK_SET => 0,
        linux::SEEK_CUR => *offset,
        linux::SEEK_END => file.length(),
        _ => return Err(Errno::EINVAL),
    };
    let target = base
        .checked_add_signed(distance)
        .filter(|&target| target <= i64::MAX as u64);
    *offset = target.ok_or(Errno::EINVAL)?;
    Ok(*offset)
}

/// `dup`.
///
/// # Errors
/// `EBADF`, `EMFILE`, `ENOMEM`.
pub fn dup(process: &Process, descriptor: u64) -> Result<u64, Errno> {
    let files = process.files();
    let mut files = files.lock();
    let file = files.get(descriptor)?;
    files.add(file, false, 0)
}

/// `dup3`; `dup2` where `same_is_fine`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `ENOMEM`.
pub fn dup3(process: &Process, from: u64, to: u64, flags: u32, same_is_fine: bool) -> Result<u64, Errno> {
    let (from, to) = (u64::from(from as u32), u64::from(to as u32));
    if flags & !linux::O_CLOEXEC != 0 || (from == to && !same_is_fine) {
        return Err(Errno::EINVAL);
    }
    let files = process.files();
    let mut files = files.lock();
    if from == to {
        return files.get(from).map(|_| to);
    }
    if to >= files.limit() as u64 {
        return Err(Errno::EBADF);
    }
    let file = files.get(from)?;
    let entry = Descriptor {
        file,
        close_on_exec: flags & linux::O_CLOEXEC != 0,
    };
    let replaced = files.put(to as usize, entry)?;
    drop(files);
    drop(replaced);
    Ok(to)
}

/// `fcntl`.
///
/// # Errors
/// `EBADF`, `EBUSY`, `EINVAL`, `EMFILE`, `ENOMEM`, `EPERM`.
pub fn fcntl(process: &Process, descriptor: u64, command: u32, argument: u64) -> Result<u64, Errno> {
    let files = process.files();
    let mut files = files.lock();
    let file = files.get(descriptor)?;
    match command {
        linux::F_DUPFD | linux::F_DUPFD_CLOEXEC => {
            if argument as u32 as usize >= files.limit() {
                return Err(Errno::EINVAL);
            }
            files.add(file, command == linux::F_DUPFD_CLOEXEC, argument as u32 as usize)
        }
        linux::F_GETFD => Ok(u64::from(files.entry(descriptor)?.close_on_exec)),
        linux::F_SETFD => files
            .set_close_on_exec(descriptor, argument & u64::from(linux::FD_CLOEXEC) != 0)
            .map(|()| 0),
        linux::F_GETFL => Ok(u64::from(file.flags() & !linux::O_CLOEXEC)),
        _ if matches!(file.kind, FileKind::Path) => Err(Errno::EBADF),
        linux::F_SETFL => {
            file.set_flags(argument as u32);
            Ok(0)
        }
        linux::F_GETPIPE_SZ => file.pipe().map(|pipe| pipe.capacity() as u64).ok_or(Errno::EBADF),
        linux::F_SETPIPE_SZ => {
            drop(files);
            let pipe = file.pipe().ok_or(Errno::EBADF)?;
            pipe.set_capacity(argument as u32).map(|size| size as u64)
        }
        _ => Err(Errno::EINVAL),
    }
}
