//! Lists of faults that wait for the same page, linked through their slots.
//!
//! A fault whose page is being read already, for whichever space, parks its slot in a list. The head of the list is part
//! of the page's state: of the word of its swap slot, or of its place in an object. One whose page has left its table but
//! may still be written to parks in a list of its own, until that is over.
//!
//! # Protocol
//!
//! 1. Parking writes the slot's link, then the new head, by compare-exchange or under the lock of the page's state. With
//!    the head, the right to serve the slot (its [`SlotToken`]) goes to the list. A parked slot is in no other list.
//! 2. Whoever ends the read takes the whole list out of the page's state and [queues](Memory::queue_parked) it: the slots
//!    are served again in the order in which they parked, and find the page there. If one fault waits alone, as most do,
//!    it may be [served at once](Memory::serve_parked): that spares it the queue and a poll of the service.
//!
//! The head is stored with `Release` and taken with `Acquire`, or both under one lock, so the links are visible to who
//! takes the list. Nobody takes single slots out: a fault whose waiters are gone stays until the read has ended, and is
//! given up then.

use core::mem::replace;
use core::ptr;
use core::task::Waker;

use faultline_trace::Kind;

use super::service::Step;
use super::slot::{NONE, Slot, SlotToken};
use crate::Memory;
use crate::memory::FaultMode;
use crate::platform::Platform;
use crate::space::{Guard, Space};
use crate::sync::atomic::Ordering;

/// A list of parked faults: the index of the slot that parked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParkedFaults(u16);

impl ParkedFaults {
    /// Nobody waits.
    pub(crate) const NONE: Self = Self(NONE);

    /// The list with this head, as it is kept in the state of a page.
    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The head.
    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    /// Whether nobody waits.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == NONE
    }
}

impl Default for ParkedFaults {
    fn default() -> Self {
        Self::NONE
    }
}

impl<P: Platform> Memory<P> {
    /// Parks a fault in front of `list`: `put` gets the list with it, stores it if the page's state is still the one that
    /// `list` is from, and says whether it has.
    ///
    /// # Errors
    /// `put` has not: the fault is still the caller's, who looks at the page again.
    pub(crate) fn park(
        &'static self,
        token: SlotToken<P>,
        list: ParkedFaults,
        put: impl FnOnce(ParkedFaults) -> bool,
    ) -> Result<(), SlotToken<P>> {
        self.park_for_device(token, list, !list.is_empty(), put)
    }

    /// Parks a fault that waits for a device, as [`park`](Self::park), in a list that need not be that of its page; `joins`
    /// says whether others wait for the same page.
    pub(super) fn park_for_device(
        &'static self,
        token: SlotToken<P>,
        list: ParkedFaults,
        joins: bool,
        put: impl FnOnce(ParkedFaults) -> bool,
    ) -> Result<(), SlotToken<P>> {
        token.note_device_wait();
        self.park_in(token, list, joins, put)?;
        self.counters.device_waits.add(1);
        Ok(())
    }

    /// Parks a fault on a page that some CPU may still write to, although it has left its table, until a batch is flushed.
    /// There may be another one then, so the fault looks again.
    #[cold]
    pub(super) fn park_for_flush(&'static self, token: SlotToken<P>) -> Step<P> {
        let parked = self.reclaim.with_parked(|parked| {
            self.park_in(token, *parked, false, |list| {
                *parked = list;
                true
            })
        });
        // Register, then look: the flush may have ended in between.
        if !self.reclaim.has_unflushed() {
            self.queue_parked_for_flush();
        }
        match parked {
            Ok(()) => Step::Parked,
            Err(token) => Step::Again(token),
        }
    }

    /// Parks a fault of `space` until every CPU has dropped what a change of the space has taken away.
    #[cold]
    pub(super) fn park_until_flushed(
        &'static self,
        token: SlotToken<P>,
        space: &Space<P>,
        mut inner: Guard<'_, P>,
    ) -> Step<P> {
        let list = inner.parked;
        let parked = self.park_in(token, list, false, |list| {
            inner.parked = list;
            true
        });
        // Register, then look: the last CPU may have flushed in between.
        space.release_quarantine(&mut inner);
        match parked {
            Ok(()) => Step::Parked,
            Err(token) => Step::Again(token),
        }
    }

    /// A batch is flushed: queues the faults that wait for that.
    pub(crate) fn queue_parked_for_flush(&'static self) {
        let parked = self.reclaim.with_parked(|parked| replace(parked, ParkedFaults::NONE));
        self.queue_parked(parked, |_| {});
    }

