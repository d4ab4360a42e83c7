//! What is counted on the way in and out of user mode, for the report.
//!
//! Each CPU counts for itself, by plain loads and stores: counters order nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use faultline_executor::TaskId;
use faultline_trace::{FaultClass, Kind};

use crate::arch::{clock, cpu};
use crate::tracing;

/// What one CPU has counted.
#[derive(Debug)]
pub struct Counted {
    syscalls: AtomicU64,
    switches: AtomicU64,
    ticks: AtomicU64,
    moved: AtomicU64,
    /// Faults resolved and their time-stamp ticks, by class.
    faults: [[AtomicU64; 2]; FaultClass::ALL.len()],
}

impl Counted {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            syscalls: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            faults: [const { [const { AtomicU64::new(0) }; 2] }; _],
        }
    }
}

#[inline(always)]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// A system call was made.
#[inline(always)]
pub fn syscall() {
    add(&cpu::local().counted.syscalls, 1);
}

/// An interrupt came in user mode.
#[inline(always)]
pub fn tick() {
    add(&cpu::local().counted.ticks, 1);
}

/// A task has moved from this CPU to another; whoever is entered here next is another thread.
pub fn moved(task: TaskId, to: usize) {
    add(&cpu::local().counted.moved, 1);
    tracing::set_current(0);
    tracing::record(Kind::TaskMove, u64::from(task.index()), to as u64);
}

/// A fault that trapped at `since` was resolved, and its thread is about to go on.
#[inline(always)]
pub fn fault_resolved(class: FaultClass, since: u64) {
    let [count, ticks] = &cpu::local().counted.faults[class as usize];
    add(count, 1);
    add(ticks, clock::counter().wrapping_sub(since));
}

/// The sum over all CPUs of what `of` picks.
fn sum(of: impl Fn(&Counted) -> &AtomicU64) -> u64 {
    let each = cpu::locals()
        .iter()
        .map(|local| of(&local.counted).load(Ordering::Relaxed));
    each.sum()
}

/// Faults resolved and the time-stamp ticks from their traps to their resumes, by class.
#[must_use]
pub fn fault_times() -> [(u64, u64); FaultClass::ALL.len()] {
    core::array::from_fn(|class| {
        (
            sum(|counted| &counted.faults[class][0]),
            sum(|counted| &counted.faults[class][1]),
        )
    })
}

/// The thread `tid` is about to enter user mode; says whether it is another than the last.
#[inline(always)]
pub fn entering(tid: u32) -> bool {
    let before = tracing::set_current(tid);
    if before != tid {
        add(&cpu::local().counted.switches, 1);
        tracing::record(Kind::TaskSwitch, u64::from(before), 0);
    }
    before != tid
}

/// Interrupts in user mode of one CPU.
#[must_use]
pub fn ticks_of(cpu: usize) -> u64 {
    cpu::locals()[cpu].counted.ticks.load(Ordering::Relaxed)
}

/// The counters of all CPUs together.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// System calls made.
    pub syscalls: u64,
    /// Times another thread than the last was entered.
    pub switches: u64,
    /// Interrupts in user mode.
    pub ticks: u64,
    /// Tasks that moved from one CPU to another.
    pub moved: u64,
}

/// Reads the counters.
#[must_use]
pub fn read() -> Statistics {
    Statistics {
        syscalls: sum(|counted| &counted.syscalls),
        switches: sum(|counted| &counted.switches),
        ticks: sum(|counted| &counted.ticks),
        moved: sum(|counted| &counted.moved),
    }
}
