//! Reading and writing pipes, and the calls that are about them.

use faultline_fallible::Arc;

use faultline_executor::yield_now;
use faultline_mm::Access;
use linux_raw_sys::general as linux;

use super::pieces::{Pieces, Source};
use super::{Caller, Errno, has_headroom, user};
use crate::fs::pipe::{Pipe, Put, ReadEnd, Take, WriteEnd};
use crate::fs::{FileKind, OpenFile};
use crate::process::waiting::event_of;
use crate::signal::{Signal, SignalInfo, raise};

/// What the wait-for graph calls it.
const KIND: &str = "pipe";

/// Reads what is there, at least one byte, or waits for it; 0 if no writer is left.
pub async fn read(caller: &Caller, file: &OpenFile, pipe: &Pipe, pieces: &mut Pieces) -> Result<u64, Errno> {
    let mut moved = 0;
    while pieces.left() > 0 {
        let most = usize::try_from(pieces.left()).unwrap_or(usize::MAX);
        match pipe.take(most, |bytes| pieces.write(&caller.space, bytes)) {
            Take::Done(length) => {
                moved += length as u64;
                if pieces.left() > 0 {
                    yield_now().await;
                }
            }
            Take::Packet(length) => return Ok(moved + length as u64),
            Take::End => break,
            Take::Empty if moved > 0 => break,
            Take::Empty if file.is_non_blocking() => return Err(Errno::EAGAIN),
            Take::Empty => {
                let wait = pipe.readers.wait_until(|| pipe.is_readable().then_some(()));
                let wait = caller.thread.interruptible(event_of(KIND, pipe.number()), wait);
                wait.await.map_err(|_| Errno::ERESTARTSYS)?;
            }
            Take::Fault(address) => match user::resolve(&caller.space, address, Access::Write).await {
                Ok(()) => yield_now().await,
                Err(_) if moved > 0 => break,
                Err(errno) => return Err(errno),
            },
        }
    }
    Ok(moved)
}

/// Writes everything, waiting for room; as much as there is room for if it must not wait. Without a reader the caller gets
/// `SIGPIPE`.
pub async fn write(caller: &Caller, file: &OpenFile, pipe: &Pipe, mut source: Source<'_>) -> Result<u64, Errno> {
    let is_packet = file.flags() & linux::O_DIRECT != 0;
    let mut moved = 0;
    loop {
        let left = source.left();
        if left == 0 {
            return Ok(moved);
        }
        let put = pipe.put(left, moved == 0, is_packet, |to| source.read(&caller.space, to));
        let error = match put {
            Put::Done(length) => {
                moved += length as u64;
                if length < left {
                    yield_now().await;
                }
                continue;
            }
            Put::Fault(address) => match user::resolve(&caller.space, address, Access::Read).await {
                Ok(()) => {
                    yield_now().await;
                    continue;
                }
                Err(errno) => errno,
            },
            Put::Full if file.is_non_blocking() => Errno::EAGAIN,
            Put::Full => {
                let wait = pipe.writers.wait_until(|| pipe.is_writable().then_some(()));
                let wait = caller.thread.interruptible(event_of(KIND, pipe.number()), wait);
                match wait.await {
                    Ok(()) => continue,
                    Err(_) => Errno::ERESTARTSYS,
                }
            }
            Put::NoMemory => Errno::ENOMEM,
            Put::Broken => {
                raise::to_thread(&caller.thread, SignalInfo::kernel(Signal::SIGPIPE));
                Errno::EPIPE
            }
        };
        return if moved > 0 { Ok(moved) } else { Err(error) };
    }
}

/// `pipe2`.
pub async fn pipe2(caller: Caller, address: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK | linux::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    let pipe = Arc::try_new(Pipe::new())?;
    let mode = flags & (linux::O_NONBLOCK | linux::O_DIRECT);
    let reader = FileKind::PipeReader(ReadEnd::new(pipe.clone()));
    let reader = Arc::try_new(OpenFile::new(reader, None, linux::O_RDONLY | mode))?;
    let writer = FileKind::PipeWriter(WriteEnd(pipe));
    let writer = Arc::try_new(OpenFile::new(writer, None, linux::O_WRONLY | mode))?;
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
