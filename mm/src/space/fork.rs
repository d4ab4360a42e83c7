//! Fork: a copy of a space that copies no data.
//!
//! Last-level tables are shared copy-on-write where they can be, so the cost grows with the number of table pages, not
//! of mapped pages (on-demand fork, Zhao, Gong and Fonseca, EuroSys 2021). The level-2 entries of both sides lose the
//! write right; a fault that has to change an entry below one unshares the table first. A table that holds a marker or
//! a busy entry is copied instead, its markers as what they stand for: faults in flight belong to the parent.

use x86_64::VirtAddr;

use super::map::NO_FRAMES;
use super::turn::pause;
use super::{Inner, Space, VirtualAddressSpace};
use crate::address::{HUGE_PAGE_SIZE, PageRange, USER_END};
use crate::entry::Entry;
use crate::error::VasError;
use crate::frame::{OutOfFrames, Pfn};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::region::RegionFlags;
use crate::sync::mutant;
use crate::tlb::Change;

/// Properties for which a region of a child does not keep what it was shared with.
const SPECIAL: RegionFlags = RegionFlags::NOT_INHERITED.union(RegionFlags::WIPED_IN_CHILD);

/// What is forked in one step for each last-level table that a step may look at, in bytes: a table that is shared costs
/// little, and a span of 2 MiB without one less.
const BYTES_OF_TABLE: u64 = 256 * HUGE_PAGE_SIZE;

/// All that can be mapped.
pub(super) const EVERYTHING: PageRange = PageRange::new_unchecked(0, USER_END);

impl<P: Platform> VirtualAddressSpace<P> {
    /// A copy-on-write copy of this space. Copies no data frame; keeps protections, properties, layout and holes. Shared
    /// memory stays shared, device memory is aliased. Faults in flight stay with the parent. Nothing is locked in the
    /// child; regions that are [`NOT_INHERITED`](RegionFlags::NOT_INHERITED) are missing in it, and those
    /// [`WIPED_IN_CHILD`](RegionFlags::WIPED_IN_CHILD) are empty.
    ///
    /// Both sides lose the right to write to private pages until they fault: the parent's generation is bumped once.
    /// Everything is done under one hold of the lock: a large space is for [`fork_in_steps`](Self::fork_in_steps).
    ///
    /// # Errors
    /// [`VasError::OutOfMemory`], [`VasError::NoKernelMemory`]: the parent is intact, and every frame taken for the child
    /// is free again. [`VasError::NoTable`] before `init`; [`VasError::Busy`].
    pub fn fork(&self) -> Result<Self, VasError> {
        let mut inner = self.lock_to_change()?;
        let child = self.new_child(&inner)?;
        self.share_part(&mut inner, &mut child.lock(), EVERYTHING)?;
        drop(inner);
        child.adapt_part(&mut child.lock(), EVERYTHING)?;
        Ok(child)
    }

    /// As [`fork`](Self::fork), in steps, with a turn of its own; the generation is bumped once a step. What other threads
    /// write meanwhile the child may have or not, page by page.
    ///
    /// # Errors
    /// As [`fork`](Self::fork).
    pub async fn fork_in_steps(&self) -> Result<Self, VasError> {
        let turn = self.turn().await?;
        let (child, small) = {
            let inner = turn.lock();
            let regions = &inner.regions;
            let (most, tables) = self.memory.config.step;
            let small = regions.len() <= most && regions.bytes().all <= u64::from(tables) * BYTES_OF_TABLE;
            (self.new_child(&inner)?, small)
        };
        let mut left = Some(EVERYTHING);
        while let Some(range) = left {
            {
                let mut inner = turn.lock();
                let part = if small { range } else { self.part(&inner, range) };
                self.share_part(&mut inner, &mut child.lock(), part)?;
                left = Space::<P>::rest(range, part);
            }
            if left.is_some() {
                pause().await;
            }
        }
        drop(turn);
        let adapts = !small || {
            let copy = child.lock();
            copy.regions.iter().any(|(_, region)| region.flags.intersects(SPECIAL))
        };
        left = adapts.then_some(EVERYTHING);
        while let Some(range) = left {
            {
                let mut inner = child.lock();
                let part = child.part(&inner, range);
                child.adapt_part(&mut inner, part)?;
                left = Space::<P>::rest(range, part);
            }
            if left.is_some() {
                pause().await;
            }
        }
        Ok(child)
    }

