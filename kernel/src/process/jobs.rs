//! Stopping and continuing processes.
//!
//! ```text
//!             stop signal                     SIGCONT
//!  Running ───────────────► Stopped(signal) ───────────► Continued
//!     ▲                        │ waited for: reported        │ waited for
//!     └────────────────────────┼─────────────────────────────┘
//!                              └── a stop signal from Continued leads back to Stopped
//! ```
//!
//! A thread of a stopped process does not enter user mode. A fault goes on without it; a wait in a call ends, so that what
//! it waited for is there for others, and the call is made again when the process continues, with the deadline that it had
//! ([`waiting`](super::waiting)). `SIGKILL` ends a stopped process, for the end of a thread comes before its stop.

use core::sync::atomic::{AtomicUsize, Ordering};

use linux_raw_sys::general as linux;
use spin::Mutex;

use super::{ChildChange, Process, tree};
use crate::signal::{Detail, Signal, SignalInfo, pending, raise};

/// How many processes are stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Whether a process is stopped, and what its parent has not waited for.
#[derive(Debug, Default)]
pub struct Job(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// It was never stopped, or its parent knows that it continued.
    #[default]
    Running,
    /// This signal stopped it.
    Stopped {
        signal: Signal,
        /// A wait has said so.
        reported: bool,
    },
    /// It goes on, which no wait has said.
    Continued,
}

impl Job {
    /// Whether the process is stopped.
    pub fn is_stopped(&self) -> bool {
        matches!(*self.0.lock(), State::Stopped { .. })
    }

    /// What a wait for stopped or continued children finds; it finds it once, unless it is to `keep` it.
    pub fn report(&self, stopped: bool, continued: bool, keep: bool) -> Option<ChildChange> {
        let mut state = self.0.lock();
        match *state {
            State::Stopped {
                signal,
                reported: false,
            } if stopped => {
                if !keep {
                    *state = State::Stopped { signal, reported: true };
                }
                Some(ChildChange::Stopped(signal))
            }
            State::Continued if continued => {
                if !keep {
                    *state = State::Running;
                }
                Some(ChildChange::Continued)
            }
            _ => None,
        }
    }

    /// The process has ended.
    pub fn end(&self) {
        self.replace(State::Running);
    }

    /// Replaces the state; says whether it was stopped before.
    fn replace(&self, state: State) -> bool {
        let before = core::mem::replace(&mut *self.0.lock(), state);
        let was_stopped = matches!(before, State::Stopped { .. });
        match (was_stopped, matches!(state, State::Stopped { .. })) {
            (false, true) => {
                STOPPED.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                STOPPED.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        was_stopped
    }
}

/// Whether any process is stopped.
pub fn any_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed) > 0
}

/// Stops a process, unless the signal is one of a terminal's and nobody could continue it.
pub fn stop(process: &Process, signal: Signal) {
    if signal != Signal::SIGSTOP && tree::is_orphaned(process.group()) {
        return;
    }
    if process.ending().is_some() || process.job.is_stopped() {
        return;
    }
    process.job.replace(State::Stopped {
        signal,
        reported: false,
    });
    process.for_each_thread(|thread| {
        thread.stop();
        thread.wake();
    });
    tell_parent(process, ChildChange::Stopped(signal));
}

/// Lets a stopped process go on.
pub fn resume(process: &Process) {
    if !process.job.is_stopped() {
        return;
    }
    process.job.replace(State::Continued);
    process.for_each_thread(|thread| {
        thread.resume();
        pending::review(thread);
        thread.wake();
    });
    tell_parent(process, ChildChange::Continued);
}

/// Tells the parent that a child has stopped or goes on.
fn tell_parent(process: &Process, change: ChildChange) {
    let Some(parent) = tree::parent_process(process.pid) else {
        return;
    };
    let action = parent.actions.lock().get(Signal::SIGCHLD);
    if action.handler != 1 && !action.has(linux::SA_NOCLDSTOP) {
        raise::to_process(&parent, child_signal(Signal::SIGCHLD, process, change));
    }
    parent.wake_threads();
}

/// The signal that tells what became of a child.
pub fn child_signal(signal: Signal, child: &Process, change: ChildChange) -> SignalInfo {
    let (code, status) = change.to_child_code();
    SignalInfo {
        signal,
        code,
        detail: Detail::Child { pid: child.pid, status },
    }
}

/// `process` has ended. A process group that it kept from being orphaned, and in which a process is stopped, would wait for
/// ever: it is told to hang up and goes on.
pub fn release_orphaned_group(process: &Process, group: u32) {
    if !any_stopped() || !tree::is_orphaned(group) {
        return;
    }
    if !tree::any_living(|other| other.group() == group && other.job.is_stopped()) {
        return;
    }
    log::debug!("process {}: its end leaves group {group} orphaned", process.pid);
    for signal in [Signal::SIGHUP, Signal::SIGCONT] {
        tree::for_each_living(|other| {
            if other.group() == group {
                raise::to_process(other, SignalInfo::kernel(signal));
            }
        });
    }
}
