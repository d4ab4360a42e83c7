//! The timers of one CPU.
//!
//! The tree is behind a short lock, which is never held while a waker runs. The earliest deadline is kept beside it, so
//! that a turn without a due timer costs one load. It is written under the lock and read without: **Relaxed** is enough,
//! because on the CPU itself program order does it, and another CPU reads it as a hint.

use core::{pin::Pin, task::Waker};

use super::treap::{Node, Treap};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The deadline of an empty queue.
const NEVER: u64 = u64::MAX;

/// The timers of one CPU.
#[derive(Debug)]
pub(crate) struct TimerQueue {
    earliest: AtomicU64,
    sleeping: Mutex<Sleeping>,
}

#[derive(Debug)]
struct Sleeping {
    tree: Treap,
    sequence: u64,
}

impl TimerQueue {
    pub(crate) fn new() -> Self {
        Self {
            earliest: AtomicU64::new(NEVER),
            sleeping: Mutex::new(Sleeping {
                tree: Treap::new(),
                sequence: 0,
            }),
        }
    }

    /// When the next timer is due.
    #[inline(always)]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let deadline = self.earliest.load(Ordering::Relaxed);
        (deadline != NEVER).then_some(deadline)
    }

    /// Fires up to `limit` timers that are due, the earliest first: gives their wakers to `wake`. Returns how many. Does
    /// nothing if somebody holds the lock, so that it can be called from an interrupt handler.
    pub(crate) fn advance(&self, now: u64, limit: u32, mut wake: impl FnMut(Waker)) -> u32 {
        let mut fired = 0;
        while fired < limit && self.earliest.load(Ordering::Relaxed) <= now {
            let Some(mut sleeping) = self.sleeping.try_lock() else {
                break;
            };
            let Some(first) = sleeping.tree.first() else { break };
            // SAFETY: the node is in the tree: it is valid, and ours as long as we hold the lock.
            let waker = unsafe {
                if (*first).deadline > now {
                    break;
                }
                sleeping.tree.remove(first);
                (*first).waker.take()
            };
            self.note_earliest(&sleeping);
            drop(sleeping);
            fired += 1;
            if let Some(waker) = waker {
                wake(waker);
            }
        }
        fired
    }

    /// Starts a timer, or renews the waker of one that runs. Returns `false` if it has fired already.
    ///
    /// # Safety
    /// `node` belongs to this queue: it was only ever given to this queue, and [`TimerQueue::cancel`] is called before
    /// it is dropped if it was started.
    pub(crate) unsafe fn start(&self, node: Pin<&mut NodeCell>, started: bool, waker: &Waker) -> bool {
        let node = node.as_ptr();
        let mut sleeping = self.sleeping.lock();
        // SAFETY: the node is pinned, and is touched only under the lock.
        unsafe {
            if !(*node).linked {
                if started {
                    return false;
                }
                sleeping.sequence += 1;
                (*node).sequence = sleeping.sequence;
                (*node).waker = Some(waker.clone());
                sleeping.tree.insert(node);
                self.note_earliest(&sleeping);
                return true;
            }
            match &mut (*node).waker {
                Some(registered) => registered.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        true
    }

    /// Stops a timer that was started.
    ///
    /// # Safety
    /// As [`TimerQueue::start`].
    pub(crate) unsafe fn cancel(&self, node: Pin<&mut NodeCell>) {
        let node = node.as_ptr();
        let mut sleeping = self.sleeping.lock();
        // SAFETY: as in `start`.
        unsafe {
            if (*node).linked {
                sleeping.tree.remove(node);
                self.note_earliest(&sleeping);
            }
        }
    }

    /// Writes down the earliest deadline. The reference shows that the caller holds the lock.
    fn note_earliest(&self, sleeping: &Sleeping) {
        // SAFETY: a node of the tree is valid while the lock is held.
        let earliest = sleeping
            .tree
            .first()
            .map_or(NEVER, |first| unsafe { (*first).deadline });
        self.earliest.store(earliest, Ordering::Relaxed);
    }
}

/// A node inside a future: it is touched under the queue's lock, through a pointer, while the future is borrowed.
#[derive(Debug)]
pub(crate) struct NodeCell {
    node: core::cell::UnsafeCell<Node>,
    _pinned: core::marker::PhantomPinned,
}

// SAFETY: the node is touched under the lock of its queue only, and holds a waker, which is `Send` and `Sync`.
unsafe impl Send for NodeCell {}
// SAFETY: as above; a shared `NodeCell` gives no access.
unsafe impl Sync for NodeCell {}

impl NodeCell {
    pub(crate) const fn new(deadline: u64) -> Self {
        Self {
            node: core::cell::UnsafeCell::new(Node::new(deadline)),
            _pinned: core::marker::PhantomPinned,
        }
    }

    fn as_ptr(self: Pin<&mut Self>) -> *mut Node {
        self.node.get()
    }
}
