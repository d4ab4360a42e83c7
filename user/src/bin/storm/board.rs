//! The board: memory that every process of the storm shares, for what has to outlive them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faultline_user::{Mapping, PAGE};

use crate::scenario::Scenario;

/// Most tasks of a storm.
pub const MOST_TASKS: usize = 4096;

/// What was done of one scenario.
#[repr(C)]
pub struct Tally {
    /// Rounds that were completed.
    pub rounds: AtomicU64,
    /// Rounds that ended early because the kernel refused a call for want of memory.
    pub refused: AtomicU64,
    /// First touches, each of which is a fault.
    pub touches: AtomicU64,
}

/// A histogram: eight buckets for each power of two.
#[repr(C)]
pub struct Histogram([AtomicU64; 64 * 8]);

impl Histogram {
    pub fn add(&self, value: u64) {
        let value = value.max(8);
        let power = 63 - value.leading_zeros() as usize;
        let part = (value >> (power - 3)) as usize & 7;
        self.0[power * 8 + part].fetch_add(1, Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// The upper end of the bucket in which the value lies that `permille` of a thousand are not above.
    pub fn percentile(&self, permille: u64) -> u64 {
        let wanted = (self.count() * permille).div_ceil(1000);
        let mut seen = 0;
        for (index, bucket) in self.0.iter().enumerate() {
            seen += bucket.load(Relaxed);
            if seen >= wanted.max(1) {
                let (power, part) = (index / 8, index as u64 % 8);
                return (9 + part) << power.saturating_sub(3);
            }
        }
        0
    }
}

/// The board itself. All zeros is its first state.
#[repr(C)]
pub struct Board {
    /// Set when the time is over: every task ends after its round.
    pub stop: AtomicU64,
    /// Processes that take all the memory there is.
    pub hogs: AtomicU64,
    /// Processes that the kernel killed to free memory.
    pub victims: AtomicU64,
    /// From before a first touch to after it, in ticks of the time-stamp counter.
    pub latency: Histogram,
    /// How late a sleeping task went on, in nanoseconds.
    pub lateness: Histogram,
    pub scenarios: [Tally; Scenario::ALL.len()],
    /// First touches of each task.
    pub tasks: [AtomicU64; MOST_TASKS],
}

impl Board {
    /// Memory for it, which children share.
    pub fn new() -> &'static Self {
        let memory = Mapping::shared(size_of::<Self>().next_multiple_of(PAGE));
        let board = memory.address(0).cast::<Self>();
        std::mem::forget(memory);
        // SAFETY: 1. the mapping is large enough, aligned to a page, and zero, which is a state of every field; 2. it is
        // never unmapped; 3. every access to it is atomic.
        unsafe { &*board }
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Relaxed) != 0
    }

    /// Sums a counter over the scenarios.
    pub fn sum(&self, of: fn(&Tally) -> &AtomicU64) -> u64 {
        self.scenarios.iter().map(|tally| of(tally).load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_an_eighth_too_high() {
        let histogram = Histogram([const { AtomicU64::new(0) }; 512]);
        (1..=1000).for_each(|value| histogram.add(value * 100));
        for (permille, exact) in [(500, 50_000), (990, 99_000), (999, 99_900)] {
            let found = histogram.percentile(permille);
            assert!((exact..=exact + exact / 8 + 1).contains(&found), "{permille}: {found}");
        }
        assert_eq!(histogram.count(), 1000);
    }
}
