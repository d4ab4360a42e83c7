//! Signals: what they are, how they are raised, and how they reach a handler.
//!
//! A signal is *raised* for a thread or for a process ([`raise`]). It stays pending while the thread blocks it. A thread
//! looks at its pending signals only before it enters user mode, when its attention word says so ([`pending`]), and
//! builds the handler's frame on the user stack ([`deliver`]). A signal whose action is to end the process acts at once,
//! whatever the thread is doing: it does not wait for the thread to come back from a fault or a call.
//!
//! A signal that stops the process, and is not blocked, acts at once too, and so does `SIGCONT`, even where it is blocked
//! or ignored; each of the two takes back what waits of the other ([`jobs`](crate::process::jobs)).

pub mod action;
pub mod calls;
pub mod deliver;
pub mod frame;
pub mod info;
pub mod pending;
pub mod raise;
pub mod wait;

use linux_raw_sys::general as linux;

pub use action::{Action, Actions, Disposition};
pub use info::{Detail, SignalInfo};
pub use pending::{AlternateStack, Pending, QueueFull, ThreadSignals};

/// A signal number, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal(u8);

/// What happens when a signal has no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// The process ends.
    Terminate,
    /// Nothing.
    Ignore,
    /// The process stops until `SIGCONT`.
    Stop,
}

macro_rules! signals {
    ($($name:ident)*) => {
        #[allow(missing_docs, reason = "the names are those of signal(7)")]
        impl Signal { $(pub const $name: Self = Self(linux::$name as u8);)* }
    };
}

signals! {
    SIGHUP SIGINT SIGQUIT SIGALRM SIGILL SIGTRAP SIGBUS SIGFPE SIGKILL SIGSEGV SIGPIPE SIGCHLD SIGCONT SIGSTOP SIGTSTP
    SIGTTIN SIGTTOU SIGURG SIGXFSZ SIGWINCH SIGSYS SIGVTALRM SIGPROF SIGXCPU
}

impl Signal {
    /// The signal of that number, if there is one.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number >= 1 && number <= 64 {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The set that holds only this signal.
    #[must_use]
    pub const fn set(self) -> SignalSet {
        SignalSet(1 << (self.0 - 1))
    }

    /// Whether it is a real-time signal, each of which waits its turn.
    #[must_use]
    pub const fn is_real_time(self) -> bool {
        self.0 >= 32
    }

    /// What happens without a handler.
    #[must_use]
    pub const fn default_action(self) -> DefaultAction {
        match self {
            Self::SIGCHLD | Self::SIGURG | Self::SIGWINCH | Self::SIGCONT => DefaultAction::Ignore,
            Self::SIGSTOP | Self::SIGTSTP | Self::SIGTTIN | Self::SIGTTOU => DefaultAction::Stop,
            _ => DefaultAction::Terminate,
        }
    }
}

/// A set of signals, bit `n - 1` for signal `n`, as user mode passes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);

    /// The signals that can be neither blocked nor handled.
    pub const UNBLOCKABLE: Self = Self(Signal::SIGKILL.set().0 | Signal::SIGSTOP.set().0);

    /// The signals that stop a process.
    pub const STOPPING: Self =
        Self(Signal::SIGSTOP.set().0 | Signal::SIGTSTP.set().0 | Signal::SIGTTIN.set().0 | Signal::SIGTTOU.set().0);

    /// Whether the set holds `signal`.
    #[must_use]
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & signal.set().0 != 0
    }

    /// This set and `other`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no signal is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest signal in it; the signals that a fault raises come before all others.
    #[must_use]
    pub fn first(self) -> Option<Signal> {
        const SYNCHRONOUS: u64 = Signal::SIGSEGV.set().0
            | Signal::SIGBUS.set().0
            | Signal::SIGILL.set().0
            | Signal::SIGTRAP.set().0
            | Signal::SIGFPE.set().0
            | Signal::SIGSYS.set().0;
        let urgent = if self.0 & SYNCHRONOUS != 0 {
            self.0 & SYNCHRONOUS
        } else {
            self.0
        };
        Signal::new(urgent.trailing_zeros() + 1)
    }
}
