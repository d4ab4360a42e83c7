//! An open file from which signals are read (`signalfd`).
//!
//! A read takes signals of the thread that reads, its own before those of its process. What `poll` says is about the process
//! that made the file, and about the thread of it that did: a child that inherits the file reads its own signals, but polls
//! for those of its parent, as `epoll` does on Linux.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::task::{Context, Poll};

use faultline_executor::WaitQueue;
use faultline_fallible::{Arc, Weak};
use linux_raw_sys::general as linux;

use super::file::{File, INPUT, Transfer, Written};
use crate::process::{Process, Thread};
use crate::signal::{Detail, SignalInfo, SignalSet, pending};
use crate::syscall::Errno;

/// Size of `struct signalfd_siginfo` in bytes.
pub const SIZE: usize = 128;

/// How many such files there are: while there is none, whoever raises a signal tells nobody.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Signals to be read.
pub struct SignalFile {
    signals: AtomicU64,
    process: Arc<Process>,
    thread: Weak<Thread>,
}

impl SignalFile {
    /// A file for signals of a thread and its process.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(thread: &Arc<Thread>, signals: SignalSet) -> Result<Arc<Self>, Errno> {
        let file = Arc::try_new(Self {
            signals: AtomicU64::new(signals.0),
            process: thread.process.clone(),
            thread: Arc::downgrade(thread),
        })?;
        COUNT.fetch_add(1, Ordering::SeqCst);
        Ok(file)
    }

    /// Which signals are read.
    pub fn signals(&self) -> SignalSet {
        SignalSet(self.signals.load(Ordering::Relaxed))
    }

    /// Changes which signals are read.
    pub fn set_signals(&self, signals: SignalSet) {
        self.signals.store(signals.0, Ordering::Relaxed);
        self.process.signalled.wake_all();
    }

    /// The queue of those who read: a reader takes signals of its own process.
    pub fn polls_of<'a>(&self, thread: &'a Thread) -> &'a WaitQueue {
        &thread.process.signalled
    }

    /// The queue of those who poll.
    pub fn polls(&self) -> &WaitQueue {
        &self.process.signalled
    }
}

impl Drop for SignalFile {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A signal waits for the process, or a thread of it.
pub fn announce(process: &Process) {
    if COUNT.load(Ordering::SeqCst) > 0 {
        process.signalled.wake_all();
    }
}

/// `struct signalfd_siginfo`.
#[must_use]
pub fn to_bytes(info: &SignalInfo) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    put(0, info.signal.number());
    put(8, info.code as u32);
    match info.detail {
        Detail::Kernel => {}
        Detail::Sender(pid) => put(12, pid),
        Detail::Given([first, value]) => {
            let (low, high) = (first as u32, (first >> 32) as u32);
            if info.code == linux::SI_TIMER {
                put(24, low);
                put(32, high);
            } else {
                put(12, low);
                put(16, high);
            }
            put(44, value as u32);
            bytes[48..56].copy_from_slice(&value.to_le_bytes());
        }
        Detail::Fault(address) => bytes[72..80].copy_from_slice(&address.to_le_bytes()),
        Detail::Child { pid, status } => {
            put(12, pid);
            put(40, status as u32);
        }
    }
    bytes
}

impl File for SignalFile {
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let Some(to) = to.first_chunk_mut() else {
            return Poll::Ready(Err(Errno::EINVAL));
        };
        match pending::take(transfer.thread, self.signals()) {
            None => Poll::Pending,
            Some(info) => {
                *to = to_bytes(&info);
                Poll::Ready(Ok(SIZE))
            }
        }
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn events(&self) -> u32 {
        let of_thread = self.thread.upgrade();
        let of_thread = of_thread.map(|thread| thread.signals.lock().pending.set());
        let waiting = self.process.pending.lock().set();
        let waiting = of_thread.map_or(waiting, |own| own.union(waiting));
        if waiting.0 & self.signals().0 != 0 { INPUT } else { 0 }
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(self.polls())
    }

    fn has_offsets(&self) -> bool {
        false
    }
}
