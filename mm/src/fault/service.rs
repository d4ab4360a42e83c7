//! The fault service: the task that serves queued faults, and the steps that it takes for each.
//!
//! The service never awaits on behalf of one fault while another could go on: a fault that finds no frame is parked in
//! the order of arrival, one whose device works is parked with a waker of its own, and the next is served.

use core::convert::Infallible;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use faultline_fallible::Arc;

use faultline_trace::{FaultClass, Kind};

use super::admit::small;
use super::slot::{RequestRef, Slot, SlotToken};
use super::{Ending, FaultOutcome};
use crate::Memory;
use crate::entry::{Entry, EntryState};
use crate::memory::{EntryRef, MemoryRef};
use crate::platform::Platform;
use crate::space::Space;
use crate::sync::atomic::Ordering;
use crate::sync::mutant;
use crate::tlb::Change;

/// Faults that are served in one poll at most, so that other tasks get their turn in a storm.
const BUDGET: usize = 32;

/// The task that serves queued faults. Spawn it once, in the highest class; it never ends.
#[must_use = "faults are served only while this future is polled"]
pub struct FaultService<P: Platform> {
    memory: MemoryRef<P>,
}

impl<P: Platform> FaultService<P> {
    pub(crate) fn new(memory: MemoryRef<P>) -> Self {
        Self { memory }
    }
}

