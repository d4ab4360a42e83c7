//! Signals that wait, and what a thread blocks.

use core::sync::atomic::{AtomicUsize, Ordering};

use faultline_fallible::Vec;
use linux_raw_sys::general as linux;

use super::{Detail, Disposition, Signal, SignalInfo, SignalSet};
use crate::process::Thread;

/// Most signals that wait in queues, in the whole machine, which has one user. `RLIMIT_SIGPENDING` can be set to less.
pub const LIMIT: usize = 1024;

/// How many signals wait in queues.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// As many signals wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Raised signals that were not delivered yet, as Linux keeps them: at most one of each standard signal, and every
/// real-time signal, in the order in which they were raised.
#[derive(Debug)]
pub struct Pending {
    set: SignalSet,
    /// The details of a standard signal; those of others are in the queue. One that finds no room is delivered without.
    detail: Option<SignalInfo>,
    /// The real-time signals, and details of standard signals.
    queue: Vec<SignalInfo>,
}

impl Pending {
    /// Nothing waits.
    pub const EMPTY: Self = Self {
        set: SignalSet::EMPTY,
        detail: None,
        queue: Vec::new(),
    };

    /// The signals that wait.
    #[must_use]
    pub const fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal, to queues that hold fewer than `most`; without effect if it is a standard signal and waits already.
    ///
    /// # Errors
    /// [`QueueFull`] for a real-time signal that finds no room, unless `kill` sent it: such a signal then waits without its
    /// detail, once.
    pub fn add(&mut self, info: SignalInfo, most: u64) -> Result<(), QueueFull> {
        if info.signal.is_real_time() {
            let queued = self.queue_up(info, most);
            if queued.is_err() && info.code != linux::SI_USER as i32 {
                return queued;
            }
        } else if !self.set.contains(info.signal) {
            if self.detail.is_none() {
                self.detail = Some(info);
            } else {
                // Without room there is no detail.
                let _ = self.queue_up(info, most);
            }
        }
        self.set = self.set.union(info.signal.set());
        Ok(())
    }

    fn queue_up(&mut self, info: SignalInfo, most: u64) -> Result<(), QueueFull> {
        let queued = QUEUED.load(Ordering::Relaxed);
        if queued >= LIMIT || queued as u64 >= most || self.queue.try_push(info).is_err() {
            return Err(QueueFull);
        }
        QUEUED.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes out the first signal that is in `wanted`: the lowest, and the oldest of its number.
    pub fn take(&mut self, wanted: SignalSet) -> Option<SignalInfo> {
        let signal = SignalSet(self.set.0 & wanted.0).first()?;
        let found = self
            .detail
            .take_if(|info| info.signal == signal)
            .or_else(|| self.dequeue(signal));
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(signal.set());
        }
        Some(found.unwrap_or(SignalInfo::sent_by(0, signal)))
    }

    fn dequeue(&mut self, signal: Signal) -> Option<SignalInfo> {
        let place = self.queue.iter().position(|info| info.signal == signal)?;
        let info = self.queue.remove(place);
        QUEUED.fetch_sub(1, Ordering::Relaxed);
        if self.queue.is_empty() {
            self.queue = Vec::new();
        }
        Some(info)
    }

    /// Drops every signal of a set, as setting an action to ignore does.
    pub fn discard(&mut self, signals: SignalSet) {
        if self.set.0 & signals.0 == 0 {
            return;
        }
        self.set = self.set.without(signals);
        self.detail.take_if(|info| signals.contains(info.signal));
        let before = self.queue.len();
        self.queue.retain(|info| !signals.contains(info.signal));
        QUEUED.fetch_sub(before - self.queue.len(), Ordering::Relaxed);
        if self.queue.is_empty() {
            self.queue = Vec::new();
        }
    }

    /// Takes back the signal of a timer, if it waits.
    pub fn withdraw(&mut self, timer: &SignalInfo) {
        if let Some(info) = self.detail.take_if(|info| info.is_of_same_timer(timer)) {
            self.forget(info.signal);
        } else if let Some(place) = self.queue.iter().position(|info| info.is_of_same_timer(timer)) {
            let info = self.queue.remove(place);
            QUEUED.fetch_sub(1, Ordering::Relaxed);
            self.forget(info.signal);
        }
    }

    /// One signal less waits: if it was the last of its number, none does.
    fn forget(&mut self, signal: Signal) {
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(signal.set());
        }
    }

    /// A timer has expired `count` times more: if its signal waits, they are added to the overruns that it tells, which
    /// are returned.
    pub fn overrun(&mut self, info: &SignalInfo, count: u64) -> Option<u64> {
        const MOST: u64 = i32::MAX as u64;
        if !self.set.contains(info.signal) {
            return None;
        }
        let mut waiting = self.detail.iter_mut().chain(&mut self.queue);
        let found = waiting.find(|other| other.is_of_same_timer(info))?;
        let Detail::Given([word, _]) = &mut found.detail else {
            return None;
        };
        let overruns = (*word >> 32).saturating_add(count).min(MOST);
        *word = *word & 0xffff_ffff | overruns << 32;
        Some(overruns)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        QUEUED.fetch_sub(self.queue.len(), Ordering::Relaxed);
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
    /// Signals that it waits for in `rt_sigtimedwait`.
    pub awaited: SignalSet,
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
            awaited: SignalSet::EMPTY,
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

/// Takes a signal of `wanted` that waits for `thread`, its own before the process's, blocked or not.
pub fn take(thread: &Thread, wanted: SignalSet) -> Option<SignalInfo> {
    let own = thread.signals.lock().pending.take(wanted);
    own.or_else(|| thread.process.pending.lock().take(wanted))
}

/// Sets the attention bit of `thread` if a signal waits that it does not block.
pub fn review(thread: &Thread) {
    let own = thread.signals.lock();
    let waiting = own.pending.set().union(thread.process.pending.lock().set());
    if !waiting.without(own.blocked).is_empty() {
        thread.notice_signals();
    }
}
