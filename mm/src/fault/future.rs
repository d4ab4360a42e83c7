//! The future that a faulting thread awaits.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use faultline_fallible::Arc;

use faultline_trace::Kind;

use super::admit::Admission;
use super::slot::SlotToken;
use super::waiter::Waiter;
use super::{Ending, FaultOutcome, FaultResult};
use crate::memory::FaultMode;
use crate::platform::Platform;
use crate::protection::FaultInfo;
use crate::space::{Space, VirtualAddressSpace};
use crate::sync::atomic::Ordering;

/// A page fault. The first poll admits it; it is ready when the faulting instruction may be executed again, or with the
/// reason why it must not.
///
/// Dropping it withdraws the waiter; if it was the only one, the service gives the fault up and the frame goes back.
#[must_use = "a fault is served only when it is awaited"]
pub struct FaultFuture<'a, P: Platform> {
    space: &'a Arc<Space<P>>,
    info: FaultInfo,
    fault: u64,
    stage: Stage,
    waiter: Waiter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not yet looked at.
    New,
    /// The waiter hangs in this slot, or was completed by it.
    Waiting(u16),
    /// The waiter hangs in the list of those that wait for a slot.
    WaitingForSlot,
    /// The result was returned.
    Done,
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Resolves a page fault. The future is ready with `Ok` when the instruction may be executed again.
    ///
    /// The kernel's own accesses (`info.user == false`) obey the same rules as user mode's.
    ///
    /// # Errors
    /// [`FaultError`](crate::FaultError) says why the access can't be allowed: no region, wrong protection, an address
    /// outside the user half, a stack at its limit, a page beyond its file, a device that failed. Shortage of memory is
    /// no error: the future waits.
    #[inline]
    pub fn handle_page_fault(&self, info: FaultInfo) -> FaultFuture<'_, P> {
        FaultFuture {
            space: self.core(),
            info,
            fault: self.memory.next_fault_id(),
            stage: Stage::New,
            waiter: Waiter::new(),
        }
    }
}

