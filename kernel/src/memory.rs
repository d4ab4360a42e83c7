//! Physical memory: the map from the boot info, and the pieces that are carved from it before the frame allocator
//! takes the rest.

use bootloader_api::info::{MemoryRegion, MemoryRegionKind};

use crate::layout::PHYSICAL_MEMORY;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Most ranges that are kept; more (a badly cut map) are left unused.
const MAX_RANGES: usize = 64;

/// A half-open, page-aligned range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysRange {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

impl PhysRange {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// The virtual address at which the physical address `address` is mapped.
#[inline(always)]
pub const fn phys_to_virt(address: u64) -> *mut u8 {
    (PHYSICAL_MEMORY + address) as *mut u8
}

/// The usable memory that nobody has taken yet.
pub struct BootMemory {
    ranges: [PhysRange; MAX_RANGES],
    len: usize,
    total: u64,
}

impl BootMemory {
    /// The usable regions of the boot info's map, sorted, neighbours merged, cut to whole pages.
    pub fn new(regions: &[MemoryRegion]) -> Self {
        let mut memory = Self {
            ranges: [PhysRange::default(); MAX_RANGES],
            len: 0,
            total: 0,
        };
        for region in regions.iter().filter(|region| region.kind == MemoryRegionKind::Usable) {
            // The first MiB is left to firmware data and to starting other CPUs.
            let start = region.start.next_multiple_of(PAGE).max(1 << 20);
            let end = region.end & !(PAGE - 1);
            if start < end {
                memory.insert(PhysRange { start, end });
            }
        }
        memory.total = memory.ranges().iter().map(PhysRange::len).sum();
        memory
    }

    /// What is left, in ascending order.
    pub fn ranges(&self) -> &[PhysRange] {
        &self.ranges[..self.len]
    }

    /// Bytes that were usable at the start.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Takes `bytes`, rounded up to whole pages, from the top of the largest range; `None` if none is large enough.
    pub fn carve(&mut self, bytes: u64) -> Option<PhysRange> {
        let bytes = bytes.next_multiple_of(PAGE);
        let range = self.ranges[..self.len].iter_mut().max_by_key(|range| range.len())?;
        if range.len() < bytes {
            return None;
        }
        range.end -= bytes;
        Some(PhysRange {
            start: range.end,
            end: range.end + bytes,
        })
    }

    fn insert(&mut self, new: PhysRange) {
        let index = self.ranges().partition_point(|range| range.start < new.start);
        if index > 0 && self.ranges[index - 1].end == new.start {
            self.ranges[index - 1].end = new.end;
        } else if self.len < MAX_RANGES {
            self.ranges.copy_within(index..self.len, index + 1);
            self.ranges[index] = new;
            self.len += 1;
        }
    }
}
