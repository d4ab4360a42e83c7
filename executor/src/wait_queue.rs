//! Tasks that wait for something to happen.
//!
//! A [`WaitQueue`] is first-in first-out. A waiter is in the queue from its first poll on. To wait for a condition without
//! losing a wake, get in the queue first and look at the condition then; [`WaitQueue::wait_until`] does that.
//!
//! Waking takes a short lock (never while a waker runs), so it is not for interrupt handlers. A handler that wakes one task
//! stores its waker in a lock-free cell, such as `AtomicWaker` of the `futures-util` crate, or wakes the task by a waker
//! that it has. Waiters lie in the waiting futures: waiting allocates nothing.
//!
//! # A wake of all is bounded
//!
//! [`WaitQueue::wake_all`] begins a new *round*; who waits since an earlier round is *due*. It wakes [`BATCH`] of the due
//! waiters, and each of those, when it sees its wake or is dropped, wakes up to [`BATCH`] more. So the work of one poll is
//! bounded however many wait, and as long as a waiter is due, one that was woken has still to wake others.

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

/// How many waiters one poll wakes of those that are woken together.
pub const BATCH: usize = 256;

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

    /// Takes the oldest waiter out, if it is due. Returns its waker.
    fn pop_due(&mut self) -> Option<Waker> {
        if *self.waiters.first()? >= self.round {
            return None;
        }
        self.waiters.pop_as(State::WokenWithAll)
    }
}

/// What a waiter reaches its queue through: a reference, or something that keeps the queue alive.
///
/// # Safety
/// `queue` returns the same queue each time, and the queue stays in place until the holder is dropped, even if the holder
/// is moved.
pub unsafe trait HoldsQueue {
    /// The queue.
    fn queue(&self) -> &WaitQueue;
}

// SAFETY: 1. the reference is always the same; 2. what is borrowed does not move.
unsafe impl HoldsQueue for &WaitQueue {
    fn queue(&self) -> &WaitQueue {
        self
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
    pub fn wait(&self) -> WaitQueued<&Self> {
        WaitQueued::on(self)
    }

    /// Waits until the condition gives a value. It is tried at each poll, always when the task is in the queue already, so
    /// that no wake is lost between the trial and the wait.
    ///
    /// Who takes only a part of what a [`wake_one`](Self::wake_one) announced wakes the next waiter.
    pub async fn wait_until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut wait = pin!(self.wait());
        poll_fn(|cx| {
            wait.as_mut().rearm(cx);
            condition().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Wakes the task that has waited longest. Returns whether there was one.
    pub fn wake_one(&self) -> bool {
        let waker = self.0.lock().waiters.pop();
        let any = waker.is_some();
        if let Some(waker) = waker {
            waker.wake();
        }
        any
    }

    /// Wakes all tasks that wait now, the oldest first: up to `BATCH` before it returns, whose number it returns; those
    /// wake the others.
    pub fn wake_all(&self) -> usize {
        let mut list = self.0.lock();
        if list.waiters.is_empty() {
            return 0;
        }
        // Who begins to wait from now on waits for the next wake.
        list.round += 1;
        drop(list);
        self.wake_due()
    }

    /// Wakes up to [`BATCH`] waiters that are due; returns how many.
    fn wake_due(&self) -> usize {
        for count in 0..BATCH {
            let waker = self.0.lock().pop_due();
            match waker {
                Some(waker) => waker.wake(),
                None => return count,
            }
        }
        BATCH
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
pub struct WaitQueued<Q: HoldsQueue> {
    holder: Q,
    /// Has been polled.
    started: bool,
    waiter: UnsafeCell<Waiter<u64>>,
    _pinned: PhantomPinned,
}

// SAFETY: the waiter is touched under the lock of the queue, and holds a waker, which is `Send`.
unsafe impl<Q: HoldsQueue + Send> Send for WaitQueued<Q> {}
// SAFETY: a shared `WaitQueued` gives access to the holder only.
unsafe impl<Q: HoldsQueue + Sync> Sync for WaitQueued<Q> {}

impl<Q: HoldsQueue> fmt::Debug for WaitQueued<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitQueued")
    }
}

impl<Q: HoldsQueue> WaitQueued<Q> {
    /// As [`WaitQueue::wait`], for the queue of a holder.
    pub fn on(holder: Q) -> Self {
        Self {
            holder,
            started: false,
            waiter: UnsafeCell::new(Waiter::new(0)),
            _pinned: PhantomPinned,
        }
    }

    /// The holder of the queue.
    pub fn holder(&self) -> &Q {
        &self.holder
    }

    /// Puts the waiter in the queue, unless it is there; from then on the next wake is for the context. Returns whether
    /// it was woken since it was put there last.
    pub fn rearm(self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        // SAFETY: nothing is moved out of the future.
        let this = unsafe { self.get_unchecked_mut() };
        let queue = this.holder.queue();
        let mut list = queue.0.lock();
        this.started = true;
        // SAFETY: the waiter is ours under the lock. It is pinned with the future, and `drop` takes it out of the list.
        let before = this.waiter.with_mut(|waiter| unsafe {
            let before = (*waiter).state;
            if before != State::Queued {
                (*waiter).state = State::Out;
                (*waiter).wish = list.round;
            }
            list.waiters.wait(waiter, cx.waker());
            before
        });
        drop(list);
        if before == State::WokenWithAll {
            queue.wake_due();
        }
        matches!(before, State::Woken | State::WokenWithAll)
    }
}

impl<Q: HoldsQueue> Future for WaitQueued<Q> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: nothing is moved out of the future.
        let this = unsafe { self.get_unchecked_mut() };
        let queue = this.holder.queue();
        let mut list = queue.0.lock();
        // SAFETY: the waiter is ours under the lock. It is pinned with the future, and `drop` takes it out of the list.
        let before = this.waiter.with_mut(|waiter| unsafe {
            let before = (*waiter).state;
            match before {
                State::Out if this.started => {}
                State::Woken | State::WokenWithAll => (*waiter).state = State::Out,
                State::Out | State::Queued => {
                    if !this.started {
                        this.started = true;
                        (*waiter).wish = list.round;
                    }
                    list.waiters.wait(waiter, cx.waker());
                    return None;
                }
            }
            Some(before)
        });
        drop(list);
        match before {
            None => return Poll::Pending,
            Some(State::WokenWithAll) => {
                queue.wake_due();
            }
            Some(_) => {}
        }
        Poll::Ready(())
    }
}

impl<Q: HoldsQueue> Drop for WaitQueued<Q> {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        let queue = self.holder.queue();
        let mut list = queue.0.lock();
        // SAFETY: the waiter is ours under the lock, and was only ever in this queue.
        let state = self.waiter.with_mut(|waiter| unsafe {
            list.waiters.leave(waiter);
            (*waiter).state
        });
        drop(list);
        match state {
            // Woken, but nobody is there any more: the next one has the wake.
            State::Woken => {
                queue.wake_one();
            }
            State::WokenWithAll => {
                queue.wake_due();
            }
            State::Out | State::Queued => {}
        }
    }
}
