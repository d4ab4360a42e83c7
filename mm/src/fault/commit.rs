//! Commit and completion: what ends a fault, under the space's lock.

use core::task::Waker;

use faultline_trace::{FaultClass, Kind};
use spin::MutexGuard;

use super::service::Step;
use super::slot::{RequestRef, Slot, SlotToken};
use super::waiter::complete_first;
use super::{FaultOutcome, FaultResult};
use crate::Memory;
use crate::entry::Entry;
use crate::platform::Platform;
use crate::space::Inner;

/// Waiters that are woken after one hold of the lock.
const BATCH: usize = 16;

impl<P: Platform> Memory<P> {
    /// The space has changed since the fault was admitted: tells the waiters what it says now.
    #[cold]
    pub(super) fn complete_stale(&'static self, token: SlotToken, inner: MutexGuard<'_, Inner<P>>) -> Step {
        // SAFETY: the token is held.
        let request = unsafe { self.faults.slot(token.index()).request() };
        let result = request.space.verdict(&inner, request.page, request.access);
        self.counters.stale.add(1);
        self.platform
            .trace(Kind::FaultStale, request.space.id, request.fault, request.page, 0);
        self.complete(token, inner, result, None)
    }

    /// Ends a fault: withdraws what is left of it in the space, gives every waiter the result, wakes them, frees the
    /// slot. `class` says how it was served; `None` if it was not.
    pub(super) fn complete(
        &'static self,
        token: SlotToken,
        mut inner: MutexGuard<'_, Inner<P>>,
        result: FaultResult,
        class: Option<FaultClass>,
    ) -> Step {
        let slot = self.faults.slot(token.index());
        // SAFETY: the token is held; the reference ends before the request is taken.
        let request = unsafe { slot.request() };
        let (space, page, fault) = (&*request.space, request.page, request.fault);
        // SAFETY: the space's lock is held.
        let shared = unsafe { slot.shared() };
        if shared.side {
            space.unlink_side(&mut inner, token.index());
        }
        if let Some(class) = class {
            inner.served[class as usize] += 1;
            self.counters.served[class as usize].add(1);
        } else if !shared.stale
            && let Some(entry) = request.entry
        {
            // Not committed, not revoked: the marker or the busy bit is still there.
            if entry.get() == request.marker {
                entry.set(Entry::EMPTY);
            } else {
                entry.and_not(Entry::BUSY);
            }
        }
        inner.in_flight -= 1;
        if result.is_err() {
            self.counters.denied.add(1);
        }
        // SAFETY: the lock of the slot's space is held; waiters unlink themselves under it before they go.
        let first = unsafe { complete_first(&mut slot.shared().waiters, result) };
        // SAFETY: the space's lock is held.
        let more = !unsafe { slot.shared() }.waiters.is_empty();
        drop(inner);
        match first {
            Some(waker) => {
                self.platform.trace(Kind::FaultWake, space.id, fault, page, 1);
                waker.wake();
            }
            None => {
                self.counters.cancelled.add(1);
                self.platform.trace(Kind::FaultCancel, space.id, fault, page, 0);
            }
        }
        if more {
            self.wake_others(slot, &request, result);
        }
        // SAFETY: the token is held, and the space no longer links to the slot.
        let request = unsafe { slot.replace_request(None) };
        // SAFETY: the token is held.
        drop(core::mem::take(unsafe { slot.progress() }));
        self.faults.release(token);
        // Last: this may be the last reference to a space that was destroyed.
        drop(request);
        Step::Completed
    }

    /// Completes the remaining waiters, up to [`BATCH`] under one hold of the lock, and wakes them without it.
    #[cold]
    fn wake_others(&self, slot: &Slot<P>, request: &RequestRef<P>, result: FaultResult) {
        let mut taken = BATCH;
        while taken == BATCH {
            let mut wakers: [Option<Waker>; BATCH] = [const { None }; BATCH];
            let inner = request.space.lock();
            taken = 0;
            while taken < BATCH {
                // SAFETY: the lock of the slot's space is held; waiters unlink themselves under it before they go.
                let Some(waker) = (unsafe { complete_first(&mut slot.shared().waiters, result) }) else {
                    break;
                };
                wakers[taken] = Some(waker);
                taken += 1;
            }
            drop(inner);
            self.platform.trace(
                Kind::FaultWake,
                request.space.id,
                request.fault,
                request.page,
                taken as u64,
            );
            for waker in wakers.into_iter().flatten() {
                waker.wake();
            }
        }
    }

    /// As [`complete`](Self::complete), for a fault that was resolved.
    #[inline]
    pub(super) fn resolved(
        &'static self,
        token: SlotToken,
        inner: MutexGuard<'_, Inner<P>>,
        class: FaultClass,
    ) -> Step {
        self.complete(token, inner, Ok(FaultOutcome::Resolved(class)), Some(class))
    }
}
