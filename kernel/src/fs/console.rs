//! The console: standard input, output and error of the programs.

use alloc::sync::Arc;
use core::task::{Context, Poll};

use linux_raw_sys::general as linux;

use super::file::{File, INPUT, OUTPUT, Ready, Transfer, Written};
use super::{FileKind, OpenFile};
use crate::console::{self, Channel};
use crate::signal::{Signal, raise};
use crate::syscall::Errno;
use crate::terminal;

/// A side of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Standard output, and what is typed.
    Output,
    /// Standard error.
    Error,
}

impl Port {
    /// Sends `bytes`.
    pub fn write(self, bytes: &[u8]) {
        match self {
            Self::Output if terminal::is_on() => terminal::write(bytes),
            Self::Output => console::write(Channel::Output, bytes),
            Self::Error if terminal::is_on() => terminal::write(bytes),
            Self::Error => console::write(Channel::Error, bytes),
        }
    }
}

impl File for Port {
    /// Takes what was typed: waits for a line, or for a byte, as the terminal is set. Without a terminal, the input is at
    /// its end. `EIO` in the background, if `SIGTTIN` can't stop the process.
    fn poll_read(
        &self,
        transfer: Transfer<'_>,
        to: &mut [u8],
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, Errno>> {
        if !terminal::is_on() || to.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let thread = transfer.thread;
        terminal::poll_read(&thread.process, to, context).map_err(|_| raise::for_background(thread, Signal::SIGTTIN))
    }

    fn poll_write(&self, transfer: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        terminal::check_output(transfer.thread)?;
        self.write(from);
        Poll::Ready(Ok(Written {
            length: from.len(),
            end: 0,
        }))
    }

    fn poll_ready(&self, context: Option<&mut Context<'_>>) -> Ready {
        let waits = context.is_some_and(|context| terminal::is_on() && !terminal::is_readable(context));
        Ready {
            events: if waits { OUTPUT } else { INPUT | OUTPUT },
            deadline: None,
        }
    }

    fn has_offsets(&self) -> bool {
        false
    }
}

/// The three files that a program is started with.
#[must_use]
pub fn standard_files() -> [Arc<OpenFile>; 3] {
    let open = |port, flags| Arc::new(OpenFile::new(FileKind::Console(port), None, flags));
    if terminal::is_on() {
        // One open file, as a login makes it: programs read from their standard error too.
        let file = open(Port::Output, linux::O_RDWR);
        return [file.clone(), file.clone(), file];
    }
    [
        open(Port::Output, linux::O_RDONLY),
        open(Port::Output, linux::O_WRONLY),
        open(Port::Error, linux::O_WRONLY),
    ]
}
