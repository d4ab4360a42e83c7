//! Signals that wait, and what a thread blocks.

use linux_raw_sys::general as linux;

use super::{Disposition, Signal, SignalInfo, SignalSet};
use crate::process::Thread;

/// Raised signals that were not delivered yet: at most one of each number, as Linux keeps the standard signals.
#[derive(Debug)]
pub struct Pending {
    set: SignalSet,
    /// The details of the first few; a signal that finds no room here is delivered without detail.
    details: [Option<SignalInfo>; 4],
}

impl Pending {
    /// Nothing waits.
    pub const EMPTY: Self = Self {
        set: SignalSet::EMPTY,
        details: [None; 4],
    };

    /// The signals that wait.
    #[must_use]
    pub const fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal; without effect if that number waits already.
    pub fn add(&mut self, info: SignalInfo) {
        if self.set.contains(info.signal) {
            return;
        }
        self.set = self.set.union(info.signal.set());
        if let Some(slot) = self.details.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(info);
        }
    }

    /// Takes out the first signal that is in `wanted`.
    pub fn take(&mut self, wanted: SignalSet) -> Option<SignalInfo> {
        let signal = SignalSet(self.set.0 & wanted.0).first()?;
        self.set = self.set.without(signal.set());
        let mut details = self.details.iter_mut();
        let slot = details.find(|slot| slot.is_some_and(|info| info.signal == signal));
        Some(slot.and_then(Option::take).unwrap_or(SignalInfo::kernel(signal)))
    }

    /// Drops a signal, as setting its action to ignore does.
    pub fn discard(&mut self, signal: Signal) {
        self.take(signal.set());
    }
}

/// The alternate signal stack of a thread, as `sigaltstack` passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlternateStack {
    /// Lowest address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
    /// `SS_*` flags.
    pub flags: u32,
}

impl AlternateStack {
    /// No alternate stack.
    pub const NONE: Self = Self {
        base: 0,
        size: 0,
        flags: linux::SS_DISABLE,
    };

    /// Whether `pointer` lies on it.
    #[must_use]
    pub const fn contains(&self, pointer: u64) -> bool {
        self.flags & linux::SS_DISABLE == 0 && pointer.wrapping_sub(self.base).wrapping_sub(1) < self.size
    }
}

/// What a thread knows of signals.
#[derive(Debug)]
pub struct ThreadSignals {
    /// Signals for this thread alone.
    pub pending: Pending,
    /// Signals that it blocks.
    pub blocked: SignalSet,
    /// The mask to go back to after the handler that ends a `sigsuspend`.
    pub restore: Option<SignalSet>,
    /// Its alternate stack.
    pub alternate: AlternateStack,
}

impl ThreadSignals {
    /// The signals of a new thread that blocks `blocked`.
    #[must_use]
    pub const fn new(blocked: SignalSet) -> Self {
        Self {
            pending: Pending::EMPTY,
            blocked,
            restore: None,
            alternate: AlternateStack::NONE,
        }
    }
}

/// Takes the next signal that `thread` has to act upon, its own before the process's. Ignored ones are dropped on the
/// way. The attention bit is set again if another is waiting.
pub fn next(thread: &Thread) -> Option<(SignalInfo, Disposition)> {
    thread.forget_signals();
    loop {
        let (info, more) = {
            let mut own = thread.signals.lock();
            let mut shared = thread.process.pending.lock();
            let wanted = SignalSet(!own.blocked.0);
            let info = own.pending.take(wanted).or_else(|| shared.take(wanted))?;
            let waiting = own.pending.set().union(shared.set());
            (info, !waiting.without(own.blocked).is_empty())
        };
        let disposition = thread.process.actions.lock().take(info.signal);
        if disposition != Disposition::Ignore {
            if more {
                thread.notice_signals();
            }
            return Some((info, disposition));
        }
    }
}

/// Sets the attention bit of `thread` if a signal waits that it does not block.
pub fn review(thread: &Thread) {
    let own = thread.signals.lock();
    let waiting = own.pending.set().union(thread.process.pending.lock().set());
    if !waiting.without(own.blocked).is_empty() {
        thread.notice_signals();
    }
}
