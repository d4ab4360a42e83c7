//! What becomes of single entries: they age, and leave.

use core::ops::Range;

use super::batch::{Batch, Item};
use super::visit::{Kind, Purpose, Visit};
use crate::Memory;
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::swap::{Leaving, Left};
use crate::sync::mutant;

/// Ages an entry; says whether its page is old enough to go.
pub(super) fn ages(leaf: EntryRef<'_>, value: Entry, purpose: Purpose) -> bool {
    match purpose {
        Purpose::PageOut | Purpose::Free | Purpose::Unmap => true,
        Purpose::Cold => {
            leaf.and_not(Entry::ACCESSED);
            leaf.or(Entry::AGE);
            false
        }
        Purpose::Round { old: 0, .. } => true,
        Purpose::Round { old, .. } => {
            if value.has(Entry::ACCESSED) {
                leaf.and_not(Entry::ACCESSED | Entry::AGE);
                return false;
            }
            if value.age() + 1 >= old {
                return true;
            }
            leaf.add(Entry::YEAR);
            false
        }
    }
}

impl<P: Platform> Memory<P> {
    /// Whether the pages of a shared table may be taken: nobody has locked some of them, and the hand has not been there in
    /// this round.
    pub(super) fn is_to_be_visited(&self, table: Pfn, purpose: Purpose) -> bool {
        if self.frames.keeps_pages(table) && purpose != Purpose::Unmap {
            return false;
        }
        match purpose {
            Purpose::Round { number, .. } => self.frames.visit_table(table, number),
            Purpose::PageOut | Purpose::Unmap => true,
            // The bits belong to all who share the table.
            Purpose::Cold | Purpose::Free => false,
        }
    }

    /// Visits entries of a last-level table, whose lock the caller holds. Returns where to go on when the batch is full.
    pub(super) fn visit_table(
        &self,
        table: Pfn,
        indices: Range<usize>,
        kind: Kind,
        visit: &mut Visit,
        batch: &mut Batch,
    ) -> Option<usize> {
        let mut leaving = None;
        let end = indices.end;
        let mut at = indices.start;
        let entries = self.table(table);
        while at < end {
            let leaf = EntryRef(&entries[at]);
            let value = leaf.get();
            at += 1;
            if !value.is_present() || value.bits() & (Entry::BORROWED | Entry::BUSY) != 0 {
                continue;
            }
            visit.scanned += 1;
            if !ages(leaf, value, visit.purpose) {
                continue;
            }
            if batch.is_full() {
                return Some(at - 1);
            }
            self.let_go(leaf, value, kind, visit, batch, &mut leaving);
        }
        None
    }

    /// Lets the page of a present entry leave, if it may.
    #[inline(always)]
    fn let_go<'a>(
        &'a self,
        leaf: EntryRef<'_>,
        value: Entry,
        kind: Kind,
        visit: &mut Visit,
        batch: &mut Batch,
        leaving: &mut Option<Leaving<'a>>,
    ) {
        let frame = value.frame();
        if !self.frames.is_reclaimable(frame) {
            return;
        }
        let of_object = value.has(Entry::SHARED) || self.frames.is_of_object(frame);
        if visit.purpose == Purpose::Free || of_object || value.has(Entry::LAZY) {
            return self.let_go_without_slot(leaf, value, of_object, kind, visit, batch, leaving);
        }
        if kind.private {
            self.swap_out(leaf, batch, leaving);
        }
    }

    /// Makes the entry of a private page name a swap slot.
    #[inline(always)]
    fn swap_out<'a>(&'a self, leaf: EntryRef<'_>, batch: &mut Batch, leaving: &mut Option<Leaving<'a>>) {
        batch.hold(self);
        let left = leaving.get_or_insert_with(|| self.frames.leave()).entry(leaf);
        let item = match left {
            Ok(Left::Dirty(slot, frame)) => Item::Write(slot, frame),
            Ok(Left::Clean(slot) | Left::Joined(slot)) => Item::Drop(slot),
            // There is no slot for it.
            Err(_) => return,
        };
        batch.push(self, item);
    }

    /// Lets a page go that an object has, or that was given up by `MADV_FREE`; or gives it up.
    #[inline(never)]
    #[allow(clippy::too_many_arguments, reason = "the rest of `let_go`, not an interface")]
    fn let_go_without_slot<'a>(
        &'a self,
        leaf: EntryRef<'_>,
        value: Entry,
        of_object: bool,
        kind: Kind,
        visit: &mut Visit,
        batch: &mut Batch,
        leaving: &mut Option<Leaving<'a>>,
    ) {
        if visit.purpose == Purpose::Free {
            if !of_object {
                self.forget_slot_of(value.frame());
                leaf.and_not(Entry::DIRTY | Entry::ACCESSED);
                leaf.or(Entry::LAZY);
            }
            return;
        }
        let stays = match visit.purpose {
            Purpose::Unmap => !of_object,
            _ => of_object && !kind.object,
        };
        if stays {
            return;
        }
        if !of_object && value.has(Entry::DIRTY) && !mutant!(DropDirty) {
            // It was written to again.
            leaf.and_not(Entry::LAZY);
            return self.swap_out(leaf, batch, leaving);
        }
        batch.hold(self);
        let before = leaf.swap(Entry::EMPTY);
        if before.has(Entry::DIRTY) && !of_object && !mutant!(DropDirty) {
            // It was written to just now. The processor caches no absent entry, so nothing is to be flushed.
            leaf.set(before.without(Entry::LAZY));
            return;
        }
        batch.push(self, Item::Release(before.frame()));
    }

    /// The page of a frame is not what its swap slot has, although it is not dirty.
    fn forget_slot_of(&self, frame: Pfn) {
        if let Some((slot, _)) = self.frames.swap_slot_of(frame) {
            self.frames.forget_swap_slot(frame, slot);
        }
    }
}
