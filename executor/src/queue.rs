//! The run queue of one class on one CPU.
//!
//! It is a first-in first-out queue made of two parts. Anybody may push on the **inbox**, a lock-free stack; only the
//! CPU that owns the queue takes from the **list**, and when the list is empty it takes the whole inbox at once and
//! reverses it. All tasks of the list are older than those of the inbox, so the order is that of the pushes. A push is
//! one read-modify-write, whoever pushes and from wherever: a task, an interrupt handler or another CPU. Both parts are
//! linked through the slots, so neither can overflow.
//!
//! # Memory order
//!
//! * Push: **Release**, so that what the pusher wrote to the slot (its `next`, at spawn everything) is seen by the CPU
//!   that pops it. The stack is only ever taken as a whole, so there is no ABA problem.
//! * Take: **Acquire**, the other half.
//! * The list's links are Relaxed: one CPU writes them. They are atomic because [`ClassQueue::is_empty`] may be asked
//!   from anywhere, and then is a hint.

use core::ptr;

use crate::{
    sync::{AtomicPtr, Ordering},
    task::Slot,
};

/// The run queue of one class on one CPU.
#[derive(Debug)]
pub(crate) struct ClassQueue {
    /// Tasks that were pushed since the CPU last took them, the newest first.
    inbox: AtomicPtr<Slot>,
    /// Tasks that the CPU has taken, the oldest first.
    list: AtomicPtr<Slot>,
}

impl ClassQueue {
    pub(crate) fn new() -> Self {
        Self {
            inbox: AtomicPtr::new(ptr::null_mut()),
            list: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Whether nothing is queued. Exact on the CPU that owns the queue, as far as its own pushes go.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.list.load(Ordering::Relaxed).is_null() && self.inbox.load(Ordering::Relaxed).is_null()
    }

    /// Queues a task. The caller has set its `ENQUEUED`. Says whether the inbox was empty: then the owner may be asleep.
    #[inline(always)]
    pub(crate) fn push(&self, task: &'static Slot) -> bool {
        let mut head = self.inbox.load(Ordering::Relaxed);
        loop {
            task.next.store(head, Ordering::Relaxed);
            match self
                .inbox
                .compare_exchange_weak(head, task.as_ptr(), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return head.is_null(),
                Err(now) => head = now,
            }
        }
    }

    /// Takes the oldest task out. Only the owner calls this.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<&'static Slot> {
        let mut first = self.list.load(Ordering::Relaxed);
        if first.is_null() {
            if self.inbox.load(Ordering::Relaxed).is_null() {
                return None;
            }
            first = self.inbox.swap(ptr::null_mut(), Ordering::Acquire);
            // SAFETY: the inbox was not empty, only its owner empties it, and slots are never freed.
            let next = unsafe { &*first }.next.load(Ordering::Relaxed);
            if next.is_null() {
                // A lone task, which is the common case: the list stays empty.
                // SAFETY: as above.
                return Some(unsafe { &*first });
            }
            first = Self::reverse(first, next);
        }
        // SAFETY: the list holds slots, which are never freed.
        let task: &'static Slot = unsafe { &*first };
        self.list.store(task.next.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(task)
    }

    /// Turns the chain that starts with `newest` and `next` around; returns the oldest.
    fn reverse(newest: *mut Slot, next: *mut Slot) -> *mut Slot {
        let (mut newer, mut task) = (newest, next);
        // SAFETY: the chain holds slots, which are never freed; it belongs to the caller since it left the inbox.
        unsafe { &*newer }.next.store(ptr::null_mut(), Ordering::Relaxed);
        while !task.is_null() {
            // SAFETY: as above.
            let slot = unsafe { &*task };
            let older = slot.next.load(Ordering::Relaxed);
            slot.next.store(newer, Ordering::Relaxed);
            (newer, task) = (task, older);
        }
        newer
    }
}
