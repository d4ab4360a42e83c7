//! Futures that wait in a line, the oldest first: what [`WaitQueue`](crate::WaitQueue) and
//! [`Semaphore`](crate::Semaphore) have in common.
//!
//! The line is linked through the waiting futures, so that waiting allocates nothing. Whoever owns it keeps it and its
//! waiters behind one lock, and wakes without that lock.

use core::{ptr, task::Waker};

/// One waiting future's place in the line; `T` says what it waits for.
pub(crate) struct Waiter<T> {
    pub(crate) wish: T,
    pub(crate) state: State,
    waker: Option<Waker>,
    next: *mut Waiter<T>,
    previous: *mut Waiter<T>,
}

/// Where a waiter is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not in the line yet, or not any more.
    Out,
    /// In the line.
    Queued,
    /// Out of the line by a wake, which its task has not seen yet.
    Woken,
    /// As `Woken`, by a wake of all.
    WokenWithAll,
}

impl<T> Waiter<T> {
    pub(crate) const fn new(wish: T) -> Self {
        Self {
            wish,
            state: State::Out,
            waker: None,
            next: ptr::null_mut(),
            previous: ptr::null_mut(),
        }
    }
}

/// The line.
pub(crate) struct Waiters<T> {
    first: *mut Waiter<T>,
    last: *mut Waiter<T>,
}

// SAFETY: the waiters are reached under the owner's lock only, and hold wakers, which are `Send`.
unsafe impl<T: Send> Send for Waiters<T> {}

impl<T> Waiters<T> {
    pub(crate) const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// What the oldest waiter waits for.
    pub(crate) fn first(&self) -> Option<&T> {
        // SAFETY: waiters in the line are valid, and touched by its owner only (the contract of `wait`).
        unsafe { self.first.as_ref() }.map(|first| &first.wish)
    }

    /// Has the waiter woken by `waker`, and puts it at the end of the line if it is in none.
    ///
    /// # Safety
    /// The waiter is in no other line. While it is in this one it stays valid and in place, and is touched by the owner of
    /// the line only.
    pub(crate) unsafe fn wait(&mut self, waiter: *mut Waiter<T>, waker: &Waker) {
        // SAFETY: the contract, for this waiter and for the last one.
        unsafe {
            match &mut (*waiter).waker {
                Some(registered) => registered.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            if (*waiter).state == State::Queued {
                return;
            }
            (*waiter).state = State::Queued;
            (*waiter).next = ptr::null_mut();
            (*waiter).previous = self.last;
            match self.last.as_mut() {
                Some(last) => last.next = waiter,
                None => self.first = waiter,
            }
        }
        self.last = waiter;
    }

    /// Takes the waiter out, if it is in the line.
    ///
    /// # Safety
    /// The waiter is valid, and in no other line.
    pub(crate) unsafe fn leave(&mut self, waiter: *mut Waiter<T>) {
        // SAFETY: this waiter is valid (the contract), and so are those of the line (the contract of `wait`).
        unsafe {
            if (*waiter).state != State::Queued {
                return;
            }
            (*waiter).state = State::Out;
            let (next, previous) = ((*waiter).next, (*waiter).previous);
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.first = next,
            }
            match next.as_mut() {
                Some(next) => next.previous = previous,
                None => self.last = previous,
            }
        }
    }

    /// Takes the oldest waiter out, as woken. Returns its waker, if there is one.
    pub(crate) fn pop(&mut self) -> Option<Waker> {
        self.pop_as(State::Woken)
    }

    /// Takes the oldest waiter out, with this state. Returns its waker, if there is one.
    pub(crate) fn pop_as(&mut self, state: State) -> Option<Waker> {
        let waiter = self.first;
        if waiter.is_null() {
            return None;
        }
        // SAFETY: the waiter is in the line, hence valid.
        unsafe {
            self.leave(waiter);
            (*waiter).state = state;
            (*waiter).waker.take()
        }
    }
}
