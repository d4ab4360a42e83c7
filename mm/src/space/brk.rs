//! The heap.

use x86_64::VirtAddr;

use super::{Inner, VirtualAddressSpace};
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::error::VasError;
use crate::platform::Platform;
use crate::protection::Protection;
use crate::region::RegionFlags;

/// Most bytes that the heap shrinks by at once.
const AT_ONCE: u64 = 2 * HUGE_PAGE_SIZE;

/// What moving the break does to the heap's region.
enum Move {
    Grow(PageRange),
    Shrink(PageRange),
}

impl<P: Platform> Inner<P> {
    /// What a new break asks for.
    fn plan_break(&self, wanted: u64) -> Result<Option<Move>, VasError> {
        let start = self.layout.heap_start;
        let limit = self.heap_limit();
        if wanted < start || wanted > limit {
            return Err(VasError::BadBreak { wanted, start, limit });
        }
        // The pages of the heap: the first may be shared with what lies before an unaligned start.
        let base = start.next_multiple_of(PAGE_SIZE);
        let old = self.layout.heap_end.next_multiple_of(PAGE_SIZE).max(base);
        let new = wanted.next_multiple_of(PAGE_SIZE).max(base);
        Ok(if new > old {
            Some(Move::Grow(PageRange::new_unchecked(old, new)))
        } else if new < old {
            Some(Move::Shrink(PageRange::new_unchecked(new, old)))
        } else {
            None
        })
    }

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
    /// [`VasError::TooManyRegions`], [`VasError::NoKernelMemory`], [`VasError::OutOfMemory`] as for
    /// [`unmap`](Self::unmap). [`VasError::Busy`], also if shrinking takes more than a step:
    /// [`brk_in_steps`](Self::brk_in_steps) can.
    pub fn brk(&self, wanted: Option<VirtAddr>) -> Result<VirtAddr, VasError> {
        let Some(wanted) = wanted.map(VirtAddr::as_u64) else {
            return Ok(VirtAddr::new_truncate(self.lock().layout.heap_end));
        };
        let mut inner = self.lock_to_change()?;
        match inner.plan_break(wanted)? {
            Some(Move::Grow(range)) => {
                inner.check_count(self.memory, 1)?;
                inner.record(range, Protection::READ_WRITE, Backing::Anonymous, RegionFlags::HEAP)?;
            }
            Some(Move::Shrink(range)) if range.size() > AT_ONCE => return Err(VasError::Busy),
            Some(Move::Shrink(range)) => self.unmap_range(&mut inner, range)?,
            None => {}
        }
        inner.layout.heap_end = wanted;
        Ok(VirtAddr::new_truncate(wanted))
    }

    /// As [`brk`](Self::brk), in steps, with a turn of its own.
    ///
    /// # Errors
    /// As [`brk`](Self::brk).
    pub async fn brk_in_steps(&self, wanted: VirtAddr) -> Result<VirtAddr, VasError> {
        let shrink = self.in_turn(|space| space.brk(Some(wanted))).await?;
        if shrink != Err(VasError::Busy) {
            return shrink;
        }
        let turn = self.turn().await?;
        let planned = turn.lock().plan_break(wanted.as_u64())?;
        if let Some(Move::Shrink(range)) = planned {
            self.unmap_with(&turn, range).await?;
            turn.lock().layout.heap_end = wanted.as_u64();
            return Ok(wanted);
        }
        // Somebody else has moved it meanwhile.
        drop(turn);
        self.in_turn(|space| space.brk(Some(wanted))).await?
    }
}
