//! A value that several owners count, on any CPU.
//!
//! # Protocol
//! One block holds two counts and the value. `strong` counts the [`Arc`]s; `weak` counts the [`Weak`]s, and one more for
//! all [`Arc`]s together. The last `Arc` drops the value and gives up that one; whoever brings `weak` to zero frees the
//! block.
//!
//! # Memory order
//! - A new reference is made from an existing one, which its maker has got by some ordering edge: **Relaxed** is
//!   enough to count it.
//! - A count goes down with **Release**, and whoever brings it to zero reads with **Acquire** before dropping the value
//!   or freeing the block: all uses by the other owners come before that.
//! - [`Weak::upgrade`] raises `strong` from a number that is not zero with **Acquire**: it sees the value as whoever
//!   made the reference did.
//! - [`Arc::get_mut`] is sure to be alone when `strong` is 1 and `weak` is 1. It first locks `weak` with a number that is
//!   no count, so that no `Weak` can be made from this or another `Arc` between the two reads.

use alloc::alloc::dealloc;
use core::{
    alloc::Layout,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    ops::Deref,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use crate::{AllocError, boxed::block};

/// The block of an [`Arc`]. Public for [`unsize!`](crate::unsize) only.
#[doc(hidden)]
#[repr(C)]
pub struct Counted<T: ?Sized> {
    strong: AtomicUsize,
    weak: AtomicUsize,
    value: T,
}

/// References above this number are a leak that would wrap the count some day: the kernel stops before it can.
const MOST: usize = isize::MAX as usize;

/// In `weak`: somebody looks whether there is any, and nobody may make one meanwhile.
const LOCKED: usize = usize::MAX;

/// A counted reference to a value, as the standard library's `Arc`.
pub struct Arc<T: ?Sized> {
    counted: NonNull<Counted<T>>,
    owns: PhantomData<Counted<T>>,
}

/// A reference that does not keep the value alive, as the standard library's `Weak`.
pub struct Weak<T: ?Sized> {
    /// Dangling at `usize::MAX` if it was made by [`Weak::new`].
    counted: NonNull<Counted<T>>,
}

// SAFETY: as for the standard library's: a reference gives shared access to the value (`T: Sync`), and the last one
// drops it, on any thread (`T: Send`).
unsafe impl<T: ?Sized + Sync + Send> Send for Arc<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync + Send> Sync for Arc<T> {}
// SAFETY: as above, by `upgrade`.
unsafe impl<T: ?Sized + Sync + Send> Send for Weak<T> {}
// SAFETY: as above, by `upgrade`.
unsafe impl<T: ?Sized + Sync + Send> Sync for Weak<T> {}

impl<T: ?Sized> Unpin for Arc<T> {}

impl<T> Arc<T> {
    /// Moves `value` into a new block.
    ///
    /// # Errors
    /// There is no memory; `value` has been dropped.
    #[inline]
    pub fn try_new(value: T) -> Result<Self, AllocError> {
        Self::try_new_with(|| value)
    }

    /// Allocates the block, then makes the value: a large one can be built in its place instead of being copied.
    ///
    /// # Errors
    /// There is no memory; `make` has not been called.
    #[inline(always)]
    pub fn try_new_with(make: impl FnOnce() -> T) -> Result<Self, AllocError> {
        let counted = block::<Counted<T>>()?;
        // SAFETY: the block has the layout of `Counted<T>` and is nobody else's. If `make` unwinds, it leaks.
        unsafe {
            counted.write(Counted {
                strong: AtomicUsize::new(1),
                weak: AtomicUsize::new(1),
                value: make(),
            });
        }
        Ok(Self::of(counted))
    }

    /// Takes the value out if this is the only [`Arc`].
    ///
    /// # Errors
    /// There are others: the reference comes back.
    pub fn try_unwrap(self) -> Result<T, Self> {
        if self.counted().strong.compare_exchange(1, 0, Relaxed, Relaxed).is_err() {
            return Err(self);
        }
        fence(Acquire);
        // SAFETY: 1. the only `Arc` has set `strong` to zero, so no `Weak` finds the value; 2. it is moved out once, as
        //    this `Arc` is forgotten without dropping it.
        let value = unsafe { ptr::read(&self.counted().value) };
        // The weak reference of all `Arc`s.
        drop(Weak { counted: self.counted });
        core::mem::forget(self);
        Ok(value)
    }
}

impl<T: ?Sized> Arc<T> {
    fn of(counted: NonNull<Counted<T>>) -> Self {
        Self {
            counted,
            owns: PhantomData,
        }
    }

    #[inline(always)]
    fn counted(&self) -> &Counted<T> {
        // SAFETY: an `Arc` keeps its block alive, and nobody has it exclusively except `get_mut`, which borrows the only
        // `Arc` exclusively.
        unsafe { self.counted.as_ref() }
    }

    /// Whether both are references to the same value.
    #[inline]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        ptr::addr_eq(this.counted.as_ptr(), other.counted.as_ptr())
    }

    /// The address of the value.
    #[inline]
    pub fn as_ptr(this: &Self) -> *const T {
        // SAFETY: the block is alive. No reference is made: others may read the counts.
        unsafe { &raw const (*this.counted.as_ptr()).value }
    }

    /// How many [`Arc`]s of the value there are; others may make or drop some at the same time.
    #[inline]
    pub fn strong_count(this: &Self) -> usize {
        this.counted().strong.load(Relaxed)
    }

    /// How many [`Weak`]s of the value there are; others may make or drop some at the same time.
    pub fn weak_count(this: &Self) -> usize {
        match this.counted().weak.load(Relaxed) {
            LOCKED => 0,
            weak => weak - 1,
        }
    }

    /// A reference that does not keep the value alive.
    pub fn downgrade(this: &Self) -> Weak<T> {
        let weak = &this.counted().weak;
        let mut now = weak.load(Relaxed);
        loop {
            if now == LOCKED {
                core::hint::spin_loop();
                now = weak.load(Relaxed);
                continue;
            }
            assert!(now <= MOST, "too many references");
            match weak.compare_exchange_weak(now, now + 1, Acquire, Relaxed) {
                Ok(_) => return Weak { counted: this.counted },
                Err(other) => now = other,
            }
        }
    }

    /// The value, if nobody else has a reference of either kind.
    pub fn get_mut(this: &mut Self) -> Option<&mut T> {
        let counted = this.counted();
        if counted.weak.compare_exchange(1, LOCKED, Acquire, Relaxed).is_err() {
            return None;
        }
        let alone = counted.strong.load(Acquire) == 1;
        counted.weak.store(1, Release);
        // SAFETY: this is the only reference of either kind, and it is borrowed exclusively for as long as the value is.
        alone.then(|| unsafe { &mut (*this.counted.as_ptr()).value })
    }

    /// The block, which [`unsize!`](crate::unsize) coerces to another type and gives to [`Arc::from_counted`].
    #[doc(hidden)]
    pub fn into_counted(this: Self) -> *mut Counted<T> {
        let counted = this.counted.as_ptr();
        core::mem::forget(this);
        counted
    }

    /// # Safety
    /// `counted` came from [`Arc::into_counted`], coerced or not, and is given here once.
    #[doc(hidden)]
    pub unsafe fn from_counted(counted: *mut Counted<T>) -> Self {
        // SAFETY: the caller vouches for it; a block is never null.
        Self::of(unsafe { NonNull::new_unchecked(counted) })
    }

    /// Drops the value: this was the last [`Arc`].
    #[cold]
    #[inline(never)]
    fn drop_value(&mut self) {
        // The weak reference of all `Arc`s goes after the value, also if dropping it unwinds.
        let _block = Weak { counted: self.counted };
        // SAFETY: `strong` is zero, so that no other reference finds the value, now or later; it is dropped once.
        unsafe { ptr::drop_in_place(&raw mut (*self.counted.as_ptr()).value) }
    }
}

