//! The future that a faulting thread awaits.

use alloc::sync::Arc;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};

use faultline_trace::Kind;

use super::admit::Admission;
use super::waiter::Waiter;
use super::{FaultOutcome, FaultResult};
use crate::error::FaultError;
use crate::memory::FaultMode;
use crate::platform::Platform;
use crate::protection::FaultInfo;
use crate::space::{Space, VirtualAddressSpace};

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
    /// [`FaultError`] says why the access can't be allowed: no region, wrong protection, an address outside the user
    /// half, a stack at its limit, a page beyond its file, a device that failed. Shortage of memory is no error: the
    /// future waits.
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

    fn start(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FaultResult> {
        // SAFETY: nothing is moved out: `waiter` stays where it is.
        let this = unsafe { self.get_unchecked_mut() };
        let memory = this.space.memory;
        loop {
            // SAFETY: the waiter is a field of a pinned future.
            let waiter = unsafe { Pin::new_unchecked(&this.waiter) };
            match this.space.admit(this.info, this.fault, waiter, context.waker()) {
                Admission::Ready(result) => {
                    this.stage = Stage::Done;
                    return Poll::Ready(result);
                }
                Admission::Waiting(slot) => this.stage = Stage::Waiting(slot),
                Admission::Claimed(token) => {
                    this.stage = Stage::Waiting(token.index());
                    if memory.config.fault_mode == FaultMode::Queued {
                        memory.faults.push(token);
                        return Poll::Pending;
                    }
                    memory.serve(token, context.waker());
                    if this.waiter.is_done() {
                        return this.finish();
                    }
                }
                Admission::NoSlot => {
                    memory.counters.slot_waits.add(1);
                    memory
                        .platform
                        .trace(Kind::FaultWait, this.space.id, this.fault, this.info.address, 0);
                    let retry = memory.faults.with_slot_waiters(|list, free| {
                        if !free {
                            // SAFETY: 1. the waiter is in no list; 2. the list's lock is held.
                            unsafe { waiter.enqueue(list, context.waker()) };
                        }
                        free
                    });
                    if retry {
                        continue;
                    }
                    this.stage = Stage::WaitingForSlot;
                }
            }
            return Poll::Pending;
        }
    }

    fn finish(&mut self) -> Poll<FaultResult> {
        self.stage = Stage::Done;
        // SAFETY: the waiter was completed, so it is in no list.
        let result = unsafe { self.waiter.result() };
        Poll::Ready(result.map_err(|error| self.own(error)))
    }

    /// The error as this waiter sees it: its own address and access instead of the first waiter's.
    fn own(&self, error: FaultError) -> FaultError {
        error.at(self.info.address, self.info.access)
    }
}

impl<P: Platform> Future for FaultFuture<'_, P> {
    type Output = FaultResult;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FaultResult> {
        match self.stage {
            Stage::New => self.start(context),
            Stage::Waiting(_) if self.waiter.is_done() => {
                // SAFETY: nothing is moved out.
                unsafe { self.as_mut().get_unchecked_mut() }.finish()
            }
            Stage::Waiting(slot) => {
                let inner = self.space.lock();
                // Completion happens under this lock: look again before trusting that the node is linked.
                if !self.waiter.is_done() {
                    debug_assert!(usize::from(slot) < usize::from(u16::MAX));
                    // SAFETY: the lock of the list that the node is in is held.
                    unsafe { self.waiter.update(context.waker()) };
                    return Poll::Pending;
                }
                drop(inner);
                // SAFETY: nothing is moved out.
                unsafe { self.as_mut().get_unchecked_mut() }.finish()
            }
            Stage::WaitingForSlot => {
                if !self.waiter.is_done() {
                    let waits = self.space.memory.faults.with_slot_waiters(|_, _| {
                        let waits = !self.waiter.is_done();
                        if waits {
                            // SAFETY: the lock of the list that the node is in is held.
                            unsafe { self.waiter.update(context.waker()) };
                        }
                        waits
                    });
                    if waits {
                        return Poll::Pending;
                    }
                }
                self.start(context)
            }
            Stage::Done => Poll::Ready(Ok(FaultOutcome::Retry)),
        }
    }
}

impl<P: Platform> Drop for FaultFuture<'_, P> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::New | Stage::Done) || self.waiter.is_done() {
            if self.stage == Stage::WaitingForSlot {
                // A slot came free for this waiter, which will not use it: let the next one have it.
                self.space.memory.faults.pass_slot_on();
            }
            return;
        }
        // SAFETY: the future is pinned (it was polled) and is not moved before its drop ends.
        let waiter = unsafe { Pin::new_unchecked(&self.waiter) };
        match self.stage {
            Stage::Waiting(index) => {
                let _inner = self.space.lock();
                if self.waiter.is_done() {
                    return;
                }
                let slot = self.space.memory.faults.slot(index);
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
            Stage::WaitingForSlot => self.space.memory.faults.with_slot_waiters(|list, _| {
                if !self.waiter.is_done() {
                    // SAFETY: the list's lock is held and the node is in the list.
                    unsafe { waiter.unlink(list) };
                }
            }),
            Stage::New | Stage::Done => {}
        }
    }
}
