//! What the executor counts.

use crate::{
    Class, Shares,
    sync::{AtomicU64, Ordering},
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
    pub longest_poll: u64,
    /// Polls longer than [`Config::stall`](crate::Config::stall).
    pub stalls: u64,
}

/// The counters of one CPU. That CPU alone writes them, so an addition is a load and a store, both Relaxed: nothing is
/// published through a counter.
#[derive(Debug)]
pub(crate) struct Counters {
    turns: AtomicU64,
    idle_turns: AtomicU64,
    polls: [AtomicU64; Class::COUNT],
    timers_fired: AtomicU64,
    longest_poll: AtomicU64,
    stalls: AtomicU64,
    /// Polls longer than this are looked at more closely: the lower of the longest poll and the stall limit.
    pub(crate) watermark: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            turns: AtomicU64::new(0),
            idle_turns: AtomicU64::new(0),
            polls: core::array::from_fn(|_| AtomicU64::new(0)),
            timers_fired: AtomicU64::new(0),
            longest_poll: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            watermark: AtomicU64::new(0),
        }
    }

    /// Adds one turn that left these shares.
    #[inline(always)]
    pub(crate) fn turn(&self, shares: Shares, left: &[u16; Class::COUNT], idle: bool) -> u32 {
        let mut polls = 0;
        for ((counter, share), left) in self.polls.iter().zip(shares.by_class()).zip(left) {
            let used = share - left;
            add(counter, u64::from(used));
            polls += u32::from(used);
        }
        add(&self.turns, 1);
        add(&self.idle_turns, u64::from(idle));
        polls
    }

    pub(crate) fn timers_fired(&self, count: u64) {
        add(&self.timers_fired, count);
    }

    /// Looks at a poll that was longer than the watermark. Says whether it was a stall.
    #[cold]
    pub(crate) fn long_poll(&self, length: u64, stall: u64) -> bool {
        let longest = self.longest_poll.load(Ordering::Relaxed).max(length);
        self.longest_poll.store(longest, Ordering::Relaxed);
        self.watermark.store(longest.min(stall), Ordering::Relaxed);
        let stalled = length > stall;
        add(&self.stalls, u64::from(stalled));
        stalled
    }

    pub(crate) fn read(&self) -> Statistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            turns: get(&self.turns),
            idle_turns: get(&self.idle_turns),
            polls: core::array::from_fn(|class| get(&self.polls[class])),
            timers_fired: get(&self.timers_fired),
            longest_poll: get(&self.longest_poll),
            stalls: get(&self.stalls),
        }
    }
}