impl<T: Clone> Arc<T> {
    /// The value for changing: a copy of it in a new block, if anybody else has a reference. `T`'s own `clone` does not
    /// allocate (see the crate's documentation).
    ///
    /// # Errors
    /// A copy is needed, and there is no memory.
    pub fn try_make_mut(this: &mut Self) -> Result<&mut T, AllocError> {
        if Self::get_mut(this).is_none() {
            *this = Self::try_new_with(|| (**this).clone())?;
        }
        // SAFETY: nobody else has a reference: either `get_mut` said so, and none can be made from `this`, which is
        // borrowed exclusively; or the block is new.
        Ok(unsafe { &mut (*this.counted.as_ptr()).value })
    }
}

/// Turns an [`Arc`] of a type into an [`Arc`] of a trait object or a slice: `unsize!(arc => dyn Trait)`.
///
/// ```
/// use faultline_fallible::{Arc, unsize};
///
/// let number: Arc<dyn core::fmt::Debug> = unsize!(Arc::try_new(5)? => dyn core::fmt::Debug);
/// assert_eq!(format!("{number:?}"), "5");
/// # Ok::<(), faultline_fallible::AllocError>(())
/// ```
#[macro_export]
macro_rules! unsize {
    ($arc:expr => $target:ty) => {{
        // A pointer is only ever coerced to one with the same address and provenance, of a type that it really has.
        let counted = $crate::Arc::into_counted($arc);
        let counted: *mut $crate::Counted<$target> = counted;
        // SAFETY: the block was taken from an `Arc` above, and is used once.
        unsafe { $crate::Arc::from_counted(counted) }
    }};
}

