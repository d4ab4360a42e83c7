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

use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general as linux;

use super::{ChildChange, Process, tree};
use crate::signal::{Detail, Signal, SignalInfo, pending, raise};

/// Whether a process is stopped, and what its parent has not waited for. Changed under the lock of the tree, which counts
/// the stopped processes of a group and has a line of the children that changed; read without it.
#[derive(Debug, Default)]
pub struct Job(AtomicU32);

/// What a [`Job`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was never stopped, or its parent knows that it continued.
    Running,
    /// This signal stopped it.
    Stopped {
        /// The signal.
        signal: Signal,
        /// A wait has said so.
        reported: bool,
    },
    /// It goes on, which no wait has said.
    Continued,
}

impl State {
    const STOPPED: u32 = 0x100;
    const REPORTED: u32 = 0x200;
    const CONTINUED: u32 = 0x400;

    const fn pack(self) -> u32 {
        match self {
            Self::Running => 0,
            Self::Stopped { signal, reported } => {
                Self::STOPPED | signal.number() | if reported { Self::REPORTED } else { 0 }
            }
            Self::Continued => Self::CONTINUED,
        }
    }

    fn unpack(word: u32) -> Self {
        match Signal::new(word & 0xff) {
            Some(signal) => Self::Stopped {
                signal,
                reported: word & Self::REPORTED != 0,
            },
            None if word & Self::CONTINUED != 0 => Self::Continued,
            None => Self::Running,
        }
    }
}

impl Job {
    /// What it is.
    pub fn state(&self) -> State {
        State::unpack(self.0.load(Ordering::Acquire))
    }

    /// Whether the process is stopped.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire) & State::STOPPED != 0
    }

    /// What a wait for stopped or continued children finds.
    pub fn report(&self, stopped: bool, continued: bool) -> Option<ChildChange> {
        match self.state() {
            State::Stopped {
                signal,
                reported: false,
            } if stopped => Some(ChildChange::Stopped(signal)),
            State::Continued if continued => Some(ChildChange::Continued),
            _ => None,
        }
    }

    /// A wait has said what there is to say.
    pub(super) fn reported(&self) {
        self.set(match self.state() {
            State::Stopped { signal, .. } => State::Stopped { signal, reported: true },
            _ => State::Running,
        });
    }

    /// Replaces the state.
    pub(super) fn set(&self, state: State) {
        self.0.store(state.pack(), Ordering::Release);
    }
}

/// Stops a process, unless the signal is one of a terminal's and nobody could continue it.
pub fn stop(process: &Process, signal: Signal) {
    if tree::stop_process(process, signal) {
        process.for_each_thread(|thread| {
            thread.stop();
            thread.wake();
        });
        tell_parent(process, ChildChange::Stopped(signal));
    }
}

/// Lets a stopped process go on.
pub fn resume(process: &Process) {
    if tree::continue_process(process) {
        process.for_each_thread(|thread| {
            thread.resume();
            pending::review(thread);
            thread.wake();
        });
        tell_parent(process, ChildChange::Continued);
    }
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
    process.changes.wake_all();
    parent.waits_for_some.wake_all();
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
