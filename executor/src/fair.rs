//! The order of the user class: fair in time.
//!
//! # Virtual time
//!
//! Each task has a *virtual time*: the time that it has run, in units of [`Hooks::poll_clock`](crate::Hooks::poll_clock).
//! Whoever has the least runs next, so that tasks which are always runnable run for equally long, however often they wait
//! for a page. This is start-time fair queueing (Goyal, Vin and Cheng, 1996): the class's own virtual time is that of the
//! task which was taken last, never goes back, and is where new and long-waiting tasks join:
//!
//! * A **new** task begins at the virtual time of whoever ran last, which is the one that spawned it, and never before the
//!   class's own. Running in children gains nothing.
//! * A task that is **woken** keeps its virtual time, but is never more than [`Lengths::credit`] behind the class: nobody
//!   saves up a long sleep.
//!
//! # Turns
//!
//! The task that is taken has the CPU for a *turn* of [`Config::slice`](crate::Config::slice). Waiting does not end a turn
//! as long as no other task was taken: a thread whose page fault was served ([`Hooks::serve_left`](crate::Hooks::serve_left))
//! goes on before all others, with the address space that is loaded. What happens between its polls, in the service of its
//! faults for example, is counted as its own time; what happens between two turns of the executor (due timers, an idle
//! CPU) is nobody's. A turn is over when its time is up and another task has less virtual time. A task that yields may go
//! on, too, [`YIELDS`] times a turn.
//!
//! # Preference for who has waited
//!
//! A task that is woken goes into the *express line* if it is not more than [`Lengths::overdraft`] ahead of the class, even
//! if others have less virtual time. That line, first-in first-out, is served before the others, a turn there is
//! [`Lengths::guest`] long, and whoever needs more goes on in the order of virtual time. If its timer is due, or if it is
//! behind the task that runs, it interrupts that task's turn, which is taken up again afterwards.
//!
//! The preference is bounded: the express line pays for its time with that of the others, who get at least as much
//! ([`Line::account`]). And it is no gift: the time counts as any other, so a task that waits all the time but uses more
//! than its share runs ahead of the class, and then waits like everybody.
//!
//! # Cost
//!
//! The queue of virtual times is a calendar: a ring of [`BUCKETS`] buckets, each a first-in first-out chain through the
//! slots. Putting a task in and taking the next one out are O(1), whatever the number of tasks; nothing is allocated. The
//! order is exact up to the width of a bucket, an eighth of a slice or less, and the error does not add up, because virtual
//! times themselves are exact. A task is never put further ahead than the ring is long, which is nearly eight slices.
//!
//! # Who may touch it
//!
//! Everything here belongs to the CPU that has the turn of the executor. Other CPUs and interrupt handlers push tasks on
//! the inbox of the class's queue only. A task that is given to an idle CPU joins there at the class's virtual time, as a
//! new one: nobody waits there whom it could be ahead of or behind.

use core::{cell::Cell, ptr};

use crate::{
    queue::ClassQueue,
    sync::{AtomicPtr, AtomicU32, Ordering, UnsafeCell},
    task::{Slot, bits},
};

/// Buckets of the calendar: one for each bit of a word.
const BUCKETS: u64 = u64::BITS as u64;

/// How many wakes of itself a task may go on after in one turn, so that tasks which yield to each other get on even if no
/// time passes.
const YIELDS: u32 = 32;

/// How many woken tasks are put in order before one is polled.
const PLACED: usize = 64;

/// As the runner: the task has ended, and its time is not counted yet.
const ENDED: *mut Slot = ptr::without_provenance_mut(1);

/// The virtual time of a task that was never taken.
pub(crate) const NEW: u64 = u64::MAX;

/// Where virtual time begins: far enough from 0 for every credit.
const EPOCH: u64 = 1 << 40;

/// The lengths that follow from that of a slice.
#[derive(Clone, Copy)]
struct Lengths {
    /// A turn.
    slice: u32,
    /// A turn in the express line.
    guest: u32,
    /// How much less virtual time than the runner a woken task must have to interrupt it, if no timer woke it.
    margin: u64,
    /// How much longer than its turn a task that waits for pages may go on if no interrupt comes in between.
    grace: u32,
    /// How much less virtual time than the class a woken task can have.
    credit: u64,
    /// How much more virtual time than the class a woken task may have and still be preferred.
    overdraft: u64,
    /// The width of a bucket is two to the power of this.
    shift: u32,
}

