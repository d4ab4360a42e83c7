//! A queue with two ends that grows only by `try_` methods.

use alloc::collections::vec_deque::{self, VecDeque as Inner};
use core::{
    fmt,
    ops::{Index, IndexMut, RangeBounds},
};

use crate::AllocError;

/// A queue with two ends, as the standard library's.
pub struct VecDeque<T>(Inner<T>);

impl<T> VecDeque<T> {
    /// An empty queue; allocates nothing.
    pub const fn new() -> Self {
        Self(Inner::new())
    }

    /// Makes room for `additional` more elements, and for others beyond them, so that growing in steps is linear.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        Ok(self.0.try_reserve(additional)?)
    }

    /// Makes room for exactly `additional` more elements.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve_exact(&mut self, additional: usize) -> Result<(), AllocError> {
        Ok(self.0.try_reserve_exact(additional)?)
    }

    /// Adds an element behind the last.
    ///
    /// # Errors
    /// There is no memory; the element has been dropped.
    pub fn try_push_back(&mut self, element: T) -> Result<(), AllocError> {
        self.0.try_reserve(1)?;
        self.0.push_back(element);
        Ok(())
    }

    /// Adds an element behind the last, where room was reserved for it.
    ///
    /// # Errors
    /// There is no room; the element comes back.
    #[inline]
    pub fn push_within_capacity(&mut self, element: T) -> Result<(), T> {
        if self.0.len() == self.0.capacity() {
            return Err(element);
        }
        self.0.push_back(element);
        Ok(())
    }

    /// Adds an element before the first.
    ///
    /// # Errors
    /// There is no memory; the element has been dropped.
    pub fn try_push_front(&mut self, element: T) -> Result<(), AllocError> {
        self.0.try_reserve(1)?;
        self.0.push_front(element);
        Ok(())
    }

    /// Adds copies of the elements of `slice` behind the last.
    ///
    /// # Errors
    /// There is no memory; nothing has been added.
    pub fn try_extend_from_slice(&mut self, slice: &[T]) -> Result<(), AllocError>
    where
        T: Copy,
    {
        self.0.try_reserve(slice.len())?;
        self.0.extend(slice);
        Ok(())
    }

    /// Removes the first element.
    pub fn pop_front(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    /// Removes the last element.
    pub fn pop_back(&mut self) -> Option<T> {
        self.0.pop_back()
    }

    /// The first element.
    pub fn front(&self) -> Option<&T> {
        self.0.front()
    }

    /// The first element.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.0.front_mut()
    }

    /// The last element.
    pub fn back(&self) -> Option<&T> {
        self.0.back()
    }

    /// The last element.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.0.back_mut()
    }

    /// The element at `index`, from the first.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index)
    }

    /// Removes the element at `index`.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        self.0.remove(index)
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many elements there is room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Drops all elements, and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps the first `len` elements.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Keeps the elements for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
    }

    /// Removes the elements in `range`, and gives them out.
    ///
    /// # Panics
    /// If the range is beyond the end.
    pub fn drain(&mut self, range: impl RangeBounds<usize>) -> vec_deque::Drain<'_, T> {
        self.0.drain(range)
    }

    /// The elements, from the first.
    pub fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.0.iter()
    }

    /// The elements, from the first.
    pub fn iter_mut(&mut self) -> vec_deque::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// The elements in two slices, from the first.
    pub fn as_slices(&self) -> (&[T], &[T]) {
        self.0.as_slices()
    }

    /// The elements in two slices, from the first.
    pub fn as_mut_slices(&mut self) -> (&mut [T], &mut [T]) {
        self.0.as_mut_slices()
    }
}

impl<T> Default for VecDeque<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Index<usize> for VecDeque<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.0[index]
    }
}

impl<T> IndexMut<usize> for VecDeque<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.0[index]
    }
}

impl<T> IntoIterator for VecDeque<T> {
    type Item = T;
    type IntoIter = vec_deque::IntoIter<T>;

    fn into_iter(self) -> vec_deque::IntoIter<T> {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a VecDeque<T> {
    type Item = &'a T;
    type IntoIter = vec_deque::Iter<'a, T>;

    fn into_iter(self) -> vec_deque::Iter<'a, T> {
        self.0.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for VecDeque<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}
