//! Calls on open files that may wait but move no file data.

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

use super::transfer::opened;
use super::{Caller, Errno, has_headroom, user};
use crate::fs::pipe::Pipe;
use crate::fs::stat::Status;
use crate::fs::{FileKind, OpenFile};

/// `getdents64`. The file's offset is the cookie of the last entry.
pub async fn getdents64(caller: Caller, descriptor: u64, address: u64, size: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    let node = file.node.as_ref().filter(|_| matches!(file.kind, FileKind::Directory));
    let node = node.ok_or(Errno::ENOTDIR)?;
    has_headroom()?;
    let start = *file.offset.lock();
    let list = node.list(start)?;
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

/// `pipe2`.
pub async fn pipe2(caller: Caller, address: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK | linux::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    let pipe = Arc::new(Pipe::new()?);
    let mode = flags & linux::O_NONBLOCK;
    let reader = Arc::new(OpenFile::new(
        FileKind::PipeReader(pipe.clone()),
        None,
        linux::O_RDONLY | mode,
    ));
    let writer = Arc::new(OpenFile::new(FileKind::PipeWriter(pipe), None, linux::O_WRONLY | mode));
    let close_on_exec = flags & linux::O_CLOEXEC != 0;
    let files = caller.thread.process.files();
    let (first, second) = {
        let mut files = files.lock();
        let first = files.add(reader, close_on_exec, 0)?;
        match files.add(writer, close_on_exec, 0) {
            Ok(second) => (first, second),
            Err(errno) => {
                let reader = files.remove(first);
                drop(files);
                drop(reader);
                return Err(errno);
            }
        }
    };
    let written = user::write_words(&caller.space, address, [second << 32 | first]).await;
    if written.is_err() {
        let ends = {
            let mut files = files.lock();
            [files.remove(first), files.remove(second)]
        };
        drop(ends);
    }
    written.map(|()| 0)
}

/// `ioctl`: nothing here is a terminal.
pub async fn ioctl(caller: Caller, descriptor: u64, request: u64, argument: u64) -> Result<u64, Errno> {
    const FIONREAD: u64 = 0x541b;
    let file = opened(&caller, descriptor)?;
    match (request, file.bytes()) {
        (FIONREAD, Some(bytes)) => {
            let left = (bytes.len() as u64).saturating_sub(*file.offset.lock());
            user::write_u32(&caller.space, argument, left.min(i32::MAX as u64) as u32).await?;
            Ok(0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// `fstat`.
pub async fn fstat(caller: Caller, descriptor: u64, to: u64) -> Result<u64, Errno> {
    let status = Status::of_file(&*opened(&caller, descriptor)?);
    user::write(&caller.space, to, &status.to_stat()).await?;
    Ok(0)
}
