//! Threads of the host that run worlds: one that has seen a panic is replaced.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::run::{Outcome, is_fit, run};
use crate::script::Script;

/// What a lane is asked to do.
struct Job {
    script: Arc<Script>,
    record: bool,
}

/// Runs worlds one after the other on a thread of its own.
#[derive(Default)]
pub struct Lane(Option<(SyncSender<Job>, Receiver<Outcome>)>);

impl Lane {
    /// Runs a script; see [`run`].
    ///
    /// # Panics
    /// If no thread can be made.
    pub fn run(&mut self, script: &Arc<Script>, record: bool) -> Outcome {
        let job = || Job {
            script: Arc::clone(script),
            record,
        };
        if let Some((jobs, outcomes)) = &self.0
            && jobs.send(job()).is_ok()
            && let Ok(outcome) = outcomes.recv()
        {
            return outcome;
        }
        // The thread has ended: the world that it ran last was the last one that it could run.
        let (jobs, outcomes) = self.0.insert(start());
        jobs.send(job()).expect("a new lane takes a job");
        outcomes.recv().expect("a new lane runs a world")
    }
}

fn start() -> (SyncSender<Job>, Receiver<Outcome>) {
    let (jobs, todo) = sync_channel::<Job>(0);
    let (done, outcomes) = sync_channel(0);
    thread::spawn(move || {
        while let Ok(job) = todo.recv() {
            let fit = done.send(run(&job.script, job.record)).is_ok() && is_fit();
            if !fit {
                return;
            }
        }
    });
    (jobs, outcomes)
}

/// How many worlds run at a time unless something else is asked for: one for each processor.
#[must_use]
pub fn default_jobs() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
