//! Allocations that fail on command (`heap_fail`, `heap_fail_from`, `heap_fail_every`): for tests.
//!
//! Allocations are counted from the start of the first program to the end of the last, whoever makes them: 1 is the
//! first. Nothing is counted without a command, which costs the usual allocation one test.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Which allocations fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// This one; 0 for none.
    pub nth: u64,
    /// This one and all after it; 0 for none.
    pub from: u64,
    /// Each whose number this divides; 0 for none.
    pub every: u64,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static NTH: AtomicU64 = AtomicU64::new(0);
static FROM: AtomicU64 = AtomicU64::new(0);
static EVERY: AtomicU64 = AtomicU64::new(0);

/// From now on allocations are counted, and fail as `failures` says.
pub fn arm(failures: Failures) {
    NTH.store(failures.nth, Relaxed);
    FROM.store(failures.from, Relaxed);
    EVERY.store(failures.every, Relaxed);
    ARMED.store(failures != Failures::default(), Relaxed);
}

/// No allocation fails any more.
pub fn disarm() {
    ARMED.store(false, Relaxed);
}

/// How many allocations were counted, and how many of them failed on command.
pub fn counts() -> (u64, u64) {
    (COUNT.load(Relaxed), FAILED.load(Relaxed))
}

/// Whether the allocation that is about to be made fails.
#[inline(always)]
pub(super) fn fails() -> bool {
    ARMED.load(Relaxed) && decide()
}

#[cold]
#[inline(never)]
fn decide() -> bool {
    let number = COUNT.fetch_add(1, Relaxed) + 1;
    let (from, every) = (FROM.load(Relaxed), EVERY.load(Relaxed));
    let fails =
        number == NTH.load(Relaxed) || from != 0 && number >= from || every != 0 && number.is_multiple_of(every);
    FAILED.fetch_add(u64::from(fails), Relaxed);
    fails
}
