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
    task::{Context, Poll, Waker},
};

use crate::{
    sync::{Mutex, UnsafeCell},
    waiters::{State, Waiter, Waiters},
};

/// A queue of waiting tasks; the module explains it.
pub struct WaitQueue(Mutex<List>);

/// The waiters; each has the round in which it began to wait.
struct List {
    waiters: Waiters<u64>,
    /// How often all were woken.
    round: u64,
}

impl List {
    const fn new() -> Self {
        Self {
            waiters: Waiters::new(),
            round: 0,
        }
    }

    /// Takes the oldest waiter out, if it began to wait in this round or before. Returns its waker.
    fn pop(&mut self, round: u64) -> Option<Waker> {
        if *self.waiters.first()? > round {
            return None;
        }
        self.waiters.pop()
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
        WaitQueued {
            queue: self,
            started: false,
            waiter: UnsafeCell::new(Waiter::new(0)),
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
    waiter: UnsafeCell<Waiter<u64>>,
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
            if !this.started {
                this.started = true;
                (*waiter).wish = list.round;
            }
            list.waiters.wait(waiter, cx.waker());
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
        // SAFETY: the waiter is ours under the lock, and was only ever in this queue.
        let state = self.waiter.with_mut(|waiter| unsafe {
            list.waiters.leave(waiter);
            (*waiter).state
        });
        drop(list);
        if state == State::Woken {
            // Woken, but nobody is there any more: the next one has the wake.
            self.queue.wake_one();
        }
    }
}
