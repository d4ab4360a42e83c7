//! Page-table pages: finding, making, splitting, sharing and freeing them.
//!
//! A last-level table may be shared between spaces copy-on-write. The level-2 entries that point to a shared table lack
//! the write right and carry [`Entry::SHARED`]; the table's count says how many there are. Whoever needs to change an entry
//! below one for one space unshares it first, which copies it (or takes it back, if nobody else is left). A shared table
//! itself is changed by the reclaimer only, and only towards less: it takes pages out, and accessed bits. It does so under
//! the table's own lock ([`FrameAllocator::lock_table`](crate::FrameAllocator)), which is also taken by whoever copies the
//! table, or uses a page that it finds in it, with the lock of one of its spaces held. The processor may set accessed and
//! dirty bits in it; they belong to all sharers.

mod retire;
mod share;

use core::ops::Range;

use faultline_trace::Kind;

use crate::Memory;
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::entry::Entry;
use crate::error::VasError;
use crate::frame::{OutOfFrames, Pfn, ReservedFrame};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::region::Alone;
use crate::space::{Inner, Space};
use crate::tlb::Change;

/// Where a walk for a leaf ended.
pub(crate) enum Leaf<'a> {
    /// At an entry of a table that this space alone uses.
    Own(EntryRef<'a>, Entry),
    /// At an entry of a shared table: it can be read, but not changed.
    Shared(Entry),
    /// At a level-2 entry that maps 2 MiB.
    Huge(Entry),
    /// At an absent table.
    None,
}

/// Index of `address` in the table of a level (4 is the top).
#[inline(always)]
pub(crate) const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize & 511
}

/// Bytes under one entry of a level.
#[inline(always)]
pub(crate) const fn span(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

impl<P: Platform> Memory<P> {
    /// The level-2 entry above `address`, if the tables down to it exist.
    #[inline]
    pub(crate) fn level2(&self, root: Pfn, address: u64) -> Option<EntryRef<'_>> {
        let mut table = root;
        for level in [4, 3] {
            let entry = self.entry(table, index(address, level)).get();
            if !entry.is_present() {
                return None;
            }
            table = entry.frame();
        }
        Some(self.entry(table, index(address, 2)))
    }

    /// Walks to the leaf of `address` without changing anything.
    #[inline]
    pub(crate) fn leaf(&self, root: Pfn, address: u64) -> Leaf<'_> {
        let Some(entry2) = self.level2(root, address) else {
            return Leaf::None;
        };
        let above = entry2.get();
        if !above.is_present() {
            return Leaf::None;
        }
        if above.has(Entry::HUGE) {
            return Leaf::Huge(above);
        }
        let leaf = self.entry(above.frame(), index(address, 1));
        if above.has(Entry::SHARED) {
            Leaf::Shared(leaf.get())
        } else {
            Leaf::Own(leaf, leaf.get())
        }
    }

    /// The last-level table of `range`, if it needs only one and that belongs to one space alone.
    #[inline]
    pub(crate) fn only_table(&self, root: Pfn, range: PageRange) -> Option<Pfn> {
        if range.start() / HUGE_PAGE_SIZE != (range.end() - 1) / HUGE_PAGE_SIZE {
            return None;
        }
        let above = self.level2(root, range.start())?.get();
        let is_own = above.has(Entry::PRESENT) && !above.has(Entry::HUGE) && !above.has(Entry::SHARED);
        is_own.then(|| above.frame())
    }

    /// A zeroed frame for a page table.
    fn new_table(&'static self) -> Result<Pfn, OutOfFrames> {
        Ok(self.to_table(self.zeroed_frame()?))
    }

    /// Makes a page table of a frame.
    pub(crate) fn to_table(&self, frame: ReservedFrame<'_>) -> Pfn {
        let table = frame.into_page_table();
        self.platform.trace(Kind::FrameTable, 0, 0, table.address().as_u64(), 0);
        table
    }

    /// A frame has as many references as its count can hold: reported as what it amounts to, no frame to be had.
    #[cold]
    pub(crate) fn too_many_references(&self) -> OutOfFrames {
        OutOfFrames {
            wanted: 1,
            free: u32::try_from(self.frames.available()).unwrap_or(u32::MAX),
        }
    }

    /// A zeroed frame: from the pool, or zeroed now.
    pub(crate) fn zeroed_frame(&'static self) -> Result<ReservedFrame<'static>, OutOfFrames> {
        let cpu = self.platform.cpu();
        if let Some(frame) = self.frames.allocate_zeroed(cpu) {
            return Ok(frame);
        }
        let frame = self.frames.allocate(cpu)?;
        self.platform.zero_frame(frame.pfn().frame());
        Ok(frame)
    }

    /// The level-2 entry above `address`; makes the tables that lead to it.
    pub(crate) fn make_level2(&'static self, root: Pfn, address: u64) -> Result<EntryRef<'static>, OutOfFrames> {
        let mut table = root;
        for level in [4, 3] {
            let entry = self.entry(table, index(address, level));
            let mut value = entry.get();
            if !value.is_present() {
                value = Entry::present(self.new_table()?, Entry::TABLE);
                entry.set(value);
            }
            table = value.frame();
        }
        Ok(self.entry(table, index(address, 2)))
    }

    /// The tables of the levels 3 and 2 whose span starts in `range`.
    pub(crate) fn count_upper_tables(&self, root: Pfn, range: PageRange) -> u64 {
        let mut count = 0;
        let mut address = range.start();
        while address < range.end() {
            let entry = self.entry(root, index(address, 4)).get();
            if !entry.is_present() {
                address = (address | (span(4) - 1)) + 1;
                continue;
            }
            count += u64::from(address.is_multiple_of(span(4)));
            let entry = self.entry(entry.frame(), index(address, 3)).get();
            count += u64::from(entry.is_present() && address.is_multiple_of(span(3)));
            address = (address | (span(3) - 1)) + 1;
        }
        count
    }

    /// Where a walk over the last-level tables of `range` ends that has so much left of its [bound](walk_bound), which it
    /// lowers; `None` if it comes to the end of the range.
    pub(crate) fn end_of_bounded_walk(&self, root: Pfn, range: PageRange, left: &mut u32) -> Option<u64> {
        /// A table above the last level: 512 entries.
        const TABLE: u32 = 1;
        let mut address = range.start() & !(HUGE_PAGE_SIZE - 1);
        'outer: while address < range.end() {
            let mut table = root;
            for level in [4, 3] {
                let entry = self.entry(table, index(address, level)).get();
                if !entry.is_present() {
                    address = (address | (span(level) - 1)) + 1;
                    continue 'outer;
                }
                table = entry.frame();
            }
            *left = left.saturating_sub(TABLE);
            let end = ((address | (span(3) - 1)) + 1).min(range.end());
            while address < end {
                let entry = self.entry(table, index(address, 2)).get();
                if !entry.is_empty() {
                    let shared = entry.has(Entry::SHARED) && !entry.has(Entry::HUGE);
                    let gives_up = shared && self.frames.table_ref_count(entry.frame()) > 1;
                    *left = left.saturating_sub(if gives_up { SHARED } else { LEAVES });
                }
                address += HUGE_PAGE_SIZE;
                if *left == 0 {
                    return Some(address);
                }
            }
        }
        None
    }

    /// Calls `f` with each level-2 entry that is not empty and whose 2 MiB meet `range`, and with the start of those.
    /// Absent tables cost one step each.
    pub(crate) fn for_each_level2(&self, root: Pfn, range: PageRange, mut f: impl FnMut(u64, EntryRef<'_>)) {
        let mut address = range.start() & !(HUGE_PAGE_SIZE - 1);
        'outer: while address < range.end() {
            let mut table = root;
            for level in [4, 3] {
                let entry = self.entry(table, index(address, level)).get();
                if !entry.is_present() {
                    address = (address | (span(level) - 1)) + 1;
                    continue 'outer;
                }
                table = entry.frame();
            }
            let end = ((address | (span(3) - 1)) + 1).min(range.end());
            while address < end {
                let entry = self.entry(table, index(address, 2));
                if !entry.get().is_empty() {
                    f(address, entry);
                }
                address += HUGE_PAGE_SIZE;
            }
        }
    }
}

