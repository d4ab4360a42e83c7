//! The task that makes frames free.

use core::convert::Infallible;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use arrayvec::ArrayVec;

use super::batch::{BATCH, OWN, Owner};
use super::hand::Hand;
use crate::frame::Watermarks;
use crate::memory::MemoryRef;
use crate::platform::Platform;
use crate::sync::atomic::Ordering;
use crate::sync::mutant;

/// Rounds without an access after which a page leaves, in the first round of a shortage.
const OLD: u64 = 2;

/// The task that makes frames free. Spawn it once, in a class below the fault service; it never ends.
#[must_use = "frames are made free only while this future is polled"]
pub struct Reclaimer<P: Platform> {
    memory: MemoryRef<P>,
    hand: Hand<P>,
    /// The batch that is being filled.
    filling: Option<Owner<P>>,
    /// Batches that are on their way.
    under_way: ArrayVec<Owner<P>, OWN>,
    /// Frames are few: until the high watermark is reached.
    hungry: bool,
    /// The age at which pages leave.
    old: u64,
    /// Frames freed since the start, at the end of the last round.
    freed_before: u64,
    /// Two rounds have freed nothing: until something was freed, more slots are to be had, or a fault asks for a frame.
    rests: bool,
    /// Swap slots that could be had at the end of the last round.
    slots_before: u32,
}

impl<P: Platform> Unpin for Reclaimer<P> {}

impl<P: Platform> Reclaimer<P> {
    pub(super) fn new(memory: MemoryRef<P>) -> Self {
        Self {
            memory,
            hand: Hand::new(),
            filling: None,
            under_way: ArrayVec::new(),
            hungry: false,
            old: OLD,
            freed_before: 0,
            rests: false,
            slots_before: 0,
        }
    }

    /// Whether frames are to be made free.
    fn is_hungry(&mut self) -> bool {
        let frames = &self.memory.frames;
        let watermarks = frames.watermarks();
        let leaving = self.memory.reclaim.leaving.load(Ordering::Relaxed) as u64;
        let free = frames.available() + leaving;
        if watermarks == Watermarks::NONE || free >= u64::from(watermarks.high) {
            self.hungry = false;
        } else if !self.hungry && (free < u64::from(watermarks.low) || self.memory.faults.waiting_for_memory() > 0) {
            self.hungry = true;
            self.old = OLD;
            // What came of the last shortage says nothing about this one.
            self.rests = false;
            self.memory.reclaim.fruitless.store(0, Ordering::Relaxed);
        }
        self.hungry
    }

    /// Whether another round would free nothing either. Who takes one of the last frames, and the end of a batch in which
    /// nothing has left, wake the task although nothing has changed.
    fn rests(&mut self) -> bool {
        let progress = &self.memory.reclaim;
        let asked = progress.asked.load(Ordering::Relaxed) && progress.asked.swap(false, Ordering::Relaxed);
        let freed = progress.freed.load(Ordering::Relaxed) != self.freed_before;
        self.rests &= !asked && !freed && self.memory.frames.swap.to_be_had() <= self.slots_before;
        self.rests
    }

    /// What is being filled goes on its way.
    fn end_filling(&mut self) {
        if let Some(owner) = self.filling.take() {
            owner.end();
            self.under_way.push(owner);
        }
    }

    /// Fills a batch by a step of the hand; says whether to go on at once.
    fn step(&mut self, waker: &Waker) -> bool {
        let memory = self.memory;
        if self.filling.is_none() && !self.under_way.is_full() {
            self.filling = memory.take_batch(waker);
        }
        let Some(owner) = &self.filling else { return false };
        let read_ahead = memory.frames.drop_read_ahead(BATCH, memory.platform.cpu());
        memory.note_freed(read_ahead);
        let step = self.hand.step(memory, owner, self.old);
        memory.counters.pages_scanned.add(step.scanned);
        let (full, empty) = {
            let batch = owner.lock();
            (batch.is_full(), batch.len() == 0)
        };
        if full || step.round_over && !empty {
            self.end_filling();
        } else if owner.flush() {
            self.under_way.extend(self.filling.take());
        }
        !step.round_over || self.end_round()
    }

    /// Ends a round; says whether another one may free something.
    fn end_round(&mut self) -> bool {
        let memory = self.memory;
        memory.counters.reclaim_rounds.add(1);
        let progress = &memory.reclaim;
        let freed = progress.freed.load(Ordering::Relaxed);
        if freed == self.freed_before && progress.leaving.load(Ordering::Relaxed) == 0 {
            progress.fruitless.fetch_add(1, Ordering::Relaxed);
        }
        self.freed_before = freed;
        self.slots_before = memory.frames.swap.to_be_had();
        let fruitless = progress.fruitless.load(Ordering::Relaxed);
        // If nothing was old enough, it is time to take what there is.
        self.old = if fruitless > 0 {
            0
        } else {
            self.old.saturating_sub(1).max(1)
        };
        self.rests = fruitless >= 2;
        !self.rests
    }
}

impl<P: Platform> Future for Reclaimer<P> {
    type Output = Infallible;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Infallible> {
        let this = &mut *self;
        let waker = context.waker();
        // Register, then look: whoever finds few frames in between wakes again.
        this.memory.frames.set_hungry_waker(waker);
        let progress = &this.memory.reclaim;
        // A batch may have a flush under way although nothing has left: there was no slot.
        let unflushed = progress.unflushed.load(Ordering::Relaxed) > 0 && !mutant!(ForgetEmptyBatch);
        if unflushed || progress.leaving.load(Ordering::Relaxed) > 0 {
            this.memory.go_on_with_all(waker);
        }
        this.under_way.retain(|owner| !owner.poll_over(waker));
        if !this.is_hungry() {
            this.end_filling();
        } else if !this.rests() && this.step(waker) {
            waker.wake_by_ref();
        }
        Poll::Pending
    }
}
