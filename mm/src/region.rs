//! Regions: what a range of addresses is meant to be, apart from what is there by now.

use alloc::collections::BTreeMap;
use core::fmt;

use bitflags::bitflags;
use faultline_trace::FaultClass;

use crate::address::PageRange;
use crate::backing::Backing;
use crate::entry::Entry;
use crate::protection::{Access, Protection};

bitflags! {
    /// Properties of a region beside its protection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct RegionFlags: u8 {
        /// The heap: one region that `brk` grows and shrinks.
        const HEAP = 1;
        /// A stack: it grows downwards when the guard gap below it allows.
        const STACK = 2;
        /// Served by 2 MiB pages where an aligned run is free.
        const HUGE_PAGES = 4;
        /// Locked in memory (accounting only).
        const LOCKED = 8;
        /// It may never become writable: a shared mapping of a file that can't be written.
        const READ_ONLY = 16;
    }
}

/// A range of addresses with one protection and one backing.
#[derive(Clone, Debug)]
pub struct Region {
    pub(crate) end: u64,
    pub(crate) backing: Backing,
    pub(crate) protection: Protection,
    pub(crate) flags: RegionFlags,
}

// Issue 3's bound for the metadata of a region, key included; the tree's share comes on top of it.
const _: () = assert!(size_of::<Region>() + size_of::<u64>() <= 64);

impl Region {
    /// What user mode may do.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Where the pages come from.
    #[must_use]
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Properties.
    #[must_use]
    pub fn flags(&self) -> RegionFlags {
        self.flags
    }

    fn joins(&self, start: u64, next: &Region) -> bool {
        self.protection == next.protection
            && self.flags == next.flags
            && self.backing.continues(self.end - start, &next.backing)
    }
}

/// What a fault needs to know of the region of a page; copied out, so that nothing is borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) protection: Protection,
    /// Leaf flags of a page of the region's own.
    pub(crate) leaf: u64,
    /// How a first read is served.
    on_read: FaultClass,
    /// How a first write is served.
    on_write: FaultClass,
}

impl Summary {
    const NONE: Summary = Summary {
        start: 0,
        size: 0,
        protection: Protection::empty(),
        leaf: 0,
        on_read: FaultClass::ZeroPage,
        on_write: FaultClass::DemandZero,
    };

    /// How a first access is served.
    #[inline(always)]
    pub(crate) fn class(&self, access: Access) -> FaultClass {
        if access == Access::Write {
            self.on_write
        } else {
            self.on_read
        }
    }

    fn of(range: PageRange, region: &Region) -> Self {
        let (on_read, on_write) = match &region.backing {
            Backing::Anonymous if region.flags.contains(RegionFlags::HUGE_PAGES) => {
                (FaultClass::Huge, FaultClass::Huge)
            }
            Backing::Anonymous => (FaultClass::ZeroPage, FaultClass::DemandZero),
            Backing::File { .. } => (FaultClass::File, FaultClass::File),
            Backing::Shared { .. } | Backing::Physical { .. } => (FaultClass::Shared, FaultClass::Shared),
        };
        Summary {
            start: range.start(),
            size: range.size(),
            protection: region.protection,
            leaf: Entry::flags_for(region.protection) | Entry::ACCESSED,
            on_read,
            on_write,
        }
    }
}

/// The regions of a space, by address. They never overlap, and neighbours that agree are one.
#[derive(Clone)]
pub struct RegionMap {
    tree: BTreeMap<u64, Region>,
    /// Bytes in all regions.
    bytes: u64,
    /// The region that the last fault found: the next fault is most often in the same one. Size 0 after any change.
    last: Summary,
}

impl Default for RegionMap {
    fn default() -> Self {
        Self {
            tree: BTreeMap::new(),
            bytes: 0,
            last: Summary::NONE,
        }
    }
}

impl RegionMap {
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether [`last`](Self::last) answers for `address`.
    #[inline(always)]
    pub(crate) fn has_summary(&self, address: u64) -> bool {
        address.wrapping_sub(self.last.start) < self.last.size
    }

    /// The region that the last fault found.
    #[inline(always)]
    pub(crate) fn last(&self) -> &Summary {
        &self.last
    }

    /// Finds the region of `address` and remembers it; false if there is none. O(log n).
    pub(crate) fn look_up(&mut self, address: u64) -> bool {
        let Some((range, region)) = self.find(address) else {
            return false;
        };
        self.last = Summary::of(range, region);
        true
    }