impl<P: Platform> Future for FaultService<P> {
    type Output = Infallible;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Infallible> {
        let memory = self.memory;
        memory.feed_hungry(context.waker());
        let budget = BUDGET - memory.serve_waiting(context.waker());
        for _ in 0..budget {
            let (token, last) = memory.faults.take(context.waker());
            if let Some(token) = token
                && let Some(first) = memory.serve(token, context.waker())
            {
                first.wake();
            }
            if last {
                // Who parked a fault before the service could be woken has woken somebody else.
                if memory.faults.waiting_for_memory() > 0 && memory.has_frame_for_waiting(context.waker()) {
                    context.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Completes a fault with an error if the step that served it unwinds: a backing object panicked. No waiter is left.
struct Unwinding<P: Platform> {
    memory: MemoryRef<P>,
    slot: &'static Slot<P>,
}

impl<P: Platform> Drop for Unwinding<P> {
    fn drop(&mut self) {
        let token = SlotToken(self.slot);
        // The step that held the token is gone, so this one stands for the slot.
        let request = token.request();
        let inner = request.space().lock();
        self.memory.complete(token, inner, Ending::ReadFailed).wake();
    }
}

/// What a step made of a fault.
#[must_use = "a waiter may be left to be woken"]
pub(super) enum Step<P: Platform> {
    /// Every waiter has a result, and the space keeps the slot. The first waiter is left to be woken.
    Completed(Option<Waker>),
    /// Likewise, and the slot is free for all. Its reference to the space is left.
    Released(Option<Waker>, Option<Arc<Space<P>>>),
    /// No frame is free.
    NoMemory(SlotToken<P>),
    /// More work is left than one step should do.
    Again(SlotToken<P>),
    /// The class has changed, or what it depends on: take the step once more.
    Reclassified(SlotToken<P>),
    /// It waits in a list, which has the token.
    Parked,
}

impl<P: Platform> Step<P> {
    /// Wakes the first waiter of a fault that is over.
    fn wake(self) {
        if let Self::Completed(Some(first)) | Self::Released(Some(first), _) = self {
            first.wake();
        }
    }
}

impl<P: Platform> Memory<P> {
    /// Whether the poll that has just ended has left a fault with this CPU: see
    /// [`FaultMode::HandedOff`](crate::FaultMode::HandedOff).
    #[inline(always)]
    #[must_use]
    pub fn has_left_fault(&self) -> bool {
        self.faults.has_left(self.platform.cpu())
    }

    /// Serves the fault that the poll of the task with the waker `polled` has left with this CPU, as the fault service
    /// would. Returns whether that was all that the task waits for: then it was not woken, and may be polled again at once.
    /// If faults wait for memory, this one is queued instead: it is the service that shares memory out.
    ///
    /// To be called by the executor between two polls.
    #[inline(always)]
    pub fn serve_left_fault(&'static self, polled: &Waker) -> bool {
        let Some(token) = self.faults.take_left(self.platform.cpu()) else {
            return false;
        };
        if self.faults.waiting_for_memory() > 0 {
            self.faults.push(token);
            return false;
        }
        match self.serve(token, polled) {
            Some(first) if first.will_wake(polled) || mutant!(ResumeAny) => true,
            Some(first) => {
                first.wake();
                false
            }
            None => false,
        }
    }

    /// Queues the fault that the poll that has just ended has left with this CPU: something else is due first.
    #[cold]
    pub fn queue_left_fault(&self) {
        if let Some(token) = self.faults.take_left(self.platform.cpu()) {
            self.faults.push(token);
        }
    }

    /// Records an event of a fault in service; what it says is read only if it is recorded.
    #[inline(always)]
    pub(super) fn trace_request(&self, kind: Kind, request: RequestRef<P>, a: u64, b: u64) {
        if self.platform.traces(kind) {
            self.platform.record(kind, request.space().id, request.fault, a, b);
        }
    }

    /// Records an event that says which page the fault is on.
    #[inline(always)]
    pub(super) fn trace_page(&self, kind: Kind, request: RequestRef<P>, b: u64) {
        if self.platform.traces(kind) {
            self.platform
                .record(kind, request.space().id, request.fault, request.page, b);
        }
    }

    /// Serves one fault as far as it can go now, in the poll of the thread that it is of.
    #[inline(never)]
    pub(super) fn serve_now(&'static self, token: SlotToken<P>, waker: &Waker) {
        if let Some(first) = self.serve(token, waker) {
            first.wake();
        }
    }

    /// Serves one fault as far as it can go now. Returns its first waiter, to be woken, if it is over.
    #[inline(always)]
    fn serve(&'static self, mut token: SlotToken<P>, waker: &Waker) -> Option<Waker> {
        let guard = Unwinding {
            memory: self,
            slot: token.slot(),
        };
        let first = loop {
            let request = token.request();
            if token.slot().abandoned.load(Ordering::Relaxed) {
                self.give_up(token);
                break None;
            }
            // One test for all events of the usual step.
            let step = if self.platform.traces(Kind::FaultServe) {
                self.traced_step(token, request)
            } else {
                self.step::<false>(token, request)
            };
            match step {
                Step::Completed(first) => break first,
                Step::Released(first, owner) => {
                    drop(owner);
                    break first;
                }
                Step::Reclassified(same) => {
                    token = same;
                    continue;
                }
                Step::Again(same) => self.faults.push(same),
                Step::NoMemory(same) => self.park_for_memory(same, waker),
                Step::Parked => {}
            }
            break None;
        };
        core::mem::forget(guard);
        first.filter(|_| !mutant!(ForgetWake))
    }

    #[cold]
    #[inline(never)]
    fn traced_step(&'static self, token: SlotToken<P>, request: RequestRef<P>) -> Step<P> {
        self.trace_page(Kind::FaultServe, request, request.class as u64);
        self.step::<true>(token, request)
    }

    /// The step for the class of the fault. `TRACED` is false if faults are not traced: then the most usual steps need not
    /// ask for each of their events.
    #[inline(always)]
    fn step<const TRACED: bool>(&'static self, token: SlotToken<P>, request: RequestRef<P>) -> Step<P> {
        match (request.entry, request.class) {
            (Some(entry), FaultClass::DemandZero) => self.serve_demand_zero::<TRACED>(token, request, entry),
            (Some(entry), FaultClass::ZeroPage) => self.serve_zero_page::<TRACED>(token, request, entry),
            (Some(entry), FaultClass::CowCopy) => self.serve_cow::<TRACED>(token, request, entry),
            (Some(entry), FaultClass::File | FaultClass::Shared) => self.serve_backed(token, request, entry),
            (Some(entry), FaultClass::Swap) => self.serve_swap(token, request, entry),
            (None, FaultClass::Huge) => self.serve_huge(token, request),
            _ => self.place(token, request),
        }
    }

    /// Finds or makes the entry of a fault that was admitted without one, and marks it.
    #[inline(never)]
    fn place(&'static self, token: SlotToken<P>, request: RequestRef<P>) -> Step<P> {
        let slot = token.slot();
        let space: &Space<P> = request.space();
        let page = request.page;
        let mut inner = space.lock();
        // SAFETY: the space's lock is held.
        if unsafe { slot.shared() }.stale {
            return self.complete_stale(token, inner);
        }
        let root = inner.root.expect("destroying a space makes its faults stale");
        let mut change = Change::new();
        let entry = match space.own_leaf(&mut inner, root, page, &mut change) {
            Ok(entry) => entry,
            Err(_) => {
                space.finish(&mut inner, change);
                return Step::NoMemory(token);
            }
        };
        space.finish(&mut inner, change);
        let value = entry.get();
        let class = match value.state() {
            EntryState::Empty => small(request.class, request.access),
            EntryState::Swapped { .. } => FaultClass::Swap,
            EntryState::Present { .. } if !value.allows(request.access) => FaultClass::CowCopy,
            EntryState::Present { .. } => {
                // Mapped meanwhile by a neighbour's fault-around, or allowed since the table is the space's own.
                space.finish(&mut inner, Change::upgrade(page));
                return self.complete(token, inner, Ending::Done(FaultOutcome::Spurious));
            }
            EntryState::InFlight(_) => unreachable!("a page has a marker and a slot in the side list"),
        };
        if class == FaultClass::CowCopy {
            entry.or(Entry::BUSY);
        } else {
            entry.set(request.marker);
            space.unlink_side(&mut inner, token.index());
        }
        // SAFETY: the token and the space's lock are held; `request` is not used after this.
        let request = unsafe { slot.request_mut() };
        request.entry = Some(entry);
        request.class = class;
        request.before = if value.is_present() { Entry::EMPTY } else { value };
        Step::Reclassified(token)
    }

    /// Nobody waits for the fault: withdraws it.
    #[cold]
    fn give_up(&'static self, token: SlotToken<P>) {
        let request = token.request();
        let inner = request.space().lock();
        self.complete(token, inner, Ending::Done(FaultOutcome::Retry)).wake();
    }

    #[cold]
    fn park_for_memory(&'static self, token: SlotToken<P>, waker: &Waker) {
        let request = token.request();
        self.counters.memory_waits.add(1);
        let waiting = self.faults.waiting_for_memory() as u64 + 1;
        self.trace_page(Kind::MemoryWait, request, waiting);
        self.faults.park_for_memory(token);
        self.ask_reclaimer();
        let service = self.service_waker_or(waker);
        if self.has_frame_for_waiting(&service) && !mutant!(QueueWithoutWake) {
            service.wake();
        }
    }

    /// The waker of the service, or `waker` before it has slept.
    pub(crate) fn service_waker_or(&self, waker: &Waker) -> Waker {
        self.faults.service_waker().unwrap_or_else(|| waker.clone())
    }

    /// Whether a fault that waits for a frame may have one now; if not, the next frame that comes free wakes `waker`.
    #[cold]
    fn has_frame_for_waiting(&self, waker: &Waker) -> bool {
        // Register, then look: a frame that came free in between would wake nobody. The last one has used the waker up,
        // and faults may be left that it does not serve.
        if !mutant!(ForgetMemoryWaker) {
            self.frames.set_low_memory_waker(waker);
        }
        self.frames.available_for_faults() > 0
    }

    /// Serves faults that wait for a frame, a space after the other, while there are frames. Returns how many.
    #[inline(always)]
    fn serve_waiting(&'static self, waker: &Waker) -> usize {
        if self.faults.waiting_for_memory() == 0 {
            return 0;
        }
        self.serve_some_waiting(waker)
    }

    #[cold]
    fn serve_some_waiting(&'static self, waker: &Waker) -> usize {
        let cpu = self.platform.cpu();
        for served in 0..BUDGET {
            if !self.has_frame_for_waiting(waker) {
                return served;
            }
            let Some(token) = self.faults.take_waiting() else {
                return served;
            };
            self.faults.set_permit(cpu, true);
            let keeps = mutant!(KeepPermit) && token.slot().abandoned.load(Ordering::Relaxed);
            let first = self.serve(token, waker);
            if !keeps {
                self.faults.set_permit(cpu, false);
            }
            if let Some(first) = first {
                first.wake();
            }
        }
        BUDGET
    }
}

/// The entry of a fault still carries its marker.
#[inline]
pub(super) fn still_marked<P: Platform>(request: RequestRef<P>, entry: EntryRef<'_>) -> bool {
    entry.get() == request.marker
}
