//! Transfers that wait for nothing, answered in the thread's loop: without a future, and without a buffer on the heap.
//!
//! A short transfer with a file in memory, or with a device that is only a rule, waits for nothing but pages of the user's
//! buffer. If those are there it is done here. In every other case, also where it would fail, the answer is `None`, and
//! nothing has changed but bytes of a buffer that the call is to fill: then the call is started as usual, and
//! [`transfer`](super::transfer) does it from the beginning.

use core::task::{Context, Poll, Waker};

use faultline_fallible::Arc;
use faultline_mm::Access;
use linux_raw_sys::general as linux;

use super::{Errno, user};
use crate::arch;
use crate::fs::device::Rule;
use crate::fs::file::{File, Transfer};
use crate::fs::memory_file::MemoryFile;
use crate::fs::stat::Status;
use crate::fs::{FileKind, OpenFile};
use crate::machine::Space;
use crate::process::{Resource, Thread};

/// The longest read of bytes that lie in one piece, or of zeros: a bounded time.
const LONGEST: u64 = 64 * 1024;

/// The longest transfer with a file in frames, and the size of the pieces in which it is copied.
const LONGEST_OF_FRAMES: u64 = 4096;
const PIECE: usize = 512;

/// Most bytes of one transfer, as on Linux.
const MOST: u64 = 0x7fff_f000;

const PAGE: usize = 4096;

/// `read`, or with `at` `pread64`.
pub fn read(thread: &Thread, space: &Space, [descriptor, address, length]: [u64; 3], at: Option<u64>) -> Option<u64> {
    let file = opened(thread, descriptor)?;
    if !file.is_readable() || length > LONGEST || user::check_range(address, length).is_err() {
        return None;
    }
    if at.is_some_and(|at| at.checked_add(length).is_none_or(|end| end > i64::MAX as u64)) {
        return None;
    }
    let start = || at.unwrap_or_else(|| *file.offset.lock());
    let moved = match &file.kind {
        FileKind::Device(Rule::Null) => return Some(0),
        FileKind::Device(Rule::Zero | Rule::Full) => {
            return write_zeros(space, address, length as usize).is_ok().then_some(length);
        }
        FileKind::Ramdisk(bytes) => {
            let bytes = usize::try_from(start())
                .ok()
                .and_then(|start| bytes.bytes().get(start..));
            let bytes = bytes.unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(length as usize)];
            user::write_now(space, address, bytes)?;
            bytes.len() as u64
        }
        FileKind::Memory(memory) if length <= LONGEST_OF_FRAMES => {
            copy_from_frames(space, memory, start(), address, length as usize)?
        }
        _ => return None,
    };
    if at.is_none() {
        let mut offset = file.offset.lock();
        *offset = offset.saturating_add(moved);
    }
    Some(moved)
}

/// Copies from a file in frames to user memory; says how much.
fn copy_from_frames(space: &Space, file: &MemoryFile, start: u64, address: u64, length: usize) -> Option<u64> {
    let mut buffer = [0; PIECE];
    let mut moved = 0;
    while moved < length {
        let part = (length - moved).min(PIECE);
        let read = file
            .read(start.saturating_add(moved as u64), &mut buffer[..part])
            .ok()?;
        if read == 0 {
            break;
        }
        user::write_now(space, address + moved as u64, &buffer[..read])?;
        moved += read;
    }
    Some(moved as u64)
}

/// `write`.
pub fn write(thread: &Thread, space: &Space, descriptor: u64, address: u64, length: u64) -> Option<u64> {
    let file = opened(thread, descriptor)?;
    if !file.is_writable() || user::check_range(address, length).is_err() {
        return None;
    }
    match &file.kind {
        FileKind::Device(Rule::Null | Rule::Zero | Rule::Random) => Some(length.min(MOST)),
        FileKind::Memory(memory) if length <= PIECE as u64 && length > 0 => {
            let mut buffer = [0; PIECE];
            let bytes = &mut buffer[..length as usize];
            if !space.try_read_user(address, bytes) {
                return None;
            }
            write_to_frames(thread, &file, memory, bytes)
        }
        _ => None,
    }
}

/// Writes to a file in frames at its offset, if it has room for all of it in one page: else only a part may be done.
fn write_to_frames(thread: &Thread, file: &OpenFile, memory: &MemoryFile, bytes: &[u8]) -> Option<u64> {
    let append = file.flags() & linux::O_APPEND != 0;
    let mut offset = file.offset.lock();
    let at = if append { memory.length() } else { *offset };
    if at % PAGE as u64 + bytes.len() as u64 > PAGE as u64 {
        return None;
    }
    if at.saturating_add(bytes.len() as u64) > thread.process.limits.current(Resource::FSIZE) {
        return None;
    }
    let transfer = Transfer {
        thread,
        offset: (!append).then_some(at),
    };
    let mut context = Context::from_waker(Waker::noop());
    match memory.poll_write(transfer, bytes, &mut context) {
        Poll::Ready(Ok(written)) => {
            *offset = written.end;
            Some(written.length as u64)
        }
        // It is the same again when the call is made as usual.
        Poll::Ready(Err(_)) | Poll::Pending => None,
    }
}

/// `fstat`.
pub fn fstat(thread: &Thread, space: &Space, descriptor: u64, to: u64) -> Option<u64> {
    let file = opened(thread, descriptor)?;
    user::write_now(space, to, &Status::of_file(&file).to_stat())?;
    Some(0)
}

fn opened(thread: &Thread, descriptor: u64) -> Option<Arc<OpenFile>> {
    thread.process.files().lock().get(descriptor).ok()
}

/// Writes zeros to user memory as far as that needs no wait.
///
/// # Errors
/// How many were written, if a page has to be resolved first.
pub(super) fn write_zeros(space: &Space, address: u64, length: usize) -> Result<(), usize> {
    let mut done = 0;
    while done < length {
        let at = address.wrapping_add(done as u64);
        let part = (PAGE - at as usize % PAGE).min(length - done);
        let written = space.with_user_bytes(at, part, Access::Write, |mut bytes| {
            let to = bytes.as_mut_ptr(0, part);
            // SAFETY: 1. the bytes are there for as long as the lock is held, which is until the end of the call; 2. a part as
            // long as a page is a page, on its boundary; 3. interrupts are off in all kernel code.
            unsafe {
                if part == PAGE {
                    arch::pages::zero(to);
                } else {
                    to.write_bytes(0, part);
                }
            }
        });
        if written.is_none() {
            return Err(done);
        }
        done += part;
    }
    Ok(())
}

/// Writes zeros to user memory.
///
/// # Errors
/// [`Errno::EFAULT`] if not one could be written.
pub(super) async fn give_zeros(space: &Space, address: u64, length: usize) -> Result<u64, Errno> {
    let mut done = 0;
    while let Err(more) = write_zeros(space, address.wrapping_add(done as u64), length - done) {
        done += more;
        match user::resolve(space, address.wrapping_add(done as u64), Access::Write).await {
            Ok(()) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done as u64),
        }
    }
    Ok(length as u64)
}
