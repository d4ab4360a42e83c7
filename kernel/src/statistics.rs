//! What is counted on the way in and out of user mode, for the report.
//!
//! There is one CPU, and a counter is a plain load and store by it: counters order nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use faultline_trace::{FaultClass, Kind};

use crate::arch::clock;
use crate::tracing;

static SYSCALLS: AtomicU64 = AtomicU64::new(0);
static SWITCHES: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

/// Faults resolved and their time-stamp ticks, by class.
static FAULTS: [[AtomicU64; 2]; FaultClass::ALL.len()] = [const { [const { AtomicU64::new(0) }; 2] }; _];

#[inline(always)]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// A system call was made.
#[inline(always)]
pub fn syscall() {
    add(&SYSCALLS, 1);
}

/// A timer interrupt came in user mode.
#[inline(always)]
pub fn tick() {
    add(&TICKS, 1);
}

/// A fault that trapped at `since` was resolved, and its thread is about to go on.
#[inline(always)]
pub fn fault_resolved(class: FaultClass, since: u64) {
    let [count, ticks] = &FAULTS[class as usize];
    add(count, 1);
    add(ticks, clock::counter().wrapping_sub(since));
}

/// Faults resolved and the time-stamp ticks from their traps to their resumes, by class.
#[must_use]
pub fn fault_times() -> [(u64, u64); FaultClass::ALL.len()] {
    core::array::from_fn(|class| {
        let [count, ticks] = &FAULTS[class];
        (count.load(Ordering::Relaxed), ticks.load(Ordering::Relaxed))
    })
}

/// The thread `tid` is about to enter user mode; says whether it is another than the last.
#[inline(always)]
pub fn entering(tid: u32) -> bool {
    let before = tracing::set_current(tid);
    if before != tid {
        add(&SWITCHES, 1);
        tracing::record(Kind::TaskSwitch, u64::from(before), 0);
    }
    before != tid
}

/// The counters.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// System calls made.
    pub syscalls: u64,
    /// Times another thread than the last was entered.
    pub switches: u64,
    /// Timer interrupts in user mode.
    pub ticks: u64,
}

/// Reads the counters.
#[must_use]
pub fn read() -> Statistics {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Statistics {
        syscalls: get(&SYSCALLS),
        switches: get(&SWITCHES),
        ticks: get(&TICKS),
    }
}
