//! Permits that tasks wait for: a semaphore that is fair between owners.
//!
//! A [`Semaphore`] has permits. Whoever takes them does it through a [`Share`], which stands for one owner, such as an
//! address space. The rules:
//!
//! * Owners take turns: each release serves the next share that waits, and within a share the oldest request. An owner
//!   with a thousand requests delays another by one request per round, not by a thousand.
//! * A share never holds more than its limit. While it is at its limit it is passed over, and delays nobody.
//! * Nobody overtakes the request whose turn it is: one that needs many permits waits until they are there. A request of
//!   `n` is therefore served after a bounded number of others.
//! * A permit that is granted but not yet taken, because the task was cancelled in between, goes to the next in turn.
//!
//! Everything is behind one short lock, which is never held while a waker runs. It must not be taken in an interrupt
//! handler: that includes dropping a [`Permit`]. Requests lie in the waiting futures: waiting allocates nothing.
//!
//! ```
//! # use faultline_executor::{Class, Config, Executor, Hooks, Semaphore};
//! # struct Host;
//! # impl Hooks for Host { fn now(&self) -> u64 { 0 } }
//! # let executor = Executor::new(Config::default(), Host);
//! let frames = Semaphore::new(8);
//! let space = frames.share(4);
//! let task = executor.spawn("fault", Class::User, async move {
//!     let permit = space.acquire(1).await.unwrap();
//!     permit.count()
//! })?;
//! while !executor.turn(0).idle {}
//! assert_eq!(task.try_join().unwrap(), Ok(1));
//! assert_eq!(frames.available(), 8);
//! # Ok::<(), faultline_executor::SpawnError>(())
//! ```

mod acquire;
mod ring;

use alloc::sync::Arc;
use core::{fmt, task::Waker};

pub use acquire::Acquire;

use crate::sync::{Mutex, UnsafeCell};
use ring::{Queue, Ring};

/// A semaphore; the module has its rules. Clones are the same semaphore.
#[derive(Clone)]
pub struct Semaphore(Arc<Inner>);

struct Inner(Mutex<State>);

/// What the lock protects, together with the queues of the shares.
struct State {
    /// Permits that nobody has.
    available: usize,
    /// The shares whose oldest request is within their limit, in the order of their turns.
    ring: Ring,
}

/// One owner's part of a semaphore; from [`Semaphore::share`]. Clones are the same share.
#[derive(Clone)]
pub struct Share {
    semaphore: Arc<Inner>,
    owner: Arc<Owner>,
}

/// The owner of a share.
struct Owner {
    limit: usize,
    /// Protected by the lock of the semaphore.
    queue: UnsafeCell<Queue>,
}

// SAFETY: the queue is touched under the lock of the semaphore only, and its requests hold wakers, which are `Send`.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

/// Why permits can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireError {
    /// More than the limit of the share: they would never be granted.
    TooMany {
        /// How many were asked for.
        count: usize,
        /// The limit of the share.
        limit: usize,
    },
    /// There are not enough now, or somebody else's turn is earlier; from [`Share::try_acquire`].
    WouldWait,
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { count, limit } => write!(f, "{count} permits are more than the share's limit of {limit}"),
            Self::WouldWait => f.write_str("the permits are not available now"),
        }
    }
}

impl core::error::Error for AcquireError {}

/// Permits that were taken; they go back when this is dropped.
#[must_use = "the permits go back when this is dropped"]
pub struct Permit {
    share: Share,
    count: usize,
}

impl Semaphore {
    /// A semaphore with so many permits.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self(Arc::new(Inner(Mutex::new(State {
            available: permits,
            ring: Ring::new(),
        }))))
    }

    /// A share for a new owner, which holds at most `limit` permits at a time.
    #[must_use]
    pub fn share(&self, limit: usize) -> Share {
        let owner = Owner {
            limit,
            queue: UnsafeCell::new(Queue::new()),
        };
        Share {
            semaphore: self.0.clone(),
            owner: Arc::new(owner),
        }
    }

    /// How many permits nobody has.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.0.lock().available
    }

    /// Adds permits.
    pub fn add(&self, permits: usize) {
        self.0.change(|state| state.available += permits);
    }
}

