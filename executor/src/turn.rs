//! The turn: fire timers, then poll tasks until nothing is runnable or the shares are used up.

use core::task::{Context, Poll};

use crate::{
    Class, Executor, Hooks, Shares, TaskEvent,
    cpu::Cpu,
    sync::{Ordering, fence},
    task::{Completed, Released, Slot, bits},
};

/// What a turn did, and what the CPU may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an idle turn asks the CPU to sleep, any other to turn again"]
pub struct Turn {
    /// How many polls there were.
    pub polls: u32,
    /// Nothing is runnable and no timer is due. The CPU may disable interrupts, ask [`Executor::has_work`], and halt.
    pub idle: bool,
    /// When the next timer of this CPU is due.
    pub next_deadline: Option<u64>,
}

impl<H: Hooks> Executor<H> {
    /// Fires due timers and polls runnable tasks of the CPU, the highest class first, until none is left or each class
    /// has used its share. The CPU calls this for ever:
    ///
    /// ```text
    /// loop {
    ///     let turn = executor.turn(cpu);
    ///     if turn.idle {
    ///         // program the timer interrupt for turn.next_deadline
    ///         cli();
    ///         if executor.has_work(cpu) { sti() } else { sti_and_hlt() }
    ///     }
    /// }
    /// ```
    ///
    /// An interrupt handler may wake tasks at any time. If it runs before `cli`, `has_work` sees the task; if it is
    /// raised after, it ends the halt.
    ///
    /// # Panics
    /// If there is no such CPU, or if a turn of this CPU is under way: a task must not call `turn`.
    pub fn turn(&'static self, cpu: usize) -> Turn {
        let cpu = &self.cpus[cpu];
        let turning = Turning::enter(cpu);
        if cpu.timers.next_deadline().is_some() {
            self.advance_timers_of(cpu, self.hooks.now());
        }

        let shares = self.config.shares;
        let mut left = shares.by_class();
        let mut clock = self.hooks.poll_clock();
        while let Some(slot) = next(cpu, &mut left) {
            self.run(cpu, slot, &mut clock);
        }
        self.end(cpu, shares, &left, turning)
    }

    /// Polls a task that was taken from a queue. `clock` is when the last poll ended.
    #[inline(always)]
    fn run(&'static self, cpu: &'static Cpu, slot: &'static Slot, clock: &mut u64) {
        if slot.state.load() & bits::LIVE == 0 {
            // It was woken during its last poll.
            return self.release(slot, bits::ENQUEUED);
        }
        let word = slot.state.begin_poll();
        cpu.current.store(slot.as_ptr(), Ordering::Relaxed);
        // SAFETY: the task is `LIVE`, which only this CPU clears.
        let table = unsafe { slot.table() };
        if word & bits::CANCEL != 0 {
            return self.cancel(slot);
        }
        self.hooks.trace(TaskEvent::Polled { task: slot.id() });
        let unwind = Unwind { executor: self, slot };
        let poll = slot.waker.with(|waker| {
            // SAFETY: `spawn` wrote the waker, and nobody writes it while the task is `LIVE`.
            let mut cx = Context::from_waker(unsafe { (*waker).assume_init_ref() });
            // SAFETY: the task is `LIVE`, not `DONE`, and this is its home CPU: the storage is ours and has a future.
            unsafe { (table.poll)(slot, &mut cx) }
        });
        core::mem::forget(unwind);
        let now = self.hooks.poll_clock();
        let length = now.wrapping_sub(*clock);
        *clock = now;
        if length > cpu.counters.watermark.load(Ordering::Relaxed) {
            self.long_poll(cpu, slot, length);
        }
        if poll == Poll::Ready(()) {
            self.hooks.trace(TaskEvent::Finished { task: slot.id() });
            self.complete(slot, bits::OUTPUT);
        }
    }

    /// Drops the future of a cancelled task.
    #[cold]
    fn cancel(&'static self, slot: &'static Slot) {
        let unwind = Unwind { executor: self, slot };
        // SAFETY: as in `run`: the storage is ours and has a future.
        unsafe { (slot.table().drop_future)(slot) };
        core::mem::forget(unwind);
        self.hooks.trace(TaskEvent::Cancelled { task: slot.id() });
        self.complete(slot, 0);
    }

