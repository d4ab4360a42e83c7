//! A value in a block of its own.

use alloc::{alloc::alloc, boxed::Box as Inner};
use core::{
    alloc::Layout,
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    ptr::NonNull,
};

use crate::AllocError;

/// A value in a block of its own, as the standard library's `Box`.
pub struct Box<T: ?Sized>(Inner<T>);

/// A future of any type, to be polled on any CPU. [`try_future`] makes one.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<T> Box<T> {
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
        let block = block::<T>()?;
        // SAFETY: 1. the block has the layout of `T` (or `T` has no size, and the pointer is aligned), and is nobody
        //    else's; 2. it is written before anything reads it; 3. it is from the global allocator, as `Box` wants it.
        //    If `make` unwinds, the block leaks.
        unsafe {
            block.write(make());
            Ok(Self(Inner::from_raw(block.as_ptr())))
        }
    }

    /// Moves `value` into a new block, where it stays.
    ///
    /// # Errors
    /// There is no memory; `value` has been dropped.
    #[inline]
    pub fn try_pin(value: T) -> Result<Pin<Self>, AllocError> {
        Self::try_new(value).map(Self::into_pin)
    }

    /// Takes the value out, and frees the block.
    #[inline]
    pub fn into_inner(self) -> T {
        *self.0
    }
}

impl<T: ?Sized> Box<T> {
    /// Pins the value, which stays where it is.
    #[inline]
    pub fn into_pin(self) -> Pin<Self> {
        // SAFETY: the value is in a block that only this box refers to; moving the box does not move the value, and
        // `Deref` and `DerefMut` do not either.
        unsafe { Pin::new_unchecked(self) }
    }

    /// Changes the type as the compiler does for the standard library's box: `boxed.unsize::<dyn Trait>(|inner| inner)`
    /// makes a `Box<dyn Trait>`.
    #[inline]
    pub fn unsize<U: ?Sized>(self, coerce: impl FnOnce(Inner<T>) -> Inner<U>) -> Box<U> {
        Box(coerce(self.0))
    }

    pub(crate) fn into_std(self) -> Inner<T> {
        self.0
    }

    /// Gives the block up to a pointer; [`Box::from_raw`] takes it back.
    #[inline]
    pub fn into_raw(self) -> *mut T {
        Inner::into_raw(self.0)
    }

    /// The box whose [`Box::into_raw`] gave `pointer`.
    ///
    /// # Safety
    /// `pointer` came from [`Box::into_raw`], with this type, and is given here once.
    #[inline]
    pub unsafe fn from_raw(pointer: *mut T) -> Self {
        // SAFETY: the caller vouches for it.
        Self(unsafe { Inner::from_raw(pointer) })
    }

    /// Gives the value up for ever.
    #[inline]
    pub fn leak<'a>(self) -> &'a mut T
    where
        T: 'a,
    {
        Inner::leak(self.0)
    }
}

impl<T> Box<[T]> {
    /// A boxed slice with the elements of `from`, which says how many it has.
    ///
    /// # Errors
    /// There is no memory; the elements that were taken have been dropped.
    pub fn try_from_iter(from: impl ExactSizeIterator<Item = T>) -> Result<Self, AllocError> {
        let mut elements = crate::Vec::new();
        elements.try_reserve_exact(from.len())?;
        for element in from {
            elements.try_push(element)?;
        }
        elements.try_into_boxed_slice()
    }

    pub(crate) fn of_std(inner: Inner<[T]>) -> Self {
        Self(inner)
    }
}

/// Boxes a future and forgets its type.
///
/// # Errors
/// There is no memory; the future has been dropped.
#[inline]
pub fn try_future<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Result<BoxFuture<'a, T>, AllocError> {
    Ok(Box::try_new(future)?
        .unsize::<dyn Future<Output = T> + Send + 'a>(|inner| inner)
        .into_pin())
}

/// A fresh block for a `T`; a dangling pointer if it has no size.
#[inline]
pub(crate) fn block<T>() -> Result<NonNull<T>, AllocError> {
    let layout = const { Layout::new::<T>() };
    if layout.size() == 0 {
        return Ok(NonNull::dangling());
    }
    // SAFETY: the layout has a size.
    NonNull::new(unsafe { alloc(layout) }.cast()).ok_or(AllocError)
}

impl<T> Default for Box<[T]> {
    /// No elements; allocates nothing.
    fn default() -> Self {
        Self(Inner::default())
    }
}

impl<T: ?Sized> Deref for Box<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for Box<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized> AsRef<T> for Box<T> {
    fn as_ref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> AsMut<T> for Box<T> {
    fn as_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Box<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for Box<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<T: ?Sized + PartialEq> PartialEq for Box<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T: ?Sized + Eq> Eq for Box<T> {}
