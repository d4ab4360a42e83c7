//! Moving bytes between open files and user memory.
//!
//! Data moves between a file and user memory in pieces of at most [`CHUNK`] bytes, so that a large transfer lets other
//! tasks run. A transfer that meets a bad address after it moved something reports what it moved, as on Linux.

use linux_raw_sys::general as linux;

use super::pieces::{Pieces, Source};
use super::sockets::flow;
use super::{Caller, Errno, at_once, events, pipes, signals, user};
use crate::block::{self, Disk};
use crate::fs::device::Rule;
use crate::fs::file::{self, Transfer};
use crate::fs::proc::Text;
use crate::fs::{FileKind, OpenFile};
use crate::process::limits::{Limit, Resource};
use crate::signal::{Signal, SignalInfo, raise};
use faultline_fallible::Arc;

/// Most bytes moved between two looks at other tasks.
const CHUNK: usize = 64 * 1024;

/// Size of the pieces in which a file in frames is copied.
const PAGE: usize = 4096;

/// Lets other tasks run whenever so many bytes were moved, however small the steps.
#[derive(Default)]
pub(super) struct Pace(usize);

impl Pace {
    /// Bytes that a step counts as, at least.
    const STEP: usize = 256;

    /// Counts the bytes of a step.
    pub(super) async fn step(&mut self, bytes: usize) {
        self.0 += bytes.max(Self::STEP);
        if self.0 >= CHUNK {
            self.0 = 0;
            faultline_executor::yield_now().await;
        }
    }
}

pub(super) fn opened(caller: &Caller, descriptor: u64) -> Result<Arc<OpenFile>, Errno> {
    caller.thread.process.files().lock().get(descriptor)
}

/// Reads into user memory. With `at`, from there, and the file's own offset stays.
async fn transfer_in(caller: &Caller, file: &OpenFile, pieces: &mut Pieces, at: Option<u64>) -> Result<u64, Errno> {
    match &file.kind {
        FileKind::Directory => Err(Errno::EISDIR),
        FileKind::Path => Err(Errno::EBADF),
        FileKind::PipeReader(end) | FileKind::Fifo(end, _) => pipes::read(caller, file, &end.pipe, pieces).await,
        FileKind::Signals(signals) => signals::read(caller, file, signals, pieces).await,
        FileKind::Process(_) => Err(Errno::EINVAL),
        FileKind::PipeWriter(_) => Err(Errno::EBADF),
        FileKind::Socket(end) => {
            let received = flow::receive(caller, file, &end.0, pieces, 0).await?;
            Ok(received.length)
        }
        FileKind::Console(port) => port.read(caller, file, pieces).await,
        FileKind::Event(counter) => events::read(caller, file, counter, pieces).await,
        FileKind::Epoll(_) => Err(Errno::EINVAL),
        FileKind::Timer(timer) => {
            if pieces.left() < 8 {
                return Err(Errno::EINVAL);
            }
            let count = timer.expirations(&caller.thread, file.is_non_blocking()).await?;
            pieces.give(&caller.space, &count.to_le_bytes()).await?;
            Ok(8)
        }
        _ => {
            let (mut moved, mut pace) = (0, Pace::default());
            while let Some((address, length)) = pieces.next() {
                let at = at.map(|at| at.saturating_add(moved));
                match read_piece(caller, file, address, length, at).await {
                    Ok(part) => {
                        moved += part;
                        pieces.advance(part as usize);
                        if part < length as u64 {
                            break;
                        }
                        pace.step(part as usize).await;
                    }
                    Err(errno) if moved == 0 => return Err(errno),
                    Err(_) => break,
                }
            }
            Ok(moved)
        }
    }
}