impl Lengths {
    fn new(slice: u32) -> Self {
        let slice = slice.clamp(8, 1 << 29);
        Self {
            slice,
            guest: slice.div_ceil(16),
            margin: u64::from(slice / 8),
            grace: slice / 8,
            credit: u64::from(slice / 2),
            overdraft: u64::from(slice) * 2,
            shift: (slice / 8).ilog2(),
        }
    }
}

/// A first-in first-out chain of slots.
#[derive(Clone, Copy)]
struct Chain {
    first: *mut Slot,
    last: *mut Slot,
}

impl Chain {
    const EMPTY: Self = Self {
        first: ptr::null_mut(),
        last: ptr::null_mut(),
    };

    #[inline(always)]
    fn push(&mut self, slot: &'static Slot) {
        slot.next.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: the chain holds slots, which are never freed.
        match unsafe { self.last.as_ref() } {
            Some(last) if !self.first.is_null() => last.next.store(slot.as_ptr(), Ordering::Relaxed),
            _ => self.first = slot.as_ptr(),
        }
        self.last = slot.as_ptr();
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<&'static Slot> {
        // SAFETY: the chain holds slots, which are never freed, and ends with null.
        let slot: &'static Slot = unsafe { self.first.as_ref() }?;
        self.first = slot.next.load(Ordering::Relaxed);
        Some(slot)
    }

    /// Takes all tasks out that `leaves` says.
    fn retain(&mut self, mut leaves: impl FnMut(&'static Slot) -> bool) {
        let mut all = core::mem::replace(self, Self::EMPTY);
        while let Some(slot) = all.pop() {
            if !leaves(slot) {
                self.push(slot);
            }
        }
    }
}

/// The order of the user class on one CPU; the module explains it.
pub(crate) struct Fair {
    /// Whose turn it is: the task that was taken last, or [`ENDED`]; null if nothing was left to take.
    runner: AtomicPtr<Slot>,
    /// The runner, if it can go on.
    front: AtomicPtr<Slot>,
    /// When the turn is over, and [`Lengths::grace`] more.
    until: AtomicU32,
    /// Since when the runner's time is to be counted.
    began: AtomicU32,
    /// How many tasks wait, as other CPUs see it. Written by the owner.
    shown: AtomicU32,
    line: UnsafeCell<Line>,
}

/// Who waits for a turn.
struct Line {
    lengths: Lengths,
    /// The class's virtual time.
    time: u64,
    /// The runner's, when its time began to be counted; that of the last runner, if there is none.
    runner: u64,
    /// The runner came from the express line.
    guest: bool,
    /// The runner gives its turn away.
    passes: bool,
    /// Somebody is to interrupt the turn.
    urgent: bool,
    /// How many tasks wait.
    waiting: u32,
    /// Whose turn was interrupted.
    interrupted: *mut Slot,
    /// What is left of that turn.
    rest: u32,
    /// How long the turn is that has just begun, if it is shorter than a slice, or the first after a rest; else 0.
    alarm: u32,
    /// The time that the express line may take from the others, at most a slice. It grows by what they use.
    account: i64,
    express: Chain,
    /// Which buckets have tasks.
    occupied: u64,
    buckets: [Chain; BUCKETS as usize],
}

// SAFETY: the pointers are to slots, which are shared and never freed.
unsafe impl Send for Line {}

impl Fair {
    pub(crate) fn new(slice: u32) -> Self {
        let lengths = Lengths::new(slice);
        Self {
            runner: AtomicPtr::new(ptr::null_mut()),
            front: AtomicPtr::new(ptr::null_mut()),
            until: AtomicU32::new(0),
            began: AtomicU32::new(0),
            shown: AtomicU32::new(0),
            line: UnsafeCell::new(Line {
                lengths,
                time: EPOCH,
                runner: EPOCH,
                guest: false,
                passes: false,
                urgent: false,
                waiting: 0,
                interrupted: ptr::null_mut(),
                rest: 0,
                alarm: 0,
                account: lengths.slice.into(),
                express: Chain::EMPTY,
                occupied: 0,
                buckets: [Chain::EMPTY; BUCKETS as usize],
            }),
        }
    }

