//! A spin lock whose waiters let others run, and which says when it is taken and free.

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::{HOOKS, point, spin_loop};

/// As `spin::Mutex`, with a point before it is taken.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(spin::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    fn address(&self) -> usize {
        (&raw const self.0).cast::<()>().addr()
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            while self.0.is_locked() {
                spin_loop();
            }
        }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        point();
        let inner = self.0.try_lock()?;
        let address = self.address();
        (HOOKS.get().locked)(address);
        Some(MutexGuard {
            inner: Some(inner),
            address,
        })
    }

    /// Whether somebody holds the lock.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    /// The value, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The lock, held.
pub struct MutexGuard<'a, T: ?Sized> {
    /// `None` in `drop` only.
    inner: Option<spin::MutexGuard<'a, T>>,
    address: usize,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("the guard is alive")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("the guard is alive")
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.inner = None;
        (HOOKS.get().unlocked)(self.address);
    }
}
