//! Calls on open files that may wait but move no file data.

use faultline_fallible::Arc;

use linux_raw_sys::{general as linux, ioctl};

use super::transfer::opened;
use super::{Caller, Errno, descriptors, has_headroom, user};
use crate::fs::memory_file::MemoryFile;
use crate::fs::stat::Status;
use crate::fs::tree::{InTree, Listed};
use crate::fs::{FileKind, OpenFile, locks};
use crate::process::tree;
use crate::terminal;

/// `getdents64`. The file's offset is the place of the last entry. What is not read yet is not in memory: entries go
/// straight from the directory to the buffer, as many as it takes.
pub async fn getdents64(caller: Caller, descriptor: u64, address: u64, size: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    let node = file.node.as_ref().filter(|_| matches!(file.kind, FileKind::Directory));
    let node = node.ok_or(Errno::ENOTDIR)?;
    let start = *file.offset.lock();
    let mut buffer = user::buffer((size as u32 as usize).min(32 * 1024))?;
    let (mut used, mut last, mut is_full) = (0, start, false);
    let mut add = |listed: Listed<'_>| {
        let Listed {
            name,
            place,
            inode,
            sort,
        } = listed;
        let length = (19 + name.len() + 1).next_multiple_of(8);
        let Some(record) = buffer.get_mut(used..used + length) else {
            is_full = true;
            return false;
        };
        record[..8].copy_from_slice(&inode.to_le_bytes());
        record[8..16].copy_from_slice(&place.to_le_bytes());
        record[16..18].copy_from_slice(&(length as u16).to_le_bytes());
        record[18] = sort.number();
        record[19..19 + name.len()].copy_from_slice(name);
        (used, last) = (used + length, place);
        true
    };
    let mut goes_on = true;
    node.list(start, &mut |listed| {
        goes_on = add(listed);
        goes_on
    })?;
    if let Some(mounted) = node.mounted().filter(|_| goes_on) {
        mounted.body.list(start, add).await?;
    }
    if used == 0 && is_full {
        return Err(Errno::EINVAL);
    }
    if used == 0 && node.is_removed() {
        return Err(Errno::ENOENT);
    }
    user::write(&caller.space, address, &buffer[..used]).await?;
    *file.offset.lock() = last;
    Ok(used as u64)
}

