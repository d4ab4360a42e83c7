//! A periodic check of the whole kernel while programs run (`audit=MILLISECONDS`), for storms.
//!
//! A task of the user class wakes at each interval, so that it runs also when the CPU is never idle, and checks:
//!
//! - **Frames.** Every frame and every free list agrees with the counters, and the counters add up to the total.
//! - **Faults.** While faults are in flight, one is answered from time to time: if nothing at all is answered for
//!   [`PATIENCE`], one was lost. Memory that faults wait for comes within that time, from a victim if need be.
//! - **TLB generations.** No space's generation goes back.
//!
//! Each check writes a line `audit ...` on the report port (COM4), and what it finds wrong a line `audit.error ...`, there
//! and in the log. The report at the end has the number of checks and of errors. No check changes anything.

use core::convert::Infallible;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faultline_fallible::OrderedMap;

use crate::arch::smp;
use crate::console::{self, Channel};
use crate::machine::memory;
use crate::process::tree;
use crate::time::{self, NANOSECONDS};

/// How long faults may be in flight without a single answer.
const PATIENCE: u64 = 20 * NANOSECONDS;

static CHECKS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// Checks made, and what they found wrong.
#[must_use]
pub fn counts() -> (u64, u64) {
    (CHECKS.load(Relaxed), ERRORS.load(Relaxed))
}

/// What is remembered from one check to the next.
#[derive(Default)]
struct Audit {
    /// The TLB generation of each space that was alive, by its id.
    generations: OrderedMap<u64, u64>,
    /// Faults answered so far, and since when it is so many.
    answered: u64,
    since: u64,
}

/// The task: a check every `interval` nanoseconds.
pub async fn run(interval: u64) -> Infallible {
    let mut audit = Audit::default();
    let mut next = time::now();
    loop {
        next = (next + interval).max(time::now());
        time::sleep_until(next).await;
        audit.check();
    }
}

fn error(what: fmt::Arguments<'_>) {
    ERRORS.fetch_add(1, Relaxed);
    ::log::error!("audit: {what}");
    console::print(Channel::Report, format_args!("audit.error {what}\n"));
}

impl Audit {
    fn check(&mut self) {
        let number = CHECKS.fetch_add(1, Relaxed) + 1;
        self.check_generations();
        self.check_answers();
        // What the counters say of frames holds only while nobody takes or gives one.
        smp::stop();
        let audited = memory().frames().audit();
        smp::resume();
        match audited {
            Err(discrepancy) => error(format_args!("{discrepancy}")),
            Ok(account) => {
                let stats = memory().stats();
                console::print(
                    Channel::Report,
                    format_args!(
                        "audit {number} ms={} faults={} in_flight={} waiting={} processes={} free={} mapped={}\n",
                        time::now() / 1_000_000,
                        stats.total_served(),
                        memory().faults_in_flight(),
                        memory().faults_waiting_for_memory(),
                        tree::process_count(),
                        account.available(),
                        account.mapped,
                    ),
                );
            }
        }
    }

    fn check_generations(&mut self) {
        let mut present = OrderedMap::new();
        tree::for_each_living(|process| {
            let Some(space) = process.space() else { return };
            let (id, generation) = (space.id(), space.tlb_generation.load(Relaxed));
            if let Some(before) = self.generations.get(&id).filter(|before| generation < **before) {
                error(format_args!(
                    "the TLB generation of space {id} went back from {before} to {generation}"
                ));
            }
            // What is remembered lies in the kernel heap, which a storm may have filled: without memory one space is not looked
            // at the next time.
            let _ = present.try_insert(id, generation);
        });
        self.generations = present;
    }

    fn check_answers(&mut self) {
        let (memory, now) = (memory(), time::now());
        let stats = memory.stats();
        let answered = stats.total_served() + stats.coalesced + stats.spurious + stats.denied + stats.cancelled;
        if answered != self.answered || memory.faults_in_flight() == 0 {
            (self.answered, self.since) = (answered, now);
        } else if now - self.since > PATIENCE {
            error(format_args!(
                "{} faults are in flight, {} of them waiting for memory, and none was answered for {} s",
                memory.faults_in_flight(),
                memory.faults_waiting_for_memory(),
                (now - self.since) / NANOSECONDS
            ));
            self.since = now;
        }
    }
}

/// The last check, when every program is gone: no fault may be in flight, and every frame where the counters say.
pub fn conclude() {
    CHECKS.fetch_add(1, Relaxed);
    if memory().faults_in_flight() != 0 {
        error(format_args!(
            "{} faults are in flight at the end",
            memory().faults_in_flight()
        ));
    }
    if let Err(discrepancy) = memory().frames().audit() {
        error(format_args!("{discrepancy}"));
    }
}