/// Reads into one buffer from a file with offsets, or from a device.
async fn read_piece(
    caller: &Caller,
    file: &OpenFile,
    address: u64,
    length: usize,
    at: Option<u64>,
) -> Result<u64, Errno> {
    let start = at.unwrap_or_else(|| *file.offset.lock());
    let moved = match (&file.kind, file.bytes()) {
        (FileKind::Device(Rule::Zero | Rule::Full), _) => zeros(caller, address, length).await?,
        (FileKind::Text(text), _) => copy_pages(caller, Pages::Text(text), start, address, length).await?,
        (FileKind::Disk(disk), _) => copy_pages(caller, Pages::Disk(disk.0), start, address, length).await?,
        (_, None) => copy_from(caller, file, start, address, length).await?,
        (_, Some(bytes)) => {
            let bytes = bytes
                .get(usize::try_from(start).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
            copy_out(caller, address, &bytes[..bytes.len().min(length)]).await?
        }
    };
    if at.is_none() && file.is_seekable() {
        *file.offset.lock() = start.saturating_add(moved);
    }
    Ok(moved)
}

/// Writes zeros to user memory in chunks; a bad address after the first chunk ends it early.
async fn zeros(caller: &Caller, address: u64, length: usize) -> Result<u64, Errno> {
    let mut moved = 0;
    while moved < length {
        if moved > 0 {
            faultline_executor::yield_now().await;
        }
        let part = (length - moved).min(CHUNK);
        match at_once::give_zeros(&caller.space, address.wrapping_add(moved as u64), part).await {
            Ok(written) => {
                moved += written as usize;
                if written < part as u64 {
                    break;
                }
            }
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(moved as u64)
}

/// What is read a page at a time, each of which may have to be waited for.
enum Pages<'a> {
    /// Text of `/proc`, as it is made.
    Text(&'a Text),
    /// A disk.
    Disk(&'static Disk),
}

impl Pages<'_> {
    async fn read(&self, caller: &Caller, start: u64, to: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Text(text) => text.read(&caller.thread, start, to).await,
            Self::Disk(disk) => block::read(disk, start, to).await,
        }
    }
}

/// Copies to user memory, a page at a time; what fails after the first byte ends the copy early.
async fn copy_pages(caller: &Caller, pages: Pages<'_>, start: u64, address: u64, length: usize) -> Result<u64, Errno> {
    let mut buffer = user::buffer(length.min(PAGE))?;
    let (mut moved, mut pace) = (0, Pace::default());
    while (moved as usize) < length {
        let part = (length - moved as usize).min(PAGE);
        let at = start.saturating_add(moved);
        let got = match pages.read(caller, at, &mut buffer[..part]).await {
            Ok(0) => break,
            Ok(got) => got,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        };
        match user::write_part(&caller.space, address.wrapping_add(moved), &buffer[..got]).await {
            Ok(part) => {
                moved += part as u64;
                if part < got {
                    break;
                }
            }
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        pace.step(got).await;
    }
    Ok(moved)
}

/// Copies from a file to user memory, a page at a time; a bad address after the first byte ends it early.
async fn copy_from(caller: &Caller, file: &OpenFile, start: u64, address: u64, length: usize) -> Result<u64, Errno> {
    let source = file.kind.as_file().ok_or(Errno::EINVAL)?;
    let mut buffer = user::buffer(length.min(PAGE))?;
    let (mut moved, mut pace) = (0, Pace::default());
    while (moved as usize) < length {
        let part = (length - moved as usize).min(PAGE);
        let transfer = Transfer {
            thread: &caller.thread,
            offset: Some(start.saturating_add(moved)),
        };
        let read = file::read(source, transfer, &mut buffer[..part]).await?;
        if read == 0 {
            break;
        }
        match user::write_part(&caller.space, address.wrapping_add(moved), &buffer[..read]).await {
            Ok(part) => {
                moved += part as u64;
                if part < read {
                    break;
                }
            }
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        pace.step(read).await;
    }
    Ok(moved)
}

/// Writes to a file at `at`, or at its offset, or at its end if it was opened so; moves the offset, unless `at` is given.
pub(super) async fn write_to(caller: &Caller, file: &OpenFile, at: Option<u64>, bytes: &[u8]) -> Result<usize, Errno> {
    if let FileKind::Text(text) = &file.kind {
        let from = at.unwrap_or_else(|| *file.offset.lock());
        let written = text.write(from, bytes).await?;
        if at.is_none() {
            *file.offset.lock() = from + written as u64;
        }
        return Ok(written);
    }
    let target = file.kind.as_file().ok_or(Errno::EINVAL)?;
    let append = file.flags() & linux::O_APPEND != 0;
    let mut done = 0;
    while done < bytes.len() {
        let own = at.map_or_else(|| *file.offset.lock(), |at| at + done as u64);
        let transfer = Transfer {
            thread: &caller.thread,
            offset: (!append).then_some(own),
        };
        match file::write(target, transfer, &bytes[done..]).await {
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

/// Copies `bytes` to user memory in chunks; a bad address after the first byte ends the copy early.
async fn copy_out(caller: &Caller, address: u64, bytes: &[u8]) -> Result<u64, Errno> {
    let mut moved = 0;
    for chunk in bytes.chunks(CHUNK) {
        if moved > 0 {
            faultline_executor::yield_now().await;
        }
        match user::write_part(&caller.space, address.wrapping_add(moved), chunk).await {
            Ok(part) => {
                moved += part as u64;
                if part < chunk.len() {
                    break;
                }
            }
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(moved)
}

/// Raises SIGXFSZ for a call that could write nothing because of `RLIMIT_FSIZE`.
pub(super) fn tell_of_limit(caller: &Caller, written: &Result<u64, Errno>) {
    let limit = caller.thread.process.limits.current(Resource::FSIZE);
    if *written == Err(Errno::EFBIG) && limit != Limit::INFINITY {
        raise::to_thread(&caller.thread, SignalInfo::kernel(Signal::SIGXFSZ));
    }
}

/// Writes from user memory.
async fn transfer_out(caller: &Caller, file: &OpenFile, pieces: &mut Pieces, at: Option<u64>) -> Result<u64, Errno> {
    let written = transfer_pieces_out(caller, file, pieces, at).await;
    tell_of_limit(caller, &written);
    written
}

async fn transfer_pieces_out(
    caller: &Caller,
    file: &OpenFile,
    pieces: &mut Pieces,
    at: Option<u64>,
) -> Result<u64, Errno> {
    match &file.kind {
        FileKind::Device(Rule::Full) => Err(Errno::ENOSPC),
        FileKind::Device(_) => Ok(pieces.left()),
        FileKind::Console(port) => port.write(caller, file, Source::User(pieces)).await,
        FileKind::PipeWriter(end) | FileKind::Fifo(_, end) => {
            pipes::write(caller, file, &end.0, Source::User(pieces)).await
        }
        FileKind::Signals(_) | FileKind::Process(_) => Err(Errno::EINVAL),
        FileKind::Socket(end) => flow::write(caller, file, &end.0, Source::User(pieces)).await,
        FileKind::Event(counter) => events::write(caller, file, counter, Source::User(pieces)).await,
        FileKind::Epoll(_) => Err(Errno::EINVAL),
        FileKind::Memory(_) | FileKind::Text(_) => {
            let (mut moved, mut pace) = (0, Pace::default());
            while let Some((address, length)) = pieces.next() {
                let at = at.map(|at| at.saturating_add(moved));
                match write_piece(caller, file, address, length as u64, at).await {
                    Ok(part) => {
                        moved += part;
                        pieces.advance(part as usize);
                        if part < length as u64 {
                            break;
                        }
                        pace.step(part as usize).await;
                    }
                    Err(errno) if moved == 0 => return Err(errno),
                    Err(_) => break,
                }
            }
            Ok(moved)
        }
        _ => Err(Errno::EBADF),
    }
}

/// Writes from one buffer to a file with offsets.
async fn write_piece(
    caller: &Caller,
    file: &OpenFile,
    address: u64,
    length: u64,
    at: Option<u64>,
) -> Result<u64, Errno> {
    let mut buffer = user::buffer((length as usize).min(PAGE))?;
    let (mut moved, mut pace) = (0, Pace::default());
    while moved < length {
        let size = ((length - moved) as usize).min(buffer.len());
        let read = match user::read_part(&caller.space, address.wrapping_add(moved), &mut buffer[..size]).await {
            Ok(read) => read,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        };
        let part = &buffer[..read];
        let written = match write_to(caller, file, at.map(|at| at.saturating_add(moved)), part).await {
            Ok(written) => written,
            Err(errno) if moved == 0 => return Err(errno),
            Err(_) => break,
        };
        moved += written as u64;
        if written < size {
            break;
        }
        pace.step(size).await;
    }
    Ok(moved)
}

/// The open file of a descriptor that is read.
pub(super) fn opened_for_reading(caller: &Caller, descriptor: u64) -> Result<Arc<OpenFile>, Errno> {
    let file = opened(caller, descriptor)?;
    if file.is_readable() {
        Ok(file)
    } else {
        Err(Errno::EBADF)
    }
}

/// The open file of a descriptor that is written.
pub(super) fn opened_for_writing(caller: &Caller, descriptor: u64) -> Result<Arc<OpenFile>, Errno> {
    let file = opened(caller, descriptor)?;
    if file.is_writable() {
        Ok(file)
    } else {
        Err(Errno::EBADF)
    }
}

/// `read`.
pub async fn read(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let file = opened_for_reading(&caller, descriptor)?;
    transfer_in(&caller, &file, &mut Pieces::one(address, length)?, None).await
}

/// `write`.
pub async fn write(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let file = opened_for_writing(&caller, descriptor)?;
    transfer_out(&caller, &file, &mut Pieces::one(address, length)?, None).await
}

/// Checks a descriptor and the offset of `pread` and its kin.
fn check_offset(caller: &Caller, descriptor: u64, offset: u64, length: u64) -> Result<(), Errno> {
    if offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    if opened(caller, descriptor)?.is_seekable() {
        Ok(())
    } else {
        Err(Errno::ESPIPE)
    }
}

/// `pread64`.
pub async fn pread(caller: Caller, descriptor: u64, address: u64, length: u64, offset: u64) -> Result<u64, Errno> {
    check_offset(&caller, descriptor, offset, length)?;
    let file = opened_for_reading(&caller, descriptor)?;
    transfer_in(&caller, &file, &mut Pieces::one(address, length)?, Some(offset)).await
}

/// `pwrite64`.
pub async fn pwrite(caller: Caller, descriptor: u64, address: u64, length: u64, offset: u64) -> Result<u64, Errno> {
    check_offset(&caller, descriptor, offset, length)?;
    let file = opened_for_writing(&caller, descriptor)?;
    transfer_out(&caller, &file, &mut Pieces::one(address, length)?, Some(offset)).await
}

/// `readv`.
pub async fn readv(caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
    let file = opened_for_reading(&caller, descriptor)?;
    let mut pieces = Pieces::list(&caller, pieces, count).await?;
    transfer_in(&caller, &file, &mut pieces, None).await
}

/// `writev`.
pub async fn writev(caller: Caller, descriptor: u64, pieces: u64, count: u64) -> Result<u64, Errno> {
    let file = opened_for_writing(&caller, descriptor)?;
    let mut pieces = Pieces::list(&caller, pieces, count).await?;
    transfer_out(&caller, &file, &mut pieces, None).await
}

/// `preadv`.
pub async fn preadv(caller: Caller, descriptor: u64, pieces: u64, count: u64, offset: u64) -> Result<u64, Errno> {
    check_offset(&caller, descriptor, offset, 0)?;
    let file = opened_for_reading(&caller, descriptor)?;
    let mut pieces = Pieces::list(&caller, pieces, count).await?;
    transfer_in(&caller, &file, &mut pieces, Some(offset)).await
}

/// `pwritev`.
pub async fn pwritev(caller: Caller, descriptor: u64, pieces: u64, count: u64, offset: u64) -> Result<u64, Errno> {
    check_offset(&caller, descriptor, offset, 0)?;
    let file = opened_for_writing(&caller, descriptor)?;
    let mut pieces = Pieces::list(&caller, pieces, count).await?;
    transfer_out(&caller, &file, &mut pieces, Some(offset)).await
}

/// `preadv2`; at the file's own offset if the offset is -1.
pub async fn preadv2(caller: Caller, [descriptor, pieces, count, offset, flags]: [u64; 5]) -> Result<u64, Errno> {
    check_ways(flags)?;
    if offset == u64::MAX {
        return readv(caller, descriptor, pieces, count).await;
    }
    preadv(caller, descriptor, pieces, count, offset).await
}

/// `pwritev2`; at the file's own offset if the offset is -1.
pub async fn pwritev2(caller: Caller, [descriptor, pieces, count, offset, flags]: [u64; 5]) -> Result<u64, Errno> {
    check_ways(flags)?;
    if offset == u64::MAX {
        return writev(caller, descriptor, pieces, count).await;
    }
    pwritev(caller, descriptor, pieces, count, offset).await
}

/// Of the ways to read and write, those that wish for speed or for a disk are granted.
fn check_ways(flags: u64) -> Result<(), Errno> {
    const GRANTED: u32 = linux::RWF_HIPRI | linux::RWF_DSYNC | linux::RWF_SYNC;
    if flags as u32 & !GRANTED == 0 {
        Ok(())
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}
