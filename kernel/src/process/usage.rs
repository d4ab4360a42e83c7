//! What threads and processes use, for `getrusage` and the report.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Process;
use super::run_time::{self, Part};

/// What is counted for a thread, or for those that have ended.
#[derive(Debug, Default)]
pub struct Usage {
    /// Faults served without I/O.
    minor_faults: AtomicU64,
    /// Faults that waited for I/O.
    major_faults: AtomicU64,
    /// How often it has waited.
    waits: AtomicU64,
    /// How often another thread was entered although it did not wait.
    preemptions: AtomicU64,
    /// An interrupt came, and it has not waited since.
    is_interrupted: AtomicBool,
}

impl Usage {
    /// Counts a fault that was served without I/O. A thread runs on one CPU at a time, so that a plain load and store do.
    #[inline(always)]
    pub fn count_fault(&self) {
        let count = self.minor_faults.load(Ordering::Relaxed);
        self.minor_faults.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// Counts a fault that waited for I/O.
    #[cold]
    pub fn count_major_fault(&self) {
        self.major_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread waits.
    pub fn wait(&self) {
        self.is_interrupted.store(false, Ordering::Relaxed);
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    /// An interrupt came in user mode.
    pub fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::Relaxed);
    }

    /// Another thread is entered on the CPU that this one was on.
    #[inline]
    pub(super) fn leave_cpu(&self) {
        if self.is_interrupted.load(Ordering::Relaxed) {
            self.is_interrupted.store(false, Ordering::Relaxed);
            self.preemptions.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> [&AtomicU64; 4] {
        [&self.minor_faults, &self.major_faults, &self.waits, &self.preemptions]
    }

    /// Adds what `other` counted.
    pub fn add(&self, other: &Self) {
        for (own, more) in self.counters().into_iter().zip(other.counters()) {
            own.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// What was used, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// User time in nanoseconds.
    pub user: u64,
    /// System time in nanoseconds.
    pub system: u64,
    /// Faults served without I/O.
    pub minor_faults: u64,
    /// Faults that waited for I/O.
    pub major_faults: u64,
    /// Waits: voluntary context switches.
    pub waits: u64,
    /// Preemptions: involuntary ones.
    pub preemptions: u64,
}

impl Totals {
    fn add(&mut self, usage: &Usage) {
        let [minor, major, waits, preemptions] = usage.counters().map(|counter| counter.load(Ordering::Relaxed));
        self.minor_faults += minor;
        self.major_faults += major;
        self.waits += waits;
        self.preemptions += preemptions;
    }

    /// These and `other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
            minor_faults: self.minor_faults + other.minor_faults,
            major_faults: self.major_faults + other.major_faults,
            waits: self.waits + other.waits,
            preemptions: self.preemptions + other.preemptions,
        }
    }
}

impl super::Thread {
    /// What it has used.
    pub fn totals(&self) -> Totals {
        run_time::bring_up_to_date();
        let mut totals = Totals {
            user: self.clock.read(Part::User),
            system: self.clock.system(),
            ..Totals::default()
        };
        totals.add(&self.usage);
        totals
    }
}

impl Process {
    /// What it has used, all its threads together.
    pub fn totals(&self) -> Totals {
        run_time::bring_up_to_date();
        let mut totals = Totals {
            user: self.clock.read(Part::User),
            system: self.clock.system(),
            ..Totals::default()
        };
        totals.add(&self.ended_usage);
        self.fold_threads(&mut totals, |totals, thread| totals.add(&thread.usage));
        totals
    }

    /// What its children have used that it has waited for.
    pub fn child_totals(&self) -> Totals {
        let [all, system] = self.child_times.each_ref().map(|time| time.load(Ordering::Relaxed));
        let mut totals = Totals {
            user: all.saturating_sub(system),
            system,
            ..Totals::default()
        };
        totals.add(&self.child_usage);
        totals
    }

    /// A child was waited for: what it and its children used counts for this process.
    pub(super) fn add_child(&self, child: &Self) {
        self.child_usage.add(&child.ended_usage);
        self.child_usage.add(&child.child_usage);
        let own = [child.clock.read(Part::All), child.clock.system()];
        for ((total, own), of_children) in self.child_times.iter().zip(own).zip(&child.child_times) {
            total.fetch_add(own + of_children.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