    /// Whether it is this task's turn.
    #[inline(always)]
    pub(crate) fn is_runner(&self, slot: &'static Slot) -> bool {
        self.runner.load(Ordering::Relaxed) == slot.as_ptr()
    }

    /// Whether it is this task's turn, and the turn is not over.
    #[inline(always)]
    pub(crate) fn turn_goes_on(&self, slot: Option<&'static Slot>, now: u32) -> bool {
        slot.is_some_and(|slot| self.is_runner(slot))
            && self.until.load(Ordering::Relaxed).wrapping_sub(now).cast_signed() > 0
    }

    /// Lets the runner go on. The caller has set its `ENQUEUED`.
    #[inline(always)]
    pub(crate) fn keep(&self, runner: &'static Slot) {
        self.front.store(runner.as_ptr(), Ordering::Relaxed);
    }

    /// The task has ended: it is not the runner any more.
    #[inline(always)]
    pub(crate) fn ended(&self, slot: &'static Slot) {
        if self.is_runner(slot) {
            self.runner.store(ENDED, Ordering::Relaxed);
        }
    }

    /// A turn of the executor begins. The `gap` since the last one is nobody's time, and if the runner's turn is over by now,
    /// it gets no grace. Returns within which time the machine is to interrupt, if the turn is somebody's: what is left of it,
    /// or a slice if it is over, so that whoever is taken next is interrupted in time.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    #[inline(always)]
    pub(crate) unsafe fn begin(&self, now: u32, gap: u32) -> Option<u32> {
        let began = self.began.load(Ordering::Relaxed).wrapping_add(gap);
        self.began.store(began, Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed).wrapping_add(gap);
        // SAFETY: the cell is the owner's.
        let Lengths { grace, slice, .. } = self.line.with(|line| unsafe { (*line).lengths });
        let left = until.wrapping_sub(grace).wrapping_sub(now);
        let over = left.cast_signed() <= 0;
        self.until.store(if over { now } else { until }, Ordering::Relaxed);
        let any = !self.runner.load(Ordering::Relaxed).is_null();
        any.then_some(if over { slice } else { left })
    }

    /// Lets the runner's turn end, and others go first that have as much virtual time.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    pub(crate) unsafe fn pass(&self) {
        // SAFETY: the cell is the owner's.
        self.line.with_mut(|line| unsafe { (*line).passes = true });
        // No time that is not past.
        self.until.store(self.began.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether the runner can go on.
    #[inline(always)]
    pub(crate) fn has_front(&self) -> bool {
        !self.front.load(Ordering::Relaxed).is_null()
    }

    /// Whether tasks wait for a turn, the runner and those of the queue not counted.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    #[inline(always)]
    pub(crate) unsafe fn has_waiting(&self) -> bool {
        // SAFETY: the cell is the owner's.
        self.line.with(|line| unsafe { (*line).waiting != 0 })
    }

    /// Takes the runner, if it can go on and its turn is not over, or not for long: the machine's timer ends it in time, and
    /// better between two page faults than in one. Nobody was woken since.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    #[inline(always)]
    pub(crate) unsafe fn runner_again(&self, now: u32) -> Option<&'static Slot> {
        if self.until.load(Ordering::Relaxed).wrapping_sub(now).cast_signed() <= 0 {
            return None;
        }
        // SAFETY: the word is null or the address of a slot, which is never freed.
        let front: &'static Slot = unsafe { self.front.load(Ordering::Relaxed).as_ref() }?;
        self.front.store(ptr::null_mut(), Ordering::Relaxed);
        Some(front)
    }

    /// Takes the runner if it was woken as usual, by itself perhaps, and is the only task. Moves the inbox to the list
    /// otherwise, if that is empty.
    ///
    /// # Safety
    /// The caller has the turn of the CPU, and the queue is its user queue; a task is in it.
    #[inline(always)]
    pub(crate) unsafe fn woken_again(&self, queue: &ClassQueue) -> Option<&'static Slot> {
        // SAFETY: the caller is the owner.
        unsafe {
            if queue.list_word() != 0 {
                return None;
            }
            let only = queue.take_only()?;
            if self.is_runner(only) && !self.has_waiting() {
                return Some(only);
            }
            queue.push_front(only);
        }
        None
    }

