//! Work for idle CPUs: a busy CPU gives one of its tasks away.
//!
//! Tasks wait in lists that belong to one CPU, and nobody else touches them. So an idle CPU does not steal: it says that it
//! is idle, and a CPU that has more than it can run gives it a task, of the user class always (private deques with explicit
//! transfer: Acar, Charguéraud and Rainey, "Scheduling parallel programs by work stealing with private deques", 2013). That
//! costs the busy CPU one load a turn, and its queues no atomic instruction more.
//!
//! | who | does, in this order |
//! |---|---|
//! | a CPU that finds nothing to do | (1) marks its inboxes as asleep; (2) sets its bit in `idle`; (3) interrupts the CPU with the most tasks that wait, if there is one |
//! | a CPU with a task that waits, at the start of a turn and when it has chosen among tasks | (1) takes a task out of its lists; (2) takes a bit out of `idle`, or puts the task back if another CPU was faster; (3) makes the other CPU's queue the task's; (4) tells the machine that it leaves; (5) pushes it there, which notifies the CPU |
//! | a CPU that begins a turn after it has slept | takes its bit out of `idle`, if it is there |
//! | who wakes or spawns a task of a CPU that is not asleep, on another one | interrupts that CPU if any is idle, so that it gives one away |
//!
//! A bit is taken by one atomic operation, so an idle CPU gets one task, and asks again when it has run it. If a task comes to
//! a CPU after an idle one has looked at it, nothing is lost: the busy CPU looks at `idle` in its next turn, which comes
//! with the next interrupt at the latest, and that is less than a slice away.
//!
//! A task that is in a queue belongs to the CPU of that queue: its home may change between two polls, while `ENQUEUED` is
//! set. So whoever wakes it, and sets the bit for the next time, sees its new home: the poll's clearing of the bit is after
//! the move, and the waker's setting of it is after that (both are acquiring and releasing).

use core::{ptr, task::Waker};

use crate::{
    Class, Executor, Hooks,
    cpu::Cpu,
    fair::NEW,
    queue::ClassQueue,
    sync::{Ordering, mutant},
    task::{self, Slot},
};

/// From this bit of the word of idle CPUs on, the CPUs that have tasks which may not run there.
pub(crate) const MISPLACED: usize = 32;

