//! Calls on open files that may wait but move no file data.

use faultline_fallible::Arc;

use linux_raw_sys::{general as linux, ioctl};

use super::transfer::opened;
use super::{Caller, Errno, has_headroom, user};
use crate::fs::memory_file::MemoryFile;
use crate::fs::stat::Status;
use crate::fs::{FileKind, OpenFile};
use crate::process::tree;
use crate::terminal;

/// `getdents64`. The file's offset is the cookie of the last entry.
pub async fn getdents64(caller: Caller, descriptor: u64, address: u64, size: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    let node = file.node.as_ref().filter(|_| matches!(file.kind, FileKind::Directory));
    let node = node.ok_or(Errno::ENOTDIR)?;
    has_headroom()?;
    let start = *file.offset.lock();
    let list = crate::fs::Node::list(node, start)?;
    let mut buffer = user::buffer((size as usize).min(32 * 1024))?;
    let (mut used, mut last) = (0, start);
    for (name, entry) in &list {
        let length = (19 + name.len() + 1).next_multiple_of(8);
        let Some(record) = buffer.get_mut(used..used + length) else {
            break;
        };
        let status = Status::of_node(&entry.node);
        last = entry.cookie;
        record[..8].copy_from_slice(&status.inode().to_le_bytes());
        record[8..16].copy_from_slice(&last.to_le_bytes());
        record[16..18].copy_from_slice(&(length as u16).to_le_bytes());
        record[18] = status.directory_type();
        record[19..19 + name.len()].copy_from_slice(name);
        used += length;
    }
    if used == 0 && !list.is_empty() {
        return Err(Errno::EINVAL);
    }
    drop(list);
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
            if on != was_on && file.pipe().is_none() && !matches!(file.kind, FileKind::Console(_)) {
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
                None if file.bytes().is_some() || matches!(file.kind, FileKind::Memory(_)) => {
                    file.length().saturating_sub(*file.offset.lock())
                }
                None => return Err(Errno::ENOTTY),
            };
            user::write_u32(&caller.space, argument, left.min(i32::MAX as u64) as u32).await?;
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
