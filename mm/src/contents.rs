//! The content of shared memory as the kernel reads and writes it: files that are made of frames.
//!
//! The kernel copies through the platform's view of physical memory, under the lock of the object's table, so that a page
//! neither goes nor moves meanwhile. Spaces that have mapped the object may write at the same time; bytes are copied as
//! they are.

use faultline_fallible::{AllocError, Arc, Box, Vec};

use crate::sync::Mutex;

use crate::address::PAGE_SIZE;
use crate::error::VasError;
use crate::frame::{FrameAllocator, OutOfFrames, Pfn};
use crate::memory::Memory;
use crate::platform::Platform;
use crate::shared::SharedMemory;

impl SharedMemory {
    /// An object without pages, which [`resize`](Self::resize) gives some.
    ///
    /// # Errors
    /// There is no kernel memory.
    pub fn empty(frames: &'static FrameAllocator) -> Result<Arc<Self>, AllocError> {
        Arc::try_new(Self {
            frames,
            pages: Mutex::new(Box::default()),
        })
    }

    /// Makes the object `size` bytes long, rounded up to whole pages. New pages are zero and take no frame; those that
    /// are cut off go, but a space that has mapped one keeps seeing it until it unmaps it.
    ///
    /// # Errors
    /// [`VasError::OutOfMemory`] if there is no kernel memory for the table, or more pages are asked for than the
    /// machine has frames. Nothing has changed then.
    pub fn resize(&self, size: u64) -> Result<(), VasError> {
        let count = size.div_ceil(PAGE_SIZE);
        let none = VasError::OutOfMemory {
            needed: (count * size_of::<Pfn>() as u64).div_ceil(PAGE_SIZE),
        };
        if count > u64::from(self.frames.end().number()) {
            return Err(none);
        }
        let mut table = Vec::try_with_capacity(count as usize).map_err(|_| none)?;
        let mut pages = self.pages.lock();
        let kept = pages.len().min(count as usize);
        table.try_extend_from_slice(&pages[..kept])?;
        table.try_resize(count as usize, Pfn::NONE)?;
        let old = core::mem::replace(&mut *pages, table.try_into_boxed_slice()?);
        drop(pages);
        self.give_back(&old[kept..]);
        Ok(())
    }

    /// Copies bytes from `offset` on to `to`, at most up to the end of its page; says how many. A page without a frame
    /// reads as zeros, and so does what lies beyond the end.
    #[must_use]
    pub fn read<P: Platform>(&self, memory: &Memory<P>, offset: u64, to: &mut [u8]) -> usize {
        let (page, start) = (offset / PAGE_SIZE, (offset % PAGE_SIZE) as usize);
        let length = to.len().min(PAGE_SIZE as usize - start);
        let to = &mut to[..length];
        let pages = self.pages.lock();
        match pages.get(page as usize).copied() {
            Some(frame) if frame != Pfn::NONE => {
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
    /// [`OutOfFrames`]; nothing was copied.
    pub fn write<P: Platform>(
        &self,
        memory: &'static Memory<P>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, OutOfFrames> {
        let (page, start) = (offset / PAGE_SIZE, (offset % PAGE_SIZE) as usize);
        let length = bytes.len().min(PAGE_SIZE as usize - start);
        let mut pages = self.pages.lock();
        let Some(place) = pages.get_mut(page as usize) else {
            return Ok(0);
        };
        if *place == Pfn::NONE {
            *place = memory.zeroed_frame()?.map();
        }
        let to = memory.platform().phys_to_virt(place.address());
        // SAFETY: as in `read`, in the other direction.
        unsafe { to.add(start).copy_from_nonoverlapping(bytes.as_ptr(), length) }
        Ok(length)
    }
}