impl<T: ?Sized> Clone for Arc<T> {
    #[inline]
    fn clone(&self) -> Self {
        let before = self.counted().strong.fetch_add(1, Relaxed);
        assert!(before <= MOST, "too many references");
        Self::of(self.counted)
    }
}

impl<T: ?Sized> Drop for Arc<T> {
    #[inline]
    fn drop(&mut self) {
        if self.counted().strong.fetch_sub(1, Release) == 1 {
            fence(Acquire);
            self.drop_value();
        }
    }
}

impl<T: ?Sized> Deref for Arc<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T: ?Sized> AsRef<T> for Arc<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized> core::borrow::Borrow<T> for Arc<T> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(out)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for Arc<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(out)
    }
}

impl<T: ?Sized + PartialEq> PartialEq for Arc<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: ?Sized + Eq> Eq for Arc<T> {}

impl<T: ?Sized + Hash> Hash for Arc<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<T> Weak<T> {
    /// A reference to nothing; allocates nothing.
    pub const fn new() -> Self {
        Self {
            counted: NonNull::without_provenance(core::num::NonZeroUsize::MAX),
        }
    }
}

impl<T: ?Sized> Weak<T> {
    /// The counts, unless the reference is to nothing.
    fn counts(&self) -> Option<(&AtomicUsize, &AtomicUsize)> {
        if self.counted.addr().get() == usize::MAX {
            return None;
        }
        let counted = self.counted.as_ptr();
        // SAFETY: a `Weak` keeps the block alive. No reference is made to the value, which may be gone.
        unsafe { Some((&(*counted).strong, &(*counted).weak)) }
    }

    /// The value, if an [`Arc`] of it is left.
    pub fn upgrade(&self) -> Option<Arc<T>> {
        let (strong, _) = self.counts()?;
        let more = |now: usize| {
            assert!(now <= MOST, "too many references");
            (now != 0).then_some(now + 1)
        };
        strong.fetch_update(Acquire, Relaxed, more).ok()?;
        Some(Arc::of(self.counted))
    }

    /// How many [`Arc`]s of the value there are; others may make or drop some at the same time.
    pub fn strong_count(&self) -> usize {
        self.counts().map_or(0, |(strong, _)| strong.load(Relaxed))
    }

    /// Whether both are references to the same value (or both to nothing).
    pub fn ptr_eq(&self, other: &Self) -> bool {
        ptr::addr_eq(self.counted.as_ptr(), other.counted.as_ptr())
    }
}

impl<T: ?Sized> Clone for Weak<T> {
    fn clone(&self) -> Self {
        if let Some((_, weak)) = self.counts() {
            let before = weak.fetch_add(1, Relaxed);
            assert!(before <= MOST, "too many references");
        }
        Self { counted: self.counted }
    }
}

impl<T: ?Sized> Drop for Weak<T> {
    fn drop(&mut self) {
        let Some((_, weak)) = self.counts() else {
            return;
        };
        if weak.fetch_sub(1, Release) == 1 {
            fence(Acquire);
            // SAFETY: 1. nobody has a reference of either kind any more; 2. the block came from the global allocator with
            //    this layout: the metadata of the pointer (of a trait object or a slice) outlives the value.
            unsafe {
                let layout = Layout::for_value(self.counted.as_ref());
                dealloc(self.counted.as_ptr().cast(), layout);
            }
        }
    }
}

impl<T> Default for Weak<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: ?Sized> fmt::Debug for Weak<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(Weak)")
    }
}