/// `ioctl`: of every file how it is opened, of the terminal, if the console is one, and how much of a file is left.
pub async fn ioctl(caller: Caller, descriptor: u64, request: u64, argument: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    let request = request as u32;
    let files = || caller.thread.process.files();
    match request {
        _ if matches!(file.kind, FileKind::Path) => return Err(Errno::EBADF),
        ioctl::FIOCLEX => files().lock().set_close_on_exec(descriptor, true)?,
        ioctl::FIONCLEX => files().lock().set_close_on_exec(descriptor, false)?,
        ioctl::FIONBIO => {
            let on = user::read_u32(&caller.space, argument).await? != 0;
            file.set_flag(linux::O_NONBLOCK, on);
        }
        ioctl::FIOASYNC => {
            // The signal goes to the owner of the file, and no file has one unless `F_SETOWN` gives it one.
            let on = user::read_u32(&caller.space, argument).await? != 0;
            let was_on = file.flags() & linux::FASYNC != 0;
            if on != was_on && file.pipe().is_none() && !matches!(file.kind, FileKind::Console(_) | FileKind::Socket(_))
            {
                return Err(Errno::ENOTTY);
            }
            file.set_flag(linux::FASYNC, on);
        }
        _ if matches!(file.kind, FileKind::Console(_)) && terminal::is_on() => {
            return control_terminal(&caller, request, argument).await;
        }
        ioctl::FIONREAD => {
            let left = match file.pipe() {
                Some(pipe) => pipe.length() as u64,
                None if file.bytes().is_some() || matches!(file.kind, FileKind::Memory(_) | FileKind::Mounted(_)) => {
                    file.length().saturating_sub(*file.offset.lock())
                }
                None if let FileKind::Socket(end) = &file.kind => end.0.readable()? as u64,
                None => return Err(Errno::ENOTTY),
            };
            user::write_u32(&caller.space, argument, left.min(i32::MAX as u64) as u32).await?;
        }
        ioctl::TIOCOUTQ if let FileKind::Socket(end) = &file.kind => {
            user::write_u32(&caller.space, argument, end.0.sent.bytes() as u32).await?;
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

async fn control_terminal(caller: &Caller, request: u32, argument: u64) -> Result<u64, Errno> {
    let (space, process) = (&caller.space, &caller.thread.process);
    match request {
        ioctl::TCGETS => user::write(space, argument, &terminal::settings()).await?,
        ioctl::TCSETS | ioctl::TCSETSW | ioctl::TCSETSF => {
            terminal::check_change(&caller.thread)?;
            let mut bytes = [0; terminal::TERMIOS];
            user::read(space, argument, &mut bytes).await?;
            terminal::set_settings(&bytes, request == ioctl::TCSETSF);
        }
        ioctl::TIOCGPGRP => user::write_u32(space, argument, terminal::foreground()).await?,
        ioctl::TIOCSPGRP => {
            terminal::check_change(&caller.thread)?;
            let group = user::read_u32(space, argument).await?;
            if !tree::is_group_of(process.session(), group) {
                return Err(Errno::EPERM);
            }
            terminal::set_foreground(group);
        }
        ioctl::TIOCGSID => user::write_u32(space, argument, process.session()).await?,
        ioctl::TIOCGWINSZ => {
            let window = terminal::window().map(u16::to_le_bytes);
            user::write(space, argument, window.as_flattened()).await?;
        }
        ioctl::TIOCSWINSZ => {
            let mut window = [[0; 2]; 4];
            user::read(space, argument, window.as_flattened_mut()).await?;
            terminal::set_window(window.map(u16::from_le_bytes));
        }
        ioctl::FIONREAD => {
            let bytes = terminal::readable_bytes();
            user::write_u32(space, argument, bytes as u32).await?;
        }
        ioctl::TIOCSCTTY | ioctl::TIOCNOTTY | ioctl::TCFLSH | ioctl::TCSBRK | ioctl::TCSBRKP => {}
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// `memfd_create`: a file in frames without a name.
pub async fn memfd_create(caller: Caller, name: u64, flags: u64) -> Result<u64, Errno> {
    user::read_string(&caller.space, name, 250, Errno::EINVAL).await?;
    let known = linux::MFD_CLOEXEC | linux::MFD_ALLOW_SEALING | linux::MFD_NOEXEC_SEAL | linux::MFD_EXEC;
    if flags & !u64::from(known) != 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    let file = FileKind::Memory(Arc::try_new(MemoryFile::new()?)?);
    let file = Arc::try_new(OpenFile::new(file, None, linux::O_RDWR))?;
    let files = caller.thread.process.files();
    files.lock().add(file, flags as u32 & linux::MFD_CLOEXEC != 0, 0)
}

/// `fstat`.
pub async fn fstat(caller: Caller, descriptor: u64, to: u64) -> Result<u64, Errno> {
    let status = Status::of_file(&*opened(&caller, descriptor)?);
    user::write(&caller.space, to, &status.to_stat()).await?;
    Ok(0)
}

/// `fcntl` about locks.
pub async fn fcntl_lock(caller: Caller, descriptor: u64, command: u32, address: u64) -> Result<u64, Errno> {
    let files = caller.thread.process.files();
    let (file, process) = {
        let files = files.lock();
        (files.get(descriptor)?, locks::Owner::Process(files.owner()))
    };
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    // type, whence and padding; start; length; process and padding
    let [kinds, start, length, pid] = user::read_words::<4>(&caller.space, address).await?;
    let (kind, whence) = (u32::from(kinds as u16), u32::from((kinds >> 16) as u16));
    let of_file = matches!(command, linux::F_OFD_GETLK | linux::F_OFD_SETLK | linux::F_OFD_SETLKW);
    if of_file && pid as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let base = match whence {
        linux::SEEK_SET => 0,
        linux::SEEK_CUR => *file.offset.lock() as i64,
        linux::SEEK_END => file.length() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let (start, end) = lock_range(base, start as i64, length as i64)?;
    let wanted = locks::Lock {
        owner: if of_file { locks::owner(&file, false) } else { process },
        pid: caller.thread.process.pid,
        exclusive: kind == linux::F_WRLCK,
        start,
        end,
    };
    if matches!(command, linux::F_GETLK | linux::F_OFD_GETLK) {
        if kind != linux::F_RDLCK && kind != linux::F_WRLCK {
            return Err(Errno::EINVAL);
        }
        let words = match locks::find(&file, &wanted)? {
            None => [
                kinds & !0xffff | u64::from(linux::F_UNLCK),
                start_word(&wanted, base, whence),
                length,
                pid,
            ],
            Some(found) => {
                let kind = if found.exclusive {
                    linux::F_WRLCK
                } else {
                    linux::F_RDLCK
                };
                let length = if found.end >= i64::MAX as u64 {
                    0
                } else {
                    found.end - found.start + 1
                };
                let pid = match found.owner {
                    locks::Owner::Process(_) => u64::from(found.pid),
                    _ => u64::from(u32::MAX),
                };
                [kinds & !0xffff_ffff | u64::from(kind), found.start, length, pid]
            }
        };
        user::write_words(&caller.space, address, words).await?;
        return Ok(0);
    }
    match kind {
        linux::F_UNLCK => return locks::release(&file, wanted).map(|()| 0),
        linux::F_RDLCK if !file.is_readable() => return Err(Errno::EBADF),
        linux::F_WRLCK if !file.is_writable() => return Err(Errno::EBADF),
        linux::F_RDLCK | linux::F_WRLCK => {}
        _ => return Err(Errno::EINVAL),
    }
    let waits = matches!(command, linux::F_SETLKW | linux::F_OFD_SETLKW);
    locks::take(&caller.thread, &file, wanted, waits).await?;
    // The descriptor may have been closed while the lock was waited for: then nobody would ever give it up.
    let still = caller.thread.process.files().lock().get(descriptor);
    if !of_file && !still.is_ok_and(|now| Arc::ptr_eq(&now, &file)) {
        locks::release(&file, wanted)?;
        return Err(Errno::EBADF);
    }
    Ok(0)
}

/// What a lock that nobody is in the way of says about its start: what was asked.
fn start_word(wanted: &locks::Lock, base: i64, whence: u32) -> u64 {
    if whence == linux::SEEK_SET {
        wanted.start
    } else {
        (wanted.start as i64 - base) as u64
    }
}

/// The first and the last byte of a lock; length 0 is up to the end, a negative one is before the start.
fn lock_range(base: i64, start: i64, length: i64) -> Result<(u64, u64), Errno> {
    let start = base.checked_add(start).ok_or(Errno::EOVERFLOW)?;
    let (first, last) = match length {
        0 => (start, i64::MAX),
        1.. => (start, start.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?),
        _ => (start.checked_add(length).ok_or(Errno::EINVAL)?, start - 1),
    };
    if first < 0 {
        return Err(Errno::EINVAL);
    }
    Ok((first as u64, last as u64))
}

/// `flock`.
pub async fn flock(caller: Caller, descriptor: u64, operation: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    locks::flock(&caller.thread, &file, operation as u32).await.map(|()| 0)
}

/// `fadvise64` that drops many pages, in steps.
///
/// # Errors
/// As [`descriptors::fadvise`].
pub async fn fadvise_in_steps(caller: Caller, descriptor: u64, offset: u64, length: u64) -> Result<u64, Errno> {
    let file = caller.thread.process.files().lock().get(descriptor)?;
    if let FileKind::Mounted(body) = &file.kind {
        let (mut next, end) = (Some(offset), descriptors::advised_end(offset, length));
        while let Some(start) = next {
            next = body.drop_pages(start, end);
            faultline_executor::yield_now().await;
        }
    }
    Ok(0)
}

/// `ftruncate` that has to bring a page in first.
///
/// # Errors
/// As [`descriptors::ftruncate`]; `EIO` if the page could not be read.
pub async fn ftruncate_waiting(caller: Caller, descriptor: u64, length: u64) -> Result<u64, Errno> {
    let file = caller.thread.process.files().lock().get(descriptor)?;
    match &file.kind {
        FileKind::Memory(memory) => memory.truncate_waiting(length).await?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `fallocate`.
pub async fn fallocate(caller: Caller, descriptor: u64, mode: u64, offset: u64, length: u64) -> Result<u64, Errno> {
    const KNOWN: u32 = linux::FALLOC_FL_KEEP_SIZE | linux::FALLOC_FL_PUNCH_HOLE;
    let (mode, offset, length) = (mode as u32, offset as i64, length as i64);
    let file = opened(&caller, descriptor)?;
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    if mode & !KNOWN != 0 || mode & KNOWN == linux::FALLOC_FL_PUNCH_HOLE {
        return Err(Errno::EOPNOTSUPP);
    }
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let memory = match &file.kind {
        FileKind::Memory(memory) => memory,
        FileKind::PipeReader(_) | FileKind::PipeWriter(_) | FileKind::Fifo(..) => return Err(Errno::ESPIPE),
        _ => return Err(Errno::ENODEV),
    };
    let end = offset.checked_add(length).ok_or(Errno::EFBIG)? as u64;
    if mode & linux::FALLOC_FL_PUNCH_HOLE != 0 {
        memory.punch(offset as u64, end).await?;
        return Ok(0);
    }
    let grow = mode & linux::FALLOC_FL_KEEP_SIZE == 0;
    if grow {
        descriptors::check_size(&caller.thread, end)?;
    }
    has_headroom()?;
    let mut next = offset as u64;
    while let Some(more) = memory.reserve(next, end, grow)? {
        next = more;
        has_headroom()?;
        faultline_executor::yield_now().await;
    }
    Ok(0)
}
