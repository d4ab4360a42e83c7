//! Changing what user mode may do.

use x86_64::VirtAddr;

use super::turn::pause;
use super::{Inner, Space, VirtualAddressSpace};
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::entry::{Entry, EntryState};
use crate::error::VasError;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::protection::Protection;
use crate::region::Position;
use crate::sync::mutant;
use crate::tables::index;
use crate::tlb::Change;

impl<P: Platform> VirtualAddressSpace<P> {
    /// Sets the protection of `start..start + size`, as POSIX `mprotect`: splits regions at the ends, joins those that
    /// then agree, updates the entries. One flush decision for the whole call: the generation is bumped once if a
    /// present entry changed. Faults in flight there become stale, so they are looked at again.
    ///
    /// An empty protection makes every access fault; the pages keep their content. A page that shares its frame stays
    /// copy-on-write when it becomes writable.
    ///
    /// Everything is done under one hold of the lock: a long range is for
    /// [`protect_in_steps`](Self::protect_in_steps).
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole in the range, [`VasError::Forbidden`] with the first region that can't
    /// be had so (executable device memory, a writable mapping of what can't be written), [`VasError::TooManyRegions`],
    /// [`VasError::NoKernelMemory`], [`VasError::OutOfMemory`] if a huge page or shared table had to be split and could not
    /// be, [`VasError::Busy`], and those of [`PageRange::aligned`]. Nothing has changed then.
    pub fn protect_region(&self, start: VirtAddr, size: u64, protection: Protection) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let mut inner = self.lock_to_change()?;
        inner.check_splits(self.memory, range)?;
        self.protect_range(&mut inner, range, protection)
    }

    /// As [`protect_region`](Self::protect_region), in steps, with a turn of its own. What lies before the first hole, or
    /// before the first region that refuses, is changed, as on Linux; one bump a step.
    ///
    /// # Errors
    /// As [`protect_region`](Self::protect_region). [`VasError::TooManyRegions`] comes before anything has changed; the
    /// others name where it went on no further, or are about memory, and what is before is changed.
    pub async fn protect_in_steps(&self, start: VirtAddr, size: u64, protection: Protection) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let turn = self.turn().await?;
        turn.lock().check_splits(self.memory, range)?;
        let mut left = Some(range);
        while let Some(range) = left {
            {
                let mut inner = turn.lock();
                let part = self.part(&inner, range);
                self.protect_front(&mut inner, part, protection)?;
                left = Space::<P>::rest(range, part);
            }
            if left.is_some() {
                pause().await;
            }
        }
        Ok(())
    }
}

impl<P: Platform> Space<P> {
    /// Protects a range, or what lies before the first place of it that refuses.
    fn protect_front(&self, inner: &mut Inner<P>, range: PageRange, protection: Protection) -> Result<(), VasError> {
        let mut result = Ok(());
        let mut end = range.end();
        while end > range.start() {
            let front = PageRange::new_unchecked(range.start(), end);
            match self.protect_range(inner, front, protection) {
                Ok(()) => break,
                Err(error @ VasError::NotMapped { address }) => (result, end) = (Err(error), address),
                Err(error @ VasError::Forbidden { range, .. }) => (result, end) = (Err(error), range.start()),
                Err(error) => return Err(error),
            }
        }
        result
    }

    /// Protects a range that is mapped without a hole.
    fn protect_range(&self, inner: &mut Inner<P>, range: PageRange, protection: Protection) -> Result<(), VasError> {
        let survey = inner.regions.survey(range);
        survey.covered()?;
        if protection.contains(Protection::EXECUTE)
            && let Some(range) = survey.device(&inner.regions)
        {
            return Err(VasError::Forbidden { range, protection });
        }
        if protection.contains(Protection::WRITE)
            && let Some(range) = survey.read_only(&inner.regions)
        {
            return Err(VasError::Forbidden { range, protection });
        }
        inner.regions.prepare_change(range, survey.first)?;
        let mut change = Change::new();
        let prepared = self.own_tables(inner, range, survey.first, &mut change);
        if let Ok(only) = prepared {
            inner
                .regions
                .update(range, survey.first, |region| region.protection = protection);
            self.revoke_side(inner, range);
            match only {
                Some(table) => self.protect_table(table, range, protection, &mut change),
                None => self.protect_entries(inner, range, protection, &mut change),
            }
        }
        self.finish(inner, change);
        prepared.map(drop)
    }

