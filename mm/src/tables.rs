//! Page-table pages: finding, making, splitting, sharing and freeing them.
//!
//! A last-level table may be shared between spaces copy-on-write. The level-2 entries that point to a shared table lack
//! the write right and carry [`Entry::SHARED`]; the table's count says how many there are. A shared table is never
//! changed by software: whoever needs to change an entry below it unshares it first, which copies it (or takes it back,
//! if nobody else is left). The processor may set accessed and dirty bits in it; they belong to all sharers.

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
use crate::sync::atomic::Ordering;
use crate::sync::mutant;
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

    /// Replaces a 2 MiB entry by a table of 512 entries that map the same frames with the same rights.
    fn split(
        &self,
        entry2: EntryRef<'_>,
        above: Entry,
        address: u64,
        change: &mut Change,
    ) -> Result<Entry, OutOfFrames> {
        let memory = self.memory;
        // Every entry of the table is written below, so the frame needs no zeroing.
        let table = memory.to_table(memory.frames.allocate(memory.platform.cpu())?);
        let first = above.frame();
        let flags = above.bits() & (Entry::USER | Entry::WRITABLE | Entry::PWT | Entry::PCD | Entry::NO_EXECUTE)
            | above.bits() & (Entry::COW | Entry::BORROWED | Entry::SHARED | Entry::ACCESSED | Entry::DIRTY);
        for page in 0..512 {
            memory
                .entry(table, page)
                .set(Entry::present(first.offset(page as u32), flags));
        }
        let below = Entry::present(table, Entry::TABLE);
        entry2.set(below);
        // The translations are the same, but the processor may not hold the page in two sizes (Intel SDM volume 3,
        // section 4.10.2.1).
        change.page(address & !(HUGE_PAGE_SIZE - 1));
        Ok(below)
    }

    /// Makes the shared table below `entry2`, that of `address`, this space's own: copies it, or takes it back if nobody
    /// else is left.
    pub(crate) fn unshare(
        &self,
        inner: &mut Inner<P>,
        entry2: EntryRef<'_>,
        above: Entry,
        address: u64,
        change: &mut Change,
    ) -> Result<Entry, OutOfFrames> {
        let memory = self.memory;
        let shared = above.frame();
        let used = inner.used_indices(address);
        if memory.frames.table_ref_count(shared) == 1 {
            // The last sharer. Frames that another sharer's copy has referenced meanwhile must not be written.
            for (_, leaf, entry) in memory.used_entries(shared, used) {
                if entry.has(Entry::PRESENT | Entry::WRITABLE)
                    && !entry.has(Entry::SHARED)
                    && memory.frames.mapping_count(entry.frame()) != 1
                    && !mutant!(TakeBackWritable)
                {
                    leaf.set(entry.without(Entry::WRITABLE).with(Entry::COW));
                }
            }
            let below = above.without(Entry::SHARED).with(Entry::WRITABLE);
            entry2.set(below);
            memory.counters.tables_taken_back.add(1);
            return Ok(below);
        }
        let table = self.copy_table(shared, used)?;
        let below = Entry::present(table, Entry::TABLE);
        entry2.set(below);
        // The processor may have cached the pointer to the old table for any of the 512 pages.
        if !mutant!(UnshareWithoutFlush) {
            change.all();
        }
        memory.counters.tables_unshared.add(1);
        self.drop_table_reference(inner, shared);
        Ok(below)
    }

    /// A copy of a last-level table whose entries are empty outside `used`: private pages become copy-on-write in the copy
    /// and gain a reference; markers and busy bits stay behind.
    ///
    /// # Errors
    /// [`OutOfFrames`] without a frame for it, or if a frame has as many references as its count can hold; every reference
    /// taken is given back.
    pub(crate) fn copy_table(&self, from: Pfn, used: Range<usize>) -> Result<Pfn, OutOfFrames> {
        let memory = self.memory;
        let to = memory.new_table()?;
        let first = used.start;
        let leaves = memory.table(from)[used.clone()].iter().zip(&memory.table(to)[used]);
        for (page, (leaf, copy)) in leaves.enumerate() {
            let entry = EntryRef(leaf).get();
            if mutant!(CopyMarker) && entry.marker().is_some() {
                EntryRef(copy).set(entry);
            }
            if !entry.is_present() {
                continue;
            }
            let kept = if entry.has(Entry::SHARED) {
                entry.without(Entry::BUSY)
            } else {
                entry.without(Entry::BUSY | Entry::WRITABLE).with(Entry::COW)
            };
            if !entry.has(Entry::BORROWED) && memory.frames.add_mapping(entry.frame()).is_err() {
                self.drop_copy(to, first + page);
                return Err(memory.too_many_references());
            }
            EntryRef(copy).set(kept);
        }
        Ok(to)
    }

    /// Gives up a table that was copied up to `page` and that no entry refers to.
    #[cold]
    fn drop_copy(&self, table: Pfn, page: usize) {
        let memory = self.memory;
        let cpu = memory.platform.cpu();
        for (_, _, entry) in memory.used_entries(table, 0..page) {
            if !entry.has(Entry::BORROWED) {
                memory.drop_mapping(entry.frame(), cpu);
            }
        }
        if let Ok(Some(retired)) = memory.frames.table_remove_ref(table, cpu) {
            retired.free();
        }
    }

    /// Gives up one reference to a last-level table; the last one takes its leaves' references along and frees it.
    pub(crate) fn drop_table_reference(&self, inner: &mut Inner<P>, table: Pfn) {
        let memory = self.memory;
        self.hold_tables(inner);
        let retired = match memory.frames.table_remove_ref(table, memory.platform.cpu()) {
            Ok(Some(retired)) => retired,
            Ok(None) => return,
            Err(error) => unreachable!("a table that was in use is gone: {error}"),
        };
        for (_, leaf, entry) in memory.used_entries(table, 0..512) {
            leaf.set(Entry::EMPTY);
            if entry.is_present() && !entry.has(Entry::BORROWED) {
                self.retire(inner, entry.frame());
            }
        }
        retired.quarantine_blank(&mut inner.quarantine, self.next_generation());
    }

    /// Before a reference goes: if other CPUs may hold translations of this space, frames are on hold until they have
    /// flushed, because the last reference may be another space's ([`FrameAllocator::hold`]).
    ///
    /// [`FrameAllocator::hold`]: crate::FrameAllocator::hold
    #[inline(always)]
    pub(crate) fn hold_frames(&self, inner: &mut Inner<P>) {
        if !self.is_private_to(self.memory.platform.cpu()) && !mutant!(ForgetHold) {
            self.hold(inner);
        }
    }

    /// As [`hold_frames`](Self::hold_frames), for a reference to a table that other spaces may share. The processor may
    /// walk a table, and mark its entries, until it has flushed, whatever runs on it: so this CPU alone is reason enough,
    /// if there is another one that could free the table meanwhile.
    fn hold_tables(&self, inner: &mut Inner<P>) {
        if self.memory.frames.has_several_cpus() && !mutant!(ForgetTableHold) {
            self.hold(inner);
        }
    }

    fn hold(&self, inner: &mut Inner<P>) {
        if !inner.holds_frames {
            inner.holds_frames = true;
            self.memory.frames.hold();
        }
    }

    /// Gives up the reference that an entry of this space held. If it was the last, the frame is free once no CPU can
    /// hold the translation: at once if only this CPU could, because it flushes before it enters user mode again.
    #[inline(always)]
    pub(crate) fn retire(&self, inner: &mut Inner<P>, frame: Pfn) {
        let cpu = self.memory.platform.cpu();
        if self.is_private_to(cpu) || mutant!(ForgetQuarantine) {
            self.memory.drop_mapping(frame, cpu);
        } else {
            self.retire_loaded(inner, frame, cpu);
        }
    }

    /// As [`retire`](Self::retire), where other CPUs may hold the translation.
    #[cold]
    fn retire_loaded(&self, inner: &mut Inner<P>, frame: Pfn, cpu: usize) {
        self.hold_frames(inner);
        match self.memory.frames.remove_mapping(frame, cpu) {
            Ok(None) => {}
            Ok(Some(retired)) => {
                let generation = self.next_generation();
                let address = retired.address().as_u64();
                self.memory
                    .platform
                    .trace(Kind::FrameQuarantine, self.id, 0, address, generation);
                retired.quarantine(&mut inner.quarantine, generation);
            }
            Err(error) => unreachable!("a frame that was mapped is gone: {error}"),
        }
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

    /// The generation that the next bump will give.
    pub(crate) fn next_generation(&self) -> u64 {
        self.tlb_generation.load(Ordering::Relaxed) + 1
    }
}
