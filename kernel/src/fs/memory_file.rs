//! Regular files whose bytes are in frames: what programs create and change.

use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use faultline_fallible::{AllocError, Arc};

use faultline_executor::yield_now;
use faultline_mm::{MemoryObject, PAGE_SIZE, PageError};
use spin::Mutex;

use super::file::{File, Transfer, Written};
use super::page::make_room;
use super::tree;
use crate::machine::memory;
use crate::process::limits::Resource;
use crate::syscall::{Errno, has_headroom};

/// Files leave this part of all frames to programs, whose faults could only wait for one.
const RESERVE: u64 = 8;

/// The longest file, as on Linux.
const LONGEST: u64 = i64::MAX as u64;

/// Bytes of a file, page by page in frames; a page that nobody wrote takes none.
pub struct MemoryFile {
    pages: Arc<MemoryObject>,
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
            pages: MemoryObject::empty(memory().frames())?,
            length: Mutex::new(0),
            modified: AtomicU64::new(tree::now()),
        })
    }

    /// Adds bytes at the end, letting others run in between.
    ///
    /// # Errors
    /// `ENOSPC` if there are not enough frames.
    pub async fn append_all(&self, bytes: &[u8]) -> Result<(), Errno> {
        const TURN: usize = 16;
        let (mut at, mut steps) = (0, 0_usize);
        while at < bytes.len() {
            at += self.write(Some(at as u64), &bytes[at..])?.1;
            steps += 1;
            if steps.is_multiple_of(TURN) {
                yield_now().await;
            }
        }
        Ok(())
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
    ///
    /// # Errors
    /// [`PageError::NotResident`]: the page has to be [brought in](faultline_mm::Memory::page_in) first.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, PageError> {
        let left = self.length().saturating_sub(offset).min(to.len() as u64);
        if left == 0 {
            return Ok(0);
        }
        self.pages.read(memory(), offset, &mut to[..left as usize])
    }

    /// As [`read`](Self::read), waiting for the page.
    ///
    /// # Errors
    /// `EIO` if it could not be read.
    pub async fn read_waiting(&self, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match self.read(offset, to) {
                Ok(read) => return Ok(read),
                Err(PageError::NotResident { page }) => memory().page_in(&self.pages, page).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes bytes at `offset`, or at the end, at most up to the end of a page, and makes the file longer if it must;
    /// says where, and how many.
    ///
    /// # Errors
    /// `ENOSPC` if there is no frame, `EFBIG` beyond the longest file; [`Errno::EWAIT`] if the page has to be brought in
    /// first.
    pub fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Result<(u64, usize), Errno> {
        let mut length = self.length.lock();
        let offset = offset.unwrap_or(*length);
        let room = LONGEST
            .checked_sub(offset)
            .filter(|&room| room > 0)
            .ok_or(Errno::EFBIG)?;
        let part = (bytes.len() as u64).min(PAGE_SIZE - offset % PAGE_SIZE).min(room);
        let end = offset + part;
        check_frames()?;
        if end > self.pages.size() {
            self.pages.resize(end);
        }
        let written = self.pages.write(memory(), offset, &bytes[..part as usize])?;
        *length = (*length).max(offset + written as u64);
        self.modified.store(tree::now(), Ordering::Relaxed);
        Ok((offset, written))
    }

    /// Cuts the file off, or makes it longer by zeros, which take no frame.
    ///
    /// # Errors
    /// `EFBIG` for a length beyond the longest file; [`Errno::EWAIT`], with nothing changed, if a page that is cut in two has
    /// to be brought in first, or somebody may have mapped what is cut off.
    pub fn truncate(&self, wanted: u64) -> Result<(), Errno> {
        match wanted < self.length() && self.may_be_mapped() {
            true => Err(Errno::EWAIT),
            false => self.cut(wanted),
        }
    }

    /// Whether anybody but the file itself has its pages.
    fn may_be_mapped(&self) -> bool {
        Arc::strong_count(&self.pages) > 1
    }

    fn cut(&self, wanted: u64) -> Result<(), Errno> {
        if wanted > LONGEST {
            return Err(Errno::EFBIG);
        }
        let mut length = self.length.lock();
        if wanted < *length {
            // What was behind the new end must not come back when the file grows again.
            self.clear(wanted, wanted.next_multiple_of(PAGE_SIZE))?;
        }
        self.pages.resize(wanted);
        *length = wanted;
        self.modified.store(tree::now(), Ordering::Relaxed);
        Ok(())
    }

    /// As [`truncate`](Self::truncate), waiting for a page that is cut in two. Who has mapped what is cut off has it no more,
    /// but for private copies.
    ///
    /// # Errors
    /// `EFBIG`; `EIO` if the page could not be read.
    pub async fn truncate_waiting(&self, wanted: u64) -> Result<(), Errno> {
        let is_seen = wanted < self.length() && self.may_be_mapped();
        let gone = wanted.div_ceil(PAGE_SIZE)..u64::MAX;
        if is_seen {
            // While the pages are the file's, those of private mappings are known by that.
            memory().unmap_object(&self.pages, gone.clone()).await;
        }
        loop {
            match self.cut(wanted) {
                Err(Errno::EWAIT) => self.bring_in(wanted).await?,
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        if is_seen {
            // What was mapped again meanwhile.
            memory().unmap_object(&self.pages, gone).await;
        }
        Ok(())
    }

    /// Makes a hole: the bytes from `start` up to `end` are zeros then, also for who has mapped them, and whole pages of them
    /// take no frame. Waits for pages of which a part stays.
    ///
    /// # Errors
    /// `EIO` if one of them could not be read.
    pub async fn punch(&self, start: u64, end: u64) -> Result<(), Errno> {
        let (first, last) = (start.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
        if first < last {
            memory().punch_object(&self.pages, first..last).await;
        }
        loop {
            match self.try_punch(start, end) {
                Err(Errno::EWAIT) => {
                    self.bring_in(start).await?;
                    self.bring_in(end).await?;
                }
                done => return done,
            }
        }
    }

    fn try_punch(&self, start: u64, end: u64) -> Result<(), Errno> {
        let length = self.length.lock();
        let end = end.min(length.next_multiple_of(PAGE_SIZE));
        if start >= end {
            return Ok(());
        }
        let (first, last) = (start.next_multiple_of(PAGE_SIZE), end & !(PAGE_SIZE - 1));
        if first <= last {
            self.clear(start, first)?;
            self.clear(last, end)?;
            self.pages.punch(first / PAGE_SIZE, last / PAGE_SIZE);
        } else {
            self.clear(start, end)?;
        }
        self.modified.store(tree::now(), Ordering::Relaxed);
        Ok(())
    }

    /// Brings the page in that has the byte at `offset`.
    async fn bring_in(&self, offset: u64) -> Result<(), Errno> {
        Ok(memory().page_in(&self.pages, offset / PAGE_SIZE).await?)
    }

    /// Writes zeros to a part of one page, if it is in memory or swapped out.
    fn clear(&self, start: u64, end: u64) -> Result<(), Errno> {
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        let page = start / PAGE_SIZE;
        if start < end && self.pages.next_resident(page) == Some(page) {
            self.pages.write(memory(), start, &ZEROS[..(end - start) as usize])?;
        }
        Ok(())
    }

    /// Gives the pages of a part of the file their frames, and makes the file longer if `grow`. Does as much as a piece of
    /// work may be; says from where to go on, if that is not all.
    ///
    /// # Errors
    /// `ENOSPC`, `EFBIG`.
    pub fn reserve(&self, start: u64, end: u64, grow: bool) -> Result<Option<u64>, Errno> {
        const PIECE: u64 = 64 * PAGE_SIZE;
        if end > LONGEST {
            return Err(Errno::EFBIG);
        }
        let mut length = self.length.lock();
        let stop = end.min((start & !(PAGE_SIZE - 1)).saturating_add(PIECE));
        if stop > self.pages.size() {
            self.pages.resize(stop);
        }
        let mut page = start / PAGE_SIZE;
        while page * PAGE_SIZE < stop {
            check_frames()?;
            // Nothing is written but the page is made.
            self.pages.write(memory(), page * PAGE_SIZE, &[])?;
            page += 1;
        }
        if grow && stop > *length {
            *length = stop;
        }
        Ok((stop < end).then_some(stop))
    }

    /// Bytes that take memory.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.pages.resident() as u64 * PAGE_SIZE
    }

    /// Where the next data, or the next hole, is from `start` on; the end of the file counts as a hole. None at the end.
    #[must_use]
    pub fn next(&self, start: u64, what: Part) -> Option<u64> {
        let length = self.length();
        if start >= length {
            return None;
        }
        let page = match what {
            Part::Data => self.pages.next_resident(start / PAGE_SIZE)?,
            Part::Hole => self.pages.next_absent(start / PAGE_SIZE),
        };
        let at = page.saturating_mul(PAGE_SIZE).max(start);
        match what {
            Part::Data => (at < length).then_some(at),
            Part::Hole => Some(at.min(length)),
        }
    }

    /// The pages, for a mapping: exactly as many as the file has.
    #[must_use]
    pub fn mapped_pages(&self) -> Arc<MemoryObject> {
        let length = self.length.lock();
        self.pages.resize(*length);
        self.pages.clone()
    }
}

/// What `SEEK_DATA` and `SEEK_HOLE` look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Pages that were written.
    Data,
    /// Pages that nobody wrote.
    Hole,
}

/// Whether a file may take another frame.
fn check_frames() -> Result<(), Errno> {
    let frames = memory().frames();
    match make_room(u64::from(frames.end().number()) / RESERVE) {
        true => Ok(()),
        false => Err(Errno::ENOSPC),
    }
}

impl File for MemoryFile {
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        match self.read(transfer.offset.unwrap_or(0), to) {
            Err(PageError::NotResident { .. }) => Poll::Pending,
            read => Poll::Ready(read.map_err(Errno::from)),
        }
    }

    fn object(&self) -> Option<&Arc<MemoryObject>> {
        Some(&self.pages)
    }

    fn poll_write(&self, transfer: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        let thread = transfer.thread;
        let limit = thread.process.limits.current(Resource::FSIZE);
        let at = transfer.offset.unwrap_or_else(|| self.length());
        let room = limit.saturating_sub(at).min(from.len() as u64) as usize;
        if room == 0 && !from.is_empty() {
            // The call raises SIGXFSZ if it has written nothing before.
            return Poll::Ready(Err(Errno::EFBIG));
        }
        let written = has_headroom().and_then(|()| self.write(transfer.offset, &from[..room]));
        if written == Err(Errno::EWAIT) {
            return Poll::Pending;
        }
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
