//! The console: standard input, output and error of the programs.

use core::task::{Context, Poll};
use faultline_fallible::{AllocError, Arc};

use faultline_executor::{Semaphore, Share, WaitQueue, yield_now};
use faultline_fallible::Vec;
use faultline_mm::Access;
use linux_raw_sys::general as linux;
use spin::Once;

use super::file::{File, INPUT, OUTPUT, Transfer, Written};
use super::{FileKind, OpenFile, input};
use crate::console::{self, Channel, PORTS};
use crate::machine::Space;
use crate::output;
use crate::process::waiting::event;
use crate::signal::{Signal, raise};
use crate::syscall::pieces::{Pieces, Source};
use crate::syscall::{Caller, Errno, user};
use crate::terminal::{self, LINE};
use crate::time;

/// A side of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Standard output, and what is typed.
    Output,
    /// Standard error.
    Error,
}

/// Who writes on each serial port: one at a time, so that the bytes of one write stay together.
static TURNS: Once<[Share; PORTS]> = Once::new();

/// Bytes that are sent at most by a serial port between two looks at other tasks.
const AT_ONCE: usize = 256;

/// How often a writer looks at a busy port again before it sleeps.
const PATIENCE: u32 = 4;

/// How long a writer sleeps while the port is busy, in nanoseconds: a port of 115,200 baud sends sixteen bytes meanwhile, and
/// a host that is behind takes hundreds of KiB from a faster one.
const NAP: u64 = 1_000_000;

impl Port {
    /// The channel that carries it.
    fn channel(self) -> Channel {
        match self {
            Self::Error if !terminal::is_on() => Channel::Error,
            _ => Channel::Output,
        }
    }

    /// Sends what the port takes now, at most [`AT_ONCE`] bytes; returns how much.
    fn try_write(self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(AT_ONCE)];
        if terminal::is_on() {
            terminal::try_write(bytes)
        } else {
            console::try_write(self.channel(), bytes)
        }
    }

    /// Takes what was typed; waits for it.
    ///
    /// # Errors
    /// `EIO` in the background, if `SIGTTIN` can't stop the process; `EAGAIN` if it must not wait, `ERESTARTSYS` if a signal
    /// came first; `EFAULT`, `ENOMEM`.
    pub async fn read(self, caller: &Caller, file: &OpenFile, pieces: &mut Pieces) -> Result<u64, Errno> {
        let length = usize::try_from(pieces.left()).unwrap_or(usize::MAX).min(LINE);
        let is_piped = input::is_on();
        if !(is_piped || terminal::is_on()) || length == 0 {
            return Ok(0);
        }
        let mut buffer = Vec::try_of(0, length)?;
        let thread = &caller.thread;
        let mut poll = || match is_piped {
            true => input::poll_read(&mut buffer).map(Ok),
            false => terminal::poll_read(&thread.process, &mut buffer),
        };
        let mut look = || match poll() {
            Poll::Pending if file.is_non_blocking() => Some(Err(Errno::EAGAIN)),
            Poll::Pending => None,
            Poll::Ready(read) => Some(read.map_err(|_| raise::for_background(thread, Signal::SIGTTIN))),
        };
        let (queue, name) = match is_piped {
            true => (input::readers(), "standard input"),
            false => (terminal::input(), "terminal"),
        };
        let read = thread.interruptible(event(name), queue.wait_until(&mut look)).await;
        let read = read.unwrap_or(Err(Errno::ERESTARTSYS))?;
        pieces.give(&caller.space, &buffer[..read]).await?;
        Ok(read as u64)
    }

    /// Sends bytes, in the order of the writers and no others in between; waits for its turn and for the port.
    ///
    /// # Errors
    /// As `terminal::check_output`; `EAGAIN` if it must not wait, `ERESTARTSYS` if a signal came first, `EFAULT`.
    pub async fn write(self, caller: &Caller, file: &OpenFile, mut source: Source<'_>) -> Result<u64, Errno> {
        let thread = &caller.thread;
        terminal::check_output(thread)?;
        let turn = turns()[console::port_of(self.channel())].acquire(1);
        let turn = thread.interruptible(event("console"), turn).await;
        let _turn = turn.map_err(|_| Errno::ERESTARTSYS)?.map_err(|_| Errno::EIO)?;
        let (mut moved, mut busy) = (0, 0);
        while source.left() > 0 {
            let sent = self.send(&caller.space, &mut source);
            let error = match sent {
                Ok(0) if file.is_non_blocking() => Errno::EAGAIN,
                Ok(0) if busy < PATIENCE => {
                    busy += 1;
                    yield_now().await;
                    continue;
                }
                Ok(0) => {
                    let nap = time::sleep_until(time::now() + NAP);
                    match thread.interruptible(event("console"), nap).await {
                        Ok(()) => continue,
                        Err(_) => Errno::ERESTARTSYS,
                    }
                }
                Ok(count) => {
                    moved += count as u64;
                    busy = 0;
                    if source.left() > 0 {
                        yield_now().await;
                    }
                    continue;
                }
                Err(address) => match user::resolve(&caller.space, address, Access::Read).await {
                    Ok(()) => continue,
                    Err(errno) => errno,
                },
            };
            return if moved > 0 { Ok(moved) } else { Err(error) };
        }
        Ok(moved)
    }

    /// Sends a bounded part of the source, as much as the port takes now; returns how much.
    fn send(self, space: &Space, source: &mut Source<'_>) -> Result<usize, u64> {
        if !terminal::is_on() && output::is_on(self.channel()) {
            let Some(mut block) = output::take(self.channel()) else {
                return Ok(0);
            };
            let taken = source.peek(space, block.bytes());
            let length = *taken.as_ref().unwrap_or(&0);
            block.send(length);
            source.advance(length);
            return taken;
        }
        let mut bytes = [0; AT_ONCE];
        let length = source.peek(space, &mut bytes)?;
        let sent = self.try_write(&bytes[..length]);
        source.advance(sent);
        Ok(sent)
    }
}

