//! The open files of a process, by descriptor.
//!
//! A bit for each number says whether it is open, so that the lowest free one is found without a walk over the entries.
//! What is taken out of the table is [`Closed`]: dropping that is the end of the process's locks on the file and of its
//! hold on it, which can wake others. So it is dropped when the lock of the table is not held any more.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use faultline_fallible::{AllocError, Arc, Vec};

use super::{OpenFile, locks};
use crate::syscall::Errno;

/// Most descriptors of one process.
pub const LIMIT: usize = 1024;

const WORDS: usize = LIMIT / 64;

/// A descriptor's entry.
#[derive(Clone)]
pub struct Descriptor {
    /// The open file.
    pub file: Arc<OpenFile>,
    /// Closed by `execve`.
    pub close_on_exec: bool,
}

/// The open files of a process.
pub struct FileTable {
    slots: Vec<Option<Descriptor>>,
    /// A bit for each number that is open.
    open: [u64; WORDS],
    /// `RLIMIT_NOFILE`: numbers from here on can't be had.
    limit: usize,
    /// Tells its locks on files from those of others.
    owner: u64,
}

/// A file that a process has closed.
#[must_use = "it is closed when this is dropped"]
pub struct Closed {
    file: Arc<OpenFile>,
    owner: u64,
}

impl Drop for Closed {
    fn drop(&mut self) {
        locks::release_of_process(&self.file, self.owner);
    }
}

impl Default for FileTable {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            slots: Vec::new(),
            open: [0; WORDS],
            limit: LIMIT,
            owner: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl FileTable {
    /// A table with the same files, for another process.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn try_clone(&self) -> Result<Self, AllocError> {
        let new = Self::default();
        Ok(Self {
            slots: self.slots.try_clone()?,
            open: self.open,
            limit: self.limit,
            ..new
        })
    }

    /// Who has the locks of the process.
    #[must_use]
    pub const fn owner(&self) -> u64 {
        self.owner
    }

    /// The first number that can't be had.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the first number that can't be had; what is open from there on stays open.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit.min(LIMIT as u64) as usize;
    }

    /// The open file of `number`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, number: u64) -> Result<Arc<OpenFile>, Errno> {
        self.entry(number).map(|entry| entry.file.clone())
    }

    /// The entry of `number`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn entry(&self, number: u64) -> Result<&Descriptor, Errno> {
        let slot = self.slots.get(number as u32 as usize);
        slot.and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// Marks `number` as closed by `execve`, or not.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&mut self, number: u64, close: bool) -> Result<(), Errno> {
        let slot = self.slots.get_mut(number as u32 as usize);
        slot.and_then(Option::as_mut).ok_or(Errno::EBADF)?.close_on_exec = close;
        Ok(())
    }

    /// The first number from `first` on that is open.
    #[must_use]
    pub fn next_open(&self, first: usize) -> Option<usize> {
        self.next(first, |word| word)
    }

    /// The first number from `first` on whose bit is set in what `of` makes of the words.
    fn next(&self, first: usize, of: impl Fn(u64) -> u64) -> Option<usize> {
        let mut mask = u64::MAX << (first % 64);
        for (index, &word) in self.open.iter().enumerate().skip(first / 64) {
            let found = of(word) & mask;
            if found != 0 {
                return Some(index * 64 + found.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Entries that there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slots.len().next_multiple_of(64)
    }

    /// Whether there is a number for another open file.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn check_room(&self) -> Result<(), Errno> {
        let free = self.next(0, |word| !word).filter(|&free| free < self.limit);
        free.map(drop).ok_or(Errno::EMFILE)
    }

    /// Adds an open file under the lowest free number from `lowest` on.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn add(&mut self, file: Arc<OpenFile>, close_on_exec: bool, lowest: usize) -> Result<u64, Errno> {
        let free = self.next(lowest, |word| !word).ok_or(Errno::EMFILE)?;
        self.put(free, Descriptor { file, close_on_exec })?;
        Ok(free as u64)
    }

    /// Puts an entry at `index`; gives back the one that was there.
    ///
    /// # Errors
    /// `EMFILE` beyond the limit, `ENOMEM`.
    pub fn put(&mut self, index: usize, entry: Descriptor) -> Result<Option<Closed>, Errno> {
        if index >= self.limit {
            return Err(Errno::EMFILE);
        }
        if index >= self.slots.len() {
            self.slots.try_resize(index + 1, None)?;
        }
        self.open[index / 64] |= 1 << (index % 64);
        let old = self.slots[index].replace(entry);
        Ok(old.map(|old| self.closed(old)))
    }

    /// Takes `number` out.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&mut self, number: u64) -> Result<Closed, Errno> {
        let index = number as u32 as usize;
        let old = self.slots.get_mut(index).and_then(Option::take).ok_or(Errno::EBADF)?;
        self.open[index / 64] &= !(1 << (index % 64));
        Ok(self.closed(old))
    }

    /// The pages that the descriptors of a range answer for; `None` behind the last.
    #[must_use]
    pub fn held_pages(&self, range: Range<usize>) -> Option<u64> {
        let end = range.end.min(self.slots.len());
        let entries = self.slots.get(range.start..end).filter(|entries| !entries.is_empty())?;
        let pages = |entry: &Descriptor| entry.file.held_pages(Arc::strong_count(&entry.file));
        Some(entries.iter().flatten().map(pages).sum())
    }

    /// Takes the first entry out that is from `first` to `last`, and that `execve` closes if `only_marked`.
    pub fn take(&mut self, first: usize, last: usize, only_marked: bool) -> Option<Closed> {
        let mut next = first;
        while let Some(index) = self.next_open(next).filter(|&index| index <= last) {
            if !only_marked || self.slots[index].as_ref().is_some_and(|entry| entry.close_on_exec) {
                return self.remove(index as u64).ok();
            }
            next = index + 1;
        }
        None
    }

    /// Marks the numbers from `first` to `last` as closed by `execve`.
    pub fn mark(&mut self, first: usize, last: usize) {
        let mut next = first;
        while let Some(index) = self.next_open(next).filter(|&index| index <= last) {
            if let Some(entry) = &mut self.slots[index] {
                entry.close_on_exec = true;
            }
            next = index + 1;
        }
    }

    fn closed(&self, entry: Descriptor) -> Closed {
        Closed {
            file: entry.file,
            owner: self.owner,
        }
    }
}

impl Drop for FileTable {
    fn drop(&mut self) {
        while let Some(closed) = self.take(0, LIMIT, false) {
            drop(closed);
        }
    }
}
