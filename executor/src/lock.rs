//! The lock for data that tasks share.

use core::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use crate::sync::{Mutex, MutexGuard};

/// A spin lock for short sections without an `await`.
///
/// Its guard is not `Send`, and a task's future must be, so a guard that lives across an `await` does not compile:
///
/// ```compile_fail
/// # use faultline_executor::{Class, Config, Executor, Hooks, Lock, yield_now};
/// # struct Host;
/// # impl Hooks for Host { fn now(&self) -> u64 { 0 } }
/// # static LOCK: Lock<u32> = Lock::new(0);
/// # let executor = Executor::new(Config::default(), Host);
/// let task = async {
///     let mut guard = LOCK.lock();
///     yield_now().await;
///     *guard += 1;
/// };
/// executor.spawn("task", Class::User, task).unwrap().detach();
/// ```
///
/// An interrupt handler must not take a lock that the code it interrupts may hold.
#[derive(Debug)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// A lock around a value.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// A lock around a value.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock, spinning.
    pub fn lock(&self) -> LockGuard<'_, T> {
        LockGuard {
            guard: self.0.lock(),
            _not_send: PhantomData,
        }
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        self.0.try_lock().map(|guard| LockGuard {
            guard,
            _not_send: PhantomData,
        })
    }
}

/// A lock that is held; from [`Lock::lock`]. It stays in the poll, and on the CPU, that made it.
#[must_use = "the lock is free again when this is dropped"]
pub struct LockGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
