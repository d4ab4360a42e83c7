//! The open files of a process, by descriptor.

use alloc::vec::Vec;
use core::ops::Range;

use faultline_fallible::Arc;

use super::OpenFile;
use crate::syscall::Errno;

/// Most descriptors of one process.
pub const LIMIT: usize = 1024;

/// A descriptor's entry.
#[derive(Clone)]
pub struct Descriptor {
    /// The open file.
    pub file: Arc<OpenFile>,
    /// Closed by `execve`.
    pub close_on_exec: bool,
}

/// The open files of a process.
#[derive(Clone, Default)]
pub struct FileTable(Vec<Option<Descriptor>>);

impl FileTable {
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
        let slot = usize::try_from(number as u32).ok().and_then(|index| self.0.get(index));
        slot.and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// Marks `number` as closed by `execve`, or not.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&mut self, number: u64, close: bool) -> Result<(), Errno> {
        let slot = usize::try_from(number as u32)
            .ok()
            .and_then(|index| self.0.get_mut(index));
        slot.and_then(Option::as_mut).ok_or(Errno::EBADF)?.close_on_exec = close;
        Ok(())
    }

    /// Adds an open file under the lowest free number from `lowest` on.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn add(&mut self, file: Arc<OpenFile>, close_on_exec: bool, lowest: usize) -> Result<u64, Errno> {
        let free = (lowest..self.0.len()).find(|&index| self.0[index].is_none());
        let index = free.unwrap_or(self.0.len().max(lowest));
        self.put(index, Descriptor { file, close_on_exec })?;
        Ok(index as u64)
    }

    /// Puts an entry at `index`; gives back the one that was there.
    ///
    /// # Errors
    /// `EMFILE` beyond the limit, `ENOMEM`.
    pub fn put(&mut self, index: usize, entry: Descriptor) -> Result<Option<Descriptor>, Errno> {
        if index >= LIMIT {
            return Err(Errno::EMFILE);
        }
        if index >= self.0.len() {
            self.0.try_reserve(index + 1 - self.0.len())?;
            self.0.resize(index + 1, None);
        }
        Ok(self.0[index].replace(entry))
    }

    /// Takes `number` out.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&mut self, number: u64) -> Result<Descriptor, Errno> {
        let slot = usize::try_from(number as u32)
            .ok()
            .and_then(|index| self.0.get_mut(index));
        slot.and_then(Option::take).ok_or(Errno::EBADF)
    }

    /// The pages that the descriptors of a range answer for; `None` behind the last.
    #[must_use]
    pub fn held_pages(&self, range: Range<usize>) -> Option<u64> {
        let end = range.end.min(self.0.len());
        let entries = self.0.get(range.start..end).filter(|entries| !entries.is_empty())?;
        let pages = |entry: &Descriptor| entry.file.held_pages(Arc::strong_count(&entry.file));
        Some(entries.iter().flatten().map(pages).sum())
    }

    /// Closes what `execve` closes.
    pub fn close_for_exec(&mut self) {
        for slot in &mut self.0 {
            slot.take_if(|entry| entry.close_on_exec);
        }
    }

    /// Closes the numbers from `first` to `last`, or marks them.
    pub fn close_range(&mut self, first: usize, last: usize, mark_only: bool) {
        for slot in self.0.iter_mut().take(last.saturating_add(1)).skip(first) {
            match slot {
                Some(entry) if mark_only => entry.close_on_exec = true,
                _ => *slot = None,
            }
        }
    }
}
