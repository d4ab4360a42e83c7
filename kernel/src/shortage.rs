//! What happens when faults wait for memory and nobody gives any back.
//!
//! Running out of frames is no error: a fault that finds none waits until one is free. Usually somebody frees some: a
//! process ends, unmaps, or a flush releases what waited for it. When faults wait and either nothing at all can run, or
//! nothing was freed for [`PATIENCE`], nobody will: then a *victim* is chosen, the process with the most frames of its
//! own, and ended by `SIGKILL`. The log and the trace say which and why. The next victim is not chosen before this one
//! is gone.

use alloc::sync::Arc;

use faultline_trace::Kind;

use crate::machine::memory;
use crate::process::{ExitStatus, Process, tree};
use crate::signal::Signal;
use crate::{time, tracing};

/// How long faults may wait for memory while others run, in nanoseconds.
const PATIENCE: u64 = 100_000_000;

/// Watches for a shortage that does not end by itself.
#[derive(Default)]
pub struct Watch {
    /// Since when faults have been waiting.
    since: Option<u64>,
    /// The last victim, until it is gone.
    victim: Option<Arc<Process>>,
    victims: u64,
}

impl Watch {
    /// Victims so far.
    #[must_use]
    pub const fn victims(&self) -> u64 {
        self.victims
    }

    /// Looks whether faults wait; `idle` says that nothing else can run.
    #[inline]
    pub fn look(&mut self, idle: bool) {
        if memory().faults_waiting_for_memory() == 0 {
            self.since = None;
            return;
        }
        self.consider(idle);
    }

    #[cold]
    fn consider(&mut self, idle: bool) {
        if self.victim.as_ref().is_some_and(|victim| victim.thread_count() > 0) {
            return;
        }
        let now = time::now();
        let Some(since) = self.since else {
            // Frames that wait for this CPU to flush are released when it leaves the space.
            memory().leave_spaces();
            self.since = Some(now);
            return;
        };
        if !idle && now - since < PATIENCE {
            return;
        }
        self.since = None;
        self.victim = choose();
        if let Some(victim) = &self.victim {
            self.victims += 1;
            victim.begin_exit(ExitStatus::Killed(Signal::SIGKILL));
        }
    }
}

/// The process with the most resident pages.
fn choose() -> Option<Arc<Process>> {
    let resident = |process: &Process| process.space().map_or(0, |space| space.get_stats().resident_pages);
    // Memory is short, so nothing is allocated here.
    let mut most: Option<(u64, Arc<Process>)> = None;
    tree::for_each_living(|process| {
        let pages = if process.thread_count() > 0 {
            resident(process)
        } else {
            return;
        };
        if most.as_ref().is_none_or(|(known, _)| pages >= *known) {
            most = Some((pages, process.clone()));
        }
    });
    let (pages, victim) = most?;
    let waiting = memory().faults_waiting_for_memory();
    ::log::warn!(
        "out of memory: {waiting} faults wait and no frame comes free; killing process {}, which holds {pages} pages",
        victim.pid
    );
    tracing::record_for(victim.pid, Kind::MemoryVictim, u64::from(victim.pid), pages);
    Some(victim)
}