    /// How many tasks waited when the CPU last chose among them: for another CPU.
    pub(crate) fn waiting_for_others(&self) -> u32 {
        self.shown.load(Ordering::Relaxed)
    }

    /// Takes a task out that waits and may run on CPU `to`: one that would run last of those in the calendar, or the first of
    /// the express line. One whose turn was interrupted stays. Looks at a few only.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    pub(crate) unsafe fn give(&self, to: usize) -> Option<&'static Slot> {
        const LOOKS: usize = 4;
        // SAFETY: the cell is the owner's.
        self.line.with_mut(|line| unsafe {
            let line = &mut *line;
            let mut found = None;
            for _ in 0..LOOKS {
                let Some(slot) = line.leave_last() else { break };
                line.waiting -= 1;
                if slot.may_run_on(to) {
                    found = Some(slot);
                    break;
                }
                line.enter(slot, slot.virtual_time.load(Ordering::Relaxed));
            }
            if found.is_none()
                && let Some(slot) = line.express.pop()
            {
                if slot.may_run_on(to) {
                    line.waiting -= 1;
                    found = Some(slot);
                } else {
                    line.express.push(slot);
                }
            }
            self.shown.store(line.waiting, Ordering::Relaxed);
            found
        })
    }

    /// Nobody is left to run.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    #[inline(always)]
    pub(crate) unsafe fn rest(&self, now: u32) {
        if !self.runner.load(Ordering::Relaxed).is_null() {
            // SAFETY: the cell is the owner's.
            self.line.with_mut(|line| unsafe { self.count(&mut *line, now) });
            self.runner.store(ptr::null_mut(), Ordering::Relaxed);
            self.shown.store(0, Ordering::Relaxed);
        }
    }

    /// Puts who was woken in order, and takes the task whose turn it is.
    ///
    /// # Safety
    /// The caller has the turn of the CPU, and the queue is its user queue. A task is in its list, waits for a turn or can
    /// go on.
    #[inline(never)]
    pub(crate) unsafe fn take(&self, queue: &ClassQueue, now: u32) -> Option<&'static Slot> {
        // SAFETY: the cell is the owner's.
        self.line.with_mut(|line| unsafe {
            let line = &mut *line;
            self.count(line, now);
            if line.passes {
                return self.take_after_pass(line, queue, now);
            }
            if let Some(woken) = queue.first()
                && queue.inbox_word() == 0
                && line.waiting == 0
                && !self.has_front()
            {
                let time = woken.virtual_time.load(Ordering::Relaxed);
                // A new task is behind everybody that was woken, and goes first if it is first in the queue.
                if time == NEW || woken.next.load(Ordering::Relaxed).is_null() {
                    return Some(self.take_first(line, queue.pop_first(woken), time, now));
                }
            }
            self.take_in_order(line, queue, now)
        })
    }

    /// Within which time the machine is to interrupt the task that was just taken; 0 if it need not know.
    ///
    /// # Safety
    /// The caller has the turn of the CPU.
    #[inline(always)]
    pub(crate) unsafe fn take_alarm(&self) -> u32 {
        // SAFETY: the cell is the owner's.
        self.line
            .with_mut(|line| unsafe { core::mem::take(&mut (*line).alarm) })
    }

    /// As [`Fair::take`], if there is a choice.
    ///
    /// # Safety
    /// As [`Fair::take`].
    #[inline(never)]
    unsafe fn take_in_order(&self, line: &mut Line, queue: &ClassQueue, now: u32) -> Option<&'static Slot> {
        for _ in 0..PLACED {
            // SAFETY: the caller is the owner.
            let Some(woken) = (unsafe { queue.pop() }) else { break };
            self.place(line, woken);
        }
        let chosen = self.choose(line, now);
        self.shown.store(line.waiting, Ordering::Relaxed);
        chosen
    }

    /// As [`Fair::take`], after the runner has given its turn away.
    ///
    /// # Safety
    /// As [`Fair::take`].
    #[inline(never)]
    unsafe fn take_after_pass(&self, line: &mut Line, queue: &ClassQueue, now: u32) -> Option<&'static Slot> {
        if queue.word() == 0 && line.all_in_order() {
            // SAFETY: the word is null or the address of a slot, which is never freed.
            if let Some(front) = unsafe { self.front.load(Ordering::Relaxed).as_ref() } {
                return Some(self.hand_over(line, front, now));
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.take_in_order(line, queue, now) }
    }

    /// Takes the first task of the calendar, behind which the runner goes, for it gives its turn away: what
    /// [`Fair::choose`] comes to if nobody waits outside the calendar.
    #[inline(always)]
    fn hand_over(&self, line: &mut Line, front: &'static Slot, now: u32) -> &'static Slot {
        line.passes = false;
        line.urgent = false;
        line.guest = false;
        self.front.store(ptr::null_mut(), Ordering::Relaxed);
        let slot = line.exchange(front);
        self.runner.store(slot.as_ptr(), Ordering::Relaxed);
        line.runner = slot.virtual_time.load(Ordering::Relaxed);
        line.time = line.time.max(line.runner);
        self.begin_turn(line, now, line.lengths.slice);
        slot
    }

    /// Takes a task before which nobody is.
    #[inline(always)]
    fn take_first(&self, line: &mut Line, slot: &'static Slot, time: u64, now: u32) -> &'static Slot {
        let time = if time == NEW {
            line.runner.max(line.time)
        } else {
            time.max(line.time - line.lengths.credit)
        };
        line.time = line.time.max(time);
        line.runner = time;
        line.guest = false;
        line.passes = false;
        self.runner.store(slot.as_ptr(), Ordering::Relaxed);
        self.begin_turn(line, now, line.lengths.slice);
        slot
    }

    /// Begins a turn.
    #[inline(always)]
    fn begin_turn(&self, line: &Line, now: u32, length: u32) {
        let until = now.wrapping_add(length).wrapping_add(line.lengths.grace);
        self.until.store(until, Ordering::Relaxed);
    }

    /// What is left of the turn; not above 0 if that is over.
    #[inline(always)]
    fn left(&self, line: &Line, now: u32) -> i32 {
        let until = self.until.load(Ordering::Relaxed);
        until.wrapping_sub(line.lengths.grace).wrapping_sub(now).cast_signed()
    }

    /// Counts the runner's time up to now.
    #[inline(always)]
    fn count(&self, line: &mut Line, now: u32) {
        let used = now.wrapping_sub(self.began.load(Ordering::Relaxed));
        self.began.store(now, Ordering::Relaxed);
        let runner = self.runner.load(Ordering::Relaxed);
        if runner.is_null() {
            line.alarm = line.lengths.slice;
            return;
        }
        line.runner += u64::from(used);
        let (used, slice) = (i64::from(used), i64::from(line.lengths.slice));
        if line.guest {
            line.account = (line.account - used).max(-slice);
        } else if line.account < slice {
            line.account = (line.account + used).min(slice);
        }
        if runner != ENDED {
            // SAFETY: the word is the address of a slot, which is never freed.
            unsafe { &*runner }.virtual_time.store(line.runner, Ordering::Relaxed);
        }
    }

    /// Puts a task in order that was woken, or is new.
    #[inline(always)]
    fn place(&self, line: &mut Line, slot: &'static Slot) {
        if self.is_runner(slot) {
            let until = self.until.load(Ordering::Relaxed);
            self.until
                .store(until.wrapping_sub(line.lengths.slice / YIELDS), Ordering::Relaxed);
            return self.keep(slot);
        }
        let time = slot.virtual_time.load(Ordering::Relaxed);
        if time == NEW {
            return line.enter(slot, line.runner.max(line.time));
        }
        let time = time.max(line.time - line.lengths.credit);
        if time > line.time + line.lengths.overdraft {
            return line.enter(slot, time);
        }
        slot.virtual_time.store(time, Ordering::Relaxed);
        line.express.push(slot);
        line.waiting += 1;
        let due = slot.state.load() & bits::DUE != 0;
        line.urgent |= due || time + line.lengths.margin < line.runner;
    }

    /// Takes the task whose turn it is.
    #[inline(always)]
    fn choose(&self, line: &mut Line, now: u32) -> Option<&'static Slot> {
        let urgent = core::mem::take(&mut line.urgent);
        let passes = core::mem::take(&mut line.passes);
        // SAFETY: the word is null or the address of a slot, which is never freed.
        if let Some(front) = unsafe { self.front.load(Ordering::Relaxed).as_ref() } {
            let left = self.left(line, now);
            let over = left <= 0 || passes;
            let goes_on = if over {
                line.waiting == 0 || !passes && line.is_least()
            } else {
                line.guest || !(urgent && line.express_pays())
            };
            self.front.store(ptr::null_mut(), Ordering::Relaxed);
            if goes_on {
                if over {
                    line.guest = false;
                    line.time = line.time.max(line.runner);
                    self.begin_turn(line, now, line.lengths.slice);
                }
                return Some(front);
            }
            if !over {
                line.interrupted = front.as_ptr();
                line.waiting += 1;
                line.rest = left.cast_unsigned();
            } else if passes {
                line.enter_behind_the_first(front);
            } else {
                line.enter(front, line.runner);
            }
        }
        self.take_other(line, now)
    }

    /// Takes another task than the runner.
    fn take_other(&self, line: &mut Line, now: u32) -> Option<&'static Slot> {
        let (slot, length) = if !line.express.first.is_null() && line.express_pays() {
            line.guest = true;
            line.alarm = line.lengths.guest;
            (line.express.pop(), line.lengths.guest)
        } else {
            line.guest = false;
            // SAFETY: the word is null or the address of a slot, which is never freed.
            match unsafe { core::mem::replace(&mut line.interrupted, ptr::null_mut()).as_ref() } {
                Some(interrupted) => {
                    line.alarm = line.rest;
                    (Some(interrupted), line.rest)
                }
                None => (line.leave(), line.lengths.slice),
            }
        };
        self.runner
            .store(slot.map_or(ptr::null_mut(), Slot::as_ptr), Ordering::Relaxed);
        let slot = slot?;
        line.waiting -= 1;
        line.runner = slot.virtual_time.load(Ordering::Relaxed);
        self.begin_turn(line, now, length);
        Some(slot)
    }

    /// Takes all tasks out that belong to another queue by now, or once `look` has looked at them, and gives them to `moved`.
    /// For rare events: it looks at every task.
    ///
    /// # Safety
    /// The caller has the turn of the CPU; the queue is its user queue.
    pub(crate) unsafe fn take_moved(
        &self,
        queue: &ClassQueue,
        look: impl Fn(&'static Slot),
        mut moved: impl FnMut(&'static Slot, &'static ClassQueue),
    ) {
        let left = Cell::new(0);
        let mut leaves = |slot: &'static Slot| {
            look(slot);
            // SAFETY: the task is queued, so it has `LIVE`, which is a reference.
            let home = unsafe { slot.queue() };
            let leaves = !ptr::eq(home, queue);
            if leaves {
                left.set(left.get() + 1);
                moved(slot, home);
            }
            leaves
        };
        // SAFETY: the word is null or the address of a slot, which is never freed.
        if let Some(front) = unsafe { self.front.load(Ordering::Relaxed).as_ref() }
            && leaves(front)
        {
            self.front.store(ptr::null_mut(), Ordering::Relaxed);
        }
        // The runner does not wait.
        left.set(0);
        // SAFETY: the cell is the owner's.
        self.line.with_mut(|line| unsafe {
            let line = &mut *line;
            if let Some(interrupted) = line.interrupted.as_ref()
                && leaves(interrupted)
            {
                line.interrupted = ptr::null_mut();
            }
            line.express.retain(&mut leaves);
            let mut occupied = 0;
            for (index, bucket) in line.buckets.iter_mut().enumerate() {
                bucket.retain(&mut leaves);
                occupied |= u64::from(!bucket.first.is_null()) << index;
            }
            line.occupied = occupied;
            line.waiting -= left.get();
        });
    }
}

