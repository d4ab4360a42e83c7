//! A vector that grows only by `try_` methods.

use alloc::vec::{self, Vec as Inner};
use core::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, DerefMut, RangeBounds},
    slice,
};

use crate::{AllocError, Box};

/// A vector, as the standard library's. Everything of a slice is there by [`Deref`].
pub struct Vec<T>(Inner<T>);

/// The elements of a [`Vec`] by value.
pub type IntoIter<T> = vec::IntoIter<T>;

impl<T> Vec<T> {
    /// An empty vector; allocates nothing.
    #[inline]
    pub const fn new() -> Self {
        Self(Inner::new())
    }

    /// An empty vector with room for `capacity` elements.
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    pub fn try_with_capacity(capacity: usize) -> Result<Self, AllocError> {
        let mut new = Self::new();
        new.try_reserve_exact(capacity)?;
        Ok(new)
    }

    /// A vector with the elements of `from`.
    ///
    /// # Errors
    /// There is no memory; the elements that were taken have been dropped.
    pub fn try_from_iter(from: impl IntoIterator<Item = T>) -> Result<Self, AllocError> {
        let mut new = Self::new();
        new.try_extend(from)?;
        Ok(new)
    }

    /// Makes room for `additional` more elements, and for others beyond them, so that growing in steps is linear.
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        Ok(self.0.try_reserve(additional)?)
    }

    /// Makes room for exactly `additional` more elements.
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    pub fn try_reserve_exact(&mut self, additional: usize) -> Result<(), AllocError> {
        Ok(self.0.try_reserve_exact(additional)?)
    }

    /// Adds an element at the end.
    ///
    /// # Errors
    /// There is no memory; the element has been dropped.
    #[inline]
    pub fn try_push(&mut self, element: T) -> Result<(), AllocError> {
        self.try_push_or_return(element).map_err(|_| AllocError)
    }

    /// Adds an element at the end.
    ///
    /// # Errors
    /// There is no memory: the element comes back.
    #[inline]
    pub fn try_push_or_return(&mut self, element: T) -> Result<(), T> {
        if self.0.len() == self.0.capacity() && self.0.try_reserve(1).is_err() {
            return Err(element);
        }
        self.0.push(element);
        Ok(())
    }

    /// Inserts an element at `index`; those from there on move up.
    ///
    /// # Errors
    /// There is no memory; the element has been dropped.
    ///
    /// # Panics
    /// If `index` is beyond the end.
    pub fn try_insert(&mut self, index: usize, element: T) -> Result<(), AllocError> {
        self.try_reserve(1)?;
        self.0.insert(index, element);
        Ok(())
    }

    /// Adds elements at the end.
    ///
    /// # Errors
    /// There is no memory; the elements before the one that failed have been added.
    pub fn try_extend(&mut self, from: impl IntoIterator<Item = T>) -> Result<(), AllocError> {
        let from = from.into_iter();
        self.try_reserve(from.size_hint().0)?;
        for element in from {
            self.try_push(element)?;
        }
        Ok(())
    }

    /// A copy of each element, made by `copy`.
    ///
    /// # Errors
    /// There is no memory, or `copy` failed.
    pub fn try_clone_with(&self, mut copy: impl FnMut(&T) -> Result<T, AllocError>) -> Result<Self, AllocError> {
        let mut new = Self::try_with_capacity(self.0.len())?;
        for element in &self.0 {
            new.0.push(copy(element)?);
        }
        Ok(new)
    }

    /// Changes the length; new elements are made by `make`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_resize_with(&mut self, len: usize, make: impl FnMut() -> T) -> Result<(), AllocError> {
        self.try_reserve(len.saturating_sub(self.0.len()))?;
        self.0.resize_with(len, make);
        Ok(())
    }

    /// The same elements in a block that has no room for more.
    ///
    /// # Errors
    /// There was room for more, and there is no memory for the smaller block; the elements have been dropped.
    pub fn try_into_boxed_slice(self) -> Result<Box<[T]>, AllocError> {
        if self.0.len() == self.0.capacity() {
            return Ok(Box::of_std(self.0.into_boxed_slice()));
        }
        let mut exact = Self::try_with_capacity(self.0.len())?;
        exact.0.extend(self.0);
        Ok(Box::of_std(exact.0.into_boxed_slice()))
    }

    /// How many elements there is room for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Removes the last element.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Removes the last element if `condition` holds for it.
    pub fn pop_if(&mut self, condition: impl FnOnce(&mut T) -> bool) -> Option<T> {
        self.0.pop_if(condition)
    }

    /// Removes the element at `index`; those behind it move down.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline]
    pub fn remove(&mut self, index: usize) -> T {
        self.0.remove(index)
    }

    /// Removes the element at `index` and puts the last one in its place.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline]
    pub fn swap_remove(&mut self, index: usize) -> T {
        self.0.swap_remove(index)
    }

    /// Keeps the first `len` elements.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops all elements, and keeps the room.
    #[inline]
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps the elements for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
    }

    /// Keeps the elements for which `keep` holds.
    pub fn retain_mut(&mut self, keep: impl FnMut(&mut T) -> bool) {
        self.0.retain_mut(keep);
    }

    /// Removes the elements in `range`, and gives them out.
    ///
    /// # Panics
    /// If the range is beyond the end.
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> vec::Drain<'_, T> {
        self.0.drain(range)
    }

    /// Removes equal neighbours, all but the first of each.
    pub fn dedup(&mut self)
    where
        T: PartialEq,
    {
        self.0.dedup();
    }

    /// Moves all elements of `other` to the end.
    ///
    /// # Errors
    /// There is no memory; nothing has moved.
    pub fn try_append(&mut self, other: &mut Self) -> Result<(), AllocError> {
        self.try_reserve(other.0.len())?;
        self.0.append(&mut other.0);
        Ok(())
    }

    /// Moves the elements from `at` on into a vector of their own.
    ///
    /// # Errors
    /// There is no memory; nothing has moved.
    ///
    /// # Panics
    /// If `at` is beyond the end.
    pub fn try_split_off(&mut self, at: usize) -> Result<Self, AllocError> {
        let mut tail = Self::try_with_capacity(self.0.len() - at)?;
        tail.0.extend(self.0.drain(at..));
        Ok(tail)
    }

    /// Moves the elements to a smaller block if there is memory for it: fewer unused bytes, never an error.
    pub fn shrink(&mut self) {
        if let Ok(mut exact) = Self::try_with_capacity(self.0.len()) {
            exact.0.append(&mut self.0);
            *self = exact;
        }
    }

    pub(crate) fn of_std(inner: Inner<T>) -> Self {
        Self(inner)
    }

    /// The elements as a slice.
    #[inline(always)]
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements as a slice.
    #[inline(always)]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }

    /// The room behind the elements; [`Vec::set_len`] makes elements of what was written there.
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [core::mem::MaybeUninit<T>] {
        self.0.spare_capacity_mut()
    }

    /// Sets the length.
    ///
    /// # Safety
    /// `len` is no more than the capacity, and the elements up to there have been written.
    #[inline]
    pub unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the caller vouches for it.
        unsafe { self.0.set_len(len) }
    }
}

