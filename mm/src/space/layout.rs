//! Where things are in a space: heap, mmap area, stack.

use x86_64::VirtAddr;

use super::{Inner, VirtualAddressSpace};
use crate::address::{PAGE_SIZE, PageRange, USER_END};
use crate::error::{FaultError, VasError};
use crate::platform::Platform;
use crate::protection::FaultInfo;
use crate::region::RegionFlags;

/// The gap below a stack that stays free, so that running over the end of the stack faults: 1 MiB, as on Linux.
pub(crate) const STACK_GUARD: u64 = 256 * PAGE_SIZE;

/// Where things are in a space. All in bytes; the stack is `stack_top - stack_size .. stack_top` at its largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the heap starts.
    pub heap_start: u64,
    /// The break: one past the last byte of the heap.
    pub heap_end: u64,
    /// Lowest address that `mmap` picks.
    pub mmap_start: u64,
    /// One past the highest stack address.
    pub stack_top: u64,
    /// How far the stack can grow.
    pub stack_size: u64,
    /// What stays free between the stack at its largest, with its guard, and the highest address that `mmap` picks.
    pub mmap_gap: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            heap_start: 0x2000_0000_0000,
            heap_end: 0x2000_0000_0000,
            mmap_start: 0x4000_0000_0000,
            stack_top: 0x7fff_ffff_0000,
            stack_size: 8 * 1024 * 1024,
            mmap_gap: 0,
        }
    }
}

impl Layout {
    /// Lowest address that the stack can reach.
    pub(crate) const fn stack_limit(&self) -> u64 {
        self.stack_top - self.stack_size
    }

    /// One past the highest address that `mmap` picks: it stays clear of the stack at its largest, and of its guard.
    pub(crate) const fn mmap_end(&self) -> u64 {
        self.stack_limit() - STACK_GUARD - self.mmap_gap
    }

    fn check_stack(top: u64, size: u64, gap: u64) -> Result<(), VasError> {
        let fits = top.is_multiple_of(PAGE_SIZE)
            && size.is_multiple_of(PAGE_SIZE)
            && gap.is_multiple_of(PAGE_SIZE)
            && size > 0
            && top <= USER_END
            && size
                .checked_add(STACK_GUARD)
                .and_then(|reach| reach.checked_add(gap))
                .is_some_and(|reach| reach < top);
        if fits {
            Ok(())
        } else {
            Err(VasError::BadStack { top, size })
        }
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// The layout, as it is now.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.lock().layout
    }

    /// Lowest address that the stack can reach.
    #[must_use]
    pub fn user_stack_base(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.lock().layout.stack_limit())
    }

    /// How far the stack can grow, in bytes.
    #[must_use]
    pub fn user_stack_size(&self) -> u64 {
        self.lock().layout.stack_size
    }

    /// One past the highest stack address.
    #[must_use]
    pub fn stack_top(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.lock().layout.stack_top)
    }

    /// Moves the top of the stack; a stack region that is mapped stays where it is.
    ///
    /// # Errors
    /// [`VasError::BadStack`] if the stack would not lie in the user half, or the address is not a multiple of 4096.
    pub fn set_stack_top(&self, top: VirtAddr) -> Result<(), VasError> {
        let mut inner = self.lock();
        Layout::check_stack(top.as_u64(), inner.layout.stack_size, inner.layout.mmap_gap)?;
        inner.layout.stack_top = top.as_u64();
        Ok(())
    }

    /// Changes how far the stack can grow, in bytes.
    ///
    /// # Errors
    /// [`VasError::BadStack`] if the stack would not lie in the user half, or the size is 0 or no multiple of 4096.
    pub fn set_stack_size(&self, size: u64) -> Result<(), VasError> {
        let mut inner = self.lock();
        Layout::check_stack(inner.layout.stack_top, size, inner.layout.mmap_gap)?;
        inner.layout.stack_size = size;
        Ok(())
    }

    /// Changes how many bytes stay free between the stack at its largest, with its guard, and the highest address that
    /// `mmap` picks.
    ///
    /// # Errors
    /// [`VasError::BadStack`] if that leaves nothing below, or the gap is no multiple of 4096.
    pub fn set_mmap_gap(&self, gap: u64) -> Result<(), VasError> {
        let mut inner = self.lock();
        Layout::check_stack(inner.layout.stack_top, inner.layout.stack_size, gap)?;
        inner.layout.mmap_gap = gap;
        Ok(())
    }

    /// Moves the lowest address that `mmap` picks.
    ///
    /// # Errors
    /// [`VasError::Unaligned`] unless it is a multiple of 4096; [`VasError::BadRange`] outside the user half.
    pub fn set_mmap_start(&self, start: VirtAddr) -> Result<(), VasError> {
        PageRange::aligned(start, PAGE_SIZE)?;
        self.lock().layout.mmap_start = start.as_u64();
        Ok(())
    }
}

impl<P: Platform> Inner<P> {
    /// Grows the stack region down to `page`, if that is what an access there asks for and its cap and guard allow it.
    ///
    /// # Errors
    /// [`FaultError::NoRegion`] if no stack is above; [`FaultError::StackLimit`] if it can't reach so far.
    #[cold]
    pub(crate) fn grow_stack(&mut self, page: u64, info: FaultInfo) -> Result<(), FaultError> {
        let FaultInfo { address, access, .. } = info;
        let (above, region) = self
            .regions
            .first_above(page)
            .ok_or(FaultError::NoRegion { address, access })?;
        if !region.flags.contains(RegionFlags::STACK) {
            return Err(FaultError::NoRegion { address, access });
        }
        let cap = above.end() - self.layout.stack_size.min(above.end());
        let below = self
            .regions
            .last_below(page)
            .map_or(0, |(below, _)| below.end() + STACK_GUARD);
        let limit = cap.max(below);
        if page < limit {
            return Err(FaultError::StackLimit { address, access, limit });
        }
        self.regions.grow_down(above.start(), page);
        Ok(())
    }
}
