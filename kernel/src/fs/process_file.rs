//! An open file that stands for a process (`pidfd`): readable when the process has ended.

use core::task::{Context, Poll};

use faultline_executor::WaitQueue;
use faultline_fallible::Arc;

use super::file::{File, INPUT, Transfer, Written};
use crate::process::{Process, tree};
use crate::syscall::Errno;

/// A process.
pub struct ProcessFile(pub Arc<Process>);

impl File for ProcessFile {
    fn poll_read(&self, _: Transfer<'_>, _: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn events(&self) -> u32 {
        if tree::has_ended(&self.0) { INPUT } else { 0 }
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(&self.0.changes)
    }

    fn has_offsets(&self) -> bool {
        false
    }
}