    /// The region that holds `address`: O(log n), clones nothing.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<(PageRange, &Region)> {
        let (&start, region) = self.tree.range(..=address).next_back()?;
        (address < region.end).then(|| (PageRange::new_unchecked(start, region.end), region))
    }

    /// The first region that ends above `address`.
    pub(crate) fn first_above(&self, address: u64) -> Option<(PageRange, &Region)> {
        self.find(address).or_else(|| {
            let (&start, region) = self.tree.range(address..).next()?;
            Some((PageRange::new_unchecked(start, region.end), region))
        })
    }

    /// The last region that starts below `address`.
    pub(crate) fn last_below(&self, address: u64) -> Option<(PageRange, &Region)> {
        let (&start, region) = self.tree.range(..address).next_back()?;
        Some((PageRange::new_unchecked(start, region.end), region))
    }

    /// The regions that intersect `range`, in order.
    pub(crate) fn overlapping(&self, range: PageRange) -> impl Iterator<Item = (PageRange, &Region)> {
        let first = self
            .find(range.start())
            .map_or(range.start(), |(found, _)| found.start());
        self.tree
            .range(first..range.end())
            .filter(move |(_, region)| region.end > range.start())
            .map(|(&start, region)| (PageRange::new_unchecked(start, region.end), region))
    }

    /// The first region that intersects `range`.
    pub(crate) fn first_overlap(&self, range: PageRange) -> Option<PageRange> {
        self.overlapping(range).next().map(|(found, _)| found)
    }

    /// All regions, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PageRange, &Region)> {
        self.tree
            .iter()
            .map(|(&start, region)| (PageRange::new_unchecked(start, region.end), region))
    }

    /// Adds a region where none is, and joins it with neighbours that agree.
    pub(crate) fn insert(&mut self, range: PageRange, mut region: Region) {
        debug_assert!(self.overlapping(range).next().is_none(), "{range} overlaps a region");
        self.last = Summary::NONE;
        region.end = range.end();
        self.bytes += range.size();
        let mut start = range.start();
        if let Some(next) = self.tree.get(&range.end())
            && region.joins(start, next)
        {
            region.end = next.end;
            self.tree.remove(&range.end());
        }
        if let Some((&before, previous)) = self.tree.range(..start).next_back()
            && previous.end == start
            && previous.joins(before, &region)
        {
            start = before;
            region.backing = previous.backing.clone();
        }
        self.tree.insert(start, region);
    }

    /// Takes out everything in `range`; regions that reach beyond it keep their outer parts. Calls `removed` with each
    /// part that is taken out.
    pub(crate) fn remove(&mut self, range: PageRange, mut removed: impl FnMut(PageRange, &Region)) {
        self.last = Summary::NONE;
        while let Some(found) = self.first_overlap(range) {
            let region = self.tree.remove(&found.start()).expect("the region was just found");
            let cut = found.intersection(range).expect("it overlaps");
            let part = |part: PageRange| Region {
                end: part.end(),
                backing: region.backing.advanced(part.start() - found.start()),
                protection: region.protection,
                flags: region.flags,
            };
            if found.start() < cut.start() {
                let front = PageRange::new_unchecked(found.start(), cut.start());
                self.tree.insert(front.start(), part(front));
            }
            if cut.end() < found.end() {
                let back = PageRange::new_unchecked(cut.end(), found.end());
                self.tree.insert(back.start(), part(back));
            }
            self.bytes -= cut.size();
            removed(cut, &part(cut));
        }
    }

    /// Changes every region in `range`, splitting those that reach beyond it; neighbours that then agree are joined.
    pub(crate) fn update(&mut self, range: PageRange, mut change: impl FnMut(&mut Region)) {
        let mut parts = alloc::vec::Vec::new();
        self.remove(range, |part, region| parts.push((part, region.clone())));
        for (part, mut region) in parts {
            change(&mut region);
            self.insert(part, region);
        }
    }

    /// Moves the start of the region at `start` down to `to`; what is between is free.
    pub(crate) fn grow_down(&mut self, start: u64, to: u64) {
        self.last = Summary::NONE;
        if let Some(region) = self.tree.remove(&start) {
            self.bytes += start - to;
            self.tree.insert(to, region);
        }
    }

    /// The first address in `range` that no region holds.
    pub(crate) fn first_hole(&self, range: PageRange) -> Option<u64> {
        let mut expected = range.start();
        for (found, _) in self.overlapping(range) {
            if found.start() > expected {
                return Some(expected);
            }
            expected = found.end();
        }
        (expected < range.end()).then_some(expected)
    }

    /// The addresses around `range` that no region outside it holds.
    pub(crate) fn alone_around(&self, range: PageRange) -> Alone {
        let low = self
            .last_below(range.start())
            .map_or(0, |(below, _)| below.end().min(range.start()));
        let high = self
            .first_above(range.end())
            .map_or(u64::MAX, |(above, _)| above.start().max(range.end()));
        Alone { low, high }
    }

    /// How many more regions an operation on `range` can leave behind at most.
    pub(crate) const SPLIT_COST: usize = 2;
}

/// A stretch of addresses in which only one range has regions.
#[derive(Clone, Copy)]
pub(crate) struct Alone {
    low: u64,
    high: u64,
}

impl Alone {
    /// Everything below `end`, where what was mapped is gone.
    pub(crate) const fn below(end: u64) -> Self {
        Self { low: 0, high: end }
    }

    /// Whether the `size` bytes from `start`, the span of a table, lie in it: then the table serves nobody else.
    #[inline]
    pub(crate) fn holds_span(self, start: u64, size: u64) -> bool {
        self.low <= start && start + size <= self.high
    }
}

impl fmt::Debug for RegionMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(range, region)| (range, (region.protection, &region.backing, region.flags))),
            )
            .finish()
    }
}
