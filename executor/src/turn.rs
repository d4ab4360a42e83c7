//! The turn: fire timers, then poll tasks until nothing is runnable, the shares are used up, or the turn is long.

use core::task::{Poll, Waker};

use crate::{
    Class, Executor, Hooks, TaskEvent,
    cpu::Cpu,
    queue::ClassQueue,
    sync::{Ordering, mutant},
    task::{self, Slot, bits},
};

/// A turn is long after this part of a slice: timers are looked at more often than turns of tasks change, and seldom enough
/// to cost nothing.
const LONG_TURN: u32 = 8;

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
        if turning.1 && self.config.balance {
            self.ask_no_more(cpu.queues[0].cpu);
        }
        if cpu.timers.next_deadline().is_some() {
            let mut front = [None; Class::COUNT];
            // SAFETY: the turn of this CPU is ours.
            self.advance_timers_of(cpu, self.hooks.now(), |waker| unsafe {
                self.wake_due(cpu, &mut front, waker)
            });
        }

        // SAFETY: `turning` shows that the turn of this CPU is ours, here and in all that is called from here.
        unsafe { cpu.grant(self.config.shares) };
        if self.hooks.holds_users() {
            // SAFETY: as above.
            unsafe { cpu.queues[Class::User.index()].spend() };
        }
        let now = self.hooks.poll_clock();
        let mut gap = 0;
        if H::MEASURE_POLLS {
            gap = now.wrapping_sub(cpu.poll_began.load(Ordering::Relaxed));
            cpu.poll_began.store(now, Ordering::Relaxed);
        }
        // SAFETY: as above.
        let left = unsafe { cpu.fair.begin(now, gap) };
        self.hooks.turn_begins(cpu.timers.next_deadline(), left);
        cpu.backlog.store(false, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe {
            self.give_to_idle(cpu);
            self.poll_tasks(cpu, now);
        }
        // SAFETY: as above.
        unsafe { self.end(cpu, turning) }
    }

    /// Polls tasks, the highest class first, until none is left, each class has used its share, or the turn, which began at
    /// `began`, is long: a task that yields in the midst of long work wants due timers to be looked at, which only the next
    /// turn does.
    ///
    /// Before a task of the lower two classes is polled, only the inboxes of the upper two are looked at: once their lists
    /// are empty, or their shares used up, only a push on an inbox can change that ([`Executor::wake_next`] puts no task of
    /// these classes in front).
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    unsafe fn poll_tasks(&'static self, cpu: &'static Cpu, began: u32) {
        let [fault_service, device, user, idle] = &cpu.queues;
        let long = self.config.slice / LONG_TURN;
        loop {
            // SAFETY: the caller has the turn, here and below.
            let upper = || unsafe { next_of(cpu, fault_service).or_else(|| next_of(cpu, device)) };
            while let Some(slot) = upper() {
                // SAFETY: as above.
                unsafe { self.run(cpu, slot) };
            }
            loop {
                // SAFETY: as above.
                let lower = unsafe { self.next_user(cpu, user).or_else(|| next_of(cpu, idle)) };
                let Some(slot) = lower else { return };
                // SAFETY: as above.
                unsafe { self.run_lower(cpu, slot) };
                // Only after a poll of the lower classes, so that the upper ones can't keep them from running.
                if self.turn_clock(cpu).wrapping_sub(began) > long {
                    return note_backlog(cpu);
                }
                if fault_service.inbox_word() | device.inbox_word() != 0 {
                    break;
                }
            }
        }
    }

    /// The task of the user class whose turn it is, if there is one and a share is left. Notes it in `backlog` if there is a
    /// task and no share.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's, and the queue is its user queue.
    #[inline(always)]
    unsafe fn next_user(&'static self, cpu: &'static Cpu, queue: &'static ClassQueue) -> Option<&'static Slot> {
        let fair = &cpu.fair;
        // SAFETY: the caller is the owner.
        unsafe {
            let woken = queue.list_word() | queue.inbox_word() != 0;
            if !woken && !fair.has_front() && !fair.has_waiting() {
                fair.rest(self.turn_clock(cpu));
                return None;
            }
            if !queue.charge() {
                note_backlog(cpu);
                return None;
            }
            if woken {
                if let Some(runner) = fair.woken_again(queue) {
                    return Some(runner);
                }
            } else if let Some(runner) = fair.runner_again(self.turn_clock(cpu)) {
                return Some(runner);
            }
            let taken = fair.take(queue, self.turn_clock(cpu));
            let alarm = fair.take_alarm();
            if alarm != 0 {
                self.hooks.alarm_in(alarm);
            }
            self.give_to_idle(cpu);
            taken
        }
    }

    /// The clock for turns of the user class, between two polls.
    #[inline(always)]
    fn turn_clock(&self, cpu: &Cpu) -> u32 {
        if H::MEASURE_POLLS {
            cpu.poll_began.load(Ordering::Relaxed)
        } else {
            self.hooks.poll_clock()
        }
    }

    /// Wakes a task whose timer is due, before all others of its class: it is late already. `front` has the last task of
    /// each class that was put there.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    unsafe fn wake_due(&self, cpu: &Cpu, front: &mut [Option<&'static Slot>; Class::COUNT], waker: Waker) {
        let Some((slot, tag)) = task::waker_parts::<H>(&waker) else {
            return waker.wake();
        };
        if !slot.state.wake(tag) {
            return;
        }
        if self.hooks.tracing() {
            self.hooks.trace(TaskEvent::Woken { task: slot.id() });
        }
        // SAFETY: we have set `ENQUEUED`, so the slot keeps `LIVE`, a reference, until it is popped.
        let queue = unsafe { slot.queue() };
        if !core::ptr::eq(queue, &raw const cpu.queues[queue.class.index()]) {
            return self.push(queue, slot);
        }
        slot.state.set_due();
        // SAFETY: the queue is one of this CPU's; nothing was taken from its list since the task in `front` was put there.
        unsafe {
            match front[queue.class.index()].replace(slot) {
                Some(before) => queue.push_behind(before, slot),
                None => queue.push_front(slot),
            }
        }
    }

    /// Lets the turn end after the current poll, so that timers are looked at: for a task that was interrupted by a tick.
    /// To be called in a poll; elsewhere it does nothing.
    pub fn end_turn_soon(&self) {
        let cpu = &self.cpus[self.hooks.cpu()];
        if !cpu.current.load(Ordering::Relaxed).is_null() {
            for queue in &cpu.queues {
                // SAFETY: a task of this CPU is being polled, by us (the contract of `Hooks::cpu`): the turn is ours.
                unsafe { queue.spend() };
            }
        }
    }

    /// Polls a task that was taken from a queue.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    unsafe fn run(&'static self, cpu: &'static Cpu, slot: &'static Slot) {
        let unwind = self.begin(cpu, slot);
        // SAFETY: the task was popped.
        let poll = unsafe { self.poll_once(cpu, slot) };
        if poll == Poll::Ready(()) {
            core::mem::forget(unwind);
            self.finish(cpu);
        } else {
            self.measure(cpu);
            core::mem::forget(unwind);
        }
        if self.hooks.has_left() {
            self.hooks.queue_left();
        }
    }

    /// Polls a task of the lower two classes that was taken from a queue. What its poll leaves with the CPU is done at once,
    /// and the task then goes on without having been queued, as long as it may ([`Executor::goes_on`]).
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    unsafe fn run_lower(&'static self, cpu: &'static Cpu, slot: &'static Slot) {
        let unwind = self.begin(cpu, slot);
        // SAFETY: the task was popped.
        let first = unsafe { slot.poll() };
        loop {
            // SAFETY: the task was popped, and has not ended since.
            let poll = unsafe {
                if mutant!(PollKilled) {
                    first(slot)
                } else {
                    self.poll_once(cpu, slot)
                }
            };
            if poll == Poll::Ready(()) {
                core::mem::forget(unwind);
                self.finish(cpu);
                if self.hooks.has_left() {
                    self.hooks.queue_left();
                }
                return;
            }
            // SAFETY: the turn is ours.
            if !self.hooks.has_left() || !unsafe { self.serve_left(cpu) } {
                break;
            }
            // One reading of the clock for the poll and the service of what it has left.
            self.measure(cpu);
            // SAFETY: as above.
            if !unsafe { self.goes_on(cpu) } {
                core::mem::forget(unwind);
                return self.queue_served(cpu);
            }
        }
        self.measure(cpu);
        core::mem::forget(unwind);
    }

    /// Begins to poll a task that was taken from a queue.
    #[inline(always)]
    fn begin(&'static self, cpu: &'static Cpu, slot: &'static Slot) -> Unwind<H> {
        debug_assert!(
            // SAFETY: the task was popped, so it has `LIVE`, which is a reference.
            unsafe { slot.queue() }.cpu == cpu.queues[0].cpu || slot.index == u32::MAX,
            "a task is polled on a CPU that is not its own"
        );
        if !mutant!(ClearAfterPoll) {
            slot.state.begin_poll();
        }
        cpu.current.store(slot.as_ptr(), Ordering::Relaxed);
        Unwind { executor: self, cpu }
    }

    /// Polls the task that was begun with.
    ///
    /// # Safety
    /// The task was popped, and has not ended since.
    #[inline(always)]
    unsafe fn poll_once(&'static self, cpu: &'static Cpu, slot: &'static Slot) -> Poll<()> {
        if H::TRACE_POLLS && self.hooks.tracing() {
            self.hooks.trace(TaskEvent::Polled { task: slot.id() });
        }
        // SAFETY: a slot that was popped is `LIVE`, and this is its home CPU, which alone releases `LIVE`. Unless it is `DONE`
        // the storage is ours and has a future; if it is, the function is `bury` or `divert`, which look at that.
        let poll = unsafe { slot.poll()(slot) };
        // The slot may be free by now; `current` says so.
        if mutant!(ClearAfterPoll)
            && let Some(slot) = cpu.current()
        {
            slot.state.begin_poll();
        }
        poll
    }

    /// Does what the poll that has just ended has left with the CPU, unless a task of a class above is runnable, which goes
    /// first. Returns whether the polled task may go on.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    unsafe fn serve_left(&'static self, cpu: &'static Cpu) -> bool {
        let [fault_service, device, ..] = &cpu.queues;
        let above = fault_service.word() | device.word();
        match cpu.current() {
            Some(slot) if above == 0 => {
                // SAFETY: the task is `LIVE`, and nobody but this CPU touches its context.
                unsafe { slot.with_context(|context| self.hooks.serve_left(context.waker())) }
            }
            _ => {
                self.hooks.queue_left();
                false
            }
        }
    }

    /// Whether the task whose poll has left something that is done by now may be polled again: nobody was woken since, its
    /// turn is not over, and a share is left, so that due timers are not passed over.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    unsafe fn goes_on(&'static self, cpu: &'static Cpu) -> bool {
        let [fault_service, device, user, _] = &cpu.queues;
        let woken = fault_service.inbox_word() | device.inbox_word() | user.word();
        // SAFETY: the caller is the owner.
        mutant!(PassDueTimers)
            || (woken == 0 || mutant!(PollKilled))
                && cpu.fair.turn_goes_on(cpu.current(), self.turn_clock(cpu))
                && unsafe { user.charge() }
    }

    /// Queues the task whose poll has left something that is done by now.
    #[cold]
    #[inline(never)]
    fn queue_served(&'static self, cpu: &'static Cpu) {
        if let Some(slot) = cpu.current() {
            // SAFETY: the task is `LIVE`, and nobody but this CPU touches its context.
            unsafe { slot.with_context(|context| self.wake_next(context.waker().clone())) };
        }
    }

    /// Measures the poll that has just ended. The task is still `LIVE`, or `current` is null.
    #[inline(always)]
    pub(crate) fn measure(&self, cpu: &Cpu) {
        if let Some(length) = self.long_poll(cpu) {
            self.look_at(cpu, length);
        }
    }

    /// The length of the poll that has just ended, if that was above the watermark.
    #[inline(always)]
    pub(crate) fn long_poll(&self, cpu: &Cpu) -> Option<u32> {
        if !H::MEASURE_POLLS {
            return None;
        }
        let now = self.hooks.poll_clock();
        let length = now.wrapping_sub(cpu.poll_began.load(Ordering::Relaxed));
        cpu.poll_began.store(now, Ordering::Relaxed);
        // SAFETY: the cell is the owner's: `run` and `divert` are called in the turn only.
        cpu.watermark
            .with(|watermark| unsafe { length > *watermark })
            .then_some(length)
    }

    /// Looks at a poll that was longer than the watermark.
    #[cold]
    #[inline(never)]
    pub(crate) fn look_at(&self, cpu: &Cpu, length: u32) {
        let Some(slot) = cpu.current() else { return };
        let stalled = length > self.config.stall;
        let longest = cpu.counters.long_poll(length, stalled);
        // SAFETY: the cell is the owner's, as in `long_poll`.
        cpu.watermark
            .with_mut(|watermark| unsafe { *watermark = longest.max(length).min(self.config.stall) });
        // SAFETY: the task is `LIVE`, which is a reference that only this CPU releases.
        let (id, name) = (slot.id(), unsafe { slot.name() });
        if stalled {
            self.hooks.stall(id, name, length);
        }
        if length > longest {
            self.hooks.longest_poll(id, name, length);
        }
        // What the hooks took is no part of the next poll.
        cpu.poll_began.store(self.hooks.poll_clock(), Ordering::Relaxed);
    }

    /// Takes `length` units of [`Hooks::poll_clock`] off the poll that is under way: time that the machine has spent on
    /// something that is not to be counted, such as user code.
    pub fn discount(&self, length: u32) {
        let cpu = &self.cpus[self.hooks.cpu()];
        let began = cpu.poll_began.load(Ordering::Relaxed).wrapping_add(length);
        cpu.poll_began.store(began, Ordering::Relaxed);
    }

    /// Ends a turn: counts, and says whether the CPU may sleep.
    ///
    /// # Safety
    /// The turn of the CPU is the caller's.
    #[inline(always)]
    unsafe fn end(&self, cpu: &Cpu, turning: Turning<'_>) -> Turn {
        let next_deadline = cpu.timers.next_deadline();
        let idle = !cpu.backlog.load(Ordering::Relaxed)
            && next_deadline.is_none_or(|deadline| deadline > self.hooks.now())
            && (self.cpus.len() == 1 || cpu.fall_asleep());
        if idle && self.config.balance {
            self.ask_for_work(cpu.queues[0].cpu);
        }
        cpu.counters.turn(idle);
        // SAFETY: as above.
        let polls = unsafe { cpu.settle(self.config.shares) };
        drop(turning);
        Turn {
            polls,
            idle,
            next_deadline,
        }
    }
}