impl Line {
    /// Whether the express line may be served: there is something on its account, or nobody else has to wait for it.
    #[inline(always)]
    fn express_pays(&self) -> bool {
        self.account > 0 || self.occupied == 0 && self.interrupted.is_null()
    }

    /// Whether nobody who waits has less virtual time than the runner, or a claim to be served before it.
    fn is_least(&self) -> bool {
        let first = self.time >> self.lengths.shift;
        let own = (self.runner >> self.lengths.shift)
            .saturating_sub(first)
            .min(BUCKETS - 1);
        let express = !self.express.first.is_null() && self.express_pays();
        !express && self.interrupted.is_null() && own < self.distance()
    }

    /// How many buckets there are from the class's virtual time to the first task in the calendar; [`BUCKETS`] if there is
    /// none.
    #[inline(always)]
    fn distance(&self) -> u64 {
        let first = self.time >> self.lengths.shift;
        u64::from(self.occupied.rotate_right((first % BUCKETS) as u32).trailing_zeros())
    }

    /// Puts a task into the calendar.
    #[inline(always)]
    fn enter(&mut self, slot: &'static Slot, time: u64) {
        let first = self.time >> self.lengths.shift;
        let time = time.min((first + BUCKETS - 1) << self.lengths.shift);
        slot.virtual_time.store(time, Ordering::Relaxed);
        self.enter_bucket(slot, (time >> self.lengths.shift).max(first));
    }

