//! Faults that wait for a device: a waker that queues the slot again.

use core::ptr;
use core::task::{RawWaker, RawWakerVTable, Waker};

use faultline_trace::Kind;

use super::slot::{Slot, SlotToken};
use crate::Memory;
use crate::platform::Platform;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// Where a slot's waker finds the slot again.
pub(crate) struct Home<P: Platform> {
    memory: AtomicPtr<Memory<P>>,
}

impl<P: Platform> Home<P> {
    pub(super) const fn new() -> Self {
        Self {
            memory: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

/// The waker of a slot: one word, no count; harmless when it comes late, because only a parked slot is queued.
pub(super) fn slot_waker<P: Platform>(memory: &'static Memory<P>, slot: &'static Slot<P>) -> Waker {
    // Release: whoever wakes sees the memory behind the pointer.
    slot.home
        .memory
        .store(ptr::from_ref(memory).cast_mut(), Ordering::Release);
    // SAFETY: the vtable's functions take what is given here: a slot that lives as long as its memory, for ever.
    unsafe { Waker::from_raw(RawWaker::new(ptr::from_ref(slot).cast(), vtable::<P>())) }
}

const fn vtable<P: Platform>() -> &'static RawWakerVTable {
    &RawWakerVTable::new(
        |slot| RawWaker::new(slot, vtable::<P>()),
        |slot| wake::<P>(slot),
        |slot| wake::<P>(slot),
        |_| {},
    )
}

fn wake<P: Platform>(slot: *const ()) {
    // SAFETY: `slot_waker` made the pointer from a slot of a memory that lives for ever.
    let slot: &'static Slot<P> = unsafe { &*slot.cast::<Slot<P>>() };
    // SAFETY: `slot_waker` stored a reference that lives for ever before any waker existed.
    let memory = unsafe { &*slot.home.memory.load(Ordering::Acquire) };
    memory.unpark(slot);
}

impl<P: Platform> Memory<P> {
    /// Lets the slot wait for its device. A wake that came before is not lost: it has left its mark.
    pub(super) fn park_for_device(&'static self, token: SlotToken<P>) {
        let request = token.request();
        self.counters.device_waits.add(1);
        self.platform
            .trace(Kind::FaultWait, request.space().id, request.fault, request.page, 0);
        // The token ends here; whoever finds the slot parked makes it anew.
        let SlotToken(slot) = token;
        if slot.state.park() {
            self.faults.push(SlotToken(slot));
        }
    }

    /// The device has news for the slot.
    fn unpark(&self, slot: &'static Slot<P>) {
        if slot.state.wake() {
            self.faults.push(SlotToken(slot));
        }
    }
}
