//! `splice`, `tee` and `vmsplice`: pages between pipes and other files. Between two pipes they move as they are; to and from
//! others their bytes are copied.

use faultline_executor::yield_now;
use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::copying::read_bytes;
use super::pieces::{Pieces, Source};
use super::sockets::flow;
use super::transfer::{opened, opened_for_reading, opened_for_writing, write_to};
use super::{Caller, Errno, pipes, user};
use crate::fs::page::Page;
use crate::fs::pipe::{Part, Pipe, Pop, Put};
use crate::fs::{FileKind, OpenFile};
use crate::net::inbox::Wish;
use crate::net::transfer::Took;
use crate::process::waiting::event_of;
use crate::signal::{Signal, SignalInfo, raise};

/// What the wait-for graph calls a pipe.
const KIND: &str = "pipe";

/// Most bytes of one call, as on Linux.
pub(super) const MOST: u64 = 0x7fff_f000;

/// Bytes of a page.
const PAGE: usize = 4096;

const NON_BLOCKING: u32 = 2;
const KNOWN: u32 = 15;

/// Waits until a pipe has something or is at its end.
async fn wait_for_input(caller: &Caller, pipe: &Pipe) -> Result<(), Errno> {
    let wait = pipe.readers.wait_until(|| pipe.is_readable().then_some(()));
    let wait = caller.thread.interruptible(event_of(KIND, pipe.number()), wait);
    wait.await.map_err(|_| Errno::ERESTARTSYS)
}

/// Waits until a pipe has room or nobody reads it.
async fn wait_for_room(caller: &Caller, pipe: &Pipe) -> Result<(), Errno> {
    let wait = pipe.writers.wait_until(|| pipe.is_writable().then_some(()));
    let wait = caller.thread.interruptible(event_of(KIND, pipe.number()), wait);
    wait.await.map_err(|_| Errno::ERESTARTSYS)
}

/// One end of a `splice`.
pub(super) struct End {
    pub(super) file: Arc<OpenFile>,
    /// Where in the file, if the call says so.
    pub(super) at: Option<u64>,
    waits: bool,
}

impl End {
    /// # Errors
    /// `ESPIPE` for an offset in what has none, `EFAULT`.
    pub(super) async fn new(caller: &Caller, file: Arc<OpenFile>, offset: u64, flags: u32) -> Result<Self, Errno> {
        let at = match offset {
            0 => None,
            _ if file.pipe().is_some() || !file.is_seekable() => return Err(Errno::ESPIPE),
            pointer => Some(user::read_words::<1>(&caller.space, pointer).await?[0]),
        };
        if at.is_some_and(|at| at > i64::MAX as u64) {
            return Err(Errno::EINVAL);
        }
        let waits = flags & NON_BLOCKING == 0 && !file.is_non_blocking();
        Ok(Self { file, at, waits })
    }

    /// Takes a page at most; none at the end, and where there is nothing and `may_wait` is false.
    async fn take(&mut self, caller: &Caller, most: usize, may_wait: bool) -> Result<Option<Part>, Errno> {
        if let Some(pipe) = self.file.pipe() {
            loop {
                match pipe.pop(most) {
                    Pop::Part(part) => return Ok(Some(part)),
                    Pop::End => return Ok(None),
                    Pop::NoMemory => return Err(Errno::ENOMEM),
                    Pop::Empty if !may_wait => return Ok(None),
                    Pop::Empty if !self.waits => return Err(Errno::EAGAIN),
                    Pop::Empty => wait_for_input(caller, pipe).await?,
                }
            }
        }
        let mut page = Page::new(true).map_err(|_| Errno::ENOMEM)?;
        let to = &mut page.bytes_mut()[..most.min(PAGE)];
        let length = match &self.file.kind {
            FileKind::Socket(end) => match receive(caller, self.waits && may_wait, &end.0, to).await {
                Err(Errno::EAGAIN) if !may_wait => 0,
                received => received?,
            },
            FileKind::Ramdisk(_) | FileKind::Memory(_) | FileKind::Mounted(_) => {
                let start = self.at.unwrap_or_else(|| *self.file.offset.lock());
                let length = read_bytes(&self.file, start, to).await?;
                self.move_on(start + length as u64);
                length
            }
            _ => return Err(Errno::EINVAL),
        };
        Ok((length > 0).then(|| Part::new(page, length)))
    }