    /// Parks a fault in front of `list`, as [`park`](Self::park).
    fn park_in(
        &'static self,
        token: SlotToken<P>,
        list: ParkedFaults,
        joins: bool,
        put: impl FnOnce(ParkedFaults) -> bool,
    ) -> Result<(), SlotToken<P>> {
        let slot = token.slot();
        let next = match list.0 {
            NONE => ptr::null_mut(),
            index => ptr::from_ref(self.faults.slot(index)).cast_mut(),
        };
        slot.next.store(next, Ordering::Relaxed);
        // Once it is parked, another CPU may serve the fault to its end.
        let request = token.request();
        let (space, fault, page) = (request.space().id, request.fault, request.page);
        if !put(ParkedFaults(token.index())) {
            return Err(token);
        }
        self.platform.trace(Kind::FaultWait, space, fault, page, joins.into());
        Ok(())
    }

    /// Serves the fault of a list that was taken out of the state of its page, which is in its frame now. Queues the faults
    /// if there are several, if faults wait for memory, which the service shares out, or if every fault is to be queued
    /// ([`FaultMode::Queued`]). The caller holds no lock.
    pub(crate) fn serve_parked(&'static self, list: ParkedFaults) {
        if !list.is_empty()
            && self.config.fault_mode != FaultMode::Queued
            && self.faults.waiting_for_memory() == 0
            && let slot = self.faults.slot(list.0)
            && slot.next.load(Ordering::Relaxed).is_null()
            && self.faults.has_service()
        {
            // The list had the token. If the fault has to wait for memory after all, it is the service that is woken.
            return self.serve_now(SlotToken(slot), Waker::noop());
        }
        self.queue_parked(list, |_| {});
    }

    /// Queues the faults of a list that was taken out of the state of its page, in the order in which they parked. `first`
    /// is called with each before it is queued.
    pub(crate) fn queue_parked(&'static self, list: ParkedFaults, mut first: impl FnMut(&SlotToken<P>)) {
        if list.is_empty() {
            return;
        }
        // The last that parked is the first of the list: turn it round.
        let mut left = ptr::from_ref(self.faults.slot(list.0)).cast_mut();
        let mut turned: *mut Slot<P> = ptr::null_mut();
        // SAFETY: the links of a list are slots of the table, which lives as long as the memory.
        while let Some(slot) = unsafe { left.as_ref::<'static>() } {
            left = slot.next.load(Ordering::Relaxed);
            slot.next.store(turned, Ordering::Relaxed);
            turned = ptr::from_ref(slot).cast_mut();
        }
        // SAFETY: as above.
        while let Some(slot) = unsafe { turned.as_ref::<'static>() } {
            turned = slot.next.load(Ordering::Relaxed);
            // The list had the token of each of its slots.
            let token = SlotToken(slot);
            first(&token);
            self.faults.push(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::task::Waker;
    use std::vec::Vec;

    use super::ParkedFaults;
    use crate::tests::machine::*;
    use crate::*;

    #[test]
    fn parked_faults_are_queued_in_the_order_of_arrival() {
        let world = World::new(64);
        let space = world.space();
        space.map_lazy(at(0), 16 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        let mut list = ParkedFaults::NONE;
        assert!(list.is_empty());
        let mut futures: Vec<_> = (0..3)
            .map(|page| std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(page * PAGE_SIZE, Access::Write))))
            .collect();
        for future in &mut futures {
            assert!(world.poll(future.as_mut()).is_pending());
            let (token, _) = world.memory.faults.take(Waker::noop());
            let token = token.unwrap();
            // The first attempt comes too late.
            let token = world.memory.park(token, list, |_| false).unwrap_err();
            let parked = world.memory.park(token, list, |new| {
                list = new;
                true
            });
            assert!(parked.is_ok());
        }
        world.serve();
        assert_eq!(ParkedFaults::from_bits(list.bits()), list);
        assert_eq!(world.memory.stats().device_waits, 3);
        assert_eq!(world.memory.faults_in_flight(), 3, "nobody serves a parked fault");
        let mut order = Vec::new();
        world
            .memory
            .queue_parked(list, |token| order.push(token.request().page / PAGE_SIZE));
        world.memory.queue_parked(ParkedFaults::NONE, |_| unreachable!());
        assert_eq!(order, [0, 1, 2]);
        world.serve();
        for future in &mut futures {
            assert!(world.poll(future.as_mut()).is_ready());
        }
    }
}
