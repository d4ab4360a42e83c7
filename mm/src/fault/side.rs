//! The side list of a space, and how changes to the space make its faults stale.
//!
//! A fault whose entry can't carry a marker is found through a list of slots in its space, linked by
//! [`Shared::side_next`](super::slot::Shared::side_next).

use super::slot::NONE;
use crate::address::PageRange;
use crate::entry::{Entry, Marker};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::space::{Inner, Space};
use crate::sync::mutant;

impl<P: Platform> Space<P> {
    /// The slot of the side list that serves `page`.
    pub(super) fn find_side(&self, inner: &Inner<P>, page: u64) -> Option<u16> {
        let mut index = inner.side;
        while index != NONE {
            let slot = self.memory.faults.slot(index);
            // SAFETY: the space's lock is held and the slot is in its side list.
            let (request, shared) = unsafe { (slot.request(), slot.shared()) };
            if request.covers(page) {
                return Some(index);
            }
            index = shared.side_next;
        }
        None
    }

    /// Takes a slot out of the side list.
    pub(super) fn unlink_side(&self, inner: &mut Inner<P>, index: u16) {
        let next_of = |slot: u16| {
            // SAFETY: the space's lock is held, both slots are in its side list, and the reference ends at once.
            unsafe { self.memory.faults.slot(slot).shared() }
        };
        let after = next_of(index).side_next;
        next_of(index).side = false;
        if inner.side == index {
            inner.side = after;
            return;
        }
        let mut at = inner.side;
        while at != NONE {
            let next = next_of(at).side_next;
            if next == index {
                next_of(at).side_next = after;
                return;
            }
            at = next;
        }
    }

    /// Makes the fault of a marker stale: the space is about to say something else about its page. Puts back what the
    /// marker stands for, and returns that; it holds the marker's reference to a swap slot.
    pub(crate) fn revoke_marker(&self, entry: EntryRef<'_>, marker: Marker) -> Entry {
        let slot = self.memory.faults.slot(marker.slot);
        debug_assert_eq!(slot.marker(), marker);
        // SAFETY: the caller holds the lock of this space, to which the marker links the slot.
        unsafe { slot.shared() }.stale = !mutant!(ForgetStale);
        let before = self.before_marker(marker);
        entry.set(before);
        before
    }

    /// An entry, or what it stands for if it is a marker: so it is never one.
    #[inline(always)]
    pub(crate) fn settled(&self, value: Entry) -> Entry {
        match value.marker() {
            Some(marker) => self.before_marker(marker),
            None => value,
        }
    }

    /// What a marker stands for: nothing, or a page in a swap slot.
    pub(crate) fn before_marker(&self, marker: Marker) -> Entry {
        let slot = self.memory.faults.slot(marker.slot);
        debug_assert_eq!(slot.marker(), marker);
        // SAFETY: the caller holds the lock of this space, to which the marker links the slot.
        unsafe { slot.request() }.before
    }

    /// Makes the faults of the side list that meet `range` stale.
    pub(crate) fn revoke_side(&self, inner: &mut Inner<P>, range: PageRange) {
        let mut index = if mutant!(ForgetSide) { NONE } else { inner.side };
        while index != NONE {
            let slot = self.memory.faults.slot(index);
            // SAFETY: the space's lock is held and the slot is in its side list.
            let request = unsafe { slot.request() };
            // SAFETY: the space's lock is held, and the reference ends at once.
            let next = unsafe { slot.shared() }.side_next;
            if request.range().intersection(range).is_some() {
                // SAFETY: as above; `unlink_side` makes a reference of its own.
                unsafe { slot.shared() }.stale = true;
                if let Some(entry) = request.entry {
                    entry.and_not(Entry::BUSY);
                }
                self.unlink_side(inner, index);
            }
            index = next;
        }
    }
}
