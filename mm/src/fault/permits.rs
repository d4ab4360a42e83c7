//! Who gets the next free frame: the faults that wait for one.
//!
//! A fault that needs a frame while others wait, or while no more are free than the reserve, waits too. The spaces that have
//! waiting faults get a frame each in turn, so that one with hundreds of them does not keep the others waiting; in a space
//! the fault that came first is first. A *permit* is the right to take a frame although others wait: the service gives it to
//! one waiting fault at a time, and only while a frame is there for it, and takes it back when the step that serves the fault
//! is over. So nobody who is killed keeps one.

use core::ptr;

use super::slot::{Slot, SlotToken};
use super::table::FaultTable;
use crate::Memory;
use crate::frame::{OutOfFrames, ReservedFrame};
use crate::platform::Platform;
use crate::sync::atomic::Ordering;

/// The slots that wait for a frame: a ring of the spaces that have some, each by its first slot, which is linked to the
/// others of the space in the order of arrival. A space knows its last one.
pub(super) struct WaitingSlots<P: Platform> {
    first: *mut Slot<P>,
    last: *mut Slot<P>,
}

impl<P: Platform> WaitingSlots<P> {
    pub(super) const EMPTY: Self = Self {
        first: ptr::null_mut(),
        last: ptr::null_mut(),
    };

    /// Adds a slot at the end of its space's.
    pub(super) fn push(&mut self, token: SlotToken<P>) {
        let slot = token.slot();
        let this = ptr::from_ref(slot).cast_mut();
        slot.next.store(ptr::null_mut(), Ordering::Relaxed);
        let before = token.request().space().waiting.swap(this, Ordering::Relaxed);
        // SAFETY: the pointers in a list are slots of the table, which live as long as it.
        match unsafe { before.as_ref() } {
            Some(before) => before.next.store(this, Ordering::Relaxed),
            None => self.push_space(slot),
        }
    }

    /// Adds a space, by its first slot, at the end of the ring.
    fn push_space(&mut self, slot: &Slot<P>) {
        let this = ptr::from_ref(slot).cast_mut();
        slot.next_space.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: as in `push`.
        match unsafe { self.last.as_ref() } {
            Some(last) => last.next_space.store(this, Ordering::Relaxed),
            None => self.first = this,
        }
        self.last = this;
    }

    /// Takes the first slot of the space whose turn it is.
    pub(super) fn pop(&mut self) -> Option<SlotToken<P>> {
        // SAFETY: as in `push`; the table's memory is `'static` wherever its slots are served.
        let slot: &'static Slot<P> = unsafe { self.first.as_ref()? };
        self.first = slot.next_space.load(Ordering::Relaxed);
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        let token = SlotToken(slot);
        // SAFETY: as in `push`.
        match unsafe { slot.next.load(Ordering::Relaxed).as_ref() } {
            Some(next) => self.push_space(next),
            None => token
                .request()
                .space()
                .waiting
                .store(ptr::null_mut(), Ordering::Relaxed),
        }
        Some(token)
    }
}

impl<P: Platform> Memory<P> {
    /// A frame for a fault: unless others wait for one, or the reserve is all that is left.
    #[inline(always)]
    pub(super) fn frame_for_fault(&self, cpu: usize) -> Result<ReservedFrame<'_>, OutOfFrames> {
        if self.faults.waiting_for_memory() > 0 && !self.faults.has_permit(cpu) {
            return Err(self.too_many_references());
        }
        self.frames.allocate_for_fault(cpu)
    }
}

impl<P: Platform> FaultTable<P> {
    /// Whether this CPU serves a fault that has the permit to take a frame although others wait.
    #[cold]
    pub(crate) fn has_permit(&self, cpu: usize) -> bool {
        self.own(cpu).permit.load(Ordering::Relaxed)
    }

    /// Gives the fault that this CPU is about to serve a permit, or takes it back.
    pub(super) fn set_permit(&self, cpu: usize, permit: bool) {
        self.own(cpu).permit.store(permit, Ordering::Relaxed);
    }
}
