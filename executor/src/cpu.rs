//! What one CPU owns: its run queues, its timers and its statistics.

use core::ptr;

use crate::{
    Class,
    executor::Inner,
    queue::ClassQueue,
    stats::Counters,
    sync::{AtomicBool, AtomicPtr},
    task::Slot,
    time::TimerQueue,
};

/// The state of one CPU. Any CPU may push on the queues; the rest is written by the CPU itself.
#[repr(C, align(128))]
pub(crate) struct Cpu {
    /// One run queue per class.
    pub(crate) queues: [ClassQueue; Class::COUNT],
    /// The task that is being polled.
    pub(crate) current: AtomicPtr<Slot>,
    /// The CPU has found nothing to do and may halt: who pushes on an empty inbox must notify it.
    pub(crate) idle: AtomicBool,
    /// A turn is under way: makes `turn` exclusive, as the lists have one owner.
    pub(crate) turning: AtomicBool,
    /// The index of this CPU.
    pub(crate) index: usize,
    /// The executor that this belongs to.
    pub(crate) executor: *const dyn Inner,
    /// Sleeping tasks.
    pub(crate) timers: TimerQueue,
    /// What has been counted.
    pub(crate) counters: Counters,
}

// SAFETY: `executor` points at an `Executor`, which is `Sync` and lives for ever; the rest is `Sync` by itself.
unsafe impl Send for Cpu {}
// SAFETY: as above.
unsafe impl Sync for Cpu {}

impl Cpu {
    pub(crate) fn new(index: usize, executor: *const dyn Inner) -> Self {
        Self {
            queues: core::array::from_fn(|_| ClassQueue::new()),
            current: AtomicPtr::new(ptr::null_mut()),
            idle: AtomicBool::new(false),
            turning: AtomicBool::new(false),
            index,
            executor,
            timers: TimerQueue::new(),
            counters: Counters::new(),
        }
    }

    /// The executor that this CPU belongs to.
    #[inline(always)]
    pub(crate) fn executor(&self) -> &'static dyn Inner {
        // SAFETY: `Executor::new` set it to the address of the executor, which is never freed; a `Cpu` is reachable
        // only after `new` has filled the executor in.
        unsafe { &*self.executor }
    }

    /// Whether a task is queued.
    #[inline(always)]
    pub(crate) fn has_runnable(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }
}
