//! Commit and completion: what ends a fault, under the space's lock.

use core::task::Waker;
use faultline_fallible::Arc;

use faultline_trace::{FaultClass, Kind};

use super::service::Step;
use super::slot::{NONE, RequestRef, Shared, Slot, SlotToken};
use super::waiter::complete_first;
use super::{Ending, FaultOutcome};
use crate::Memory;
use crate::entry::Entry;
use crate::platform::Platform;
use crate::space::{Guard, Inner, Space};
use crate::sync::mutant;

/// Waiters that are woken after one hold of the lock.
const BATCH: usize = 16;

impl<P: Platform> Memory<P> {
    /// The space has changed since the fault was admitted: tells the waiters what it says now.
    #[cold]
    pub(super) fn complete_stale(&'static self, token: SlotToken<P>, inner: Guard<'_, P>) -> Step<P> {
        let request = token.request();
        let ending = request.space().verdict(&inner, request.page, request.access);
        self.counters.stale.add(1);
        self.trace_page(Kind::FaultStale, request, 0);
        self.complete(token, inner, ending)
    }

    /// Ends a fault that was not served: withdraws what is left of it in the space, gives every waiter the result, frees the
    /// slot, and wakes the waiters but for the first, which the caller wakes.
    pub(super) fn complete(&'static self, token: SlotToken<P>, mut inner: Guard<'_, P>, ending: Ending) -> Step<P> {
        let request = token.request();
        // SAFETY: the space's lock is held; the reference ends here, before `unlink_side` makes its own.
        let &mut Shared { side, stale, .. } = unsafe { token.slot().shared() };
        if side {
            request.space().unlink_side(&mut inner, token.index());
        }
        if !stale
            && !mutant!(KeepMarker)
            && let Some(entry) = request.entry
        {
            // Not committed, not revoked: the marker or the busy bit is still there.
            if entry.get() == request.marker {
                entry.set(request.before);
            } else {
                entry.and_not(Entry::BUSY);
            }
        }
        if !matches!(ending, Ending::Done(_)) {
            self.counters.denied.add(1);
        }
        self.end::<true>(token, inner, ending)
    }

    /// Ends a fault whose entry was published, as [`complete`](Self::complete) one that was not served.
    #[inline(always)]
    pub(super) fn resolved<const TRACED: bool>(
        &'static self,
        token: SlotToken<P>,
        inner: Guard<'_, P>,
        class: FaultClass,
    ) -> Step<P> {
        self.resolved_as::<TRACED>(token, inner, class, FaultOutcome::Resolved(class))
    }

    /// The same for a fault whose page may have been on a device.
    #[inline(always)]
    pub(super) fn resolved_or_read(
        &'static self,
        token: SlotToken<P>,
        inner: Guard<'_, P>,
        class: FaultClass,
    ) -> Step<P> {
        let outcome = match token.has_waited_for_device() {
            true => FaultOutcome::Read(class),
            false => FaultOutcome::Resolved(class),
        };
        self.resolved_as::<true>(token, inner, class, outcome)
    }

    #[inline(always)]
    fn resolved_as<const TRACED: bool>(
        &'static self,
        token: SlotToken<P>,
        mut inner: Guard<'_, P>,
        class: FaultClass,
        outcome: FaultOutcome,
    ) -> Step<P> {
        // SAFETY: the space's lock is held.
        if unsafe { token.slot().shared() }.side {
            token.request().space().unlink_side(&mut inner, token.index());
        }
        inner.served[class as usize] += 1;
        self.counters.served[class as usize].add(1);
        self.end::<TRACED>(token, inner, Ending::Done(outcome))
    }

