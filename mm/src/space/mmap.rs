//! Mappings whose address the space picks.
//!
//! Addresses are picked from the top down: the highest gap below the stack's reserve that is large enough. Freed ranges
//! are reused, because every search starts from the top; it skips what has no gap of the size.

use x86_64::VirtAddr;

use super::{Inner, VirtualAddressSpace};
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::error::VasError;
use crate::platform::Platform;
use crate::protection::Protection;
use crate::region::RegionFlags;

/// Where a mapping is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Wherever there is room.
    Any,
    /// There if it is free, else wherever there is room.
    Hint(VirtAddr),
    /// Wherever there is room between these addresses (`MAP_32BIT`).
    Within(VirtAddr, VirtAddr),
    /// Exactly there; what is mapped there goes (`MAP_FIXED`).
    Fixed(VirtAddr),
    /// Exactly there, if it is free (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(VirtAddr),
}

/// What [`VirtualAddressSpace::mmap`] is asked for.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// How much, in bytes; rounded up to whole pages.
    pub size: u64,
    /// What user mode may do.
    pub protection: Protection,
    /// Where the pages come from.
    pub backing: Backing,
    /// Properties.
    pub flags: RegionFlags,
}

impl MapRequest {
    /// Private anonymous memory, anywhere.
    #[must_use]
    pub const fn anonymous(size: u64, protection: Protection) -> Self {
        let flags = RegionFlags::empty();
        Self {
            placement: Placement::Any,
            size,
            protection,
            backing: Backing::Anonymous,
            flags,
        }
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Maps memory and returns where. Takes no frame: pages appear when they are touched.
    ///
    /// # Errors
    /// [`VasError::NoRoom`]; [`VasError::Overlap`] for [`Placement::FixedNoReplace`]; those of
    /// [`map_lazy`](Self::map_lazy); for [`Placement::Fixed`] also those of [`unmap`](Self::unmap). A failed call
    /// consumes nothing and unmaps nothing.
    pub fn mmap(&self, request: MapRequest) -> Result<VirtAddr, VasError> {
        let MapRequest {
            placement,
            size,
            protection,
            backing,
            flags,
        } = request;
        if size == 0 {
            return Err(VasError::EmptyRange { start: 0 });
        }
        let size = size
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(VasError::NoRoom { size })?;
        let mut inner = self.lock_to_change()?;
        let range = match placement {
            Placement::Any => inner.find_gap(size)?,
            Placement::Within(from, to) => inner
                .regions
                .highest_gap(from.as_u64(), to.as_u64(), size)
                .ok_or(VasError::NoRoom { size })?,
            Placement::Hint(wanted) => match PageRange::covering(wanted, size) {
                Ok(range) if range.size() == size && inner.regions.first_overlap(range).is_none() => range,
                _ => inner.find_gap(size)?,
            },
            Placement::Fixed(wanted) | Placement::FixedNoReplace(wanted) => PageRange::aligned(wanted, size)?,
        };
        self.check_backing(range, protection, &backing)?;
        if let Placement::Fixed(_) = placement {
            inner.check_count(self.memory, 2)?;
            // Before anything is unmapped.
            inner.regions.prepare_insert(range.start())?;
            self.unmap_range(&mut inner, range)?;
        }
        match placement {
            Placement::FixedNoReplace(_) => inner.check_free(self.memory, range)?,
            // The range is a gap, or was emptied.
            _ => inner.check_count(self.memory, 1)?,
        }
        inner.record(range, protection, backing, flags)?;
        Ok(VirtAddr::new_truncate(range.start()))
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// As [`mmap`](Self::mmap), in its turn; what a fixed mapping replaces goes in steps.
    ///
    /// # Errors
    /// As [`mmap`](Self::mmap). If there is no memory for the record of a fixed mapping, what it replaces may be gone.
    pub async fn mmap_in_steps(&self, request: MapRequest) -> Result<VirtAddr, VasError> {
        let Placement::Fixed(wanted) = request.placement else {
            return self.in_turn(|space| space.mmap(request)).await?;
        };
        let range = PageRange::aligned(wanted, request.size)?;
        self.check_backing(range, request.protection, &request.backing)?;
        let turn = self.turn().await?;
        {
            let mut inner = turn.lock();
            inner.check_count(self.memory, 2)?;
            inner.regions.prepare_insert(range.start())?;
        }
        self.unmap_with(&turn, range).await?;
        turn.with_space(|| self.mmap(request))
    }
}

impl<P: Platform> Inner<P> {
    /// The highest gap of the mmap area that holds `size` bytes, its uppermost part.
    pub(super) fn find_gap(&mut self, size: u64) -> Result<PageRange, VasError> {
        let end = self.layout.mmap_end() & !(PAGE_SIZE - 1);
        self.regions
            .highest_gap(self.layout.mmap_start, end, size)
            .ok_or(VasError::NoRoom { size })
    }
}
