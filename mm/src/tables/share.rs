//! Last-level tables that spaces share copy-on-write: splitting, unsharing, copying and dropping them.

use core::ops::Range;

use crate::address::HUGE_PAGE_SIZE;
use crate::entry::{Entry, EntryState};
use crate::frame::{OutOfFrames, Pfn};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::space::{Inner, Space};
use crate::swap::SwapError;
use crate::sync::atomic::AtomicU64;
use crate::sync::mutant;
use crate::tlb::Change;

impl<P: Platform> Space<P> {
    /// Replaces a 2 MiB entry by a table of 512 entries that map the same frames with the same rights.
    pub(crate) fn split(
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
            memory.for_each_used(shared, used, |_, leaf, entry| {
                if entry.has(Entry::PRESENT | Entry::WRITABLE)
                    && !entry.has(Entry::SHARED)
                    && memory.frames.mapping_count(entry.frame()) != 1
                    && !mutant!(TakeBackWritable)
                {
                    leaf.set(entry.without(Entry::WRITABLE).with(Entry::COW));
                }
            });
            let below = above.without(Entry::SHARED).with(Entry::WRITABLE);
            entry2.set(below);
            memory.frames.set_keeps_pages(shared, false);
            memory.counters.tables_taken_back.add(1);
            return Ok(below);
        }
        let locked = memory.frames.lock_table(shared);
        let table = self.copy_table(shared, used)?;
        drop(locked);
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

    /// A copy of a last-level table, which nobody changes meanwhile, whose entries are empty outside `used`: private pages
    /// become copy-on-write in the copy and gain a reference; those in swap slots gain one to their slot. Markers stay
    /// behind, and are copied as what they stand for; busy bits stay behind.
    ///
    /// # Errors
    /// [`OutOfFrames`] without a frame for it, or if a frame has as many references as its count can hold; every reference
    /// taken is given back.
    pub(crate) fn copy_table(&self, from: Pfn, used: Range<usize>) -> Result<Pfn, OutOfFrames> {
        let memory = self.memory;
        let to = memory.new_table()?;
        let (groups, rest) = memory.table(from)[used.clone()].as_chunks::<4>();
        let (group_copies, rest_copies) = memory.table(to)[used.clone()].as_chunks::<4>();
        let mut page = used.start;
        for (group, copies) in groups.iter().zip(group_copies) {
            let values = group.each_ref().map(|leaf| EntryRef(leaf).get());
            if Entry::are_untracked(values) {
                for (value, copy) in values.into_iter().zip(copies) {
                    EntryRef(copy).set(value);
                }
            } else if !Entry::are_empty(values) {
                self.copy_leaves(group, to, copies, page)?;
            }
            page += group.len();
        }
        self.copy_leaves(rest, to, rest_copies, page)?;
        Ok(to)
    }

    /// Copies some leaves for [`copy_table`](Self::copy_table), the first of them with index `page`.
    #[inline(never)]
    fn copy_leaves(&self, from: &[AtomicU64], to: Pfn, copies: &[AtomicU64], page: usize) -> Result<(), OutOfFrames> {
        let memory = self.memory;
        for (offset, (leaf, copy)) in from.iter().zip(copies).enumerate() {
            let entry = EntryRef(leaf).get();
            if mutant!(CopyMarker) && entry.marker().is_some() {
                EntryRef(copy).set(entry);
            }
            if !entry.is_present() {
                if self.copy_absent(entry, EntryRef(copy)).is_err() {
                    self.drop_copy(to, page + offset);
                    return Err(memory.too_many_references());
                }
                continue;
            }
            if !entry.has(Entry::BORROWED) && memory.frames.add_mapping(entry.frame()).is_err() {
                self.drop_copy(to, page + offset);
                return Err(memory.too_many_references());
            }
            let private = entry.without(Entry::BUSY | Entry::WRITABLE).with(Entry::COW);
            let shared = entry.without(Entry::BUSY);
            EntryRef(copy).set(if entry.has(Entry::SHARED) { shared } else { private });
        }
        Ok(())
    }

    /// Copies a leaf that is not present: a page in a swap slot gains a reference to that.
    #[inline(never)]
    fn copy_absent(&self, entry: Entry, copy: EntryRef<'_>) -> Result<(), SwapError> {
        if let EntryState::Swapped { slot } = self.settled(entry).state() {
            if !mutant!(CountAtFork) {
                self.memory.frames.add_swap_reference(slot)?;
            }
            copy.set(Entry::swapped(slot));
        }
        Ok(())
    }

    /// Gives up a table that was copied up to `page` and that no entry refers to.
    #[cold]
    fn drop_copy(&self, table: Pfn, page: usize) {
        let memory = self.memory;
        let cpu = memory.platform.cpu();
        memory.for_each_used(table, 0..page, |_, _, entry| match entry.state() {
            EntryState::Present { frame, .. } if !entry.has(Entry::BORROWED) => memory.drop_mapping(frame, cpu),
            EntryState::Swapped { slot } => memory.drop_swapped(slot),
            EntryState::Present { .. } | EntryState::Empty | EntryState::InFlight(_) => {}
        });
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
        self.clear_table(inner, table, 0..512);
        retired.quarantine_blank(&mut inner.quarantine, self.next_generation());
    }
}