    /// Whether somebody waits in the calendar, and nobody elsewhere.
    #[inline(always)]
    fn all_in_order(&self) -> bool {
        self.occupied != 0 && self.express.first.is_null() && self.interrupted.is_null()
    }

    /// As [`Line::enter_behind_the_first`] and [`Line::leave`] in one. Somebody waits in the calendar.
    #[inline(always)]
    fn exchange(&mut self, runner: &'static Slot) -> &'static Slot {
        let first = self.time >> self.lengths.shift;
        let next = first + self.distance();
        let own = (self.runner >> self.lengths.shift).clamp(next, first + BUCKETS - 1);
        let index = next % BUCKETS;
        if own != next {
            self.occupied |= 1 << (own % BUCKETS);
        }
        self.buckets[(own % BUCKETS) as usize].push(runner);
        let bucket = &mut self.buckets[index as usize];
        // The runner at the latest, if it is in this bucket; else whoever made the bucket's bit.
        let slot = bucket.pop().unwrap_or(runner);
        if bucket.first.is_null() {
            self.occupied &= !(1 << index);
        }
        slot
    }

    /// Puts the runner into the calendar, behind all who have the least virtual time of those that wait.
    #[cold]
    fn enter_behind_the_first(&mut self, slot: &'static Slot) {
        let first = self.time >> self.lengths.shift;
        let own = (self.runner >> self.lengths.shift).clamp(first, first + BUCKETS - 1);
        let others = match self.distance() {
            BUCKETS => first,
            distance => first + distance,
        };
        self.enter_bucket(slot, own.max(others));
    }

    #[inline(always)]
    fn enter_bucket(&mut self, slot: &'static Slot, bucket: u64) {
        let index = bucket % BUCKETS;
        self.waiting += 1;
        self.occupied |= 1 << index;
        self.buckets[index as usize].push(slot);
    }

    /// Takes the first task of the last bucket out of the calendar.
    fn leave_last(&mut self) -> Option<&'static Slot> {
        let first = (self.time >> self.lengths.shift) % BUCKETS;
        let from_first = self.occupied.rotate_right(first as u32);
        let distance = u64::from(from_first.checked_ilog2()?);
        let index = (first + distance) % BUCKETS;
        let bucket = &mut self.buckets[index as usize];
        let slot = bucket.pop()?;
        if bucket.first.is_null() {
            self.occupied &= !(1 << index);
        }
        Some(slot)
    }

    /// Takes the next task out of the calendar.
    fn leave(&mut self) -> Option<&'static Slot> {
        let distance = self.distance();
        if distance == BUCKETS {
            return None;
        }
        let first = self.time >> self.lengths.shift;
        let index = (first + distance) % BUCKETS;
        let bucket = &mut self.buckets[index as usize];
        let slot = bucket.pop()?;
        if bucket.first.is_null() {
            self.occupied &= !(1 << index);
        }
        self.time = self.time.max(slot.virtual_time.load(Ordering::Relaxed));
        Some(slot)
    }
}
