//! What the executor counts.

use crate::{
    Class,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// What one CPU has done since it started; see [`Executor::statistics`](crate::Executor::statistics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Calls of [`Executor::turn`](crate::Executor::turn).
    pub turns: u64,
    /// Turns that ended because nothing was runnable.
    pub idle_turns: u64,
    /// Polls, by the class whose share they used. A wake that made a task runnable causes exactly one poll, so this
    /// counts effective wakes and spawns, too.
    pub polls: [u64; Class::COUNT],
    /// Timers that fired.
    pub timers_fired: u64,
    /// The longest poll, in units of [`Hooks::poll_clock`](crate::Hooks::poll_clock).
    pub longest_poll: u32,
    /// Polls longer than [`Config::stall`](crate::Config::stall).
    pub stalls: u64,
}

/// The counters of one CPU. That CPU alone writes them, so an addition is a load and a store, both Relaxed: nothing is
/// published through a counter.
#[derive(Debug)]
pub(crate) struct Counters {
    turns: AtomicU64,
    idle_turns: AtomicU64,
    timers_fired: AtomicU64,
    longest_poll: AtomicU32,
    stalls: AtomicU64,
}

#[inline(always)]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            turns: AtomicU64::new(0),
            idle_turns: AtomicU64::new(0),
            timers_fired: AtomicU64::new(0),
            longest_poll: AtomicU32::new(0),
            stalls: AtomicU64::new(0),
        }
    }

    /// Adds one turn.
    #[inline(always)]
    pub(crate) fn turn(&self, idle: bool) {
        add(&self.turns, 1);
        add(&self.idle_turns, u64::from(idle));
    }

    pub(crate) fn timers_fired(&self, count: u64) {
        add(&self.timers_fired, count);
    }

    /// Adds a long poll. Returns the longest one before it.
    pub(crate) fn long_poll(&self, length: u32, stalled: bool) -> u32 {
        let longest = self.longest_poll.load(Ordering::Relaxed);
        self.longest_poll.store(longest.max(length), Ordering::Relaxed);
        add(&self.stalls, u64::from(stalled));
        longest
    }

    pub(crate) fn read(&self, polls: [u64; Class::COUNT]) -> Statistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            turns: get(&self.turns),
            idle_turns: get(&self.idle_turns),
            polls,
            timers_fired: get(&self.timers_fired),
            longest_poll: self.longest_poll.load(Ordering::Relaxed),
            stalls: get(&self.stalls),
        }
    }
}
