//! What one CPU owns: its run queues, its timers and its statistics.

use core::ptr;

use crate::{
    Class, Config, Shares,
    executor::Inner,
    fair::Fair,
    queue::ClassQueue,
    stats::Counters,
    sync::{AtomicBool, AtomicPtr, AtomicU32, Ordering, UnsafeCell},
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
    /// The inboxes may be marked as asleep.
    pub(crate) asleep: AtomicBool,
    /// A turn is under way: makes `turn` exclusive, as the lists have one owner.
    pub(crate) turning: AtomicBool,
    /// The turn has passed over a class that had tasks and no share left: they may be in the lists. Written in turns.
    pub(crate) backlog: AtomicBool,
    /// The order of the user class. The owner's.
    pub(crate) fair: Fair,
    /// When the current poll began. Written by the CPU itself.
    pub(crate) poll_began: AtomicU32,
    /// Polls longer than this are looked at more closely: the lower of the longest poll and the stall limit. The owner's.
    pub(crate) watermark: UnsafeCell<u32>,
    /// The task that moves tasks whose class was raised while they were queued. It is of the highest class and not in
    /// the slab.
    pub(crate) mover: Slot,
    /// Sleeping tasks.
    pub(crate) timers: TimerQueue,
    /// What has been counted.
    pub(crate) counters: Counters,
}

// SAFETY: the cells are used by the functions that ask to be called by the owner only; the rest is `Sync` by itself.
unsafe impl Sync for Cpu {}

impl Cpu {
    pub(crate) fn new(index: usize, executor: *const dyn Inner, config: &Config) -> Self {
        let has_others = config.cpus > 1;
        Self {
            queues: Class::ALL.map(|class| ClassQueue::new(executor, index, has_others, class)),
            current: AtomicPtr::new(ptr::null_mut()),
            asleep: AtomicBool::new(false),
            turning: AtomicBool::new(false),
            backlog: AtomicBool::new(false),
            fair: Fair::new(config.slice),
            poll_began: AtomicU32::new(0),
            watermark: UnsafeCell::new(0),
            mover: Slot::new(u32::MAX),
            timers: TimerQueue::new(),
            counters: Counters::new(),
        }
    }

    /// The task that is being polled.
    #[inline(always)]
    pub(crate) fn current(&self) -> Option<&'static Slot> {
        // SAFETY: `current` holds the address of a slot, which is never freed, or null.
        unsafe { self.current.load(Ordering::Relaxed).as_ref() }
    }

    /// Grants every class its share of a turn.
    ///
    /// # Safety
    /// The caller has the turn of this CPU.
    #[inline(always)]
    pub(crate) unsafe fn grant(&self, shares: Shares) {
        for (queue, share) in self.queues.iter().zip(shares.by_class()) {
            // SAFETY: the caller is the owner.
            unsafe { queue.grant(share) };
        }
    }

    /// Counts what was used of the shares. Returns how many tasks were popped.
    ///
    /// # Safety
    /// The caller has the turn of this CPU, and it has granted these shares.
    #[inline(always)]
    pub(crate) unsafe fn settle(&self, shares: Shares) -> u32 {
        let used = self.queues.iter().zip(shares.by_class());
        // SAFETY: the caller is the owner.
        used.map(|(queue, share)| u32::from(unsafe { queue.settle(share) }))
            .sum()
    }

    /// Marks the inboxes: who pushes on one notifies this CPU. `false` if something is in one of them.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        self.queues.iter().all(ClassQueue::fall_asleep)
    }

    /// Takes the marks away. Says whether they were there.
    #[inline(always)]
    pub(crate) fn wake_up(&self) -> bool {
        let asleep = self.asleep.load(Ordering::Relaxed);
        if asleep {
            self.asleep.store(false, Ordering::Relaxed);
            self.queues.iter().for_each(ClassQueue::wake_up);
        }
        asleep
    }

    /// How many tasks of the user class wait for a turn, about: for another CPU.
    pub(crate) fn waiting(&self) -> u32 {
        let mail = self.queues[Class::User.index()].has_mail();
        self.fair.waiting_for_others() + u32::from(mail)
    }

    /// Whether a task is queued: in an inbox, or left over by the last turn. Exact on this CPU between its turns, as far
    /// as its own pushes go; elsewhere a hint.
    #[inline(always)]
    pub(crate) fn has_work(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) || self.queues.iter().any(ClassQueue::has_mail)
    }
}