    /// The next byte is there.
    pub(super) fn move_on(&mut self, to: u64) {
        match &mut self.at {
            Some(at) => *at = to,
            None => *self.file.offset.lock() = to,
        }
    }

    /// Gives a page, as much of it as there is room for; says how much, and what is left of it.
    async fn give(&mut self, caller: &Caller, part: Part) -> (Result<usize, Errno>, Option<Part>) {
        if let Some(pipe) = self.file.pipe() {
            let length = part.bytes().len();
            return match give_to_pipe(caller, pipe, self.waits, part).await {
                Ok(()) => (Ok(length), None),
                Err((part, errno)) => (Err(errno), Some(part)),
            };
        }
        let bytes = part.bytes();
        let written = match &self.file.kind {
            FileKind::Memory(_) => match self.at {
                None => write_to(caller, &self.file, None, bytes).await,
                Some(at) => {
                    let written = write_to(caller, &self.file, Some(at), bytes).await;
                    self.at = Some(at + written.unwrap_or(0) as u64);
                    written
                }
            },
            FileKind::Device(_) => Ok(bytes.len()),
            FileKind::Socket(end) => {
                let sent = flow::write(caller, &self.file, &end.0, Source::Kernel(bytes)).await;
                sent.map(|sent| sent as usize)
            }
            FileKind::Console(port) => {
                let sent = port.write(caller, &self.file, Source::Kernel(bytes)).await;
                sent.map(|sent| sent as usize)
            }
            _ => Err(Errno::EINVAL),
        };
        (written, Some(part))
    }
}

async fn receive(
    caller: &Caller,
    waits: bool,
    socket: &Arc<crate::net::Socket>,
    to: &mut [u8],
) -> Result<usize, Errno> {
    let mut look = || {
        let mut at = 0;
        let took = socket.take(to.len(), Wish::default(), |bytes| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
            Ok(())
        });
        match took {
            Ok(Took::Nothing) if !waits => Some(Err(Errno::EAGAIN)),
            Ok(Took::Nothing) => None,
            Ok(Took::End) => Some(Ok(0)),
            Ok(Took::Got(received)) => Some(Ok(received.length)),
            Err(errno) => Some(Err(errno)),
        }
    };
    match look() {
        Some(received) => received,
        None => {
            let most = socket.options.receive_timeout();
            flow::wait(caller, socket, &socket.receivers, most, look).await?
        }
    }
}

async fn give_to_pipe(caller: &Caller, pipe: &Pipe, waits: bool, part: Part) -> Result<(), (Part, Errno)> {
    let mut part = part;
    loop {
        match pipe.push(part) {
            Ok(()) => return Ok(()),
            Err((back, Put::Broken)) => {
                raise::to_thread(&caller.thread, SignalInfo::kernel(Signal::SIGPIPE));
                return Err((back, Errno::EPIPE));
            }
            Err((back, Put::NoMemory)) => return Err((back, Errno::ENOMEM)),
            Err((back, _)) if !waits => return Err((back, Errno::EAGAIN)),
            Err((back, _)) => {
                if let Err(errno) = wait_for_room(caller, pipe).await {
                    return Err((back, errno));
                }
                part = back;
            }
        }
    }
}

