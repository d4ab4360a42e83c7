//! The heap.

use x86_64::VirtAddr;

use super::{Inner, VirtualAddressSpace};
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::error::VasError;
use crate::platform::Platform;
use crate::protection::Protection;
use crate::region::RegionFlags;

impl<P: Platform> Inner<P> {
    /// How far the heap can grow: to the next region above it, less one guard page, and never into the mmap area.
    fn heap_limit(&self) -> u64 {
        let Self { layout, regions, .. } = self;
        let end = layout.heap_end.next_multiple_of(PAGE_SIZE);
        let next = regions
            .first_above(end)
            .map_or(u64::MAX, |(above, _)| above.start().saturating_sub(PAGE_SIZE));
        let area = if layout.heap_start < layout.mmap_start {
            layout.mmap_start
        } else {
            layout.mmap_end()
        };
        next.min(area).max(layout.heap_end)
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Where the heap starts.
    #[must_use]
    pub fn heap_start_addr(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.lock().layout.heap_start)
    }

    /// Moves the start of the heap, and the break with it: for a program that was just loaded.
    ///
    /// # Errors
    /// [`VasError::BadBreak`] if the heap is not empty; [`VasError::BadRange`] outside the user half.
    pub fn set_heap_start(&self, start: VirtAddr) -> Result<(), VasError> {
        PageRange::covering(start, 1)?;
        let mut inner = self.lock();
        let limit = inner.heap_limit();
        let layout = &mut inner.layout;
        if layout.heap_end != layout.heap_start {
            return Err(VasError::BadBreak {
                wanted: start.as_u64(),
                start: layout.heap_start,
                limit,
            });
        }
        layout.heap_start = start.as_u64();
        layout.heap_end = start.as_u64();
        Ok(())
    }

    /// Queries or moves the break, the end of the heap in bytes, as `brk`. The heap is one region however many calls it
    /// took, readable and writable and not executable. Growing takes no frame; shrinking frees whole pages after their
    /// flush. Returns the break.
    ///
    /// # Errors
    /// [`VasError::BadBreak`] below the start of the heap, or beyond what is free above it; nothing has changed then.
    /// [`VasError::TooManyRegions`], [`VasError::OutOfMemory`] as for [`unmap`](Self::unmap).
    pub fn brk(&self, wanted: Option<VirtAddr>) -> Result<VirtAddr, VasError> {
        let mut inner = self.lock();
        let Some(wanted) = wanted.map(VirtAddr::as_u64) else {
            return Ok(VirtAddr::new_truncate(inner.layout.heap_end));
        };
        let start = inner.layout.heap_start;
        let limit = inner.heap_limit();
        if wanted < start || wanted > limit {
            return Err(VasError::BadBreak { wanted, start, limit });
        }
        // The pages of the heap: the first may be shared with what lies before an unaligned start.
        let base = start.next_multiple_of(PAGE_SIZE);
        let old = inner.layout.heap_end.next_multiple_of(PAGE_SIZE).max(base);
        let new = wanted.next_multiple_of(PAGE_SIZE).max(base);
        if new > old {
            inner.check_count(self.memory, 1)?;
            let range = PageRange::new_unchecked(old, new);
            inner.record(range, Protection::READ_WRITE, Backing::Anonymous, RegionFlags::HEAP);
        } else if new < old {
            self.unmap_range(&mut inner, PageRange::new_unchecked(new, old))?;
        }
        inner.layout.heap_end = wanted;
        Ok(VirtAddr::new_truncate(wanted))
    }
}
