//! Files whose bytes lie in the boot archive, in memory, for ever.
//!
//! A file that starts on a page boundary of the archive lends its whole pages to the page tables as they are: mapping
//! such a page read-only costs no frame and no copy. The last, partial page is shared with whatever follows in the
//! archive, so it is copied and filled up with zeros.

use core::task::{Context, Poll};

use faultline_mm::{FillError, PageSource};
use spin::Once;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::file::{File, Transfer, Written};
use crate::syscall::Errno;

const PAGE: u64 = 4096;

/// Where the archive begins: its address in the kernel and, if it is contiguous, its physical address.
static ARCHIVE: Once<(usize, Option<PhysAddr>)> = Once::new();

/// The bytes of a file in the boot archive.
#[derive(Debug)]
pub struct RamdiskFile {
    bytes: &'static [u8],
}

impl RamdiskFile {
    /// Says where the archive is, so that pages of its files can be mapped where they lie.
    pub fn set_archive(archive: &'static [u8], physical: Option<PhysAddr>) {
        ARCHIVE.call_once(|| (archive.as_ptr() as usize, physical));
    }

    /// A file of these bytes of the archive.
    #[must_use]
    pub const fn new(bytes: &'static [u8]) -> Self {
        Self { bytes }
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'static [u8] {
        self.bytes
    }

    /// The physical address of its first byte.
    fn physical(&self) -> Option<PhysAddr> {
        let (start, physical) = *ARCHIVE.get()?;
        Some(physical? + (self.bytes.as_ptr() as usize - start) as u64)
    }
}

impl PageSource for RamdiskFile {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn resident(&self, index: u64) -> Option<PhysFrame> {
        let end = index.checked_add(1)?.checked_mul(PAGE)?;
        if end > self.len() {
            return None;
        }
        PhysFrame::from_start_address(self.physical()? + index * PAGE).ok()
    }

    fn fill(&self, index: u64, page: &mut [u8; 4096]) -> Result<(), FillError> {
        let start = index.checked_mul(PAGE).filter(|&start| start < self.len());
        let start = start.ok_or(FillError { index })?;
        let bytes = &self.bytes[start as usize..];
        let length = bytes.len().min(page.len());
        page[..length].copy_from_slice(&bytes[..length]);
        page[length..].fill(0);
        Ok(())
    }
}

impl File for RamdiskFile {
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let start = usize::try_from(transfer.offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let left = self.bytes.get(start..).unwrap_or_default();
        let length = left.len().min(to.len());
        to[..length].copy_from_slice(&left[..length]);
        Poll::Ready(Ok(length))
    }

    /// What is opened for writing was copied to frames before.
    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EBADF))
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}
