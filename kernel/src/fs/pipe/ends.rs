//! The ends of a pipe, as open files have them.

use core::task::{Context, Poll};

use faultline_executor::WaitQueue;
use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::super::file::{File, INPUT, OUTPUT, Transfer, Written};
use super::{Pipe, Put, Take};
use crate::syscall::Errno;

/// The reading end of a pipe.
pub struct ReadEnd {
    /// The pipe.
    pub pipe: Arc<Pipe>,
    /// How many writers there had been when it was opened: without another one it is not at its end.
    pub(super) writers_before: u64,
}

impl ReadEnd {
    /// The end of a pipe that has a writer.
    #[must_use]
    pub const fn new(pipe: Arc<Pipe>) -> Self {
        Self {
            pipe,
            writers_before: 0,
        }
    }
}

/// The writing end of a pipe.
pub struct WriteEnd(pub Arc<Pipe>);

/// The part of a pipe's pages that each of its ends answers for when memory is short.
fn held_pages(pipe: &Arc<Pipe>) -> u64 {
    let pages = pipe.state.lock().parts.len();
    pages.div_ceil(Arc::strong_count(pipe).max(1)) as u64
}

impl File for ReadEnd {
    fn poll_read(&self, _: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let mut at = 0;
        let taken = self.pipe.take(to.len(), |bytes| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
            Ok(())
        });
        match taken {
            Take::Done(length) | Take::Packet(length) => Poll::Ready(Ok(length)),
            Take::Empty | Take::Fault(_) => Poll::Pending,
            Take::End => Poll::Ready(Ok(0)),
        }
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EBADF))
    }

    fn events(&self) -> u32 {
        let state = self.pipe.state.lock();
        let input = if state.bytes > 0 { INPUT } else { 0 };
        let hung_up = if state.writers == 0 && state.opened[1] != self.writers_before {
            linux::POLLHUP
        } else {
            0
        };
        input | hung_up
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(&self.pipe.read_polls)
    }

    fn held_pages(&self) -> u64 {
        held_pages(&self.pipe)
    }

    fn has_offsets(&self) -> bool {
        false
    }
}

impl File for WriteEnd {
    fn poll_read(&self, _: Transfer<'_>, _: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        Poll::Ready(Err(Errno::EBADF))
    }

    fn poll_write(&self, _: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        let mut at = 0;
        let put = self.0.put(from.len(), true, false, |bytes| {
            bytes.copy_from_slice(&from[at..at + bytes.len()]);
            at += bytes.len();
            Ok(())
        });
        match put {
            Put::Done(length) => Poll::Ready(Ok(Written { length, end: 0 })),
            Put::Full | Put::Fault(_) => Poll::Pending,
            Put::Broken => Poll::Ready(Err(Errno::EPIPE)),
            Put::NoMemory => Poll::Ready(Err(Errno::ENOMEM)),
        }
    }

    fn events(&self) -> u32 {
        let state = self.0.state.lock();
        let output = if state.has_room() { OUTPUT } else { 0 };
        let broken = if state.readers == 0 { linux::POLLERR } else { 0 };
        output | broken
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(&self.0.write_polls)
    }

    fn held_pages(&self) -> u64 {
        held_pages(&self.0)
    }

    fn has_offsets(&self) -> bool {
        false
    }
}

impl Drop for ReadEnd {
    fn drop(&mut self) {
        self.pipe.close_reader();
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.0.close_writer();
    }
}