impl<H: Hooks> Executor<H> {
    /// Gives tasks that wait on this CPU to CPUs that are idle, one each.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn give_to_idle(&'static self, cpu: &'static Cpu) {
        if self.idle.load(Ordering::Relaxed) != 0 {
            // SAFETY: the caller's promise.
            unsafe { self.give(cpu) };
        }
    }

    /// # Safety
    /// As [`Executor::give_to_idle`].
    #[cold]
    #[inline(never)]
    unsafe fn give(&'static self, cpu: &'static Cpu) {
        let queue = &cpu.queues[Class::User.index()];
        let misplaced = 1 << (MISPLACED + queue.cpu);
        if self.idle.load(Ordering::Relaxed) & misplaced != 0 {
            self.idle.fetch_and(!misplaced, Ordering::AcqRel);
            // SAFETY: the turn is the caller's, here and below.
            unsafe { self.move_misplaced(cpu, queue) };
        }
        let mut left = u32::MAX;
        // SAFETY: as above.
        while unsafe { cpu.fair.has_waiting() } {
            let idle = self.idle.load(Ordering::Relaxed) as u32 & left;
            if idle == 0 {
                break;
            }
            let to = idle.trailing_zeros() as usize;
            // Each is looked at once.
            left &= !(1 << to);
            // SAFETY: as above.
            let Some(slot) = (unsafe { cpu.fair.give(to) }) else {
                continue;
            };
            let bit = 1 << to;
            let claimed = to != queue.cpu && self.idle.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
            if claimed {
                self.move_to(to, queue, slot);
            } else {
                // Somebody else was faster: the task goes back, as one that was woken.
                self.push(queue, slot);
            }
        }
    }

    /// Moves all tasks that wait on this CPU, and may not run on it, to CPUs that they may run on.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's; the queue is its user queue.
    unsafe fn move_misplaced(&'static self, cpu: &'static Cpu, queue: &'static ClassQueue) {
        let look = |slot: &'static Slot| {
            if slot.may_run_on(queue.cpu) {
                return;
            }
            let allowed = slot.allowed.load(Ordering::Relaxed).trailing_zeros() as usize;
            if let Some(home) = self.cpus.get(allowed) {
                rehome(slot, queue, &home.queues[Class::User.index()]);
            }
        };
        let push = |slot: &'static Slot, home: &'static ClassQueue| self.send(slot, queue, home);
        // SAFETY: the caller's promise.
        unsafe {
            queue.take_moved(look, push);
            cpu.fair.take_moved(queue, look, push);
        }
    }

    /// Restricts the task of this waker to some CPUs, as a bit set, one of which there has to be. A task that waits on a CPU
    /// stays there until it is polled, and then calls [`Executor::leave_here`].
    pub fn restrict(&self, waker: &Waker, cpus: u64) {
        if let Some((slot, _)) = task::waker_parts::<H>(waker) {
            slot.allowed.store(cpus, Ordering::Relaxed);
        }
    }

    /// Ends the turn of the task that is being polled, which may not run on this CPU: when it is queued again, it moves to one
    /// that it may run on. To be called in its poll, which then wakes itself.
    pub fn leave_here(&self) {
        self.idle
            .fetch_or(1 << (MISPLACED + self.hooks.cpu()), Ordering::AcqRel);
        self.end_turn_soon();
    }

    /// Moves a task that was taken out of the lists of `from` to the user queue of another CPU.
    fn move_to(&'static self, to: usize, from: &'static ClassQueue, slot: &'static Slot) {
        let target = &self.cpus[to].queues[Class::User.index()];
        if mutant!(MoveWithoutHome) {
            return self.send(slot, from, target);
        }
        rehome(slot, from, target);
        // SAFETY: the task is queued, so it has `LIVE`, which is a reference.
        self.send(slot, from, unsafe { slot.queue() });
    }

    /// Queues a task that was taken out of the lists of `from` at its home.
    fn send(&'static self, slot: &'static Slot, from: &ClassQueue, home: &'static ClassQueue) {
        if home.cpu != from.cpu {
            self.hooks.leaves(slot.id(), home.cpu);
            slot.virtual_time.store(NEW, Ordering::Relaxed);
        }
        self.push(home, slot);
    }

    /// This CPU has nothing to do: says so, and asks the CPU that has most.
    #[cold]
    #[inline(never)]
    pub(crate) fn ask_for_work(&self, cpu: usize) {
        self.idle.fetch_or(1 << cpu, Ordering::AcqRel);
        let busy = |other: &usize| *other != cpu && !self.cpus[*other].asleep.load(Ordering::Relaxed);
        let most = (0..self.cpus.len())
            .filter(busy)
            .map(|other| (self.cpus[other].waiting(), other))
            .max();
        if let Some((1.., other)) = most {
            self.hooks.notify(other);
        }
    }

    /// This CPU has something to do again, whoever gave it.
    #[cold]
    #[inline(never)]
    pub(crate) fn ask_no_more(&self, cpu: usize) {
        self.idle.fetch_and(!(1 << cpu), Ordering::AcqRel);
    }
}

/// Makes `to` the home of a task that is queued in `from`. If its class was raised at this moment, it has another home than
/// that, and keeps it; the mover has been woken for it.
fn rehome(slot: &'static Slot, from: &'static ClassQueue, to: &'static ClassQueue) {
    let [old, new] = [from, to].map(|queue| ptr::from_ref(queue).cast_mut());
    let _ = slot
        .queue
        .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
}