impl<P: Platform> FaultFuture<'_, P> {
    /// The correlation id of the fault, as in traces.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.fault
    }

    /// How the fault ended, if it was not refused; what a poll would be ready with, and as after that, dropping the future
    /// does nothing. `None` says nothing: then it has to be polled.
    #[inline(always)]
    pub fn try_outcome(self: Pin<&mut Self>) -> Option<FaultOutcome> {
        if !matches!(self.stage, Stage::Waiting(_)) || !self.waiter.is_done() {
            return None;
        }
        // SAFETY: the waiter was completed, so it is in no list.
        let Ending::Done(outcome) = (unsafe { self.waiter.ending() }) else {
            return None;
        };
        // SAFETY: nothing is moved out: `waiter` stays where it is.
        unsafe { self.get_unchecked_mut() }.stage = Stage::Done;
        Some(outcome)
    }

    /// The beginning of the first poll: admits the fault if it is one of the most usual and leaves it with the CPU
    /// ([`FaultMode::HandedOff`]); false, with nothing done, if it is not. After true the future is pending.
    #[inline(always)]
    pub fn leave(self: Pin<&mut Self>, waker: &Waker) -> bool {
        // SAFETY: nothing is moved out: `waiter` stays where it is.
        let this = unsafe { self.get_unchecked_mut() };
        let memory = this.space.memory;
        if memory.config.fault_mode != FaultMode::HandedOff || this.stage != Stage::New {
            return false;
        }
        let Some(token) = this.admit_usual(waker) else {
            return false;
        };
        this.stage = Stage::Waiting(token.index());
        memory.faults.leave(token, memory.platform.cpu());
        true
    }

    #[inline(always)]
    fn admit_usual(&mut self, waker: &Waker) -> Option<SlotToken<P>> {
        // SAFETY: the waiter is a field of a pinned future, from which nothing is moved.
        let waiter = unsafe { Pin::new_unchecked(&self.waiter) };
        Space::admit_usual(self.space, self.info, self.fault, waiter, waker)
    }

    /// Gives the slot of this fault to the service, or serves it at once. Pending unless it is over by now.
    #[inline(always)]
    fn hand_over(&mut self, token: SlotToken<P>, waker: &Waker) -> Poll<FaultResult> {
        let memory = self.space.memory;
        self.stage = Stage::Waiting(token.index());
        if memory.config.fault_mode == FaultMode::HandedOff {
            memory.faults.leave(token, memory.platform.cpu());
            return Poll::Pending;
        }
        if memory.config.fault_mode == FaultMode::Queued {
            memory.faults.push(token);
        } else {
            memory.serve_now(token, waker);
        }
        self.look()
    }

    /// Whether the fault is over.
    #[inline(always)]
    fn look(&mut self) -> Poll<FaultResult> {
        if self.waiter.is_done() {
            Poll::Ready(self.finish())
        } else {
            Poll::Pending
        }
    }

    /// Admits the fault; pending unless it is over at once.
    #[inline(always)]
    fn start(&mut self, waker: &Waker) -> Poll<FaultResult> {
        match self.admit_usual(waker) {
            Some(token) => self.hand_over(token, waker),
            None => self.start_unusual(waker),
        }
    }

    #[inline(never)]
    fn start_unusual(&mut self, waker: &Waker) -> Poll<FaultResult> {
        loop {
            // SAFETY: the waiter is a field of a pinned future, from which nothing is moved.
            let waiter = unsafe { Pin::new_unchecked(&self.waiter) };
            match Space::admit(self.space, self.info, self.fault, waiter, waker) {
                Admission::Claimed(token) => return self.hand_over(token, waker),
                Admission::Waiting(slot) => self.stage = Stage::Waiting(slot),
                Admission::Ready(result) => {
                    self.stage = Stage::Done;
                    return Poll::Ready(result);
                }
                Admission::NoSlot => {
                    if self.wait_for_slot(waker) {
                        continue;
                    }
                    self.stage = Stage::WaitingForSlot;
                }
            }
            return Poll::Pending;
        }
    }

    /// Hangs the waiter in the list of those that wait for a slot; true if one has come free meanwhile.
    #[cold]
    fn wait_for_slot(&self, waker: &Waker) -> bool {
        let memory = self.space.memory;
        memory.counters.slot_waits.add(1);
        memory
            .platform
            .trace(Kind::FaultWait, self.space.id, self.fault, self.info.address, 0);
        memory.faults.with_slot_waiters(|list, free| {
            if !free {
                // SAFETY: 1. the waiter is a field of a pinned future; 2. it is in no list; 3. the list's lock is held.
                unsafe { Pin::new_unchecked(&self.waiter).enqueue(list, waker) };
            }
            free
        })
    }

    #[inline(always)]
    fn finish(&mut self) -> FaultResult {
        self.stage = Stage::Done;
        // SAFETY: the waiter was completed, so it is in no list.
        match unsafe { self.waiter.ending() } {
            Ending::Done(outcome) => Ok(outcome),
            refused => refused.refusal(self.info),
        }
    }

    /// A poll that was not due: nothing has happened yet, or a slot has come free.
    #[cold]
    fn poll_early(&mut self, waker: &Waker) -> Poll<FaultResult> {
        match self.stage {
            Stage::New => return self.start(waker),
            Stage::Done => return Poll::Ready(Ok(FaultOutcome::Retry)),
            Stage::Waiting(_) => {
                let inner = self.space.lock();
                // Completion happens under this lock: look again before trusting that the node is linked.
                if !self.waiter.is_done() {
                    // SAFETY: the lock of the list that the node is in is held.
                    unsafe { self.waiter.update(waker) };
                    return Poll::Pending;
                }
                drop(inner);
                return Poll::Ready(self.finish());
            }
            Stage::WaitingForSlot => {}
        }
        let waits = self.space.memory.faults.with_slot_waiters(|_, _| {
            let waits = !self.waiter.is_done();
            if waits {
                // SAFETY: the lock of the list that the node is in is held.
                unsafe { self.waiter.update(waker) };
            }
            waits
        });
        if waits {
            return Poll::Pending;
        }
        let result = self.start(waker);
        // The fault may need no slot any more; then the one that came free is the next waiter's.
        self.space.memory.faults.pass_slot_on();
        result
    }

    /// Takes back what a future that is dropped early has left behind.
    #[cold]
    fn withdraw(&mut self) {
        let memory = self.space.memory;
        // SAFETY: the future is pinned (it was polled) and is not moved before its drop ends.
        let waiter = unsafe { Pin::new_unchecked(&self.waiter) };
        match self.stage {
            Stage::Waiting(index) => {
                let _inner = self.space.lock();
                if self.waiter.is_done() {
                    return;
                }
                let slot = memory.faults.slot(index);
                // SAFETY: 1. the space's lock is held, and the slot serves this space until its waiters, of which this
                // is one, are completed; 2. the node is in the slot's list.
                let empty = unsafe {
                    let shared = slot.shared();
                    waiter.unlink(&mut shared.waiters);
                    shared.waiters.is_empty()
                };
                if empty {
                    slot.abandoned.store(true, Ordering::Relaxed);
                }
            }
            Stage::WaitingForSlot => {
                let linked = memory.faults.with_slot_waiters(|list, _| {
                    let linked = !self.waiter.is_done();
                    if linked {
                        // SAFETY: the list's lock is held and the node is in the list.
                        unsafe { waiter.unlink(list) };
                    }
                    linked
                });
                if !linked {
                    // A slot came free for this waiter, which will not use it: let the next one have it.
                    memory.faults.pass_slot_on();
                }
            }
            Stage::New | Stage::Done => {}
        }
    }
}

impl<P: Platform> Future for FaultFuture<'_, P> {
    type Output = FaultResult;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FaultResult> {
        // SAFETY: nothing is moved out: `waiter` stays where it is.
        let this = unsafe { self.get_unchecked_mut() };
        match this.stage {
            Stage::New => this.start(context.waker()),
            Stage::Waiting(_) if this.waiter.is_done() => Poll::Ready(this.finish()),
            _ => this.poll_early(context.waker()),
        }
    }
}

impl<P: Platform> Drop for FaultFuture<'_, P> {
    #[inline(always)]
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::New | Stage::Done) {
            self.withdraw();
        }
    }
}
