//! The executor: construction, spawning and waking.

use alloc::boxed::Box;
use core::{
    fmt,
    future::Future,
    ptr,
    task::{Poll, Waker},
};

use crate::{
    Class, Config, Event, Hooks, Resource, Statistics, TaskEvent, TaskId, Timers, WaitGraph, Waiting,
    cpu::Cpu,
    queue::ClassQueue,
    slab::Slab,
    sync::{AtomicU64, Ordering, mutant},
    task::{self, Slot, bits},
    waits::{Graph, Subject},
};

/// A cooperative executor; the crate's page explains it.
///
/// It lives for ever, as do the slots of its tasks: a waker may be kept for any length of time.
pub struct Executor<H: Hooks> {
    pub(crate) hooks: H,
    pub(crate) cpus: Box<[Cpu]>,
    pub(crate) slab: Slab,
    pub(crate) config: Config,
    pub(crate) graph: Graph,
    /// The CPUs that have nothing to do and would take a task, where [`Config::balance`] is on; from bit [`MISPLACED`](crate::give::MISPLACED)
    /// on, those that have tasks which may not run there.
    pub(crate) idle: AtomicU64,
}

/// The parts of the executor that need its hooks, for code that does not know their type. Not for hot paths.
pub(crate) trait Inner: Sync {
    /// Cancels a task. The caller holds its join handle.
    fn cancel(&self, slot: &'static Slot, id: TaskId);
    /// Gives a free slot back.
    fn give(&self, slot: &'static Slot);
    /// The task that the current CPU polls.
    fn current(&self) -> Option<&'static Slot>;
    /// The time.
    fn now(&self) -> u64;
    /// The wait-for graph.
    fn graph(&self) -> &Graph;
    /// Changes the effective class of a task.
    fn set_class(&'static self, slot: &'static Slot, class: Class);
}

impl<H: Hooks> Inner for Executor<H> {
    fn cancel(&self, slot: &'static Slot, id: TaskId) {
        // The caller has a handle, so the slot is not used again. From now on a poll drops the future; if the task ends
        // at this moment, there is no further poll.
        slot.set_poll(Self::divert);
        Self::wake(slot, u64::from(id.generation()));
    }

    fn give(&self, slot: &'static Slot) {
        self.free(slot);
    }

    fn current(&self) -> Option<&'static Slot> {
        self.cpus[self.hooks.cpu()].current()
    }

    fn now(&self) -> u64 {
        self.hooks.now()
    }

    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn set_class(&'static self, slot: &'static Slot, class: Class) {
        // SAFETY: a slot that was ever used has a queue, and queues live for ever; at worst it is the wrong one.
        let mut old = unsafe { slot.queue() };
        let cpu = loop {
            let cpu = &self.cpus[old.cpu];
            let [old_link, new_link] = [old, &cpu.queues[class.index()]].map(|queue| ptr::from_ref(queue).cast_mut());
            let exchanged = slot
                .queue
                .compare_exchange(old_link, new_link, Ordering::Relaxed, Ordering::Relaxed);
            let Err(now) = exchanged else { break cpu };
            // SAFETY: as above.
            let now = unsafe { &*now };
            // It has moved to another CPU; else a new task is being spawned into the slot (which can only be if a `Held`
            // was leaked), and keeps its class.
            if now.class != old.class || now.cpu == old.cpu {
                return;
            }
            old = now;
        };
        if slot.state.is_queued() && class < old.class && cpu.mover.state.wake(0) {
            self.push(&cpu.queues[0], &cpu.mover);
        }
    }
}

/// A poll that panics ends its task, and leaves the executor as if the task had been cancelled.
impl<H: Hooks> core::panic::RefUnwindSafe for Executor<H> {}

impl<H: Hooks> fmt::Debug for Executor<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<H: Hooks> Executor<H> {
    /// Makes an executor. It is never freed.
    ///
    /// # Panics
    /// If there is no memory for [`Config::reserve`] tasks.
    #[must_use]
    pub fn new(mut config: Config, hooks: H) -> &'static Self {
        // A CPU alone has nobody to give to.
        config.balance &= config.cpus > 1;
        let place: *mut Self = Box::into_raw(Box::<Self>::new_uninit()).cast();
        let slab = Slab::new(config.capacity);
        slab.reserve(config.reserve.min(slab.capacity()))
            .expect("memory for the reserved task slots");
        let cpus = (0..config.cpus.max(1))
            .map(|index| Cpu::new(index, place, &config))
            .collect();
        // SAFETY: `place` is a fresh allocation for this type; it is written before anybody can read it, and leaked.
        let executor: &'static Self = unsafe {
            place.write(Self {
                hooks,
                cpus,
                slab,
                config,
                graph: Graph::new(),
                idle: AtomicU64::new(0),
            });
            &*place
        };
        executor.cpus.iter().for_each(Self::start_mover);
        executor
    }

    /// Prepares the task that moves tasks between the queues of a CPU.
    fn start_mover(cpu: &'static Cpu) {
        let (mover, queue) = (&cpu.mover, &cpu.queues[0]);
        let state = mover.state.spawn::<false>();
        mover.queue.store(ptr::from_ref(queue).cast_mut(), Ordering::Relaxed);
        mover.set_poll(Self::move_raised);
        // SAFETY: nobody else knows the slot yet.
        unsafe {
            mover.set_waker(task::waker::<H>(mover, state));
            mover.name.with_mut(|name| *name = "mover");
        }
        mover.state.begin_poll();
    }

    /// The [`PollFunction`](task::PollFunction) of the mover.
    unsafe fn move_raised(mover: &'static Slot) -> Poll<()> {
        // SAFETY: the mover lives for ever; its queue belongs to an executor with these hooks.
        let (queue, executor) = unsafe { (mover.queue(), &*mover.queue().executor.cast::<Self>()) };
        let cpu = &executor.cpus[queue.cpu];
        let push = |task, queue| executor.push(queue, task);
        // SAFETY: this is called in a turn of the CPU.
        unsafe {
            cpu.queues.iter().for_each(|queue| queue.take_moved(|_| {}, push));
            cpu.fair.take_moved(&cpu.queues[Class::User.index()], |_| {}, push);
        }
        Poll::Pending
    }

    /// The hooks that the executor was made with.
    pub fn hooks(&self) -> &H {
        &self.hooks
    }

    /// How the executor was made.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Timers of this executor.
    #[inline(always)]
    pub fn timers(&'static self) -> Timers<H> {
        Timers::new(self)
    }

    /// Whether the CPU has something to do: a runnable task or a due timer. To be asked with interrupts off before the
    /// CPU halts; see [`Executor::turn`].
    pub fn has_work(&self, cpu: usize) -> bool {
        let cpu = &self.cpus[cpu];
        cpu.has_work()
            || cpu
                .timers
                .next_deadline()
                .is_some_and(|deadline| deadline <= self.hooks.now())
    }

    /// Fires the timers of the current CPU that are due at `now`, up to [`Config::timers_per_turn`]; returns how many
    /// fired. Every turn does this; a tick that interrupts a long poll may do it, too, even from the interrupt handler:
    /// if the interrupted code holds the timers' lock, nothing fires and the next turn does it.
    pub fn advance_timers(&self, now: u64) -> u32 {
        self.advance_timers_of(&self.cpus[self.hooks.cpu()], now, Waker::wake)
    }

    pub(crate) fn advance_timers_of(&self, cpu: &Cpu, now: u64, wake: impl FnMut(Waker)) -> u32 {
        let fired = cpu.timers.advance(now, self.config.timers_per_turn, wake);
        cpu.counters.timers_fired(u64::from(fired));
        fired
    }

    /// The task that the current CPU polls.
    pub fn current(&self) -> Option<TaskId> {
        Inner::current(self).map(Slot::id)
    }

    /// A resource for the wait-for graph.
    #[must_use]
    pub fn resource(&'static self, name: &'static str) -> Resource {
        Resource::new(self, name)
    }

    /// Declares that the current task, which calls itself `label`, waits for an event while the future is pending.
    pub fn wait_for<F: Future>(&'static self, event: Event, label: u32, future: F) -> Waiting<F> {
        Waiting::new(self, Subject::Event { event, label }, future)
    }

    /// The wait-for graph at this moment: which task waits for what since when, and the cycles.
    pub fn waits(&self) -> WaitGraph<'_, H> {
        WaitGraph::new(self)
    }

    /// What a CPU has counted so far.
    pub fn statistics(&self, cpu: usize) -> Statistics {
        let cpu = &self.cpus[cpu];
        cpu.counters.read(cpu.queues.each_ref().map(ClassQueue::popped))
    }

    /// How many bytes each task takes: its slot, and a larger future's box on top of it.
    pub const fn bytes_per_task(&self) -> usize {
        size_of::<Slot>()
    }

    /// How many tasks are alive.
    pub fn live_tasks(&self) -> usize {
        self.slab
            .iter()
            .filter(|slot| slot.state.load() & (bits::LIVE | bits::DONE) == bits::LIVE)
            .count()
    }

    /// Wakes the task if its generation has this tag. Called from anywhere.
    #[inline(always)]
    pub(crate) fn wake(slot: &'static Slot, tag: u64) {
        if !slot.state.wake(tag) {
            return;
        }
        // SAFETY: we have set `ENQUEUED`, so the slot keeps `LIVE`, a reference, until it is popped.
        let queue = unsafe { slot.queue() };
        // SAFETY: the waker's functions are made for the hooks of the executor that spawned the task, and the queue
        // belongs to that executor.
        let executor = unsafe { &*queue.executor.cast::<Self>() };
        if executor.hooks.tracing() {
            return executor.push_traced(queue, slot);
        }
        executor.push(queue, slot);
    }

    /// Queues a task that a wake has set `ENQUEUED` of, and traces the wake.
    #[cold]
    #[inline(never)]
    fn push_traced(&self, queue: &'static ClassQueue, slot: &'static Slot) {
        self.hooks.trace(TaskEvent::Woken { task: slot.id() });
        self.push(queue, slot);
    }

    /// Wakes a task of the user class that had to wait although its turn is not over, or, from its own poll, a task that wants
    /// to go on. If no other task of the class was taken since, it goes on where it stopped, before all others and with what
    /// the CPU has cached of it, until its turn is over. Otherwise it is woken as usual.
    #[inline]
    pub fn wake_next(&'static self, waker: Waker) {
        let Some((slot, tag)) = task::waker_parts::<H>(&waker) else {
            return waker.wake();
        };
        let cpu = &self.cpus[self.hooks.cpu()];
        if !cpu.fair.is_runner(slot) || cpu.current.load(Ordering::Relaxed).is_null() {
            return Self::wake_other(slot, tag);
        }
        if !slot.state.wake(tag) {
            return;
        }
        // SAFETY: we have set `ENQUEUED`, so the slot keeps `LIVE`, a reference, until it is popped.
        let queue = unsafe { slot.queue() };
        if self.hooks.tracing() {
            self.hooks.trace(TaskEvent::Woken { task: slot.id() });
        }
        if queue.class != Class::User {
            return self.push(queue, slot);
        }
        // The runner of this CPU is a task of this CPU and this executor. A task is being polled (`current` is set), and by
        // the CPU that runs this code (the contract of `Hooks::cpu`), so the turn is ours.
        cpu.fair.keep(slot);
    }

    #[cold]
    #[inline(never)]
    fn wake_other(slot: &'static Slot, tag: u64) {
        Self::wake(slot, tag);
    }

    /// Whether somebody has woken, or spawned, a task of the user class of this CPU since one was last taken: for a task that
    /// wants to go on, but only if no other is to run first.
    #[inline(always)]
    pub fn has_woken_user(&self) -> bool {
        self.cpus[self.hooks.cpu()].queues[Class::User.index()].has_mail()
    }

    /// Ends the turn of the task that is being polled, which goes behind all tasks of the user class that have as little
    /// virtual time as anybody: for a thread that gives the CPU away. To be called in its poll; elsewhere it does nothing.
    pub fn pass(&self) {
        let cpu = &self.cpus[self.hooks.cpu()];
        if cpu.current().is_some_and(|current| cpu.fair.is_runner(current)) {
            // SAFETY: a task of this CPU is being polled, by us (the contract of `Hooks::cpu`): the turn is ours.
            unsafe { cpu.fair.pass() };
        }
    }

    /// Queues a task whose `ENQUEUED` the caller has set, and notifies its CPU if that sleeps.
    #[inline(always)]
    pub(crate) fn push(&self, queue: &'static ClassQueue, slot: &'static Slot) {
        match queue.push(slot) {
            Ok(asleep) => {
                // A CPU without others wakes itself.
                if queue.has_others {
                    self.pushed(queue, asleep);
                }
            }
            Err(newest) => self.push_again(queue, slot, newest),
        }
    }

    /// As [`Executor::push`], after somebody else was faster. The last call of whoever queues a task, as
    /// [`Executor::pushed`], so that nothing has to be saved for it.
    #[cold]
    #[inline(never)]
    fn push_again(&self, queue: &'static ClassQueue, slot: &'static Slot, newest: *mut Slot) {
        let asleep = queue.push_again(slot, newest);
        if queue.has_others {
            self.pushed(queue, asleep);
        }
    }

    /// A task was queued where there are several CPUs: notifies its CPU if that sleeps, or if it is another one that may run
    /// user code of a lower class, or may have to give a task to a CPU that is idle.
    #[cold]
    #[inline(never)]
    fn pushed(&self, queue: &ClassQueue, asleep: bool) {
        let is_due = || queue.class < Class::User || self.idle.load(Ordering::Relaxed) as u32 != 0;
        if asleep || queue.cpu != self.hooks.cpu() && is_due() {
            self.notify(queue.cpu);
        }
    }

    /// Notifies a CPU that sleeps, or is about to.
    #[cold]
    #[inline(never)]
    fn notify(&self, cpu: usize) {
        // Its own interrupt handler needs no notification: the end of the interrupt ends the halt.
        if cpu != self.hooks.cpu() && !mutant!(ForgetNotify) {
            self.hooks.notify(cpu);
        }
    }

    /// Gives a slot back that its last owner has released.
    #[inline(always)]
    pub(crate) fn free(&self, slot: &'static Slot) {
        // SAFETY: the slot has no references left, and is ours: nobody else touches the cells.
        let clean =
            unsafe { slot.joiner.with(|joiner| (*joiner).is_none()) && slot.waits.with(|first| (*first).is_null()) };
        if clean {
            self.slab.give(slot);
        } else {
            self.clean_and_free(slot);
        }
    }

    /// Drops the waker of whoever awaited the handle, and forgets what the task waited for.
    #[cold]
    #[inline(never)]
    fn clean_and_free(&self, slot: &'static Slot) {
        // SAFETY: as in `free`, the only caller; edges are added in polls of the task only.
        slot.joiner.with_mut(|joiner| unsafe { *joiner = None });
        self.graph.forget(slot);
        self.slab.give(slot);
    }
}