    /// A space with nothing in it but the layout.
    fn new_child(&self, inner: &Inner<P>) -> Result<Self, VasError> {
        inner.root()?;
        let child = Self::with_layout(self.memory, inner.layout)?;
        child.init()?;
        Ok(child)
    }

    /// Makes this space, which must map nothing, a copy of `parent`, as [`fork`](Self::fork).
    ///
    /// # Errors
    /// As [`fork`](Self::fork); [`VasError::Overlap`] if the space has regions.
    pub fn clone_from(&mut self, parent: &Self) -> Result<(), VasError> {
        let existing = self.lock().regions.iter().next().map(|(range, _)| range);
        if let Some(existing) = existing {
            return Err(VasError::Overlap {
                wanted: existing,
                existing,
            });
        }
        *self = parent.fork()?;
        Ok(())
    }

    /// Whether the last-level table of an address is shared copy-on-write with another space.
    #[must_use]
    pub fn shares_table_at(&self, address: VirtAddr) -> bool {
        let inner = self.lock();
        inner
            .root
            .and_then(|root| self.memory.level2(root, address.as_u64()))
            .is_some_and(|entry| entry.get().has(Entry::PRESENT | Entry::SHARED) && !entry.get().has(Entry::HUGE))
    }
}

impl<P: Platform> Space<P> {
    /// Gives the child what is in a part of the space that cuts no last-level table in two, above all that it has.
    ///
    /// After an error the child's tables are found through its regions when it is dropped: so all regions of the part come
    /// before its tables.
    fn share_part(&self, inner: &mut Inner<P>, copy: &mut Inner<P>, part: PageRange) -> Result<(), VasError> {
        let root = inner.root()?;
        for (shared, range, region) in inner.regions.iter_in(part) {
            let mut region = region.clone();
            region.backing = region.backing.advanced(shared.start() - range.start());
            region.flags -= RegionFlags::LOCKED;
            copy.regions.append(shared, region)?;
        }
        let mut change = Change::new();
        let result = self.share_tables(inner, root, copy, part, &mut change);
        self.finish(inner, change);
        result.map_err(|_| NO_FRAMES)
    }

    /// Does to a part of a new child what the properties of its regions ask for.
    fn adapt_part(&self, inner: &mut Inner<P>, part: PageRange) -> Result<(), VasError> {
        let mut at = part.start();
        while at < part.end()
            && let Some((range, region)) = inner.regions.first_above(at)
            && let Some(range) = range.intersection(part)
        {
            at = range.end();
            let flags = region.flags;
            if flags.contains(RegionFlags::NOT_INHERITED) {
                self.unmap_range(inner, range)?;
            } else if flags.intersects(SPECIAL) {
                let first = inner.regions.survey(range).first;
                self.drop_pages(inner, range, first)?;
            }
        }
        Ok(())
    }

    fn share_tables(
        &self,
        inner: &mut Inner<P>,
        root: Pfn,
        copy: &mut Inner<P>,
        part: PageRange,
        change: &mut Change,
    ) -> Result<(), OutOfFrames> {
        let memory = self.memory;
        let child_root = copy.root.expect("the child was just initialised");
        let busy = inner.in_flight > 0;
        let mut result = Ok(());
        // The end of the last span visited: neighbouring regions may share a table.
        let mut visited = 0;
        for (range, _, region) in inner.regions.iter_in(part) {
            if result.is_err() {
                break;
            }
            let start = range.start().max(visited);
            let end = range.end().next_multiple_of(HUGE_PAGE_SIZE).max(start);
            visited = end;
            let locked = region.flags.contains(RegionFlags::LOCKED);
            if start < end {
                memory.for_each_level2(root, PageRange::spanning(start, end), |at, entry2| {
                    if result.is_ok() {
                        result = self.share_span(entry2, child_root, at, busy, change);
                    }
                });
            }
            if locked {
                self.keep_pages(root, range);
            }
        }
        result
    }

