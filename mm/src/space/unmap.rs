//! Taking mappings away.

use core::ops::Range;

use faultline_trace::Kind;
use x86_64::VirtAddr;

use super::turn::pause;
use super::{Inner, Space, Turn, VirtualAddressSpace};
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::entry::{Entry, EntryState};
use crate::error::VasError;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::region::{Alone, Position, RegionMap};
use crate::sync::atomic::AtomicU64;
use crate::sync::mutant;
use crate::tables::{index, span};
use crate::tlb::Change;

impl<P: Platform> VirtualAddressSpace<P> {
    /// Unmaps what is mapped in `start..start + size`, as POSIX `munmap`: exactly, at the front or back of a region, a
    /// hole in one, or across several regions and gaps. Nothing mapped there is success. Frames and tables are freed
    /// after the flush; the generation is bumped once if an entry was present. Faults in flight there are made stale.
    ///
    /// The cost grows with what is mapped in the range, not with the size of the regions. Everything is done under one
    /// hold of the lock: a long range is for [`unmap_in_steps`](Self::unmap_in_steps).
    ///
    /// # Errors
    /// [`VasError::EmptyRange`], [`VasError::BadRange`], [`VasError::Unaligned`] unless `start` is a multiple of 4096;
    /// [`VasError::TooManyRegions`] if a split would leave too many, [`VasError::NoKernelMemory`] if it could not be
    /// recorded; [`VasError::OutOfMemory`] if a huge page or a shared table at an end of the range could not be split;
    /// [`VasError::Busy`]. Nothing has changed then.
    pub fn unmap(&self, start: VirtAddr, size: u64) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let mut inner = self.lock_to_change()?;
        self.unmap_range(&mut inner, range)
    }

    /// As [`unmap`](Self::unmap), in steps, with a turn of its own.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), before anything has changed; only if a fault has made a huge page at the far end
    /// meanwhile, [`VasError::OutOfMemory`] can come when what is below it is unmapped.
    pub async fn unmap_in_steps(&self, start: VirtAddr, size: u64) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let turn = self.turn().await?;
        self.unmap_with(&turn, range).await
    }

    /// Unmaps a range in steps, with the caller's turn.
    pub(super) async fn unmap_with(&self, turn: &Turn<'_, P>, range: PageRange) -> Result<(), VasError> {
        {
            let mut inner = turn.lock();
            let alone = inner.regions.alone(range);
            let mut change = Change::new();
            let prepared = self.prepare_ends(&mut inner, range, alone, &mut change);
            self.finish(&mut inner, change);
            prepared?;
        }
        let mut left = Some(range);
        while let Some(range) = left {
            {
                let mut inner = turn.lock();
                let part = self.part(&inner, range);
                self.unmap_range(&mut inner, part)?;
                left = Space::<P>::rest(range, part);
            }
            if left.is_some() {
                pause().await;
            }
        }
        Ok(())
    }

    /// Unmaps the whole region that starts at `start`.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] if no region starts there; [`VasError::OutOfMemory`] and [`VasError::Busy`] as for
    /// [`unmap`](Self::unmap).
    pub fn unmap_region(&self, start: VirtAddr) -> Result<(), VasError> {
        let mut inner = self.lock_to_change()?;
        match inner.regions.find(start.as_u64()) {
            Some((range, _)) if range.start() == start.as_u64() => self.unmap_range(&mut inner, range),
            _ => Err(VasError::NotMapped {
                address: start.as_u64(),
            }),
        }
    }
}

impl<P: Platform> Space<P> {
    pub(super) fn unmap_range(&self, inner: &mut Inner<P>, range: PageRange) -> Result<(), VasError> {
        let survey = inner.regions.survey(range);
        if !survey.any {
            return Ok(());
        }
        if survey.inside_one {
            inner.check_count(self.memory, RegionMap::SPLIT_COST - 1)?;
            inner.regions.prepare_change(range, survey.first)?;
        }
        let mut change = Change::new();
        let alone = inner.regions.alone_from(range, survey.first);
        if let Some(table) = inner.root.and_then(|root| self.memory.only_table(root, range)) {
            self.forget_regions(inner, range, survey.first);
            self.revoke_side(inner, range);
            self.clear_part(inner, table, range, &mut change);
            self.free_tables(inner, range, alone, &mut change);
            self.finish(inner, change);
            return Ok(());
        }
        if let Err(error) = self.prepare_ends(inner, range, alone, &mut change) {
            self.finish(inner, change);
            return Err(error);
        }
        self.discard_with(inner, range, survey.first, alone, change);
        Ok(())
    }

