//! Bytes from one open file to another: `sendfile` and `copy_file_range`.

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use faultline_executor::yield_now;

use super::pieces::Source;
use super::sockets::flow;
use super::splicing::{End, MOST};
use super::transfer::{Pace, opened, opened_for_reading, opened_for_writing, tell_of_limit, write_to};
use super::{Caller, Errno, pipes, user};
use crate::fs::{FileKind, OpenFile};

/// Bytes that are copied at a time.
const PAGE: usize = 4096;

/// `sendfile`, from a file in memory or on a disk.
pub async fn sendfile(caller: Caller, to: u64, from: u64, offset: u64, length: u64) -> Result<u64, Errno> {
    let (target, source) = (opened_for_writing(&caller, to)?, opened_for_reading(&caller, from)?);
    if source.bytes().is_none() && !matches!(source.kind, FileKind::Memory(_) | FileKind::Mounted(_)) {
        return Err(Errno::EINVAL);
    }
    let start = match offset {
        0 => *source.offset.lock(),
        pointer => user::read_words::<1>(&caller.space, pointer).await?[0],
    };
    let length = length.min(MOST);
    let mut buffer = user::buffer(PAGE)?;
    let (mut moved, mut pace) = (0, Pace::default());
    while moved < length {
        let part = (length - moved).min(PAGE as u64) as usize;
        let read = match read_bytes(&source, start.saturating_add(moved), &mut buffer[..part]).await {
            Ok(read) => read,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        };
        if read == 0 {
            break;
        }
        let chunk = &buffer[..read];
        let written = match &target.kind {
            FileKind::Console(port) => port.write(&caller, &target, Source::Kernel(chunk)).await,
            FileKind::PipeWriter(end) | FileKind::Fifo(_, end) => {
                pipes::write(&caller, &target, &end.0, Source::Kernel(chunk)).await
            }
            FileKind::Socket(end) => flow::write(&caller, &target, &end.0, Source::Kernel(chunk)).await,
            FileKind::Memory(_) | FileKind::Device(_) => {
                let written = write_to(&caller, &target, None, chunk).await;
                let written = written.map(|written| written as u64);
                if moved == 0 {
                    tell_of_limit(&caller, &written);
                }
                written
            }
            _ => return Err(Errno::EINVAL),
        };
        match written {
            Ok(written) => {
                moved += written;
                if written < read as u64 {
                    break;
                }
            }
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        pace.step(read).await;
    }
    let end = start.saturating_add(moved);
    match offset {
        0 => *source.offset.lock() = end,
        pointer => user::write_words(&caller.space, pointer, [end]).await?,
    }
    Ok(moved)
}

/// Bytes of a file in memory from `start` on; says how many.
pub(super) async fn read_bytes(file: &OpenFile, start: u64, to: &mut [u8]) -> Result<usize, Errno> {
    match &file.kind {
        FileKind::Memory(memory) => return memory.read_waiting(start, to).await,
        FileKind::Mounted(body) => return body.read_waiting(start, to).await,
        _ => {}
    }
    let bytes = file.bytes().unwrap_or_default();
    let left = bytes
        .get(usize::try_from(start).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    let length = left.len().min(to.len());
    to[..length].copy_from_slice(&left[..length]);
    Ok(length)
}

/// `copy_file_range`.
///
/// # Errors
/// `EBADF`, `EISDIR`; `EINVAL` for what is no file, for flags, and for ranges of one file that overlap; those of reads and
/// writes.
pub async fn copy_file_range(
    caller: Caller,
    [from, from_at, to, to_at, length, flags]: [u64; 6],
) -> Result<u64, Errno> {
    let (source, target) = (opened(&caller, from)?, opened(&caller, to)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let is_directory = |file: &OpenFile| matches!(file.kind, FileKind::Directory);
    if is_directory(&source) || is_directory(&target) {
        return Err(Errno::EISDIR);
    }
    let is_file = |file: &OpenFile| {
        matches!(
            file.kind,
            FileKind::Memory(_) | FileKind::Ramdisk(_) | FileKind::Mounted(_)
        )
    };
    if !is_file(&source) || !is_file(&target) {
        return Err(Errno::EINVAL);
    }
    if !source.is_readable() || !target.is_writable() || target.flags() & linux::O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    let mut source = End::new(&caller, source, from_at, 0).await?;
    let mut target = End::new(&caller, target, to_at, 0).await?;
    let start = source.at.unwrap_or_else(|| *source.file.offset.lock());
    let end = target.at.unwrap_or_else(|| *target.file.offset.lock());
    let length = length.min(MOST).min(source.file.length().saturating_sub(start));
    if let (FileKind::Memory(one), FileKind::Memory(other)) = (&source.file.kind, &target.file.kind)
        && Arc::ptr_eq(one, other)
        && start < end.saturating_add(length)
        && end < start.saturating_add(length)
    {
        return Err(Errno::EINVAL);
    }
    let mut buffer = user::buffer(PAGE)?;
    let mut moved = 0;
    let mut error = None;
    while moved < length {
        let part = &mut buffer[..(length - moved).min(PAGE as u64) as usize];
        let result = async {
            let read = read_bytes(&source.file, start + moved, part).await?;
            match read {
                0 => Ok(0),
                _ => write_to(&caller, &target.file, Some(end + moved), &part[..read]).await,
            }
        };
        match result.await {
            Ok(0) => break,
            Ok(written) => moved += written as u64,
            Err(errno) => {
                error = Some(errno);
                break;
            }
        }
        yield_now().await;
    }
    if let Some(errno) = error.filter(|_| moved == 0) {
        tell_of_limit(&caller, &Err(errno));
        return Err(errno);
    }
    source.move_on(start + moved);
    target.move_on(end + moved);
    for (pointer, end) in [(from_at, &source), (to_at, &target)] {
        if let Some(at) = end.at {
            user::write_words(&caller.space, pointer, [at]).await?;
        }
    }
    Ok(moved)
}

/// `sync_file_range`: there is nothing to write to.
///
/// # Errors
/// `EBADF`, `EINVAL`; `ESPIPE` for what has no offsets.
pub async fn sync_file_range(caller: Caller, [descriptor, offset, length, flags]: [u64; 4]) -> Result<u64, Errno> {
    const KNOWN: u32 = 7;
    let (offset, length) = (offset as i64, length as i64);
    let file = opened(&caller, descriptor)?;
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    if flags as u32 & !KNOWN != 0 || offset < 0 || length < 0 || offset.checked_add(length).is_none() {
        return Err(Errno::EINVAL);
    }
    let has_pages = file.is_seekable() && !matches!(file.kind, FileKind::Device(_) | FileKind::Console(_));
    if has_pages { Ok(0) } else { Err(Errno::ESPIPE) }
}
