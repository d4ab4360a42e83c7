//! Makes a failing script smaller: fewer threads, fewer steps, a plainer machine.
//!
//! A smaller script takes other decisions from the same seed, so each candidate is tried with several schedules, and
//! counts as failing if any of them fails.

use std::sync::Arc;

use faultline_mm::FaultMode;

use crate::lane::Lane;
use crate::schedule::Schedule;
use crate::script::{Script, Settings};

/// Schedules that are tried for each candidate.
const SCHEDULES: u64 = 24;

/// Worlds that shrinking may run.
const WORLDS: u64 = 20_000;

struct Shrinker {
    lane: Lane,
    best: Script,
    worlds: u64,
}

/// The smallest failing script that was found on the way from this one, and what fails in it.
///
/// # Panics
/// If the script does not fail.
#[must_use]
pub fn shrink(script: &Script) -> (Script, String) {
    let mut shrinker = Shrinker {
        lane: Lane::default(),
        best: script.clone(),
        worlds: 0,
    };
    loop {
        let before = (shrinker.best.steps(), shrinker.best.settings);
        shrinker.drop_threads();
        shrinker.drop_steps();
        shrinker.plain_settings();
        if (shrinker.best.steps(), shrinker.best.settings) == before {
            break;
        }
    }
    shrinker.drop_empty();
    let outcome = shrinker.lane.run(&Arc::new(shrinker.best.clone()), false);
    let failure = outcome.failure.expect("the script still fails");
    (shrinker.best, failure)
}

impl Shrinker {
    /// Keeps a candidate if it fails with some schedule.
    fn try_out(&mut self, mut candidate: Script) -> bool {
        let Schedule { kind, seed } = candidate.schedule;
        for offset in 0..SCHEDULES {
            if self.worlds >= WORLDS {
                return false;
            }
            self.worlds += 1;
            candidate.schedule = Schedule {
                kind,
                seed: if offset == 0 { seed } else { offset },
            };
            let script = Arc::new(candidate);
            let failed = self.lane.run(&script, false).failure.is_some();
            candidate = Arc::unwrap_or_clone(script);
            if failed {
                self.best = candidate;
                return true;
            }
        }
        false
    }

    fn drop_threads(&mut self) {
        for process in 0..self.best.processes.len() {
            for thread in 0..self.best.processes[process].threads.len() {
                if self.best.processes[process].threads[thread].steps.is_empty() {
                    continue;
                }
                let mut candidate = self.best.clone();
                candidate.processes[process].threads[thread].steps.clear();
                self.try_out(candidate);
            }
        }
    }

    fn drop_steps(&mut self) {
        for process in 0..self.best.processes.len() {
            for thread in 0..self.best.processes[process].threads.len() {
                let mut size = self.best.processes[process].threads[thread].steps.len();
                while size > 0 {
                    let mut at = 0;
                    while at < self.best.processes[process].threads[thread].steps.len() {
                        let mut candidate = self.best.clone();
                        let steps = &mut candidate.processes[process].threads[thread].steps;
                        let end = (at + size).min(steps.len());
                        steps.drain(at..end);
                        if !self.try_out(candidate) {
                            at += size;
                        }
                    }
                    size /= 2;
                }
            }
        }
    }

    fn plain_settings(&mut self) {
        let plain: [fn(&mut Settings); 9] = [
            |settings| settings.balance = false,
            |settings| settings.speculation = 0,
            |settings| settings.lateness = 0,
            |settings| settings.disk_errors = 0,
            |settings| settings.zeroed = 0,
            |settings| settings.pcids = 0,
            |settings| settings.mode = FaultMode::Queued,
            |settings| settings.slots = 8,
            |settings| settings.run_ahead = 1,
        ];
        for change in plain {
            let mut candidate = self.best.clone();
            change(&mut candidate.settings);
            if candidate.settings != self.best.settings {
                self.try_out(candidate);
            }
        }
        if self.best.settings.cpus > 1 {
            let mut candidate = self.best.clone();
            candidate.settings.cpus -= 1;
            let cpus = candidate.settings.cpus;
            for thread in candidate.processes.iter_mut().flat_map(|process| &mut process.threads) {
                thread.cpu %= cpus;
            }
            self.try_out(candidate);
        }
    }

    /// Drops threads and processes at the end that do nothing.
    fn drop_empty(&mut self) {
        for index in (0..self.best.processes.len()).rev() {
            let mut candidate = self.best.clone();
            let process = &mut candidate.processes[index];
            while process.threads.len() > 1 && process.threads.last().is_some_and(|thread| thread.steps.is_empty()) {
                process.threads.pop();
            }
            if index > 0
                && index + 1 == candidate.processes.len()
                && candidate.processes[index].threads[0].steps.is_empty()
            {
                candidate.processes.pop();
            }
            if candidate != self.best {
                self.try_out(candidate);
            }
        }
    }
}
