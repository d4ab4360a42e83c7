//! Child processes and how they end.

use std::fmt;
use std::io;

use crate::fail;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By its own will, with this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    fn from_status(status: libc::c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Exit(libc::WEXITSTATUS(status))
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exit with status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A child that was not waited for yet.
#[derive(Debug)]
#[must_use = "a child that nobody waits for stays a zombie"]
pub struct Child(libc::pid_t);

impl Child {
    /// Sends it a signal.
    pub fn kill(&self, signal: i32) {
        // SAFETY: the call touches no memory.
        if unsafe { libc::kill(self.0, signal) } != 0 {
            fail(format_args!("kill: {}", io::Error::last_os_error()));
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        // SAFETY: 1. all zeros is a valid `siginfo_t`. 2. the call writes to it and to nothing else.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            let result = libc::waitid(libc::P_PID, self.0.unsigned_abs(), &raw mut info, flags);
            result != 0 || info.si_pid() != 0
        }
    }

    /// Waits for its end.
    pub fn wait(self) -> Ended {
        let mut status = 0;
        // SAFETY: `status` is a place for the call to write to, and outlives it.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        if pid != self.0 {
            fail(format_args!(
                "waitpid for {} gave {pid}: {}",
                self.0,
                io::Error::last_os_error()
            ));
        }
        Ended::from_status(status)
    }
}

/// Forks a child that runs `work` and exits with status 0. Only for programs with one thread.
pub fn fork(work: impl FnOnce()) -> Child {
    try_fork(work).unwrap_or_else(|error| fail(format_args!("fork: {error}")))
}

/// As [`fork`], if the kernel gives a child.
///
/// # Errors
/// What fork reported.
pub fn try_fork(work: impl FnOnce()) -> io::Result<Child> {
    // SAFETY: the calling program has one thread, so that the child's copy of every lock and heap is in order.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            work();
            // SAFETY: the call doesn't return. Unlike `std::process::exit` it runs no clean-up of the parent's.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Child(pid)),
    }
}

/// Runs `work` in a child and says how that ended.
pub fn probe(work: impl FnOnce()) -> Ended {
    fork(|| {
        default_signals();
        work();
    })
    .wait()
}

/// Fails unless a child ended as expected.
pub fn expect(found: Ended, expected: Ended, what: &str) {
    if found != expected {
        fail(format_args!("{what}: {found}, not {expected}"));
    }
}

/// Undoes what the Rust runtime did to look for stack overflows: a bad access ends the program by the signal itself.
fn default_signals() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action is valid for every signal, and no other thread exists.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
