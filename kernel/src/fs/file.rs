//! What calls can do with an open file, whatever it is.
//!
//! Each kind of file implements [`File`]; [`FileKind::as_file`](super::FileKind::as_file) is the one place that knows
//! all kinds. So a new kind is an implementation, a variant and a line there, and no call learns of it.
//!
//! # Protocol
//!
//! [`File::poll_read`] and [`File::poll_write`] move bytes between the file and a buffer of the kernel, no more than the
//! file can give or take in a bounded time. *Pending* means that nothing was moved, and that [`File::queue`] or the context
//! is woken when it is worth asking again; the caller makes `EAGAIN` of it for a file that must not wait. Nothing is awaited
//! in between, so a future that is dropped after it has got *pending* has moved nothing.
//!
//! To wait for an event, be in [`File::queue`] first and look at [`File::events`] then.

use core::future::poll_fn;
use core::task::{Context, Poll};

use faultline_executor::WaitQueue;
use faultline_fallible::Arc;
use faultline_mm::{MemoryObject, PAGE_SIZE};
use linux_raw_sys::general as linux;

use crate::machine::memory;
use crate::process::Thread;
use crate::syscall::Errno;

/// The bits of `poll` that say that something can be read.
pub const INPUT: u32 = linux::POLLIN | linux::POLLRDNORM;

/// The bits of `poll` that say that something can be written.
pub const OUTPUT: u32 = linux::POLLOUT | linux::POLLWRNORM;

/// One piece of a `read` or `write`.
#[derive(Clone, Copy)]
pub struct Transfer<'a> {
    /// Who reads or writes.
    pub thread: &'a Thread,
    /// Where, in a file that has offsets; `None` for a write to its end.
    pub offset: Option<u64>,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes that were taken.
    pub length: usize,
    /// Where the next write goes on, in a file that has offsets.
    pub end: u64,
}

/// Reads from a file, waiting until it has something to give.
///
/// # Errors
/// Those of [`File::poll_read`]; `EIO` for a page that can't be read.
pub async fn read(file: &dyn File, transfer: Transfer<'_>, to: &mut [u8]) -> Result<usize, Errno> {
    loop {
        let Some(object) = file.object() else {
            return poll_fn(|context| file.poll_read(transfer, to, context)).await;
        };
        if let Poll::Ready(read) = poll_fn(|context| Poll::Ready(file.poll_read(transfer, to, context))).await {
            return read;
        }
        let page = transfer.offset.unwrap_or(0) / PAGE_SIZE;
        memory().page_in(object, page).await?;
    }
}

/// Writes to a file, waiting until it can take something.
///
/// # Errors
/// Those of [`File::poll_write`]; `EIO` for a page that can't be read.
pub async fn write(file: &dyn File, transfer: Transfer<'_>, from: &[u8]) -> Result<Written, Errno> {
    loop {
        let Some(object) = file.object() else {
            return poll_fn(|context| file.poll_write(transfer, from, context)).await;
        };
        if let Poll::Ready(written) = poll_fn(|context| Poll::Ready(file.poll_write(transfer, from, context))).await {
            return written;
        }
        let page = transfer.offset.unwrap_or_else(|| file.length()) / PAGE_SIZE;
        memory().page_in(object, page).await?;
    }
}

/// What an open file reads and writes.
pub trait File: Send + Sync {
    /// Fills `to` from its start on; says how much, 0 at the end of the file.
    ///
    /// # Errors
    /// `EINVAL` for a file that can't be read, and what the kind of file says.
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], context: &mut Context<'_>)
    -> Poll<Result<usize, Errno>>;

    /// Takes bytes of `from` from its start on, at least one unless it is empty.
    ///
    /// # Errors
    /// `EINVAL` for a file that can't be written, and what the kind of file says.
    fn poll_write(
        &self,
        transfer: Transfer<'_>,
        from: &[u8],
        context: &mut Context<'_>,
    ) -> Poll<Result<Written, Errno>>;

    /// The bits of `poll` that hold now.
    fn events(&self) -> u32 {
        INPUT | OUTPUT
    }

    /// The queue that is woken, as a whole, whenever one of the bits in `wanted` may have come to hold; none if those that
    /// hold never change. It is the same one each time.
    fn queue(&self, _wanted: u32) -> Option<&WaitQueue> {
        None
    }

    /// Whether it has offsets: reads and writes are somewhere in it.
    fn has_offsets(&self) -> bool {
        true
    }

    /// Its length, if it has one.
    fn length(&self) -> u64 {
        0
    }

    /// The object that has its bytes, if they can be on a device: *pending* means then that the page at the offset is, and
    /// that it has to be [brought in](faultline_mm::Memory::page_in).
    fn object(&self) -> Option<&Arc<MemoryObject>> {
        None
    }

    /// Pages that are free when it is gone, which whoever holds it open answers for when memory is short.
    fn held_pages(&self) -> u64 {
        0
    }
}
