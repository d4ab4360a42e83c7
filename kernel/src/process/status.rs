//! How a process ended, and what else its parent may wait for.
//!
//! No core files are written, and `RLIMIT_CORE` says so, so no status has the core flag.

use linux_raw_sys::general as linux;

use crate::signal::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called `exit` with this code.
    Exited(u8),
    /// This signal ended it.
    Killed(Signal),
}

impl ExitStatus {
    /// The word that `wait4` stores.
    #[must_use]
    pub const fn to_wait_word(self) -> u32 {
        match self {
            Self::Exited(code) => (code as u32) << 8,
            Self::Killed(signal) => signal.number(),
        }
    }

    /// What a shell would show: the exit code, or 128 + the signal.
    #[must_use]
    pub const fn to_shell_status(self) -> u32 {
        match self {
            Self::Exited(code) => code as u32,
            Self::Killed(signal) => 128 + signal.number(),
        }
    }

    /// Packs the status into a word that is never 0.
    pub(super) const fn pack(self) -> u32 {
        match self {
            Self::Exited(code) => 0x1_0000 | code as u32,
            Self::Killed(signal) => 0x2_0000 | signal.number(),
        }
    }

    /// Undoes [`pack`](Self::pack); `None` for 0.
    pub(super) fn unpack(word: u32) -> Option<Self> {
        match word >> 16 {
            1 => Some(Self::Exited(word as u8)),
            2 => Signal::new(word & 0xffff).map(Self::Killed),
            _ => None,
        }
    }
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildChange {
    /// It ended.
    Ended(ExitStatus),
    /// This signal stopped it.
    Stopped(Signal),
    /// It goes on.
    Continued,
}

impl ChildChange {
    /// The word that `wait4` stores.
    #[must_use]
    pub const fn to_wait_word(self) -> u32 {
        match self {
            Self::Ended(status) => status.to_wait_word(),
            Self::Stopped(signal) => signal.number() << 8 | 0x7f,
            Self::Continued => 0xffff,
        }
    }

    /// `si_code` and `si_status` of the `SIGCHLD` that tells the parent.
    #[must_use]
    pub const fn to_child_code(self) -> (i32, i32) {
        match self {
            Self::Ended(ExitStatus::Exited(code)) => (linux::CLD_EXITED as i32, code as i32),
            Self::Ended(ExitStatus::Killed(signal)) => (linux::CLD_KILLED as i32, signal.number() as i32),
            Self::Stopped(signal) => (linux::CLD_STOPPED as i32, signal.number() as i32),
            Self::Continued => (linux::CLD_CONTINUED as i32, linux::SIGCONT as i32),
        }
    }
}
