//! Free physical memory: the firmware's map minus everything that is in use.
//!
//! The map comes from the loader as it is: unsorted, with empty and overlapping entries. [`FreeMemory`] keeps a sorted
//! list of disjoint, page-aligned free ranges; allocation and reservation are the same step, a subtraction. What is
//! still free at the end is what the kernel sees as usable.

use core::fmt::{Display, Formatter};

/// Frames the stage takes for itself and for the kernel lie below this address, the end of its identity map.
pub const FREE_BELOW: u64 = 1 << 32;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// A half-open range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

impl Range {
    /// `start..end`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// Length in bytes; zero if the range is empty or reversed.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The smallest page-aligned range around this one.
    fn grown(self) -> Self {
        Self::new(
            self.start & !(PAGE - 1),
            self.end.saturating_add(PAGE - 1) & !(PAGE - 1),
        )
    }

    /// The largest page-aligned range inside this one.
    fn shrunk(self) -> Self {
        Self::new(
            self.start.saturating_add(PAGE - 1) & !(PAGE - 1),
            self.end & !(PAGE - 1),
        )
    }
}

/// What went wrong with the memory map.
#[derive(Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// More ranges than the stage has room for.
    TooManyRanges,
    /// No free run of this many bytes below 4 GiB.
    OutOfMemory(u64),
}

impl Display for MemoryError {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooManyRanges => f.write_str("the memory map has too many entries"),
            Self::OutOfMemory(bytes) => write!(f, "too little memory: no room for {} KiB", bytes.div_ceil(1024)),
        }
    }
}

/// Most free ranges the list can hold.
pub const MAX_RANGES: usize = 160;

/// The free ranges, sorted and disjoint.
pub struct FreeMemory {
    ranges: [Range; MAX_RANGES],
    len: usize,
}

impl FreeMemory {
    /// Everything in `ram` that is not in `reserved`.
    ///
    /// # Errors
    /// [`MemoryError::TooManyRanges`] if the result does not fit into the list.
    pub fn new(
        ram: impl IntoIterator<Item = Range>,
        reserved: impl IntoIterator<Item = Range>,
    ) -> Result<Self, MemoryError> {
        let mut free = Self {
            ranges: [Range::default(); MAX_RANGES],
            len: 0,
        };
        for range in ram {
            let range = range.shrunk();
            // A second entry for the same bytes must not make them free twice.
            free.reserve(range)?;
            if range.len() > 0 {
                free.insert(free.ranges().partition_point(|r| r.start < range.start), range)?;
            }
        }
        for range in reserved {
            free.reserve(range)?;
        }
        Ok(free)
    }

    /// The free ranges in ascending order.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges[..self.len]
    }

    /// Whether all of `range` is free, neighbours counted as one.
    pub fn contains(&self, range: Range) -> bool {
        let mut at = range.start;
        for free in self.ranges() {
            if free.start <= at && at < free.end {
                at = free.end;
            }
        }
        range.len() > 0 && at >= range.end
    }

    /// Takes every page that `range` touches out of the list.
    ///
    /// # Errors
    /// [`MemoryError::TooManyRanges`] if a split does not fit into the list.
    pub fn reserve(&mut self, range: Range) -> Result<(), MemoryError> {
        let taken = range.grown();
        let mut index = 0;
        while index < self.len {
            let free = self.ranges[index];
            if taken.len() == 0 || taken.end <= free.start || free.end <= taken.start {
                index += 1;
                continue;
            }
            let (before, after) = (Range::new(free.start, taken.start), Range::new(taken.end, free.end));
            self.remove(index);
            for rest in [before, after] {
                if rest.len() > 0 {
                    self.insert(index, rest)?;
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// Takes a contiguous run of whole pages below 4 GiB, the lowest there is.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] if no free range is long enough.
    pub fn allocate(&mut self, bytes: u64) -> Result<Range, MemoryError> {
        let bytes = bytes.next_multiple_of(PAGE);
        let fits = |r: &&Range| {
            r.start
                .checked_add(bytes)
                .is_some_and(|end| end <= r.end.min(FREE_BELOW))
        };
        let found = self.ranges().iter().find(fits).ok_or(MemoryError::OutOfMemory(bytes))?;
        let taken = Range::new(found.start, found.start + bytes);
        self.reserve(taken)?;
        Ok(taken)
    }

    fn insert(&mut self, index: usize, range: Range) -> Result<(), MemoryError> {
        if self.len == MAX_RANGES {
            return Err(MemoryError::TooManyRanges);
        }
        self.ranges.copy_within(index..self.len, index + 1);
        self.ranges[index] = range;
        self.len += 1;
        Ok(())
    }

    fn remove(&mut self, index: usize) {
        self.ranges.copy_within(index + 1..self.len, index);
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end)
    }

    #[test]
    fn the_map_may_be_unsorted_empty_and_overlapping() {
        let ram = [
            range(0x10000, 0x20000),
            range(0, 0),
            range(0, 0x9fc00),
            range(0x1_0000_0000, 0x1_4000_0000),
        ];
        let free = FreeMemory::new(ram, [range(0x9f000, 0x100000)]).unwrap();
        let all: u64 = free.ranges().iter().map(Range::len).sum();
        assert_eq!(all, 0x9f000 + 0x4000_0000);
        assert!(free.ranges().is_sorted_by_key(|r| r.start));
        assert!(free.ranges().windows(2).all(|w| w[0].end <= w[1].start));
        assert!(free.contains(range(0x8000, 0x30000)));
        assert!(!free.contains(range(0x8000, 0xa0000)));
    }

    #[test]
    fn a_reservation_takes_whole_pages_and_splits() {
        let mut free = FreeMemory::new([range(0, 0x10000)], []).unwrap();
        free.reserve(range(0x3fff, 0x4001)).unwrap();
        assert_eq!(free.ranges(), [range(0, 0x3000), range(0x5000, 0x10000)]);
        free.reserve(range(0, u64::MAX)).unwrap();
        assert_eq!(free.ranges(), []);
    }

    #[test]
    fn allocation_stays_below_4_gib_and_fails_cleanly() {
        let mut free = FreeMemory::new(
            [range(0xffff_e000, 0x1_0000_1000), range(0x1_0000_1000, 0x2_0000_0000)],
            [],
        )
        .unwrap();
        assert_eq!(free.allocate(1), Ok(range(0xffff_e000, 0xffff_f000)));
        assert_eq!(free.allocate(0x2000), Err(MemoryError::OutOfMemory(0x2000)));
        assert_eq!(free.allocate(0x1000), Ok(range(0xffff_f000, 0x1_0000_0000)));
        assert_eq!(free.allocate(0x1000), Err(MemoryError::OutOfMemory(0x1000)));
    }

    #[test]
    fn too_many_ranges_are_an_error() {
        let ram = (0..MAX_RANGES as u64 + 1).map(|i| range(i * 0x2000, i * 0x2000 + 0x1000));
        assert_eq!(FreeMemory::new(ram, []).err(), Some(MemoryError::TooManyRanges));
    }
}