/// The oldest task of a class that mostly has none, if there is one and a share is left. Notes it in `backlog` if there is a
/// task and no share.
///
/// # Safety
/// The turn of the CPU is the caller's, and the queue is one of this CPU's.
#[inline(always)]
unsafe fn next_of(cpu: &Cpu, queue: &ClassQueue) -> Option<&'static Slot> {
    if queue.list_word() | queue.inbox_word() == 0 {
        return None;
    }
    // SAFETY: the caller is the owner of the queue; the list is empty or the inbox is not.
    unsafe {
        if queue.charge() {
            return Some(match queue.first() {
                Some(first) => queue.pop_first(first),
                None => queue.take_inbox(),
            });
        }
    }
    note_backlog(cpu);
    None
}

/// Notes that a class has tasks and no share.
#[inline(always)]
fn note_backlog(cpu: &Cpu) {
    if !mutant!(ForgetBacklog) {
        cpu.backlog.store(true, Ordering::Relaxed);
    }
}

/// Shows that this is the only turn of the CPU; and whether the CPU had gone to sleep after the last.
struct Turning<'a>(&'a Cpu, bool);

impl<'a> Turning<'a> {
    #[inline(always)]
    fn enter(cpu: &'a Cpu) -> Self {
        // Acquire, and Release in `drop`: a turn sees what the last turn of this CPU did, also if another thread of
        // the host ran it.
        assert!(
            !cpu.turning.swap(true, Ordering::Acquire),
            "a turn of this CPU is under way"
        );
        Self(cpu, cpu.wake_up())
    }
}

impl Drop for Turning<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Also when a poll has unwound.
        self.0.current.store(core::ptr::null_mut(), Ordering::Relaxed);
        self.0.turning.store(false, Ordering::Release);
    }
}

/// Ends the task if its poll, the drop of its future or a hook unwinds. What is in the storage by then is not touched any
/// more.
pub(crate) struct Unwind<H: Hooks> {
    pub(crate) executor: &'static Executor<H>,
    pub(crate) cpu: &'static Cpu,
}

impl<H: Hooks> Drop for Unwind<H> {
    fn drop(&mut self) {
        if let Some(slot) = self.cpu.current() {
            self.cpu.fair.ended(slot);
            self.executor.complete::<{ bits::PANICKED }>(slot);
        }
    }
}
