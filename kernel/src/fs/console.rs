//! The console: standard input, output and error of the programs.

use alloc::sync::Arc;
use core::future::poll_fn;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::{FileKind, OpenFile};
use crate::console::{self, Channel};
use crate::process::Thread;
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

    /// Takes what was typed: waits for a line, or for a byte, as the terminal is set. Without a terminal, the input is at
    /// its end.
    ///
    /// # Errors
    /// `EIO` in the background, if `SIGTTIN` can't stop the process; `EAGAIN` if it must not wait, `ERESTARTSYS` if a signal came first.
    pub async fn read(self, thread: &Thread, buffer: &mut [u8], non_blocking: bool) -> Result<usize, Errno> {
        if !terminal::is_on() || buffer.is_empty() {
            return Ok(0);
        }
        let wait = poll_fn(|context| match terminal::poll_read(&thread.process, buffer, context) {
            Poll::Pending if non_blocking => Poll::Ready(Err(Errno::EAGAIN)),
            other => other.map_err(|_| raise::for_background(thread, Signal::SIGTTIN)),
        });
        thread.interruptible(wait).await.unwrap_or(Err(Errno::ERESTARTSYS))
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