    /// The end of every fault: the space no longer links to the slot.
    #[inline(always)]
    fn end<const TRACED: bool>(&'static self, token: SlotToken<P>, mut inner: Guard<'_, P>, ending: Ending) -> Step<P> {
        let slot = token.slot();
        let request = token.request();
        inner.in_flight -= 1;
        self.faults.count_end(self.platform.cpu());
        // SAFETY: the lock of the slot's space is held; waiters unlink themselves under it before they go.
        let first = unsafe { complete_first(&mut slot.shared().waiters, ending) };
        // SAFETY: the space's lock is held.
        let more = !unsafe { slot.shared() }.waiters.is_empty();
        if first.is_none() {
            self.nobody_waited(request);
        } else if TRACED {
            self.trace_page(Kind::FaultWake, request, 1);
        }
        // A slot that the space keeps may be in use again as soon as the lock is free.
        if !more && token.index() == inner.own_slot {
            Self::put_back(&mut inner, token);
            drop(inner);
            return Step::Completed(first);
        }
        self.end_other(token, inner, first, more, ending)
    }

    /// The rest of the end of a fault that others wait for, or whose slot is not yet kept by the space.
    #[inline(never)]
    fn end_other(
        &'static self,
        token: SlotToken<P>,
        mut inner: Guard<'_, P>,
        first: Option<Waker>,
        more: bool,
        ending: Ending,
    ) -> Step<P> {
        if more {
            drop(inner);
            self.wake_all(&token, first, ending);
            let request = token.request();
            let inner = request.space().lock();
            return self.end_other(token, inner, None, false, ending);
        }
        if inner.own_slot == NONE && inner.root.is_some() && self.faults.keep() {
            inner.own_slot = token.index();
        }
        if token.index() == inner.own_slot {
            Self::put_back(&mut inner, token);
            return Step::Completed(first);
        }
        drop(inner);
        let slot = token.slot();
        // SAFETY: the token is held, and the space no longer links to the slot.
        let owner = unsafe { slot.request_unlinked() }.owner.take();
        // SAFETY: the token is held.
        unsafe { slot.progress() }.clear();
        self.faults.release(token);
        // This may be the last reference to a space that was destroyed. It goes with the step, when no caller that was
        // handed a guard of the space's lock is left.
        Step::Released(first, owner)
    }

    /// The space keeps its slot for the next fault.
    #[inline(always)]
    fn put_back(inner: &mut Inner<P>, token: SlotToken<P>) {
        // SAFETY: the token is held.
        unsafe { token.slot().progress() }.clear();
        inner.spare = Some(token);
    }

    /// Wakes everybody who waits for a fault of several.
    #[cold]
    fn wake_all(&self, token: &SlotToken<P>, first: Option<Waker>, ending: Ending) {
        if let Some(first) = first {
            first.wake();
        }
        if !mutant!(WakeOnlyFirst) {
            self.wake_others(token.slot(), &token.request(), ending);
        }
    }

    /// A space that ends gives up the slot that it keeps. Returns the slot's reference to the space, if it is not in use.
    pub(crate) fn give_up_slot(&self, inner: &mut Inner<P>) -> Option<Arc<Space<P>>> {
        if core::mem::replace(&mut inner.own_slot, NONE) == NONE {
            return None;
        }
        self.faults.unkeep();
        let token = inner.spare.take()?;
        // SAFETY: the token is held, and a free slot is linked to no space.
        let owner = unsafe { token.slot().request_unlinked() }.owner.take();
        self.faults.release(token);
        owner
    }

    #[cold]
    fn nobody_waited(&self, request: RequestRef<P>) {
        self.counters.cancelled.add(1);
        self.trace_page(Kind::FaultCancel, request, 0);
    }

    /// Completes the remaining waiters, up to [`BATCH`] under one hold of the lock, and wakes them without it.
    #[cold]
    fn wake_others(&self, slot: &Slot<P>, request: &RequestRef<P>, ending: Ending) {
        let mut taken = BATCH;
        while taken == BATCH {
            let mut wakers: [Option<Waker>; BATCH] = [const { None }; BATCH];
            let inner = request.space().lock();
            taken = 0;
            while taken < BATCH {
                // SAFETY: the lock of the slot's space is held; waiters unlink themselves under it before they go.
                let Some(waker) = (unsafe { complete_first(&mut slot.shared().waiters, ending) }) else {
                    break;
                };
                wakers[taken] = Some(waker);
                taken += 1;
            }
            drop(inner);
            self.trace_page(Kind::FaultWake, *request, taken as u64);
            for waker in wakers.into_iter().flatten() {
                waker.wake();
            }
        }
    }
}
