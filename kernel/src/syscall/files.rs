//! Calls on open files.
//!
//! Data moves between a file and user memory in pieces of at most [`CHUNK`] bytes, so that a large transfer lets other
//! tasks run. A transfer that meets a bad address after it moved something reports what it moved, as on Linux.

use alloc::sync::Arc;
use core::future::poll_fn;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, has_headroom, information, user};
use crate::fs;
use crate::fs::pipe::Pipe;
use crate::fs::stat::Status;
use crate::fs::{Descriptor, FileKind, OpenFile, tree};
use crate::process::Process;
use crate::signal::{Signal, SignalInfo, raise};

/// Most bytes moved between two looks at other tasks.
const CHUNK: usize = 64 * 1024;

/// Size of the buffer for bytes that are not in memory as they are.
const BUFFER: usize = 1024;

/// `CLOSE_RANGE_CLOEXEC`.
const CLOSE_RANGE_CLOEXEC: u64 = 4;

/// Most bytes of one transfer, as on Linux.
const MOST: u64 = 0x7fff_f000;

/// Most pieces of one `readv` or `writev`.
const MOST_PIECES: u64 = linux::UIO_MAXIOV as u64;

fn opened(caller: &Caller, descriptor: u64) -> Result<Arc<OpenFile>, Errno> {
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
        FileKind::Null => Ok(0),
        FileKind::Console(port) => {
            let mut buffer = [0; BUFFER];
            let buffer = &mut buffer[..length.min(BUFFER)];
            let read = port.read(&caller.thread, buffer).await?;
            user::write(&caller.space, address, &buffer[..read]).await?;
            Ok(read as u64)
        }
        FileKind::Zero | FileKind::Random => fill(caller, file, address, length).await,
        FileKind::PipeReader(pipe) => {
            let mut buffer = user::buffer(length.min(CHUNK))?;
            let wait = poll_fn(|context| match pipe.poll_read(&mut buffer, context) {
                core::task::Poll::Pending if file.is_non_blocking() => core::task::Poll::Ready(Err(Errno::EAGAIN)),
                other => other,
            });
            let read = caller
                .thread
                .interruptible(wait)
                .await
                .unwrap_or(Err(Errno::ERESTARTSYS))?;
            user::write(&caller.space, address, &buffer[..read]).await?;
            Ok(read as u64)
        }
        FileKind::PipeWriter(_) => Err(Errno::EBADF),
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

/// Fills user memory with zeros or chance.
async fn fill(caller: &Caller, file: &OpenFile, address: u64, length: usize) -> Result<u64, Errno> {
    let mut buffer = [0; BUFFER];
    let mut moved = 0;
    while moved < length {
        let part = &mut buffer[..(length - moved).min(BUFFER)];
        if matches!(file.kind, FileKind::Random) {
            information::fill_random(part);
        }
        if moved > 0 && moved % CHUNK == 0 {
            faultline_executor::yield_now().await;
        }
        match user::write(&caller.space, address.wrapping_add(moved as u64), part).await {
            Ok(()) => moved += part.len(),
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(moved as u64)
}

/// Writes from user memory.
async fn transfer_out(caller: &Caller, file: &OpenFile, address: u64, length: u64) -> Result<u64, Errno> {
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let length = length.min(MOST);
    match &file.kind {
        FileKind::Null | FileKind::Zero | FileKind::Random => return Ok(length),
        FileKind::Console(_) | FileKind::PipeWriter(_) => {}
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
            FileKind::Console(port) => {
                port.write(part);
                size
            }
            _ => size,
        };
        moved += written as u64;
        if moved < length && moved % CHUNK as u64 == 0 {
            faultline_executor::yield_now().await;
        }
    }
    Ok(moved)
}

/// Writes once to a pipe. Without a reader the caller gets `SIGPIPE`.
async fn send(caller: &Caller, file: &OpenFile, pipe: &Pipe, bytes: &[u8]) -> Result<usize, Errno> {
    let wait = poll_fn(|context| match pipe.poll_write(bytes, context) {
        core::task::Poll::Pending if file.is_non_blocking() => core::task::Poll::Ready(Err(Errno::EAGAIN)),
        other => other,
    });
    let result = caller
        .thread
        .interruptible(wait)
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
    transfer_out(&caller, &file, address, length).await
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
    transfer_out(&caller, &file, address, length).await
}

/// The pieces of a `readv` or `writev`, one at a time.
async fn piece(caller: &Caller, pieces: u64, index: u64) -> Result<[u64; 2], Errno> {
    user::read_words(&caller.space, pieces.wrapping_add(index * 16)).await
}

/// `readv`.
pub async fn readv(caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
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
        match transfer_in(&caller, &file, address, length, None).await {
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

/// `writev`.
pub async fn writev(caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
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
        match transfer_out(&caller, &file, address, length).await {
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

/// `sendfile`, from a file whose bytes are in memory.
pub async fn sendfile(caller: Caller, to: u64, from: u64, offset: u64, length: u64) -> Result<u64, Errno> {
    let (target, source) = (opened(&caller, to)?, opened(&caller, from)?);
    if !target.is_writable() || !source.is_readable() {
        return Err(Errno::EBADF);
    }
    let bytes = source.bytes().ok_or(Errno::EINVAL)?;
    let start = match offset {
        0 => *source.offset.lock(),
        pointer => user::read_words::<1>(&caller.space, pointer).await?[0],
    };
    let bytes = bytes
        .get(usize::try_from(start).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    let bytes = &bytes[..bytes.len().min(length.min(MOST) as usize)];
    let mut moved = 0;
    for chunk in bytes.chunks(4096) {
        match &target.kind {
            FileKind::Console(port) => {
                port.write(chunk);
                moved += chunk.len();
            }
            FileKind::PipeWriter(pipe) => match send(&caller, &target, pipe, chunk).await {
                Ok(written) => moved += written,
                Err(errno) if moved == 0 => return Err(errno),
                Err(_) => break,
            },
            FileKind::Null => moved += chunk.len(),
            _ => return Err(Errno::EINVAL),
        }
    }
    let end = start + moved as u64;
    match offset {
        0 => *source.offset.lock() = end,
        pointer => user::write_words(&caller.space, pointer, [end]).await?,
    }
    Ok(moved as u64)
}

/// `getdents64`. The file's offset counts entries.
pub async fn getdents64(caller: Caller, descriptor: u64, address: u64, size: u64) -> Result<u64, Errno> {
    let file = opened(&caller, descriptor)?;
    let node = file
        .node
        .filter(|_| matches!(file.kind, FileKind::Directory))
        .ok_or(Errno::ENOTDIR)?;
    let tree = tree::tree();
    let entries = tree.entries(node).ok_or(Errno::ENOTDIR)?;
    let own = [(b".".as_slice(), node), (b"..".as_slice(), tree.node(node).parent)];
    let all = own
        .into_iter()
        .chain(entries.iter().map(|(name, &id)| (name.as_slice(), id)));
    let start = *file.offset.lock();
    let mut buffer = user::buffer((size as usize).min(32 * 1024))?;
    let (mut used, mut next) = (0, start);
    for (name, id) in all.skip(start as usize) {
        let length = (19 + name.len() + 1).next_multiple_of(8);
        let Some(record) = buffer.get_mut(used..used + length) else {
            break;
        };
        let status = Status::of_node(id);
        next += 1;
        record[..8].copy_from_slice(&status.inode().to_le_bytes());
        record[8..16].copy_from_slice(&next.to_le_bytes());
        record[16..18].copy_from_slice(&(length as u16).to_le_bytes());
        record[18] = status.directory_type();
        record[19..19 + name.len()].copy_from_slice(name);
        used += length;
    }
    if used == 0 && next == start && start < entries.len() as u64 + 2 {
        return Err(Errno::EINVAL);
    }
    user::write(&caller.space, address, &buffer[..used]).await?;
    *file.offset.lock() = next;
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
        linux::SEEK_END => file.bytes().map_or(0, |bytes| bytes.len() as u64),
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
    if to >= fs::table::LIMIT as u64 {
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
/// `EBADF`, `EINVAL`, `EMFILE`, `ENOMEM`.
pub fn fcntl(process: &Process, descriptor: u64, command: u32, argument: u64) -> Result<u64, Errno> {
    let files = process.files();
    let mut files = files.lock();
    let file = files.get(descriptor)?;
    match command {
        linux::F_DUPFD | linux::F_DUPFD_CLOEXEC => {
            if argument >= fs::table::LIMIT as u64 {
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
        _ => Err(Errno::EINVAL),
    }
}
