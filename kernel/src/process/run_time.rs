//! Who runs, and for how long: the CPU time of threads and processes.
//!
//! The time from the moment when a thread is entered to the moment when another is, or the CPU has nothing to do, is the
//! time of that thread, and of its process; so a thread that goes on alone is charged for nothing at each poll, and what
//! the kernel does on its behalf (its faults, its calls, its turn of the executor) counts. Whoever reads a clock has what
//! ran until then charged first.
//!
//! Of this time, what was spent in system calls that can wait is *system time*; the rest, faults and calls that are
//! answered at once included, is user time.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use faultline_executor::WaitQueue;
use faultline_fallible::Arc;

use super::Thread;
use crate::arch::{clock, cpu};
use crate::time;

/// The longest that a wait for CPU time sleeps before it looks again, in nanoseconds, where that time does not pass.
const LONGEST_LOOK: u64 = 100_000_000;

/// The shortest, so that the end of a wait is approached in few steps.
const SHORTEST_LOOK: u64 = 50_000;

/// Who runs on a CPU, and since when.
#[derive(Debug)]
pub struct Running {
    /// Null if nobody has since the last that did was gone. Not counted as a reference: a thread that is about to be gone,
    /// or to move to another CPU, is taken out first ([`end`], [`leave`]), on the CPU that it was on. Only its CPU writes it.
    thread: AtomicPtr<Thread>,
    /// Since when the thread's time is to be counted, in counts of the time-stamp counter.
    since: AtomicU64,
}

impl Running {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            thread: AtomicPtr::new(ptr::null_mut()),
            since: AtomicU64::new(0),
        }
    }
}

/// Who runs on this CPU.
#[inline(always)]
fn here() -> &'static Running {
    &cpu::local().running
}

/// The thread that runs on this CPU.
#[inline(always)]
fn running() -> Option<&'static Thread> {
    // SAFETY: 1. the address is that of a thread in its `Arc`; 2. it is taken out before the thread is dropped or runs
    // elsewhere, and nobody keeps the reference until then: it is used for a charge, within this module.
    unsafe { here().thread.load(Ordering::Relaxed).as_ref() }
}

/// Another thread than the last is entered.
#[cold]
pub fn switch_to(thread: &Arc<Thread>) {
    bring_up_to_date();
    let before = running();
    here().thread.store(Arc::as_ptr(thread).cast_mut(), Ordering::Relaxed);
    thread.is_on(cpu::index());
    if let Some(before) = before {
        before.usage.leave_cpu();
    }
}

/// Charges what ran on this CPU until now.
#[inline]
pub fn bring_up_to_date() {
    let now = clock::counter();
    let counts = now.wrapping_sub(here().since.load(Ordering::Relaxed));
    here().since.store(now, Ordering::Relaxed);
    if let Some(thread) = running() {
        thread.clock.charge(counts);
        thread.process.clock.charge(counts);
    }
}

/// The CPU has nothing to do until [`resume`].
pub fn pause() {
    bring_up_to_date();
}

/// The CPU goes on: the time since [`pause`] is nobody's.
pub fn resume() {
    here().since.store(clock::counter(), Ordering::Relaxed);
}

/// A thread is about to be gone: its time ends here.
pub fn end(thread: &Thread) {
    bring_up_to_date();
    forget(thread);
}

/// Whoever ran on this CPU may move to another: its time here ends.
pub fn leave() {
    bring_up_to_date();
    here().thread.store(ptr::null_mut(), Ordering::Relaxed);
}

/// Nothing is charged to this thread any more on this CPU.
pub fn forget(thread: &Thread) {
    if ptr::eq(here().thread.load(Ordering::Relaxed), thread) {
        here().thread.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Which part of the CPU time a clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// What is not system time.
    User,
}

/// The CPU time of a thread or a process, in counts of the time-stamp counter.
pub struct CpuClock {
    all: AtomicU64,
    system: AtomicU64,
    /// Whoever waits for a time on this clock is woken when it comes to this.
    next: AtomicU64,
    waits: WaitQueue,
}

impl Default for CpuClock {
    fn default() -> Self {
        Self {
            all: AtomicU64::new(0),
            system: AtomicU64::new(0),
            next: AtomicU64::new(u64::MAX),
            waits: WaitQueue::new(),
        }
    }
}

impl CpuClock {
    #[inline]
    fn charge(&self, counts: u64) {
        let all = self.all.fetch_add(counts, Ordering::Relaxed).wrapping_add(counts);
        if all >= self.next.load(Ordering::Relaxed) {
            self.next.store(u64::MAX, Ordering::Relaxed);
            self.waits.wake_all();
        }
    }

    /// Counts of the time that is charged were spent in system calls.
    pub fn charge_system(&self, counts: u64) {
        self.system.fetch_add(counts, Ordering::Relaxed);
    }

    /// What it shows, in nanoseconds.
    pub fn read(&self, part: Part) -> u64 {
        let all = self.all.load(Ordering::Relaxed);
        let counts = match part {
            Part::All => all,
            Part::User => all.saturating_sub(self.system.load(Ordering::Relaxed)),
        };
        clock::to_nanoseconds(counts)
    }

    /// System time in nanoseconds.
    pub fn system(&self) -> u64 {
        let system = self.system.load(Ordering::Relaxed);
        clock::to_nanoseconds(system.min(self.all.load(Ordering::Relaxed)))
    }

    /// Waits until it shows `target`, in nanoseconds. CPU time does not pass faster than time, so it sleeps for as long as
    /// is missing; whoever is charged with the rest wakes it earlier if it has slept too long.
    pub async fn reach(&self, part: Part, target: u64) {
        let (mut shown, mut look) = (u64::MAX, SHORTEST_LOOK);
        loop {
            bring_up_to_date();
            let now = self.read(part);
            let Some(left) = target.checked_sub(now).filter(|&left| left > 0) else {
                return;
            };
            look = if now == shown {
                (look * 2).min(LONGEST_LOOK)
            } else {
                SHORTEST_LOOK
            };
            shown = now;
            let counts = u128::from(left) * u128::from(clock::counter_hz()) / u128::from(time::NANOSECONDS);
            let next = self
                .all
                .load(Ordering::Relaxed)
                .saturating_add(counts as u64)
                .saturating_add(1);
            self.next.fetch_min(next, Ordering::Relaxed);
            let _ = time::timeout(time::now().saturating_add(left.max(look)), self.waits.wait()).await;
        }
    }
}