impl Share {
    /// Takes `count` permits, when it is this share's turn and they are there.
    ///
    /// # Errors
    /// The future's output is [`AcquireError::TooMany`] if they are more than the limit.
    pub fn acquire(&self, count: usize) -> Acquire {
        Acquire::new(self.clone(), count)
    }

    /// Takes `count` permits if that needs no waiting.
    ///
    /// # Errors
    /// [`AcquireError::TooMany`] if they are more than the limit, [`AcquireError::WouldWait`] if they are not there or
    /// somebody else's turn is earlier.
    pub fn try_acquire(&self, count: usize) -> Result<Permit, AcquireError> {
        self.check(count)?;
        let mut state = self.semaphore.0.lock();
        if state.take_now(&self.owner, count) {
            Ok(self.permit(count))
        } else {
            Err(AcquireError::WouldWait)
        }
    }

    /// How many permits the owner holds.
    #[must_use]
    pub fn held(&self) -> usize {
        let _lock = self.semaphore.0.lock();
        // SAFETY: the queue is ours under the lock.
        self.owner.queue.with(|queue| unsafe { (*queue).held })
    }

    fn check(&self, count: usize) -> Result<(), AcquireError> {
        let limit = self.owner.limit;
        if count > limit {
            Err(AcquireError::TooMany { count, limit })
        } else {
            Ok(())
        }
    }

    /// The token for permits that were taken.
    fn permit(&self, count: usize) -> Permit {
        Permit {
            share: self.clone(),
            count,
        }
    }

    /// Gives permits back.
    fn release(&self, count: usize) {
        self.semaphore.change(|state| {
            state.available += count;
            // SAFETY: the queue is ours under the lock.
            self.owner.queue.with_mut(|queue| unsafe { (*queue).held -= count });
            state.ring.update(&self.owner);
        });
    }
}

impl State {
    /// Takes permits for a request that need not wait.
    fn take_now(&mut self, owner: &Owner, count: usize) -> bool {
        // SAFETY: the queue is ours under the lock, which `self` is behind.
        owner.queue.with_mut(|queue| unsafe {
            let queue = &mut *queue;
            let free = queue.requests.is_empty()
                && self.ring.is_empty()
                && count <= self.available
                && queue.held + count <= owner.limit;
            if free {
                self.available -= count;
                queue.held += count;
            }
            free
        })
    }
}

impl Inner {
    /// Changes something under the lock, then grants what has become possible. The wakers run without the lock.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        change(&mut state);
        while let Some(waker) = state.grant() {
            drop(state);
            waker.wake();
            state = self.0.lock();
        }
    }
}

impl State {
    /// Grants the request whose turn it is, if its permits are there. Returns whom to wake.
    fn grant(&mut self) -> Option<Waker> {
        let owner = self.ring.first()?;
        // SAFETY: the queue is ours under the lock; an owner in the ring has a request.
        let waker = owner.queue.with_mut(|queue| unsafe {
            let queue = &mut *queue;
            let count = *queue.requests.first()?;
            if count > self.available {
                return None;
            }
            self.available -= count;
            queue.held += count;
            queue.requests.pop()
        })?;
        self.ring.rotate(owner);
        Some(waker)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available())
            .finish()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("held", &self.held())
            .field("limit", &self.owner.limit)
            .finish()
    }
}

impl Permit {
    /// How many permits these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes the permits out of the semaphore for good: they do not go back. The share may hold as many others instead.
    pub fn forget(mut self) {
        let count = core::mem::take(&mut self.count);
        self.share.semaphore.change(|state| {
            // SAFETY: the queue is ours under the lock.
            self.share
                .owner
                .queue
                .with_mut(|queue| unsafe { (*queue).held -= count });
            state.ring.update(&self.share.owner);
        });
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.count).finish()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count != 0 {
            self.share.release(self.count);
        }
    }
}