/// `splice`.
///
/// # Errors
/// `EBADF`; `EINVAL` if neither is a pipe, or both are the same, or a file has other ways; `ESPIPE`, `EAGAIN`, `EPIPE`,
/// `EFAULT`, `ENOMEM`.
pub async fn splice(caller: Caller, [from, from_at, to, to_at, length, flags]: [u64; 6]) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let (source, target) = (opened_for_reading(&caller, from)?, opened_for_writing(&caller, to)?);
    match (source.pipe(), target.pipe()) {
        (None, None) => return Err(Errno::EINVAL),
        (Some(one), Some(other)) if Arc::ptr_eq(one, other) => return Err(Errno::EINVAL),
        _ => {}
    }
    if target.pipe().is_none() && target.flags() & linux::O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let mut source = End::new(&caller, source, from_at, flags).await?;
    let mut target = End::new(&caller, target, to_at, flags).await?;
    // Room first: what is taken from a file or a socket can't go back.
    let length = length.min(MOST);
    let mut moved = 0;
    let result = loop {
        if moved == length {
            break Ok(());
        }
        if let Some(pipe) = target.file.pipe().filter(|_| source.file.pipe().is_none())
            && !pipe.is_writable()
        {
            if moved > 0 {
                break Ok(());
            }
            if !target.waits {
                break Err(Errno::EAGAIN);
            }
            if let Err(errno) = wait_for_room(&caller, pipe).await {
                break Err(errno);
            }
        }
        let most = (length - moved).min(PAGE as u64) as usize;
        let mut part = match source.take(&caller, most, moved == 0).await {
            Ok(Some(part)) => part,
            Ok(None) => break Ok(()),
            Err(errno) => break Err(errno),
        };
        // Once something has moved nothing is waited for.
        target.waits &= moved == 0;
        let whole = part.bytes().len();
        let (given, left) = {
            let (given, left) = target.give(&caller, part).await;
            (given, left)
        };
        let count = *given.as_ref().unwrap_or(&0);
        moved += count as u64;
        if let Some(rest) = left {
            part = rest;
            part.advance(count);
            if count < whole
                && let Some(pipe) = source.file.pipe()
            {
                pipe.put_back(part);
            }
        }
        if let Err(errno) = given {
            break Err(errno);
        }
        if count < whole {
            break Ok(());
        }
        yield_now().await;
    };
    for (pointer, end) in [(from_at, &source), (to_at, &target)] {
        if let Some(at) = end.at {
            user::write_words(&caller.space, pointer, [at]).await?;
        }
    }
    match result {
        Err(errno) if moved == 0 => Err(errno),
        _ => Ok(moved),
    }
}

/// `tee`.
///
/// # Errors
/// `EBADF`; `EINVAL` unless both are different pipes; `EAGAIN`, `EPIPE`, `ENOMEM`.
pub async fn tee(caller: Caller, from: u64, to: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let (source, target) = (opened_for_reading(&caller, from)?, opened_for_writing(&caller, to)?);
    let (Some(source_pipe), Some(target_pipe)) = (source.pipe(), target.pipe()) else {
        return Err(Errno::EINVAL);
    };
    if Arc::ptr_eq(source_pipe, target_pipe) {
        return Err(Errno::EINVAL);
    }
    let waits = |file: &OpenFile| flags & NON_BLOCKING == 0 && !file.is_non_blocking();
    while source_pipe.length() == 0 {
        if source_pipe.is_readable() {
            return Ok(0);
        }
        if !waits(&source) {
            return Err(Errno::EAGAIN);
        }
        wait_for_input(&caller, source_pipe).await?;
    }
    let length = length.min(MOST);
    let (mut moved, mut skip) = (0, 0);
    while moved < length {
        let most = (length - moved).min(PAGE as u64) as usize;
        let Some(part) = source_pipe.copy_of(skip, most).map_err(|_| Errno::ENOMEM)? else {
            break;
        };
        let size = part.bytes().len() as u64;
        match give_to_pipe(&caller, target_pipe, moved == 0 && waits(&target), part).await {
            Ok(()) => {}
            Err((_, errno)) if moved == 0 => return Err(errno),
            Err(_) => break,
        }
        moved += size;
        skip += 1;
        yield_now().await;
    }
    Ok(moved)
}

/// `vmsplice`: user memory to a pipe, or a pipe to user memory. Its bytes are copied, whatever is given away.
///
/// # Errors
/// `EBADF` for what is no pipe; those of `readv` and `writev`.
pub async fn vmsplice(caller: Caller, descriptor: u64, pieces: u64, count: u64, flags: u64) -> Result<u64, Errno> {
    if flags as u32 & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let file = opened(&caller, descriptor)?;
    let Some(pipe) = file.pipe() else {
        return Err(Errno::EBADF);
    };
    let mut pieces = Pieces::list(&caller, pieces, count).await?;
    if flags as u32 & NON_BLOCKING != 0 {
        let (is_ready, writes) = (
            if file.is_writable() {
                pipe.is_writable()
            } else {
                pipe.is_readable()
            },
            file.is_writable(),
        );
        if !is_ready && pieces.left() > 0 {
            return Err(Errno::EAGAIN);
        }
        // What finds no room must not wait: the room that is there is all that is asked for.
        if writes {
            pieces.limit((pipe.capacity() - pipe.length().min(pipe.capacity())) as u64);
        }
    }
    if file.is_writable() {
        pipes::write(&caller, &file, pipe, Source::User(&mut pieces)).await
    } else {
        pipes::read(&caller, &file, pipe, &mut pieces).await
    }
}
