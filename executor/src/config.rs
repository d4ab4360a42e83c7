//! How an executor is built, and how spawning fails.

use core::fmt;

use crate::Shares;

/// How an executor is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many CPUs there are. Their indices start at 0.
    pub cpus: usize,
    /// Whether a task of the user class that waits for its turn moves to a CPU that is idle.
    pub balance: bool,
    /// How many tasks there may be at a time; rounded up to a whole chunk of slots.
    pub capacity: u32,
    /// For how many tasks slots are allocated at once. Spawning up to this many needs no memory, unless the future is
    /// boxed because it is too large for a slot.
    pub reserve: u32,
    /// What each class may use of a turn.
    pub shares: Shares,
    /// How many timers one turn fires at most; the rest fires in the next turn.
    pub timers_per_turn: u32,
    /// How long a task of the user class runs before others that have run less have their turn, in units of
    /// [`Hooks::poll_clock`](crate::Hooks::poll_clock); from 8 to 2^29.
    pub slice: u32,
    /// A poll that is longer than this, in units of [`Hooks::poll_clock`](crate::Hooks::poll_clock), is reported as a stall.
    pub stall: u32,
}

impl Default for Config {
    /// One CPU, 131,072 tasks, 64 of them reserved, slices of 4 ms and stalls from 10 ms where the clock counts
    /// nanoseconds.
    fn default() -> Self {
        Self {
            cpus: 1,
            balance: false,
            capacity: 1 << 17,
            reserve: 64,
            shares: Shares::default(),
            timers_per_turn: 64,
            slice: 4_000_000,
            stall: 10_000_000,
        }
    }
}

/// Why a task could not be spawned. The future has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// [`Config::capacity`] tasks are alive already.
    Full {
        /// The capacity.
        capacity: u32,
    },
    /// There is no memory for another chunk of slots, or for the box of a large future.
    OutOfMemory,
    /// There is no CPU with this index.
    NoSuchCpu {
        /// The index.
        cpu: usize,
    },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { capacity } => write!(f, "all {capacity} task slots are in use"),
            Self::OutOfMemory => write!(f, "no memory for a task"),
            Self::NoSuchCpu { cpu } => write!(f, "no CPU has the index {cpu}"),
        }
    }
}

impl core::error::Error for SpawnError {}
