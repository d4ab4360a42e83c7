//! Tasks that wait for something to happen.
//!
//! A [`WaitQueue`] is first-in first-out. A waiter is in the queue from its first poll on. To wait for a condition without
//! losing a wake, get in the queue first and look at the condition then; [`WaitQueue::wait_until`] does that.
//!
//! Waking takes a short lock (never while a waker runs), so it is not for interrupt handlers. A handler that wakes one task
//! stores its waker in a lock-free cell, such as `AtomicWaker` of the `futures-util` crate, or wakes the task by a waker
//! that it has. Waiters lie in the waiting futures: waiting allocates nothing.

use core::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomPinned,
    pin::{Pin, pin},
    ptr,
    task::{Context, Poll, Waker},
};

use crate::sync::{Mutex, UnsafeCell};

/// A queue of waiting tasks; the module explains it.
pub struct WaitQueue(Mutex<List>);

/// The waiters, the oldest first.
struct List {
    first: *mut Waiter,
    last: *mut Waiter,
    /// How often all were woken.
    round: u64,
}

// SAFETY: the waiters are reached under the lock only, and hold wakers, which are `Send`.
unsafe impl Send for List {}

/// One waiter. Touched under the lock only.
struct Waiter {
    waker: Option<Waker>,
    state: State,
    /// The round in which it began to wait.
    round: u64,
    next: *mut Waiter,
    previous: *mut Waiter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not in the list yet, or not any more.
    Out,
    /// In the list.
    Queued,
    /// Out of the list by a wake, which its task has not seen yet.
    Woken,
}

impl List {
    const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            round: 0,
        }
    }

    /// # Safety
    /// The waiter is in no list, and stays valid and in place until it is woken or removed.
    unsafe fn push(&mut self, waiter: *mut Waiter) {
        // SAFETY: this waiter and the last one are valid (the contract).
        unsafe {
            (*waiter).state = State::Queued;
            (*waiter).round = self.round;
            (*waiter).next = ptr::null_mut();
            (*waiter).previous = self.last;
            match self.last.as_mut() {
                Some(last) => last.next = waiter,
                None => self.first = waiter,
            }
        }
        self.last = waiter;
    }

    /// # Safety
    /// The waiter is in this list.
    unsafe fn remove(&mut self, waiter: *mut Waiter) {
        // SAFETY: the waiters of the list are valid (the contract of `push`).
        unsafe {
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

    /// Takes the oldest waiter out, if it began to wait in this round or before. Returns its waker.
    fn pop(&mut self, round: u64) -> Option<Waker> {
        let waiter = self.first;
        // SAFETY: the waiter is in the list, hence valid.
        unsafe {
            if waiter.is_null() || (*waiter).round > round {
                return None;
            }
            self.remove(waiter);
            (*waiter).state = State::Woken;
            (*waiter).waker.take()
        }
    }
}

impl WaitQueue {
    /// An empty queue.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(List::new()))
    }

    /// An empty queue.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(List::new()))
    }

    /// Waits for one wake that comes after the first poll.
    pub fn wait(&self) -> WaitQueued<'_> {
        let waiter = Waiter {
            waker: None,
            state: State::Out,
            round: 0,
            next: ptr::null_mut(),
            previous: ptr::null_mut(),
        };
        WaitQueued {
            queue: self,
            started: false,
            waiter: UnsafeCell::new(waiter),
            _pinned: PhantomPinned,
        }
    }

    /// Waits until the condition gives a value. It is tried now and after each wake, always when the task is in the queue
    /// already, so that no wake is lost between the trial and the wait.
    pub async fn wait_until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut wait = pin!(self.wait());
            let found = poll_fn(|cx| {
                let woken = wait.as_mut().poll(cx).is_ready();
                match condition() {
                    Some(value) => Poll::Ready(Some(value)),
                    None if woken => Poll::Ready(None),
                    None => Poll::Pending,
                }
            });
            if let Some(value) = found.await {
                return value;
            }
        }
    }

    /// Wakes the task that has waited longest. Says whether there was one.
    pub fn wake_one(&self) -> bool {
        let waker = self.0.lock().pop(u64::MAX);
        let any = waker.is_some();
        if let Some(waker) = waker {
            waker.wake();
        }
        any
    }

    /// Wakes all tasks that wait now, the oldest first. Returns how many there were.
    pub fn wake_all(&self) -> usize {
        let mut list = self.0.lock();
        let round = list.round;
        // Who begins to wait from now on waits for the next wake.
        list.round += 1;
        let mut count = 0;
        while let Some(waker) = list.pop(round) {
            drop(list);
            waker.wake();
            count += 1;
            list = self.0.lock();
        }
        count
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitQueue")
    }
}

/// The future of [`WaitQueue::wait`].
#[must_use = "futures do nothing unless polled"]
pub struct WaitQueued<'a> {
    queue: &'a WaitQueue,
    /// Has been polled.
    started: bool,
    waiter: UnsafeCell<Waiter>,
    _pinned: PhantomPinned,
}

// SAFETY: the waiter is touched under the lock of the queue, and holds a waker, which is `Send`.
unsafe impl Send for WaitQueued<'_> {}
// SAFETY: a shared `Wait` gives access to nothing.
unsafe impl Sync for WaitQueued<'_> {}

impl fmt::Debug for WaitQueued<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitQueued")
    }
}

impl Future for WaitQueued<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: nothing is moved out of the future.
        let this = unsafe { self.get_unchecked_mut() };
        let mut list = this.queue.0.lock();
        // SAFETY: the waiter is ours under the lock. It is pinned with the future, and `drop` takes it out of the list.
        this.waiter.with_mut(|waiter| unsafe {
            if (*waiter).state == State::Woken || (this.started && (*waiter).state == State::Out) {
                (*waiter).state = State::Out;
                return Poll::Ready(());
            }
            match &mut (*waiter).waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            if !this.started {
                this.started = true;
                list.push(waiter);
            }
            Poll::Pending
        })
    }
}

impl Drop for WaitQueued<'_> {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        let mut list = self.queue.0.lock();
        // SAFETY: the waiter is ours under the lock; `Queued` says that it is in the list.
        let state = self.waiter.with_mut(|waiter| unsafe {
            if (*waiter).state == State::Queued {
                list.remove(waiter);
            }
            (*waiter).state
        });
        drop(list);
        if state == State::Woken {
            // Woken, but nobody is there any more: the next one has the wake.
            self.queue.wake_one();
        }
    }
}
