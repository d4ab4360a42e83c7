//! Devices that are only rules, `/dev/null`, `/dev/zero`, `/dev/full` and `/dev/random`, and disks as they are.

use core::task::{Context, Poll};

use super::file::{File, Transfer, Written};
use crate::block::Disk;
use crate::syscall::{Errno, information};

/// A device without a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Reads end at once, writes vanish.
    Null,
    /// Zeros for ever, writes vanish.
    Zero,
    /// Zeros for ever, and never room for a write.
    Full,
    /// Pseudo-random bytes, writes vanish.
    Random,
}

impl File for Rule {
    fn poll_read(&self, _: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let length = to.len();
        Poll::Ready(Ok(match self {
            Self::Null => 0,
            Self::Zero | Self::Full => {
                to[..length].fill(0);
                length
            }
            Self::Random => {
                information::fill_random(&mut to[..length]);
                length
            }
        }))
    }

    fn poll_write(&self, _: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(match self {
            Self::Full => Err(Errno::ENOSPC),
            _ => Ok(Written {
                length: from.len(),
                end: 0,
            }),
        })
    }
}

/// A disk, opened for reading. Its bytes come by [`block::read`](crate::block::read), which waits for the disk.
#[derive(Clone, Copy)]
pub struct DiskFile(pub &'static Disk);

impl File for DiskFile {
    fn poll_read(&self, _: Transfer<'_>, _: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EBADF))
    }

    fn length(&self) -> u64 {
        self.0.length()
    }
}