    /// Unmaps a range that was recorded under the same hold of the lock, for which was prepared that it may be taken out
    /// of a larger region again. A table at its ends that is still shared, or a
    /// huge page, holds nothing of it.
    pub(super) fn discard(&self, inner: &mut Inner<P>, range: PageRange) {
        let first = inner.regions.survey(range).first;
        let alone = inner.regions.alone_from(range, first);
        self.discard_with(inner, range, first, alone, Change::new());
    }

    /// Takes the regions of a range out, and who guards one.
    fn forget_regions(&self, inner: &mut Inner<P>, range: PageRange, first: Option<Position>) {
        inner.regions.remove(range, first);
        if !inner.guards.is_empty() {
            inner
                .guards
                .retain(|(guarded, _)| guarded.intersection(range).is_none());
        }
    }

    fn discard_with(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        first: Option<Position>,
        alone: Alone,
        mut change: Change,
    ) {
        self.forget_regions(inner, range, first);
        self.clear_entries(inner, range, alone, &mut change);
        self.free_tables(inner, range, alone, &mut change);
        self.finish(inner, change);
    }

    /// Clears every leaf in `range` and gives up what they held. A shared table or a huge page whose span is not in `alone`
    /// holds nothing of it any more: [`prepare_ends`](Self::prepare_ends) has seen to that.
    pub(super) fn clear_entries(&self, inner: &mut Inner<P>, range: PageRange, alone: Alone, change: &mut Change) {
        self.revoke_side(inner, range);
        let Some(root) = inner.root else { return };
        let memory = self.memory;
        memory.for_each_level2(root, range, |start, entry2| {
            let above = entry2.get();
            let table = above.frame();
            if (above.has(Entry::HUGE) || above.has(Entry::SHARED)) && !alone.holds_span(start, HUGE_PAGE_SIZE) {
                return;
            }
            if above.has(Entry::HUGE) {
                entry2.set(Entry::EMPTY);
                for page in 0..512 {
                    if !above.has(Entry::BORROWED) {
                        self.retire(inner, table.offset(page));
                    }
                }
                change.page(start);
            } else if above.has(Entry::SHARED) {
                entry2.set(Entry::EMPTY);
                self.drop_table_reference(inner, table);
                change.all();
            } else {
                let from = range.start().max(start);
                let to = range.end().min(start + HUGE_PAGE_SIZE);
                self.clear_part(inner, table, PageRange::spanning(from, to), change);
            }
        });
    }

    /// Clears the leaves of `range` in the one table of this space's own that they are in, and gives up what they held.
    #[inline]
    pub(super) fn clear_part(&self, inner: &mut Inner<P>, table: Pfn, range: PageRange, change: &mut Change) {
        let mut page = range.start();
        while page < range.end() && !change.is_everything() {
            let leaf = self.memory.entry(table, index(page, 1));
            if self.clear_leaf(inner, leaf, leaf.get()) && !mutant!(UnmapWithoutFlush) {
                change.page(page);
            }
            page += PAGE_SIZE;
        }
        if page < range.end() {
            self.clear_table(inner, table, index(page, 1)..index(range.end() - PAGE_SIZE, 1) + 1);
        }
    }

    /// Clears a leaf and gives up what it held; says whether it was present.
    #[inline(always)]
    pub(super) fn clear_leaf(&self, inner: &mut Inner<P>, leaf: EntryRef<'_>, value: Entry) -> bool {
        if !value.is_present() {
            self.clear_absent(leaf, value);
            return false;
        }
        // A plain store: the accessed and dirty bits that the processor may set meanwhile are not used.
        leaf.set(Entry::EMPTY);
        if !value.has(Entry::BORROWED) {
            self.retire(inner, value.frame());
        }
        true
    }