impl<T: Clone> Vec<T> {
    /// A copy. `T`'s own `clone` does not allocate (see the crate's documentation).
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_clone(&self) -> Result<Self, AllocError> {
        Self::try_from_slice(&self.0)
    }

    /// A vector with copies of the elements of `slice`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_from_slice(slice: &[T]) -> Result<Self, AllocError> {
        let mut new = Self::try_with_capacity(slice.len())?;
        new.0.extend_from_slice(slice);
        Ok(new)
    }

    /// Adds copies of the elements of `slice` at the end.
    ///
    /// # Errors
    /// There is no memory; nothing has been added.
    #[inline]
    pub fn try_extend_from_slice(&mut self, slice: &[T]) -> Result<(), AllocError> {
        self.try_reserve(slice.len())?;
        self.0.extend_from_slice(slice);
        Ok(())
    }

    /// `len` copies of `element`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_of(element: T, len: usize) -> Result<Self, AllocError> {
        let mut new = Self::new();
        new.try_reserve_exact(len)?;
        new.0.resize(len, element);
        Ok(new)
    }

    /// Changes the length; new elements are copies of `element`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_resize(&mut self, len: usize, element: T) -> Result<(), AllocError> {
        self.try_reserve(len.saturating_sub(self.0.len()))?;
        self.0.resize(len, element);
        Ok(())
    }
}

impl fmt::Write for Vec<u8> {
    /// Adds the text; fails if there is no memory for it.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.try_extend_from_slice(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl<T> Default for Vec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Vec<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Vec<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> AsRef<[T]> for Vec<T> {
    fn as_ref(&self) -> &[T] {
        &self.0
    }
}

impl<T> core::borrow::Borrow<[T]> for Vec<T> {
    fn borrow(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for Vec<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Vec<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> slice::Iter<'a, T> {
        self.0.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Vec<T> {
    type Item = &'a mut T;
    type IntoIter = slice::IterMut<'a, T>;

    fn into_iter(self) -> slice::IterMut<'a, T> {
        self.0.iter_mut()
    }
}

impl<T: fmt::Debug> fmt::Debug for Vec<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<T: PartialEq<U>, U> PartialEq<Vec<U>> for Vec<T> {
    fn eq(&self, other: &Vec<U>) -> bool {
        self.0 == other.0
    }
}

impl<T: PartialEq<U>, U> PartialEq<[U]> for Vec<T> {
    fn eq(&self, other: &[U]) -> bool {
        self.0 == other
    }
}

impl<T: PartialEq<U>, U, const N: usize> PartialEq<[U; N]> for Vec<T> {
    fn eq(&self, other: &[U; N]) -> bool {
        self.0 == other
    }
}

impl<T: PartialEq<U>, U> PartialEq<&[U]> for Vec<T> {
    fn eq(&self, other: &&[U]) -> bool {
        self.0 == *other
    }
}

impl<T: Eq> Eq for Vec<T> {}

impl<T: PartialOrd> PartialOrd for Vec<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.0.partial_cmp(&other.0)
    }
}

impl<T: Ord> Ord for Vec<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T: Hash> Hash for Vec<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
