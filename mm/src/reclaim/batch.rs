//! Batches: pages that have left their tables together, on their way out.
//!
//! ```text
//!        (1) take            (2) end             (3) flushed               (4) started          (5) finished
//!  Free ──────────► Filling ─────────► Flushing ──────────────► Flushed ──────────────► Writing ─────────────► Over
//!   ▲                  │                                          │                                             │
//!   │                  │ nothing has left                         │ nothing to write                            │
//!   └──────────────────┴───────────────────◄──────────────────────┴──────────◄───────────────(6)────────────────┘
//! ```
//!
//! 1. Whoever makes pages leave takes a batch, the *owner*.
//! 2. Nothing is added any more, and everything is to be flushed on every CPU.
//! 3. Every CPU has flushed. Pages that need no write are dropped.
//! 4. A transfer was free. There is one for each batch, whose completion finds everything it needs in its segments.
//! 5. The device is done.
//! 6. The owner has seen it. If there is no owner any more, the batch is free at once.
//!
//! The owner goes on with its batch as far as it can without waiting; from there on, the reclaimer's task does.

use core::mem::replace;
use core::task::Waker;

use arrayvec::ArrayVec;
use faultline_fallible::Box;

use crate::Memory;
use crate::frame::Pfn;
use crate::platform::Platform;
use crate::swap::{SwapSlot, segment_of, slot_at};
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, MutexGuard, mutant};
use crate::transfer::{Completion, Direction, Finished, MAX_SEGMENTS, TransferResult};

/// Pages of one batch at most: one transfer takes as many.
pub(super) const BATCH: usize = MAX_SEGMENTS;

/// Batches of a machine.
const BATCHES: usize = 16;

/// Batches that the reclaimer's task has at once.
pub(super) const OWN: usize = 3;

/// A page that has left.
#[derive(Clone, Copy)]
pub(super) enum Item {
    /// To be written to its slot, then dropped.
    Write(SwapSlot, Pfn),
    /// The slot has the page: to be dropped when nothing maps it.
    Drop(SwapSlot),
    /// A reference that an entry has given up.
    Release(Pfn),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Free,
    Filling,
    Flushing(u64),
    Flushed,
    Writing,
    Over,
}

/// One batch.
pub(super) struct Batch {
    stage: Stage,
    items: ArrayVec<Item, BATCH>,
    /// All frames that come free are on hold: something may have left since the last flush.
    holds: bool,
    /// Nobody awaits its end.
    orphan: bool,
    owner: Option<Waker>,
}

impl Batch {
    pub(super) const fn new() -> Self {
        Self {
            stage: Stage::Free,
            items: ArrayVec::new_const(),
            holds: false,
            orphan: false,
            owner: None,
        }
    }

    /// Whether no other page fits in.
    pub(super) fn is_full(&self) -> bool {
        self.items.is_full()
    }

    /// Pages so far.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Before a page leaves.
    pub(super) fn hold<P: Platform>(&mut self, memory: &Memory<P>) {
        if !replace(&mut self.holds, true) {
            memory.reclaim.unflushed.fetch_add(1, Ordering::AcqRel);
            if !mutant!(ForgetBatchHold) {
                memory.frames.hold();
            }
        }
    }

