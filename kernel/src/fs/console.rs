//! The console: standard input, output and error of the programs.

use super::{FileKind, OpenFile};
use crate::console::{self, Channel};
use crate::process::Thread;
use crate::syscall::Errno;

use alloc::sync::Arc;

use linux_raw_sys::general as linux;

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
        let channel = match self {
            Self::Output => Channel::Output,
            Self::Error => Channel::Error,
        };
        console::write(channel, bytes);
    }

    /// Takes what has arrived. Without any the input is at its end.
    ///
    /// # Errors
    /// None: an input at its end reads as 0 bytes.
    pub async fn read(self, _: &Thread, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut length = 0;
        while length < buffer.len()
            && let Some(byte) = console::read(Channel::Output)
        {
            buffer[length] = byte;
            length += 1;
        }
        Ok(length)
    }
}

/// The three files that a program is started with.
#[must_use]
pub fn standard_files() -> [Arc<OpenFile>; 3] {
    let open = |port, flags| Arc::new(OpenFile::new(FileKind::Console(port), None, flags));
    [
        open(Port::Output, linux::O_RDONLY),
        open(Port::Output, linux::O_WRONLY),
        open(Port::Error, linux::O_WRONLY),
    ]
}