    /// Ends a task whose future is gone.
    #[inline(always)]
    fn complete(&'static self, slot: &'static Slot, outcome: u64) {
        match slot.state.complete(outcome) {
            Completed::Released => {}
            Completed::Freed => self.free(slot),
            Completed::WakeJoiner => {
                slot.joiner.with(|joiner| {
                    // SAFETY: `JOINER` was set when the task became `DONE`: the join handle does not write the cell any
                    // more, and `LIVE` keeps the slot.
                    if let Some(waker) = unsafe { &*joiner } {
                        waker.wake_by_ref();
                    }
                });
                self.release(slot, bits::LIVE);
            }
            Completed::Unclaimed => {
                // SAFETY: the storage has an output, and there is no join handle that could own it.
                unsafe { (slot.table().drop_output)(slot) };
                self.release(slot, bits::LIVE);
            }
        }
    }

    /// Releases a reference to a slot.
    #[inline(always)]
    fn release(&self, slot: &'static Slot, reference: u64) {
        if slot.state.release(reference) == Released::Freed {
            self.free(slot);
        }
    }

    /// Looks at a poll that was longer than the watermark. The task is still `LIVE`.
    #[cold]
    fn long_poll(&self, cpu: &Cpu, slot: &'static Slot, length: u64) {
        if cpu.counters.long_poll(length, self.config.stall) {
            // SAFETY: the task is `LIVE`, which is a reference that only this CPU releases.
            self.hooks.stall(slot.id(), unsafe { slot.name() }, length);
        }
    }

    /// Ends a turn: counts, and says whether the CPU may sleep.
    #[inline(always)]
    fn end(&self, cpu: &Cpu, shares: Shares, left: &[u16; Class::COUNT], turning: Turning<'_>) -> Turn {
        cpu.current.store(core::ptr::null_mut(), Ordering::Relaxed);
        let mut idle = !cpu.has_runnable();
        let next_deadline = cpu.timers.next_deadline();
        if idle && next_deadline.is_some_and(|deadline| deadline <= self.hooks.now()) {
            idle = false;
        }
        if idle && self.cpus.len() > 1 {
            cpu.idle.store(true, Ordering::Relaxed);
            // Pairs with the fence of `notify_if_idle`.
            fence(Ordering::SeqCst);
            if cpu.has_runnable() {
                cpu.idle.store(false, Ordering::Relaxed);
                idle = false;
            }
        }
        let polls = cpu.counters.turn(shares, left, idle);
        drop(turning);
        Turn {
            polls,
            idle,
            next_deadline,
        }
    }
}

/// The oldest runnable task of the highest class that has a share left.
#[inline(always)]
fn next(cpu: &'static Cpu, left: &mut [u16; Class::COUNT]) -> Option<&'static Slot> {
    for (queue, left) in cpu.queues.iter().zip(left) {
        if *left != 0
            && let Some(slot) = queue.pop()
        {
            *left -= 1;
            return Some(slot);
        }
    }
    None
}

/// Shows that this is the only turn of the CPU.
struct Turning<'a>(&'a Cpu);

impl<'a> Turning<'a> {
    #[inline(always)]
    fn enter(cpu: &'a Cpu) -> Self {
        // Acquire, and Release in `drop`: a turn sees what the last turn of this CPU did, also if another thread of
        // the host ran it.
        assert!(
            !cpu.turning.swap(true, Ordering::Acquire),
            "a turn of this CPU is under way"
        );
        cpu.idle.store(false, Ordering::Relaxed);
        Self(cpu)
    }
}

impl Drop for Turning<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.turning.store(false, Ordering::Release);
    }
}

/// Ends the task if its poll, or the drop of its future, unwinds. The storage is empty then.
struct Unwind<H: Hooks> {
    executor: &'static Executor<H>,
    slot: &'static Slot,
}

impl<H: Hooks> Drop for Unwind<H> {
    fn drop(&mut self) {
        self.executor.complete(self.slot, bits::PANICKED);
    }
}