    /// Makes every table that `range` uses this space's own, and splits huge pages that it covers in part. Returns the
    /// table, if it is only one.
    fn own_tables(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        first: Option<Position>,
        change: &mut Change,
    ) -> Result<Option<Pfn>, VasError> {
        let Some(root) = inner.root else { return Ok(None) };
        if let Some(table) = self.memory.only_table(root, range) {
            return Ok(Some(table));
        }
        let alone = inner.regions.alone_from(range, first);
        self.prepare_ends(inner, range, alone, change)?;
        let mut result = Ok(None);
        self.memory.for_each_level2(root, range, |at, entry2| {
            let above = entry2.get();
            if result.is_ok() && above.has(Entry::SHARED) && !above.has(Entry::HUGE) {
                result = self
                    .unshare(inner, entry2, above, at, change)
                    .map(|_| None)
                    .map_err(|_| super::map::NO_FRAMES);
            }
        });
        result
    }

    fn protect_entries(&self, inner: &Inner<P>, range: PageRange, protection: Protection, change: &mut Change) {
        let Some(root) = inner.root else { return };
        self.memory.for_each_level2(root, range, |start, entry2| {
            let above = entry2.get();
            if above.has(Entry::HUGE) {
                self.protect_leaf(entry2, protection, start, change);
                return;
            }
            let from = range.start().max(start);
            let to = range.end().min(start + HUGE_PAGE_SIZE);
            self.protect_table(above.frame(), PageRange::spanning(from, to), protection, change);
        });
    }

    /// Changes the leaves of `range` in the one table that they are in.
    #[inline]
    fn protect_table(&self, table: Pfn, range: PageRange, protection: Protection, change: &mut Change) {
        let mut page = range.start();
        while page < range.end() {
            self.protect_leaf(self.memory.entry(table, index(page, 1)), protection, page, change);
            page += PAGE_SIZE;
        }
    }

    fn protect_leaf(&self, leaf: EntryRef<'_>, protection: Protection, page: u64, change: &mut Change) {
        let before = leaf.get();
        match before.state() {
            EntryState::Present { .. } => {}
            EntryState::InFlight(marker) => {
                self.revoke_marker(leaf, marker);
                return;
            }
            // The rights come from the region when the page comes back.
            EntryState::Empty | EntryState::Swapped { .. } => return,
        }
        const RIGHTS: u64 = Entry::USER | Entry::WRITABLE | Entry::NO_EXECUTE | Entry::COW;
        let mut flags = Entry::flags_for(protection);
        if !before.has(Entry::SHARED) && !self.is_sole_owner(before) && !mutant!(ProtectForgetsCow) {
            flags = flags & !Entry::WRITABLE | Entry::COW;
        }
        // Bits that the processor sets meanwhile are kept: only the rights are exchanged.
        let after = before.without(RIGHTS).with(flags);
        if after != before {
            leaf.and_not(RIGHTS & !flags);
            leaf.or(flags);
            if !mutant!(ProtectWithoutFlush) {
                change.page(page);
            }
        }
    }

    /// Whether no other entry refers to the frames of a private leaf.
    pub(super) fn is_sole_owner(&self, leaf: Entry) -> bool {
        if leaf.has(Entry::BORROWED) {
            return false;
        }
        let is_sole = |page| self.memory.frames.mapping_count(leaf.frame().offset(page)) == 1;
        is_sole(0) && (!leaf.has(Entry::HUGE) || (1..512).all(is_sole))
    }
}
