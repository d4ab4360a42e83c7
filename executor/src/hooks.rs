//! The seam between the executor and the machine.

use core::task::Waker;

use crate::{Class, TaskId};

/// What the executor needs from the machine it runs on. This trait is the only seam to hardware.
///
/// Every method may be called with interrupts off, and [`Hooks::cpu`], [`Hooks::notify`] and [`Hooks::trace`] also from
/// an interrupt handler that wakes a task: they must not lock, allocate or wake.
pub trait Hooks: Send + Sync + 'static {
    /// Whether the length of each poll is measured, for stalls and the longest poll. It costs 6 instructions a poll.
    const MEASURE_POLLS: bool = true;

    /// Whether [`Hooks::trace`] wants the polls and ends of tasks too, and not only their spawns and wakes.
    const TRACE_POLLS: bool = true;

    /// Monotonic time in nanoseconds. Read once a turn and by timers.
    fn now(&self) -> u64;

    /// The index of the CPU that runs this code, below [`Config::cpus`](crate::Config::cpus). Code that runs in a poll
    /// must get the CPU that polls: some functions take it as the proof that the run queues are theirs.
    #[inline(always)]
    fn cpu(&self) -> usize {
        0
    }

    /// Makes another CPU leave its halt, or user code, for a turn, typically by an interrupt: somebody has queued work for it
    /// that it would not see soon by itself, or another CPU is idle and would take some of its work.
    #[inline(always)]
    fn notify(&self, cpu: usize) {
        let _ = cpu;
    }

    /// A task that waits on this CPU moves to CPU `to`: what this CPU still holds of it has to be where the other finds it,
    /// before this returns.
    #[inline(always)]
    fn leaves(&self, task: TaskId, to: usize) {
        let _ = (task, to);
    }

    /// The clock for the length of polls; read once per poll, and at the start of a turn, so that time between turns
    /// counts for nothing. It may count in any unit, and may stand still while a poll runs user code, so that only kernel
    /// time counts as a stall. It wraps: a poll of 2^32 units or more counts as that much less.
    #[inline(always)]
    fn poll_clock(&self) -> u32 {
        self.now() as u32
    }

    /// A timer was started whose deadline, on the clock [`Hooks::now`], is before all others of this CPU: the machine is to
    /// interrupt by then.
    #[inline(always)]
    fn alarm(&self, deadline: u64) {
        let _ = deadline;
    }

    /// A task of the user class is about to run for up to `length` units of [`Hooks::poll_clock`]: the machine is to
    /// interrupt user code by then. Not called for every task that is polled: where an interrupt within the length of a
    /// slice is sure to come anyway, that is soon enough.
    #[inline(always)]
    fn alarm_in(&self, length: u32) {
        let _ = length;
    }

    /// A turn of the executor begins: the machine is to interrupt user code by the next deadline, and within `left` units of
    /// [`Hooks::poll_clock`], if that is some.
    #[inline(always)]
    fn turn_begins(&self, next_deadline: Option<u64>, left: Option<u32>) {
        let _ = (next_deadline, left);
    }

    /// A poll took `length` units of [`Hooks::poll_clock`], more than [`Config::stall`](crate::Config::stall) allows.
    #[cold]
    fn stall(&self, task: TaskId, name: &'static str, length: u32) {
        let _ = (task, name, length);
    }

    /// A poll took `length` units of [`Hooks::poll_clock`], more than any before. Called after the stall is reported, if it
    /// was one.
    #[cold]
    fn longest_poll(&self, task: TaskId, name: &'static str, length: u32) {
        let _ = (task, name, length);
    }

    /// Whether no task of [`Class::User`] may be polled in the turn that begins. They wait, so this has to end without them.
    /// One test of a variable.
    #[inline(always)]
    fn holds_users(&self) -> bool {
        false
    }

    /// Whether the poll that has just ended has left something with the CPU: work that its task waits for, and that somebody
    /// else would have to be woken for. One test of a variable.
    #[inline(always)]
    fn has_left(&self) -> bool {
        false
    }

    /// Does at once what the poll of the task with the waker `polled` has left with the CPU. Returns whether that was all
    /// that the task waits for: then it was not woken, and may be polled again. Called in the turn, between two polls, if no
    /// task of a class above [`Class::User`] is runnable.
    #[inline(always)]
    fn serve_left(&self, polled: &Waker) -> bool {
        let _ = polled;
        false
    }

    /// Queues what was left with the CPU for whoever does such work in its turn: something else is due first. The task is
    /// woken when that is done.
    #[inline(always)]
    fn queue_left(&self) {}

    /// Whether [`Hooks::trace`] wants to be called: one test of a variable.
    #[inline(always)]
    fn tracing(&self) -> bool {
        false
    }

    /// Something happened to a task.
    #[inline(always)]
    fn trace(&self, event: TaskEvent) {
        let _ = event;
    }
}

/// What happened to a task; see [`Hooks::trace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// A task was spawned and queued for its first poll.
    Spawned {
        /// The new task.
        task: TaskId,
        /// Its name.
        name: &'static str,
        /// Its class.
        class: Class,
    },
    /// A wake made a waiting task runnable. Wakes of tasks that are runnable already are not reported.
    Woken {
        /// The task that was woken.
        task: TaskId,
    },
    /// The future is about to be polled. Only with [`Hooks::TRACE_POLLS`].
    Polled {
        /// The task that is polled.
        task: TaskId,
    },
    /// The future returned its output, and is dropped. Only with [`Hooks::TRACE_POLLS`].
    Finished {
        /// The task that ended.
        task: TaskId,
    },
    /// The task was cancelled, and its future is dropped. Only with [`Hooks::TRACE_POLLS`].
    Cancelled {
        /// The task that ended.
        task: TaskId,
    },
}
