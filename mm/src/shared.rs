//! Memory that several spaces see: `MAP_SHARED | MAP_ANONYMOUS`, memfd.

use core::fmt;

use faultline_fallible::{Arc, Box, Vec};

use crate::sync::Mutex;

use crate::address::PAGE_SIZE;
use crate::error::VasError;
use crate::frame::{FrameAllocator, Pfn, ReservedFrame};

/// An object of zeroed memory whose pages appear when they are first touched, by whichever space.
///
/// The object holds one reference to each of its frames, and every entry that maps one holds another; a frame is free
/// when the object and all mappings are gone. The table of pages is made at once, 4 bytes for each page, so that a fault
/// allocates no kernel memory.
pub struct SharedMemory {
    pub(crate) frames: &'static FrameAllocator,
    pub(crate) pages: Mutex<Box<[Pfn]>>,
}

impl SharedMemory {
    /// An object of `size` bytes, rounded up to whole pages. Takes no frame.
    ///
    /// # Errors
    /// [`VasError::EmptyRange`] for size 0; [`VasError::OutOfMemory`] if there is no kernel memory for the table.
    pub fn new(frames: &'static FrameAllocator, size: u64) -> Result<Arc<Self>, VasError> {
        let count = size.div_ceil(PAGE_SIZE);
        if count == 0 {
            return Err(VasError::EmptyRange { start: 0 });
        }
        let none = VasError::OutOfMemory {
            needed: (count * size_of::<Pfn>() as u64).div_ceil(PAGE_SIZE),
        };
        // More pages than the machine has frames can't all be had; refuse before the table is made.
        if count > u64::from(frames.end().number()) {
            return Err(none);
        }
        let pages = Vec::try_of(Pfn::NONE, count as usize).map_err(|_| none)?;
        Ok(Arc::try_new(Self {
            frames,
            pages: Mutex::new(pages.try_into_boxed_slice()?),
        })?)
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages.lock().len() as u64 * PAGE_SIZE
    }

    /// Pages that have a frame.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.pages.lock().iter().filter(|&&page| page != Pfn::NONE).count()
    }

    /// A new reference to the frame of a page, if it has one.
    pub(crate) fn reference(&self, page: u64) -> Option<Pfn> {
        let pages = self.pages.lock();
        let frame = *pages.get(page as usize).filter(|&&frame| frame != Pfn::NONE)?;
        self.frames.add_mapping(frame).ok()?;
        Some(frame)
    }

    /// Gives a page its frame, or drops `new` if another fault was faster; returns a new reference to the frame that
    /// the page has now. `None` beyond the end.
    pub(crate) fn insert(&self, page: u64, new: ReservedFrame<'static>) -> Option<Pfn> {
        let mut pages = self.pages.lock();
        let place = pages.get_mut(page as usize)?;
        if *place == Pfn::NONE {
            *place = new.map();
        }
        self.frames.add_mapping(*place).ok()?;
        Some(*place)
    }
}

impl SharedMemory {
    /// Drops the object's references to frames that are in its table no more.
    pub(crate) fn give_back(&self, pages: &[Pfn]) {
        for &page in pages {
            if page != Pfn::NONE
                && let Ok(Some(retired)) = self.frames.remove_mapping(page, 0)
            {
                // Every mapping held a reference until its own flush, so no TLB knows the frame.
                retired.free();
            }
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let pages = core::mem::take(self.pages.get_mut());
        self.give_back(&pages);
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SharedMemory of {} bytes, {} pages resident",
            self.size(),
            self.resident()
        )
    }
}
