//! Regular files whose bytes are in frames: what programs create and change.

use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use faultline_fallible::{AllocError, Arc};

use faultline_mm::{FillError, PAGE_SIZE, PageSource, SharedMemory};
use spin::Mutex;
use x86_64::structures::paging::PhysFrame;

use super::file::{File, Transfer, Written};
use super::tree;
use crate::machine::{frame_totals, memory};
use crate::syscall::{Errno, has_headroom};

/// Files leave this part of all frames to programs, whose faults could only wait for one.
const RESERVE: u64 = 8;

/// Bytes of a file, page by page in frames; a page that nobody wrote takes none.
pub struct MemoryFile {
    pages: Arc<SharedMemory>,
    /// Length in bytes. The lock is held over every change of the length.
    length: Mutex<u64>,
    /// Time of the last change, in seconds.
    modified: AtomicU64,
}

impl MemoryFile {
    /// An empty file.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> Result<Self, AllocError> {
        Ok(Self {
            pages: SharedMemory::empty(memory().frames())?,
            length: Mutex::new(0),
            modified: AtomicU64::new(tree::now()),
        })
    }

    /// A copy of bytes.
    ///
    /// # Errors
    /// `ENOSPC` if there are not enough frames, `ENOMEM`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self, Errno> {
        let file = Self::new()?;
        let mut at = 0;
        while at < bytes.len() {
            at += file.write(Some(at as u64), &bytes[at..])?.1;
        }
        Ok(file)
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        *self.length.lock()
    }

    /// Time of the last change, in seconds.
    #[must_use]
    pub fn modified(&self) -> u64 {
        self.modified.load(Ordering::Relaxed)
    }

    /// Sets the time of the last change.
    pub fn set_modified(&self, seconds: u64) {
        self.modified.store(seconds, Ordering::Relaxed);
    }

    /// Copies bytes from `offset` on, at most up to the end of a page; says how many, 0 at the end.
    #[must_use]
    pub fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        let left = self.length().saturating_sub(offset).min(to.len() as u64);
        if left == 0 {
            return 0;
        }
        self.pages.read(memory(), offset, &mut to[..left as usize])
    }

    /// Writes bytes at `offset`, or at the end, at most up to the end of a page, and makes the file longer if it must;
    /// says where, and how many.
    ///
    /// # Errors
    /// `ENOSPC` if there is no frame, `ENOMEM`.
    pub fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Result<(u64, usize), Errno> {
        let mut length = self.length.lock();
        let offset = offset.unwrap_or(*length);
        let part = (bytes.len() as u64).min(PAGE_SIZE - offset % PAGE_SIZE);
        let end = offset.checked_add(part).ok_or(Errno::EFBIG)?;
        let (total, free) = frame_totals();
        if free < total / RESERVE {
            return Err(Errno::ENOSPC);
        }
        let room = self.pages.size();
        if end > room {
            // A file that grows by small pieces must not copy its table for each of them.
            let generous = self.pages.resize(end.max(room + room / 8));
            generous
                .or_else(|_| self.pages.resize(end))
                .map_err(|_| Errno::ENOSPC)?;
        }
        let written = self
            .pages
            .write(memory(), offset, &bytes[..part as usize])
            .map_err(|_| Errno::ENOSPC)?;
        *length = (*length).max(offset + written as u64);
        self.modified.store(tree::now(), Ordering::Relaxed);
        Ok((offset, written))
    }

    /// Cuts the file off, or makes it longer by zeros.
    ///
    /// # Errors
    /// `ENOSPC` for a length beyond the machine's memory.
    pub fn truncate(&self, wanted: u64) -> Result<(), Errno> {
        let mut length = self.length.lock();
        self.pages.resize(wanted).map_err(|_| Errno::ENOSPC)?;
        let tail = wanted % PAGE_SIZE;
        if wanted < *length && tail != 0 {
            // What was behind the new end must not come back when the file grows again.
            const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
            self.pages
                .write(memory(), wanted, &ZEROS[tail as usize..])
                .map_err(|_| Errno::ENOSPC)?;
        }
        *length = wanted;
        self.modified.store(tree::now(), Ordering::Relaxed);
        Ok(())
    }

    /// The pages, for a shared mapping: exactly as many as the file has.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn shared_pages(&self) -> Result<Arc<SharedMemory>, Errno> {
        let length = self.length.lock();
        self.pages.resize(*length)?;
        Ok(self.pages.clone())
    }
}

/// For private mappings: a page is copied when it is first touched.
impl PageSource for MemoryFile {
    fn len(&self) -> u64 {
        self.length()
    }

    fn resident(&self, _: u64) -> Option<PhysFrame> {
        None
    }

    fn poll_fill(&self, index: u64, page: &mut [u8; 4096], _: &mut Context<'_>) -> Poll<Result<(), FillError>> {
        let offset = index.checked_mul(PAGE_SIZE).filter(|&offset| offset < self.length());
        let Some(offset) = offset else {
            return Poll::Ready(Err(FillError { index }));
        };
        let read = self.read(offset, page);
        page[read..].fill(0);
        Poll::Ready(Ok(()))
    }
}

impl File for MemoryFile {
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        Poll::Ready(Ok(self.read(transfer.offset.unwrap_or(0), to)))
    }

    fn poll_write(&self, transfer: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        let written = has_headroom().and_then(|()| self.write(transfer.offset, from));
        Poll::Ready(written.map(|(at, length)| Written {
            length,
            end: at + length as u64,
        }))
    }

    fn held_pages(&self) -> u64 {
        self.pages.resident() as u64
    }

    fn length(&self) -> u64 {
        MemoryFile::length(self)
    }
}
