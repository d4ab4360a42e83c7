//! Calls on file descriptors, which never wait.
//!
//! A file that is closed is let go of after the lock of the table, because the end of a pipe wakes others.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;

use super::{Errno, has_headroom};
use crate::fs::{Descriptor, FileKind, table};
use crate::process::Process;

/// `CLOSE_RANGE_CLOEXEC`.
const CLOSE_RANGE_CLOEXEC: u64 = 4;

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
/// `EINVAL` for an inverted range.
pub fn close_range(process: &Process, first: u64, last: u64, flags: u64) -> Result<u64, Errno> {
    let (first, last) = (first as u32 as usize, last as u32 as usize);
    if first > last {
        return Err(Errno::EINVAL);
    }
    let mark_only = flags & CLOSE_RANGE_CLOEXEC != 0;
    process.files().lock().close_range(first, last, mark_only);
    Ok(0)
}

/// A call that only wants to know that the descriptor is open.
///
/// # Errors
/// `EBADF`.
pub fn check(process: &Process, descriptor: u64) -> Result<u64, Errno> {
    process.files().lock().entry(descriptor).map(|_| 0)
}

/// `ftruncate`, and `fallocate` where it only makes a file longer.
///
/// # Errors
/// `EBADF`, `EINVAL` for what is no file in memory, `ENOSPC`.
pub fn ftruncate(process: &Process, descriptor: u64, length: u64, only_longer: bool) -> Result<u64, Errno> {
    let file = process.files().lock().get(descriptor)?;
    has_headroom()?;
    match &file.kind {
        _ if length > i64::MAX as u64 => Err(Errno::EINVAL),
        FileKind::Memory(memory) if file.is_writable() => {
            if !only_longer || length > memory.length() {
                memory.truncate(length)?;
            }
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `fchmod`.
///
/// # Errors
/// `EBADF`.
pub fn fchmod(process: &Process, descriptor: u64, mode: u32) -> Result<u64, Errno> {
    let file = process.files().lock().get(descriptor)?;
    if let Some(node) = &file.node {
        node.permissions.store(mode & 0o7777, Ordering::Relaxed);
    }
    Ok(0)
}

/// `lseek`.
///
/// # Errors
/// `EBADF`, `ESPIPE`, `EINVAL`.
pub fn lseek(process: &Process, descriptor: u64, distance: i64, whence: u32) -> Result<u64, Errno> {
    let file = process.files().lock().get(descriptor)?;
    if !file.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    let mut offset = file.offset.lock();
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
    if flags & !linux::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let files = process.files();
    let mut files = files.lock();
    let file = files.get(from)?;
    if from == to {
        return if same_is_fine { Ok(to) } else { Err(Errno::EINVAL) };
    }
    if to >= table::LIMIT as u64 {
        return Err(Errno::EBADF);
    }
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
            if argument >= table::LIMIT as u64 {
                return Err(Errno::EINVAL);
            }
            files.add(file, command == linux::F_DUPFD_CLOEXEC, argument as usize)
        }
        linux::F_GETFD => Ok(u64::from(files.entry(descriptor)?.close_on_exec)),
        linux::F_SETFD => files
            .set_close_on_exec(descriptor, argument & u64::from(linux::FD_CLOEXEC) != 0)
            .map(|()| 0),
        linux::F_GETFL => Ok(u64::from(file.flags() & !linux::O_CLOEXEC)),
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
