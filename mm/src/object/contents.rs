//! The content of shared memory as the kernel reads and writes it: files that are made of frames.
//!
//! The kernel copies through the platform's view of physical memory, under the lock of the object's table, so that a page
//! neither goes nor moves meanwhile. Spaces that have mapped the object may write at the same time; bytes are copied as
//! they are.

use faultline_fallible::{AllocError, Arc};

use crate::address::PAGE_SIZE;
use crate::error::VasError;
use crate::frame::{FrameAllocator, Pfn};
use crate::memory::Memory;
use crate::object::{AT_ONCE, MemoryObject, ObjectId};
use crate::platform::Platform;
use crate::sync::Mutex;

impl MemoryObject {
    /// An object without pages, which [`resize`](Self::resize) gives some.
    ///
    /// # Errors
    /// There is no kernel memory.
    pub fn empty(frames: &'static FrameAllocator) -> Result<Arc<Self>, AllocError> {
        Arc::try_new(Self {
            id: ObjectId::new(),
            frames,
            pages: Mutex::default(),
            file: None,
        })
    }

    /// Makes the object `size` bytes long, rounded up to whole pages. New pages are zero and take no memory; those that
    /// are cut off go, but a space that has mapped one keeps seeing it until it unmaps it.
    pub fn resize(&self, size: u64) {
        let mut pages = self.pages.lock();
        let end = size.div_ceil(PAGE_SIZE);
        let cut = pages.end > end;
        pages.end = end;
        if cut {
            self.detach(&mut pages, end, u64::MAX);
        }
        drop(pages);
        self.frames.give_back_left(AT_ONCE);
    }

    /// Takes the frames of the pages from `first` up to `end` away: they read as zeros then. A space that has mapped one
    /// keeps seeing it until it unmaps it.
    pub fn punch(&self, first: u64, end: u64) {
        self.detach(&mut self.pages.lock(), first, end);
        self.frames.give_back_left(AT_ONCE);
    }

    /// The first page from `start` on that has a frame.
    #[must_use]
    pub fn next_resident(&self, start: u64) -> Option<u64> {
        self.pages.lock().tree.next_page(start)
    }

    /// The first page from `start` on that has no frame.
    #[must_use]
    pub fn next_absent(&self, start: u64) -> u64 {
        self.pages.lock().tree.next_hole(start)
    }

    /// Copies bytes from `offset` on to `to`, at most up to the end of its page; says how many. A page without a frame
    /// reads as zeros, and so does what lies beyond the end.
    #[must_use]
    pub fn read<P: Platform>(&self, memory: &Memory<P>, offset: u64, to: &mut [u8]) -> usize {
        let (page, start) = (offset / PAGE_SIZE, (offset % PAGE_SIZE) as usize);
        let length = to.len().min(PAGE_SIZE as usize - start);
        let to = &mut to[..length];
        let pages = self.pages.lock();
        match pages.tree.get(page) {
            frame if frame != Pfn::NONE => {
                let from = memory.platform().phys_to_virt(frame.address());
                // SAFETY: 1. `phys_to_virt` is valid for the whole frame, which the object holds while the lock is held;
                // 2. `start + length` stays in it; 3. `to` is the caller's, so they do not overlap.
                unsafe { from.add(start).copy_to_nonoverlapping(to.as_mut_ptr(), length) }
            }
            _ => to.fill(0),
        }
        length
    }

    /// Copies `bytes` to `offset`, at most up to the end of the page, which gets a frame if it has none; says how many.
    /// Beyond the end nothing is copied.
    ///
    /// # Errors
    /// [`VasError::OutOfMemory`] without a frame, or without kernel memory for the page's place; nothing was copied.
    pub fn write<P: Platform>(&self, memory: &'static Memory<P>, offset: u64, bytes: &[u8]) -> Result<usize, VasError> {
        let (page, start) = (offset / PAGE_SIZE, (offset % PAGE_SIZE) as usize);
        let length = bytes.len().min(PAGE_SIZE as usize - start);
        let mut pages = self.pages.lock();
        if page >= pages.end {
            return Ok(0);
        }
        let mut frame = pages.tree.get(page);
        if frame == Pfn::NONE {
            const NONE: VasError = VasError::OutOfMemory { needed: 1 };
            let new = memory.zeroed_frame().map_err(|_| NONE)?;
            pages.tree.prepare(page).map_err(|_| NONE)?;
            frame = new.map();
            pages.tree.insert(page, frame);
        }
        let to = memory.platform().phys_to_virt(frame.address());
        // SAFETY: as in `read`, in the other direction.
        unsafe { to.add(start).copy_from_nonoverlapping(bytes.as_ptr(), length) }
        Ok(length)
    }
}

impl<P: Platform> Memory<P> {
    /// Gives back about `most` of the frames that shared objects have lost; says whether some are left. A kernel calls it
    /// now and then until nothing is.
    pub fn give_back_left(&self, most: usize) -> bool {
        self.frames().give_back_left(most)
    }
}