    /// Clears a leaf that is not present, and gives up what it held.
    fn clear_absent(&self, leaf: EntryRef<'_>, value: Entry) {
        let value = match value.state() {
            EntryState::InFlight(marker) => self.revoke_marker(leaf, marker),
            EntryState::Empty | EntryState::Swapped { .. } | EntryState::Present { .. } => value,
        };
        if let EntryState::Swapped { slot } = value.state() {
            leaf.set(Entry::EMPTY);
            self.memory.drop_swapped(slot);
        }
    }

    /// Clears the leaves of a table with these indices and gives up what they held. The caller flushes everything.
    pub(crate) fn clear_table(&self, inner: &mut Inner<P>, table: Pfn, indices: Range<usize>) {
        let (groups, rest) = self.memory.table(table)[indices].as_chunks::<4>();
        for group in groups {
            let values = group.each_ref().map(|leaf| EntryRef(leaf).get());
            if Entry::are_untracked(values) {
                group.iter().for_each(|leaf| EntryRef(leaf).set(Entry::EMPTY));
            } else if !Entry::are_empty(values) {
                self.clear_leaves(inner, group);
            }
        }
        self.clear_leaves(inner, rest);
    }

    #[inline(never)]
    fn clear_leaves(&self, inner: &mut Inner<P>, leaves: &[AtomicU64]) {
        for leaf in leaves {
            let leaf = EntryRef(leaf);
            let value = leaf.get();
            if !value.is_empty() {
                self.clear_leaf(inner, leaf, value);
            }
        }
    }

    /// Frees the tables that `range` used and whose whole span lies in `alone`.
    pub(super) fn free_tables(&self, inner: &mut Inner<P>, range: PageRange, alone: Alone, change: &mut Change) {
        let Some(root) = inner.root else { return };
        let (first, last) = (range.start() / HUGE_PAGE_SIZE, (range.end() - 1) / HUGE_PAGE_SIZE);
        // A table that stays keeps those above it.
        if first == last && !alone.holds_span(first * HUGE_PAGE_SIZE, HUGE_PAGE_SIZE) {
            return;
        }
        self.free_level(inner, root, 4, 0, alone, range, change);
    }

    /// Frees the tables below `table`, one of `level` that starts at `base`, whose whole span serves nothing but
    /// `range`.
    #[allow(
        clippy::too_many_arguments,
        reason = "a recursion over four levels, not an interface"
    )]
    fn free_level(
        &self,
        inner: &mut Inner<P>,
        table: Pfn,
        level: u32,
        base: u64,
        alone: Alone,
        range: PageRange,
        change: &mut Change,
    ) {
        let size = span(level);
        let first = range.start().max(base);
        let last = (range.end() - 1).min(base + (size * 512 - 1));
        for slot in index(first, level)..=index(last, level) {
            let entry = self.memory.entry(table, slot);
            let value = entry.get();
            if !value.is_present() || value.has(Entry::HUGE) {
                continue;
            }
            let start = base + slot as u64 * size;
            if level > 2 {
                self.free_level(inner, value.frame(), level - 1, start, alone, range, change);
            }
            if alone.holds_span(start, size) {
                entry.set(Entry::EMPTY);
                self.release_table(inner, value.frame(), true);
                // Paging-structure caches know the table (Intel SDM volume 3, section 4.10.3).
                change.page(range.start().max(start));
            }
        }
    }

    /// Gives a table back once every CPU that may have cached a pointer to it has flushed. `is_blank` says that all its
    /// entries are empty.
    pub(super) fn release_table(&self, inner: &mut Inner<P>, table: Pfn, is_blank: bool) {
        self.hold_frames(inner);
        match self.memory.frames.table_remove_ref(table, self.memory.platform.cpu()) {
            Ok(Some(retired)) if mutant!(ForgetTableQuarantine) => retired.free(),
            Ok(Some(retired)) => {
                self.memory
                    .platform
                    .trace(Kind::FrameFree, self.id, 0, retired.address().as_u64(), 0);
                if is_blank {
                    retired.quarantine_blank(&mut inner.quarantine, self.next_generation());
                } else {
                    retired.quarantine(&mut inner.quarantine, self.next_generation());
                }
            }
            Ok(None) => {}
            Err(error) => unreachable!("a table that was in use is gone: {error}"),
        }
    }
}