impl File for Port {
    /// Takes what was typed: waits for a line, or for a byte, as the terminal is set. Without a terminal, the input is at
    /// its end. `EIO` in the background, if `SIGTTIN` can't stop the process.
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        if input::is_on() && !to.is_empty() {
            return input::poll_read(to).map(Ok);
        }
        if !terminal::is_on() || to.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let thread = transfer.thread;
        terminal::poll_read(&thread.process, to).map_err(|_| raise::for_background(thread, Signal::SIGTTIN))
    }

    fn poll_write(&self, transfer: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        terminal::check_output(transfer.thread)?;
        match self.try_write(from) {
            0 if !from.is_empty() => Poll::Pending,
            length => Poll::Ready(Ok(Written { length, end: 0 })),
        }
    }

    fn events(&self) -> u32 {
        let waits = match input::is_on() {
            true => *self == Self::Output && !input::is_readable(),
            false => terminal::is_on() && !terminal::is_readable(),
        };
        if waits { OUTPUT } else { INPUT | OUTPUT }
    }

    fn queue(&self, wanted: u32) -> Option<&WaitQueue> {
        match wanted & INPUT != 0 {
            true if input::is_on() => Some(input::readers()),
            true if terminal::is_on() => Some(terminal::input()),
            _ => None,
        }
    }

    fn has_offsets(&self) -> bool {
        false
    }
}

/// Whose turn it is to write, for each port.
fn turns() -> &'static [Share; PORTS] {
    TURNS.call_once(|| core::array::from_fn(|_| Semaphore::new(1).share(1)))
}

/// The three files that a program is started with.
///
/// # Errors
/// There is no memory.
pub fn standard_files() -> Result<[Arc<OpenFile>; 3], AllocError> {
    // The first caller is the start-up: what a shared semaphore allocates can't fail.
    turns();
    let open = |port, flags| Arc::try_new(OpenFile::new(FileKind::Console(port), None, flags));
    if terminal::is_on() {
        // One open file, as a login makes it: programs read from their standard error too.
        let file = open(Port::Output, linux::O_RDWR)?;
        return Ok([file.clone(), file.clone(), file]);
    }
    Ok([
        open(Port::Output, linux::O_RDONLY)?,
        open(Port::Output, linux::O_WRONLY)?,
        open(Port::Error, linux::O_WRONLY)?,
    ])
}
