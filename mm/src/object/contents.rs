//! The content of objects as the kernel reads and writes it.
//!
//! The kernel copies through the platform's view of physical memory, under the lock of the object's pages, so that a page
//! neither goes nor moves meanwhile. Spaces that have mapped the object may write at the same time; bytes are copied as
//! they are. A page that is on a device has to be [brought in](Memory::page_in) first.

use thiserror::Error;

use super::memory_object::MemoryObject;
use super::state::Page;
use crate::address::PAGE_SIZE;
use crate::memory::Memory;
use crate::platform::Platform;

/// Why the kernel can't have the bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// The page is on a device: wait for [`Memory::page_in`], then look again.
    #[error("page {page} is not in memory")]
    NotResident {
        /// The page.
        page: u64,
    },
    /// The page could not be read.
    #[error("page {page} could not be read")]
    ReadFailed {
        /// The page.
        page: u64,
    },
    /// There is no frame for the page, or no kernel memory for its place.
    #[error("there is no memory for page {page}")]
    OutOfMemory {
        /// The page.
        page: u64,
    },
}

impl MemoryObject {
    /// The first page from `start` on that is in memory, or on its way.
    #[must_use]
    pub fn next_resident(&self, start: u64) -> Option<u64> {
        self.pages.lock().tree.next_page(start)
    }

    /// The first page from `start` on that is neither in memory nor on its way.
    #[must_use]
    pub fn next_absent(&self, start: u64) -> u64 {
        self.pages.lock().tree.next_hole(start)
    }

    /// The frame of a page, if it is in memory; for tests.
    #[cfg(test)]
    pub(crate) fn frame_of(&self, page: u64) -> Option<crate::frame::Pfn> {
        self.pages.lock().tree.get(page).resident_frame()
    }

    /// The swap slot of a page, if it is in one; for tests.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn slot_of(&self, page: u64) -> Option<crate::swap::SwapSlot> {
        match self.pages.lock().tree.get(page).page() {
            Page::SwappedOut { slot } => Some(slot),
            Page::InFlight { slot, .. } => slot,
            Page::Absent | Page::Resident { .. } => None,
        }
    }

    /// Copies bytes from `offset` on to `to`, at most up to the end of its page; says how many. An absent page of an object
    /// without a file reads as zeros, and so does what lies beyond the end. Reading through a file begins to read what
    /// comes next.
    ///
    /// # Errors
    /// [`PageError::NotResident`]; nothing was copied.
    pub fn read<P: Platform>(
        &self,
        memory: &'static Memory<P>,
        offset: u64,
        to: &mut [u8],
    ) -> Result<usize, PageError> {
        let (page, start) = (offset / PAGE_SIZE, (offset % PAGE_SIZE) as usize);
        let length = to.len().min(PAGE_SIZE as usize - start);
        let to = &mut to[..length];
        let mut pages = self.pages.lock();
        let end = pages.end;
        let marked = match pages.tree.get_mut(page) {
            Some(state) => {
                let Some(frame) = state.resident_frame() else {
                    return Err(PageError::NotResident { page });
                };
                let from = memory.platform().phys_to_virt(frame.address());
                // SAFETY: 1. `phys_to_virt` is valid for the whole frame, which the object holds while the lock is held;
                // 2. `start + length` stays in it; 3. `to` is the caller's, so they do not overlap.
                unsafe { from.add(start).copy_to_nonoverlapping(to.as_mut_ptr(), length) }
                state.note_use()
            }
            None if self.file.is_some() && page < end => return Err(PageError::NotResident { page }),
            None => {
                to.fill(0);
                false
            }
        };
        drop(pages);
        if self.file.is_some() {
            memory.counters.object_hits.add(1);
        }
        if marked {
            memory.read_ahead(self, page);
        }
        Ok(length)
    }

    /// Copies `bytes` to `offset`, at most up to the end of the page, which gets a frame if it has none; says how many.
    /// Beyond the end nothing is copied. Writing nothing makes sure that the page is not absent. For objects without a file.
    ///
    /// # Errors
    /// [`PageError::OutOfMemory`], [`PageError::NotResident`]; nothing was copied.
    pub fn write<P: Platform>(
        &self,
        memory: &'static Memory<P>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, PageError> {
        debug_assert!(self.file.is_none(), "a file on a disk can't be written");
        let (page, start) = (offset / PAGE_SIZE, (offset % PAGE_SIZE) as usize);
        let length = bytes.len().min(PAGE_SIZE as usize - start);
        let mut pages = self.pages.lock();
        if page >= pages.end {
            return Ok(0);
        }
        let frame = match pages.tree.get(page).page() {
            Page::Resident { frame } => frame,
            Page::InFlight { .. } | Page::SwappedOut { .. } if bytes.is_empty() => return Ok(0),
            Page::InFlight { .. } | Page::SwappedOut { .. } => return Err(PageError::NotResident { page }),
            Page::Absent => {
                let none = PageError::OutOfMemory { page };
                let frame = memory.zeroed_frame().map_err(|_| none)?;
                self.insert(&mut pages, page, frame).map_err(|_| none)?
            }
        };
        let to = memory.platform().phys_to_virt(frame.address());
        // SAFETY: as in `read`, in the other direction.
        unsafe { to.add(start).copy_from_nonoverlapping(bytes.as_ptr(), length) }
        Ok(length)
    }
}