    /// Adds a page that has left, with frames on hold. There is room.
    pub(super) fn push<P: Platform>(&mut self, memory: &Memory<P>, item: Item) {
        debug_assert!(self.holds && self.stage == Stage::Filling);
        if self.items.try_push(item).is_ok() {
            memory.reclaim.leaving.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All batches of a machine.
pub(crate) struct Batches {
    batches: Box<[Mutex<Batch>]>,
    /// Who waits for a free one.
    waiters: Mutex<ArrayVec<Waker, BATCHES>>,
}

impl Batches {
    pub(crate) fn new() -> Self {
        let batches = (0..BATCHES).map(|_| Mutex::new(Batch::new()));
        Self {
            // Made once, at the start of the machine.
            batches: Box::try_from_iter(batches).expect("there is memory for the reclaimer's batches"),
            waiters: Mutex::default(),
        }
    }

    fn wake_waiters(&self) {
        let waiters = core::mem::take(&mut *self.waiters.lock());
        waiters.into_iter().for_each(Waker::wake);
    }
}

/// The right to fill a batch, and to learn of its end. Dropping it leaves what has left to the reclaimer's task.
#[must_use = "what has left is written by the reclaimer's task only if the batch is ended"]
pub(super) struct Owner<P: Platform> {
    memory: &'static Memory<P>,
    index: usize,
}

impl<P: Platform> Owner<P> {
    /// The batch, to be filled. To be locked inside the lock of a space.
    pub(super) fn lock(&self) -> MutexGuard<'_, Batch> {
        self.memory.batches.batches[self.index].lock()
    }

    /// Flushes what has left since the last flush, so that frames do not stay on hold while others run; what needs no write
    /// is dropped then. Where other CPUs have to flush too, the batch [ends](Self::end) here: true.
    pub(super) fn flush(&self) -> bool {
        if !self.lock().holds {
            return false;
        }
        let number = self.memory.flush_everywhere();
        if self.memory.has_flushed_everywhere(number) {
            let mut batch = self.lock();
            self.memory.unhold(&mut batch);
            self.memory.drop_written(&mut batch);
            return false;
        }
        self.lock().stage = Stage::Flushing(number);
        self.memory.frames.call_reclaimer();
        true
    }

    /// Nothing is added any more: goes on with the batch as far as that is possible now.
    pub(super) fn end(&self) {
        if !self.flush() {
            let mut batch = self.lock();
            if batch.stage == Stage::Filling {
                batch.stage = Stage::Flushed;
            }
        }
        self.memory.go_on_with(self.index, None);
    }

    /// Whether the batch is over; if not, `waker` is woken when it is.
    pub(super) fn poll_over(&self, waker: &Waker) -> bool {
        let mut batch = self.lock();
        match batch.stage {
            Stage::Over => {
                batch.stage = Stage::Filling;
                batch.items.clear();
                true
            }
            Stage::Filling => true,
            _ => {
                batch.owner = Some(waker.clone());
                false
            }
        }
    }
}

impl<P: Platform> Drop for Owner<P> {
    fn drop(&mut self) {
        let left = {
            let batch = self.lock();
            batch.stage == Stage::Filling && (batch.len() > 0 || batch.holds)
        };
        if left {
            self.end();
        }
        let mut batch = self.lock();
        batch.owner = None;
        match batch.stage {
            Stage::Filling | Stage::Over | Stage::Free => {
                batch.stage = Stage::Free;
                batch.items.clear();
                drop(batch);
                self.memory.batches.wake_waiters();
            }
            Stage::Flushing(_) | Stage::Flushed | Stage::Writing => batch.orphan = true,
        }
    }
}

impl<P: Platform> Memory<P> {
    /// A batch to be filled; none is free: `waker` is woken when one is.
    pub(super) fn take_batch(&'static self, waker: &Waker) -> Option<Owner<P>> {
        if let Some(owner) = self.find_batch() {
            return Some(owner);
        }
        {
            let mut waiters = self.batches.waiters.lock();
            if !waiters.iter().any(|known| known.will_wake(waker)) && waiters.try_push(waker.clone()).is_err() {
                waker.wake_by_ref();
            }
        }
        // Register, then look again.
        self.find_batch()
    }

    fn find_batch(&'static self) -> Option<Owner<P>> {
        for (index, batch) in self.batches.batches.iter().enumerate() {
            let mut batch = batch.lock();
            if batch.stage == Stage::Free {
                batch.stage = Stage::Filling;
                batch.orphan = false;
                return Some(Owner { memory: self, index });
            }
        }
        None
    }

    /// Goes on with every batch that nobody else goes on with; `waker` is woken when there is more to do.
    pub(super) fn go_on_with_all(&'static self, waker: &Waker) {
        for index in 0..BATCHES {
            self.go_on_with(index, Some(waker));
        }
    }

    fn unhold(&'static self, batch: &mut Batch) {
        if replace(&mut batch.holds, false) {
            if !mutant!(ForgetBatchHold) {
                self.frames.unhold(self.platform.cpu());
            }
            self.reclaim.unflushed.fetch_sub(1, Ordering::AcqRel);
            if !mutant!(ForgetFlushParked) {
                self.queue_parked_for_flush();
            }
        }
    }

    /// Goes on with a batch as far as possible. `waker` is the reclaimer's; without it, the reclaimer is called if something
    /// has to be waited for.
    fn go_on_with(&'static self, index: usize, waker: Option<&Waker>) {
        let mut batch = self.batches.batches[index].lock();
        if let Stage::Flushing(number) = batch.stage {
            let passed = match waker {
                Some(waker) => self.poll_flushed_everywhere(number, waker),
                None => self.has_flushed_everywhere(number),
            };
            if !passed && !mutant!(WriteUnflushed) {
                if waker.is_none() {
                    self.frames.call_reclaimer();
                }
                return;
            }
            self.unhold(&mut batch);
            batch.stage = Stage::Flushed;
        }
        if batch.stage != Stage::Flushed {
            return;
        }
        self.drop_written(&mut batch);
        if batch.items.is_empty() {
            self.finish(batch);
            return;
        }
        let (Some(device), Some(mut prepared)) = (self.swap.device(), self.swap.transfers().prepare(Direction::Write))
        else {
            match waker {
                Some(waker) => self.swap.transfers().wake_when_free(Direction::Write, waker),
                None => self.frames.call_reclaimer(),
            }
            return;
        };
        for item in batch.items.drain(..) {
            if let Item::Write(slot, frame) = item {
                prepared.push(segment_of(slot, frame));
            }
        }
        batch.stage = Stage::Writing;
        drop(batch);
        self.counters.batches_written.add(1);
        // No lock is held: the device may be done before this returns.
        prepared.start(&*device, self.swap_writes(), index as u64);
    }

    /// Drops the pages of a flushed batch that need no write.
    fn drop_written(&self, batch: &mut Batch) {
        let cpu = self.platform.cpu();
        let before = batch.items.len();
        let mut freed = 0;
        batch.items.retain(|item| {
            let retired = match *item {
                Item::Write(..) => return true,
                Item::Drop(slot) => self.frames.drop_cached(slot, cpu),
                Item::Release(frame) => self.frames.remove_mapping(frame, cpu).unwrap_or_default(),
            };
            if let Some(retired) = retired {
                self.free_retired(retired);
                freed += 1;
            }
            false
        });
        self.no_longer_leaving(before - batch.items.len());
        self.note_freed(freed);
    }

    fn no_longer_leaving(&self, pages: usize) {
        self.reclaim.leaving.fetch_sub(pages, Ordering::Relaxed);
    }

    /// A batch is over.
    fn finish(&self, mut batch: MutexGuard<'_, Batch>) {
        let (owner, orphan) = (batch.owner.take(), batch.orphan);
        batch.stage = if orphan { Stage::Free } else { Stage::Over };
        drop(batch);
        if orphan {
            self.batches.wake_waiters();
        }
        if let Some(owner) = owner {
            owner.wake();
        }
        // It may have been one of the task's own, which fills the next.
        self.frames.call_reclaimer();
    }

    fn swap_writes(&'static self) -> &'static SwapWrites<P> {
        let this: *const Self = self;
        // SAFETY: `SwapWrites` is a transparent wrapper of a memory, so a reference to the one is one to the other.
        unsafe { &*this.cast::<SwapWrites<P>>() }
    }
}

/// The memory, as the end of writes to the swap area sees it.
#[repr(transparent)]
struct SwapWrites<P: Platform>(Memory<P>);

impl<P: Platform> Completion for SwapWrites<P> {
    fn finished(&'static self, finished: Finished, result: TransferResult) {
        let memory = &self.0;
        let cpu = memory.platform.cpu();
        let mut freed = 0;
        for segment in finished.segments() {
            let slot = slot_at(segment.sector);
            let gone = memory.frames.written(slot, result.is_ok(), cpu);
            let gone = gone.or_else(|| memory.frames.drop_cached(slot, cpu));
            if let Some(retired) = gone {
                memory.free_retired(retired);
                freed += 1;
            }
        }
        let pages = finished.segments().len();
        let index = finished.tag() as usize;
        // The record is free before the next batch looks for one.
        drop(finished);
        memory.no_longer_leaving(pages);
        memory.note_freed(freed);
        memory.finish(memory.batches.batches[index].lock());
    }
}