    fn share_span(
        &self,
        entry2: EntryRef<'_>,
        child_root: Pfn,
        at: u64,
        busy: bool,
        change: &mut Change,
    ) -> Result<(), OutOfFrames> {
        let memory = self.memory;
        let above = entry2.get();
        if !above.is_present() {
            return Ok(());
        }
        let target = memory.make_level2(child_root, at)?;
        if above.has(Entry::HUGE) {
            self.share_huge(entry2, above, target, at, change)
        } else if busy && !mutant!(ShareMarkedTable) && !above.has(Entry::SHARED) && self.holds_faults(above.frame()) {
            self.copy_busy_table(above.frame(), target, change)
        } else {
            memory
                .frames
                .table_add_ref(above.frame())
                .map_err(|_| memory.too_many_references())?;
            let shared = above.without(Entry::WRITABLE).with(Entry::SHARED);
            if !above.has(Entry::SHARED) {
                entry2.set(shared);
                if !mutant!(ForkWithoutFlush) {
                    change.all();
                }
            }
            target.set(shared);
            Ok(())
        }
    }

    /// Tells the reclaimer that the shared tables of a range have locked pages: it may come to them through another space.
    pub(super) fn keep_pages(&self, root: Pfn, range: PageRange) {
        self.memory.for_each_level2(root, range, |_, entry2| {
            let above = entry2.get();
            if above.has(Entry::PRESENT | Entry::SHARED) && !above.has(Entry::HUGE) {
                self.memory.frames.set_keeps_pages(above.frame(), true);
            }
        });
    }

    /// A huge page is shared as 512 small ones would be: each frame gains a reference.
    fn share_huge(
        &self,
        entry2: EntryRef<'_>,
        above: Entry,
        target: EntryRef<'_>,
        at: u64,
        change: &mut Change,
    ) -> Result<(), OutOfFrames> {
        if !above.has(Entry::BORROWED) {
            for page in 0..512 {
                if self.memory.frames.add_mapping(above.frame().offset(page)).is_err() {
                    for undone in 0..page {
                        self.memory
                            .drop_mapping(above.frame().offset(undone), self.memory.platform.cpu());
                    }
                    return Err(self.memory.too_many_references());
                }
            }
        }
        if above.has(Entry::SHARED) {
            target.set(above);
            return Ok(());
        }
        let shared = above.without(Entry::WRITABLE).with(Entry::COW);
        if above.has(Entry::WRITABLE) {
            entry2.and_not(Entry::WRITABLE);
            entry2.or(Entry::COW);
            change.page(at);
        }
        target.set(shared);
        Ok(())
    }

    /// Copies a table that faults in flight have marked; the parent keeps its own, write-protected entry by entry.
    fn copy_busy_table(&self, table: Pfn, target: EntryRef<'_>, change: &mut Change) -> Result<(), OutOfFrames> {
        let copy = self.copy_table(table, 0..512)?;
        self.memory.for_each_used(table, 0..512, |_, leaf, entry| {
            if entry.has(Entry::PRESENT | Entry::WRITABLE) && !entry.has(Entry::SHARED) {
                leaf.and_not(Entry::WRITABLE);
                leaf.or(Entry::COW);
                change.all();
            }
        });
        target.set(Entry::present(copy, Entry::TABLE));
        Ok(())
    }

    fn holds_faults(&self, table: Pfn) -> bool {
        let mut found = false;
        self.memory.for_each_used(table, 0..512, |_, _, entry| {
            found |= entry.marker().is_some() || entry.has(Entry::PRESENT | Entry::BUSY);
        });
        found
    }
}
