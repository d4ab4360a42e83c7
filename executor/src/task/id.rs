//! The name of a task.

use core::fmt;

/// The name of one task: the index of its slot and the generation of that slot, in one word.
///
/// A slot's generation is bumped when the slot is freed, so an id names at most one task until one slot has been used
/// 2^32 times. A waker keeps the low 16 bits of the generation: a waker that is kept while its slot is used exactly
/// 65,536 times more wakes the new task spuriously, which a future must tolerate anyway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl TaskId {
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    /// The index of the slot.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// How many tasks had used the slot before this one.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The whole id as one word, for traces.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id that [`TaskId::as_u64`] gave.
    #[must_use]
    pub const fn from_u64(word: u64) -> Self {
        Self(word)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}
