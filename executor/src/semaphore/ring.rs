//! The queues of a semaphore: requests within a share, and shares that take turns.
//!
//! Requests are linked through the waiting futures ([`Waiters`]), shares through their owners. A request keeps its owner
//! alive (it holds a [`Share`](super::Share)), and an owner is in the ring only while it has a request. So no link dangles,
//! even if a waiting future is leaked: then it, and all that it links, is never freed.

use core::ptr;

use super::Owner;
use crate::waiters::{Waiter, Waiters};

/// One waiting request: for how many permits. Woken means granted.
pub(super) type Request = Waiter<usize>;

/// The state of one share: what it holds, and its requests.
pub(super) struct Queue {
    pub(super) held: usize,
    pub(super) requests: Waiters<usize>,
    in_ring: bool,
    next: *const Owner,
    previous: *const Owner,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self {
            held: 0,
            requests: Waiters::new(),
            in_ring: false,
            next: ptr::null(),
            previous: ptr::null(),
        }
    }
}

/// The shares that wait for permits and not for their own limit, in the order of their turns.
pub(super) struct Ring {
    first: *const Owner,
    last: *const Owner,
}

// SAFETY: the owners are reached under the lock of the semaphore only.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) const fn new() -> Self {
        Self {
            first: ptr::null(),
            last: ptr::null(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Whose turn it is.
    pub(super) fn first<'a>(&self) -> Option<&'a Owner> {
        // SAFETY: owners in the ring are alive, as the module says. The caller does not keep the reference beyond the
        // lock.
        unsafe { self.first.as_ref() }
    }

    /// Puts the share into the ring or takes it out, as its queue now says.
    pub(super) fn update(&mut self, owner: &Owner) {
        // SAFETY: the queues are ours under the lock of the semaphore, which `self` is behind.
        let (wanted, present) = owner.queue.with(|queue| unsafe {
            let queue = &*queue;
            let wanted = queue.requests.first();
            let wanted = wanted.is_some_and(|count| queue.held + count <= owner.limit);
            (wanted, queue.in_ring)
        });
        if wanted && !present {
            self.push(owner);
        } else if present && !wanted {
            self.remove(owner);
        }
    }

    /// The share whose turn it was has had it.
    pub(super) fn rotate(&mut self, owner: &Owner) {
        self.remove(owner);
        self.update(owner);
    }

    fn push(&mut self, owner: &Owner) {
        let previous = self.last;
        // SAFETY: as in `update`.
        owner.queue.with_mut(|queue| unsafe {
            (*queue).in_ring = true;
            (*queue).next = ptr::null();
            (*queue).previous = previous;
        });
        self.set_next(previous, owner);
        self.last = owner;
    }

    fn remove(&mut self, owner: &Owner) {
        // SAFETY: as in `update`.
        let (next, previous) = owner.queue.with_mut(|queue| unsafe {
            (*queue).in_ring = false;
            ((*queue).next, (*queue).previous)
        });
        self.set_next(previous, next);
        // SAFETY: owners in the ring are alive; their queues are ours under the lock.
        match unsafe { next.as_ref() } {
            // SAFETY: as above.
            Some(next) => next.queue.with_mut(|queue| unsafe { (*queue).previous = previous }),
            None => self.last = previous,
        }
    }

    fn set_next(&mut self, previous: *const Owner, next: *const Owner) {
        // SAFETY: owners in the ring are alive; their queues are ours under the lock.
        match unsafe { previous.as_ref() } {
            // SAFETY: as above.
            Some(previous) => previous.queue.with_mut(|queue| unsafe { (*queue).next = next }),
            None => self.first = next,
        }
    }
}