/// What a last-level table, or a huge page, counts in the bound of a walk: 512 pages, each to be looked at, or freed.
const LEAVES: u32 = 8;

/// What one counts that others share: it is given up as a whole, or copied before it is changed.
const SHARED: u32 = 1;

/// The bound of a walk that looks at so many last-level tables, and at no more other entries than those have.
pub(crate) const fn walk_bound(tables: u32) -> u32 {
    tables * LEAVES
}

impl<P: Platform> Inner<P> {
    /// The indices of the last-level table of `address` outside which all its entries are empty, because no region is
    /// there.
    pub(crate) fn used_indices(&self, address: u64) -> Range<usize> {
        let start = address & !(HUGE_PAGE_SIZE - 1);
        let end = start + HUGE_PAGE_SIZE;
        let first = self
            .regions
            .first_above(start)
            .map_or(end, |(region, _)| region.start().clamp(start, end));
        let last = self
            .regions
            .last_below(end)
            .map_or(start, |(region, _)| region.end().clamp(first, end));
        ((first - start) / PAGE_SIZE) as usize..((last.max(first) - start) / PAGE_SIZE) as usize
    }
}

impl<P: Platform> Space<P> {
    /// The leaf of `address` in a table that this space alone uses: makes, splits or unshares what is in the way.
    ///
    /// # Errors
    /// [`OutOfFrames`]; tables made so far stay, empty.
    pub(crate) fn own_leaf(
        &self,
        inner: &mut Inner<P>,
        root: Pfn,
        address: u64,
        change: &mut Change,
    ) -> Result<EntryRef<'static>, OutOfFrames> {
        let memory = self.memory;
        let entry2 = memory.make_level2(root, address)?;
        let mut above = entry2.get();
        if !above.is_present() {
            above = Entry::present(memory.new_table()?, Entry::TABLE);
            entry2.set(above);
        } else if above.has(Entry::HUGE) {
            above = self.split(entry2, above, address, change)?;
        } else if above.has(Entry::SHARED) {
            above = self.unshare(inner, entry2, above, address, change)?;
        }
        Ok(memory.entry(above.frame(), index(address, 1)))
    }

    /// Makes the tables at both ends of `range` this space's own where they also serve regions outside it, so that what
    /// follows needs no memory.
    ///
    /// # Errors
    /// [`VasError::OutOfMemory`]; nothing that anybody could see has changed.
    pub(crate) fn prepare_ends(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        alone: Alone,
        change: &mut Change,
    ) -> Result<(), VasError> {
        let Some(root) = inner.root else { return Ok(()) };
        for address in [range.start(), range.end() - PAGE_SIZE] {
            if alone.holds_span(address & !(HUGE_PAGE_SIZE - 1), HUGE_PAGE_SIZE) {
                continue;
            }
            if let Leaf::Huge(_) | Leaf::Shared(_) = self.memory.leaf(root, address) {
                self.own_leaf(inner, root, address, change)
                    .map_err(|_| VasError::OutOfMemory { needed: 1 })?;
            }
        }
        Ok(())
    }
}
