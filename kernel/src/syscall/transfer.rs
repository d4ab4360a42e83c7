//! Moving bytes between open files and user memory.
//!
//! Data moves between a file and user memory in pieces of at most [`CHUNK`] bytes, so that a large transfer lets other
//! tasks run. A transfer that meets a bad address after it moved something reports what it moved, as on Linux.

use alloc::sync::Arc;
use core::future::poll_fn;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, user};
use crate::fs::device::Rule;
use crate::fs::file::{File, Transfer};
use crate::fs::pipe::Pipe;
use crate::fs::{FileKind, OpenFile};
use crate::process::waiting::event;
use crate::signal::{Signal, SignalInfo, raise};
use crate::terminal;

/// Most bytes moved between two looks at other tasks.
const CHUNK: usize = 64 * 1024;

/// Size of the buffer for bytes that are not in memory as they are.
const BUFFER: usize = 1024;

/// Size of the pieces in which a file in frames is copied.
const PAGE: usize = 4096;

/// Most bytes of one transfer, as on Linux.
const MOST: u64 = 0x7fff_f000;

/// Most pieces of one `readv` or `writev`.
const MOST_PIECES: u64 = linux::UIO_MAXIOV as u64;

pub(super) fn opened(caller: &Caller, descriptor: u64) -> Result<Arc<OpenFile>, Errno> {
    caller.thread.process.files().lock().get(descriptor)
}

/// Reads into user memory. With `at`, from there, and the file's own offset stays.
async fn transfer_in(
    caller: &Caller,
    file: &OpenFile,
    address: u64,
    length: u64,
    at: Option<u64>,
) -> Result<u64, Errno> {
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    let length = length.min(MOST) as usize;
    match &file.kind {
        FileKind::Directory => Err(Errno::EISDIR),
        FileKind::Path => Err(Errno::EBADF),
        FileKind::Console(port) => {
            let mut buffer = user::buffer(length.min(BUFFER))?;
            let transfer = Transfer {
                thread: &caller.thread,
                offset: None,
            };
            let wait = poll_fn(|context| match port.poll_read(transfer, &mut buffer, context) {
                Poll::Pending if file.is_non_blocking() => Poll::Ready(Err(Errno::EAGAIN)),
                other => other,
            });
            let read = caller
                .thread
                .interruptible(event("terminal"), wait)
                .await
                .unwrap_or(Err(Errno::ERESTARTSYS))?;
            user::write(&caller.space, address, &buffer[..read]).await?;
            Ok(read as u64)
        }
        FileKind::Device(_) => copy_from(caller, file, 0, address, length).await,
        FileKind::PipeReader(pipe) => {
            let mut buffer = user::buffer(length.min(CHUNK))?;
            let wait = poll_fn(|context| match pipe.poll_read(&mut buffer, context) {
                Poll::Pending if file.is_non_blocking() => Poll::Ready(Err(Errno::EAGAIN)),
                other => other,
            });
            let read = caller
                .thread
                .interruptible(event("pipe"), wait)
                .await
                .unwrap_or(Err(Errno::ERESTARTSYS))?;
            user::write(&caller.space, address, &buffer[..read]).await?;
            Ok(read as u64)
        }
        FileKind::PipeWriter(_) => Err(Errno::EBADF),
        FileKind::Timer(timer) => {
            if length < 8 {
                return Err(Errno::EINVAL);
            }
            let count = timer.expirations(&caller.thread, file.is_non_blocking()).await?;
            user::write_words(&caller.space, address, [count]).await?;
            Ok(8)
        }
        FileKind::Memory(_) => {
            let start = at.unwrap_or_else(|| *file.offset.lock());
            let moved = copy_from(caller, file, start, address, length).await?;
            if at.is_none() {
                *file.offset.lock() = start + moved;
            }
            Ok(moved)
        }
        FileKind::Ramdisk(_) | FileKind::Text(_) => {
            let bytes = file.bytes().unwrap_or_default();
            let start = at.unwrap_or_else(|| *file.offset.lock());
            let bytes = bytes
                .get(usize::try_from(start).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(length)];
            let moved = copy_out(caller, address, bytes).await?;
            if at.is_none() {
                *file.offset.lock() = start + moved;
            }
            Ok(moved)
        }
    }
}

