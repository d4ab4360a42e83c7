//! Atomics, cells and the short lock: from `core` and `spin`, from `loom` when its model checker runs the crate, or from
//! the simulation when that does.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

#[cfg(not(loom))]
pub(crate) use self::cell::UnsafeCell;
#[cfg(all(not(loom), not(feature = "simulation")))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
#[cfg(all(not(loom), feature = "simulation"))]
pub(crate) use faultline_probe::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

#[cfg(not(loom))]
mod cell {
    /// `core::cell::UnsafeCell` with loom's interface, which lets the model checker see every access.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(all(not(loom), feature = "simulation"))]
use faultline_probe as spin;
#[cfg(loom)]
pub(crate) use loom::sync::MutexGuard;
#[cfg(not(loom))]
pub(crate) use spin::MutexGuard;

/// A spin lock for sections of a few instructions, entered with interrupts off.
#[derive(Debug)]
pub(crate) struct Mutex<T>(#[cfg(not(loom))] spin::Mutex<T>, #[cfg(loom)] loom::sync::Mutex<T>);

#[cfg(not(loom))]
impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock()
    }
}

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

/// No mistake is planted without the simulation.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) const fn never() -> bool {
    false
}

/// Whether a planted mistake is switched on: never, unless the simulation runs the crate.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(feature = "simulation")]
        let on = faultline_probe::is_on(faultline_probe::Mutant::$name);
        #[cfg(not(feature = "simulation"))]
        let on = crate::sync::never();
        on
    }};
}
pub(crate) use mutant;
