//! Atomics with a point before each access.

use core::fmt;
pub use core::sync::atomic::{Ordering, fence};

use crate::{point, wrote};

/// Defines the methods that put in a value and give back the old one.
macro_rules! change {
    ($value:ty: $($method:ident),+) => {$(
        #[inline]
        pub fn $method(&self, value: $value, order: Ordering) -> $value {
            point();
            self.wrote(self.0.$method(value, order))
        }
    )+};
}

/// Defines an atomic integer like the one of the same name in `core`.
macro_rules! integer {
    ($name:ident, $value:ty) => {
        /// As the one in `core`, with a point before each access.
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name(core::sync::atomic::$name);

        #[allow(missing_docs, reason = "they are those of the type in `core`")]
        impl $name {
            #[inline]
            pub const fn new(value: $value) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }

            #[inline]
            fn now(&self) -> $value {
                self.0.load(Ordering::Relaxed)
            }

            #[inline]
            fn wrote(&self, old: $value) -> $value {
                wrote((&raw const self.0).addr(), old as u64, self.now() as u64);
                old
            }

            #[inline]
            pub fn load(&self, order: Ordering) -> $value {
                point();
                self.0.load(order)
            }

            #[inline]
            pub fn store(&self, value: $value, order: Ordering) {
                point();
                let old = self.now();
                self.0.store(value, order);
                self.wrote(old);
            }

            change!($value: swap, fetch_add, fetch_sub, fetch_or, fetch_and);

            #[inline]
            pub fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                point();
                self.0
                    .compare_exchange(from, to, success, failure)
                    .map(|old| self.wrote(old))
            }

            #[inline]
            pub fn compare_exchange_weak(
                &self,
                from: $value,
                to: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(from, to, success, failure)
            }

            #[inline]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                point();
                self.0
                    .fetch_update(success, failure, f)
                    .map(|old| self.wrote(old))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

integer!(AtomicU8, u8);
integer!(AtomicU32, u32);
integer!(AtomicU64, u64);
integer!(AtomicUsize, usize);

/// As the one in `core`, with a point before each access.
#[derive(Default, Debug)]
#[repr(transparent)]
pub struct AtomicBool(core::sync::atomic::AtomicBool);

#[allow(missing_docs, reason = "they are those of the type in `core`")]
impl AtomicBool {
    #[inline]
    pub const fn new(value: bool) -> Self {
        Self(core::sync::atomic::AtomicBool::new(value))
    }

    #[inline]
    pub fn load(&self, order: Ordering) -> bool {
        point();
        self.0.load(order)
    }

    #[inline]
    pub fn store(&self, value: bool, order: Ordering) {
        point();
        self.0.store(value, order);
    }

    #[inline]
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        point();
        self.0.swap(value, order)
    }
}

/// As the one in `core`, with a point before each access.
#[repr(transparent)]
pub struct AtomicPtr<T>(core::sync::atomic::AtomicPtr<T>);

#[allow(missing_docs, reason = "they are those of the type in `core`")]
impl<T> AtomicPtr<T> {
    #[inline]
    pub const fn new(value: *mut T) -> Self {
        Self(core::sync::atomic::AtomicPtr::new(value))
    }

    #[inline]
    pub fn load(&self, order: Ordering) -> *mut T {
        point();
        self.0.load(order)
    }

    #[inline]
    pub fn store(&self, value: *mut T, order: Ordering) {
        point();
        self.0.store(value, order);
    }

    #[inline]
    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        point();
        self.0.swap(value, order)
    }

    #[inline]
    pub fn compare_exchange(
        &self,
        from: *mut T,
        to: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        point();
        self.0.compare_exchange(from, to, success, failure)
    }

    #[inline]
    pub fn compare_exchange_weak(
        &self,
        from: *mut T,
        to: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.compare_exchange(from, to, success, failure)
    }
}

impl<T> fmt::Debug for AtomicPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