/// Copies from a file to user memory, a page at a time, as far as that needs no wait; a bad address after the first page
/// ends it early.
async fn copy_from(caller: &Caller, file: &OpenFile, start: u64, address: u64, length: usize) -> Result<u64, Errno> {
    let source = file.kind.as_file().ok_or(Errno::EINVAL)?;
    let mut buffer = user::buffer(length.min(PAGE))?;
    let mut moved = 0;
    while (moved as usize) < length {
        let part = (length - moved as usize).min(PAGE);
        let transfer = Transfer {
            thread: &caller.thread,
            offset: Some(start.saturating_add(moved)),
        };
        let read = poll_fn(|context| source.poll_read(transfer, &mut buffer[..part], context)).await?;
        if read == 0 {
            break;
        }
        match user::write(&caller.space, address.wrapping_add(moved), &buffer[..read]).await {
            Ok(()) => moved += read as u64,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        if (moved as usize).is_multiple_of(CHUNK) {
            faultline_executor::yield_now().await;
        }
    }
    Ok(moved)
}

/// Writes to a file at `at`, or at its offset, or at its end if it was opened so; moves the offset, unless `at` is given.
async fn write_to(caller: &Caller, file: &OpenFile, at: Option<u64>, bytes: &[u8]) -> Result<usize, Errno> {
    let target = file.kind.as_file().ok_or(Errno::EINVAL)?;
    let append = file.flags() & linux::O_APPEND != 0;
    let mut done = 0;
    while done < bytes.len() {
        let own = at.map_or_else(|| *file.offset.lock(), |at| at + done as u64);
        let transfer = Transfer {
            thread: &caller.thread,
            offset: (!append).then_some(own),
        };
        match poll_fn(|context| target.poll_write(transfer, &bytes[done..], context)).await {
            Ok(written) => {
                done += written.length;
                if at.is_none() {
                    *file.offset.lock() = written.end;
                }
            }
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Copies `bytes` to user memory in chunks; a bad address after the first chunk ends the copy early.
async fn copy_out(caller: &Caller, address: u64, bytes: &[u8]) -> Result<u64, Errno> {
    let mut moved = 0;
    for chunk in bytes.chunks(CHUNK) {
        if moved > 0 {
            faultline_executor::yield_now().await;
        }
        match user::write(&caller.space, address.wrapping_add(moved), chunk).await {
            Ok(()) => moved += chunk.len() as u64,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(moved)
}

/// Writes from user memory.
async fn transfer_out(
    caller: &Caller,
    file: &OpenFile,
    address: u64,
    length: u64,
    at: Option<u64>,
) -> Result<u64, Errno> {
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let length = length.min(MOST);
    match &file.kind {
        FileKind::Device(Rule::Full) => return Err(Errno::ENOSPC),
        FileKind::Device(_) => return Ok(length),
        FileKind::Console(_) => terminal::check_output(&caller.thread)?,
        FileKind::PipeWriter(_) | FileKind::Memory(_) => {}
        _ => return Err(Errno::EBADF),
    }
    let mut buffer = user::buffer((length as usize).min(4 * BUFFER))?;
    let mut moved = 0;
    while moved < length {
        let size = ((length - moved) as usize).min(buffer.len());
        let part = &mut buffer[..size];
        match user::read(&caller.space, address.wrapping_add(moved), part).await {
            Ok(()) => {}
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        let written = match &file.kind {
            FileKind::PipeWriter(pipe) => match send(caller, file, pipe, part).await {
                Ok(written) => written,
                Err(errno) if moved == 0 => return Err(errno),
                Err(_) => break,
            },
            FileKind::Memory(_) => match write_to(caller, file, at.map(|at| at + moved), part).await {
                Ok(written) => written,
                Err(errno) if moved == 0 => return Err(errno),
                Err(_) => break,
            },
            FileKind::Console(port) => {
                port.write(part);
                size
            }
            _ => size,
        };
        moved += written as u64;
        if written < size {
            break;
        }
        if moved < length && moved % CHUNK as u64 == 0 {
            faultline_executor::yield_now().await;
        }
    }
    Ok(moved)
}

/// Writes once to a pipe. Without a reader the caller gets `SIGPIPE`.
async fn send(caller: &Caller, file: &OpenFile, pipe: &Pipe, bytes: &[u8]) -> Result<usize, Errno> {
    let wait = poll_fn(|context| match pipe.poll_write(bytes, context) {
        Poll::Pending if file.is_non_blocking() => Poll::Ready(Err(Errno::EAGAIN)),
        other => other,
    });
    let result = caller
        .thread
        .interruptible(event("pipe"), wait)
        .await
        .unwrap_or(Err(Errno::ERESTARTSYS));
    if result == Err(Errno::EPIPE) {
        raise::to_thread(&caller.thread, SignalInfo::kernel(Signal::SIGPIPE));
    }
    result
}

/// `read`.
pub async fn read(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    transfer_in(&caller, &file, address, length, None).await
}

/// `write`.
pub async fn write(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    transfer_out(&caller, &file, address, length, None).await
}

/// `pread64`.
pub async fn pread(caller: Caller, descriptor: u64, address: u64, length: u64, offset: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    if offset > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    if !file.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    transfer_in(&caller, &file, address, length, Some(offset)).await
}

/// `pwrite64`.
pub async fn pwrite(caller: Caller, descriptor: u64, address: u64, length: u64, offset: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    if offset > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    if !file.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    transfer_out(&caller, &file, address, length, Some(offset)).await
}

/// The pieces of a `readv` or `writev`, one at a time.
async fn piece(caller: &Caller, pieces: u64, index: u64) -> Result<[u64; 2], Errno> {
    user::read_words(&caller.space, pieces.wrapping_add(index * 16)).await
}

/// Which way bytes go.
#[derive(Clone, Copy)]
enum Way {
    /// From a file to memory.
    In,
    /// From memory to a file.
    Out,
}

/// `readv`.
pub async fn readv(caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
    transfer_pieces(Way::In, caller, descriptor, pieces, count).await
}

/// `writev`.
pub async fn writev(caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
    transfer_pieces(Way::Out, caller, descriptor, pieces, count).await
}

/// Moves one piece after the other, until one is not moved whole.
async fn transfer_pieces(way: Way, caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    if count > MOST_PIECES {
        return Err(Errno::EINVAL);
    }
    let mut moved = 0;
    for index in 0..count {
        let [address, length] = piece(&caller, pieces, index).await?;
        if length == 0 {
            continue;
        }
        let part = match way {
            Way::In => transfer_in(&caller, &file, address, length, None).await,
            Way::Out => transfer_out(&caller, &file, address, length, None).await,
        };
        match part {
            Ok(part) => {
                moved += part;
                if part < length {
                    break;
                }
            }
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(moved)
}

/// `sendfile`, from a file in memory.
pub async fn sendfile(caller: Caller, to: u64, from: u64, offset: u64, length: u64) -> Result<u64, Errno> {
    let (target, source) = (opened(&caller, to)?, opened(&caller, from)?);
    if !target.is_writable() || !source.is_readable() {
        return Err(Errno::EBADF);
    }
    if source.bytes().is_none() && !matches!(source.kind, FileKind::Memory(_)) {
        return Err(Errno::EINVAL);
    }
    let start = match offset {
        0 => *source.offset.lock(),
        pointer => user::read_words::<1>(&caller.space, pointer).await?[0],
    };
    let length = length.min(MOST);
    let mut buffer = user::buffer(PAGE)?;
    let mut moved = 0;
    while moved < length {
        let part = (length - moved).min(PAGE as u64) as usize;
        let read = read_bytes(&source, start.saturating_add(moved), &mut buffer[..part]);
        if read == 0 {
            break;
        }
        let chunk = &buffer[..read];
        let written = match &target.kind {
            FileKind::Console(port) => {
                port.write(chunk);
                Ok(chunk.len())
            }
            FileKind::PipeWriter(pipe) => send(&caller, &target, pipe, chunk).await,
            FileKind::Memory(_) | FileKind::Device(_) => write_to(&caller, &target, None, chunk).await,
            _ => return Err(Errno::EINVAL),
        };
        match written {
            Ok(written) => moved += written as u64,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        if moved.is_multiple_of(CHUNK as u64) {
            faultline_executor::yield_now().await;
        }
    }
    let end = start + moved;
    match offset {
        0 => *source.offset.lock() = end,
        pointer => user::write_words(&caller.space, pointer, [end]).await?,
    }
    Ok(moved)
}

/// Bytes of a file in memory from `start` on; says how many.
fn read_bytes(file: &OpenFile, start: u64, to: &mut [u8]) -> usize {
    if let FileKind::Memory(memory) = &file.kind {
        return memory.read(start, to);
    }
    let bytes = file.bytes().unwrap_or_default();
    let left = bytes
        .get(usize::try_from(start).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    let length = left.len().min(to.len());
    to[..length].copy_from_slice(&left[..length]);
    length
}
