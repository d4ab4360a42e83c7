//! Last-in-first-out lists of free single frames, linked through their metadata: a CPU's cache, the zeroed pool.

use core::hint::cold_path;

use crate::sync::{Mutex, MutexGuard, spin_loop};

use super::meta::{FrameMeta, NONE, Word};
use super::pfn::Pfn;

/// The frame freed last is handed out first: its metadata, and often its content, is still in the cache.
#[derive(Debug)]
pub(super) struct FrameList {
    head: u32,
    len: u32,
    out: u64,
}

impl FrameList {
    pub const fn new() -> Self {
        Self {
            head: NONE,
            len: 0,
            out: 0,
        }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn head(&self) -> u32 {
        self.head
    }

    /// Frames handed out from this list, less those returned to it. A frame may be returned to another list than it
    /// came from, so this wraps, and only the sum over all lists means something.
    pub fn out(&self) -> u64 {
        self.out
    }

    /// Hands out the first frame: from now on it is reserved, and the caller's.
    #[inline]
    pub fn take<'m>(&mut self, metadata: &'m [FrameMeta]) -> Option<(Pfn, &'m FrameMeta)> {
        let (pfn, meta) = self.pop(metadata)?;
        meta.store(Word::RESERVED);
        self.out = self.out.wrapping_add(1);
        Some((pfn, meta))
    }

    /// Takes back a reserved frame that the caller owns. From now on its state is the one in `word`.
    #[inline]
    pub fn put(&mut self, pfn: Pfn, meta: &FrameMeta, word: Word) {
        meta.store(word);
        meta.set_next(self.head);
        self.head = pfn.number();
        self.len += 1;
        self.out = self.out.wrapping_sub(1);
    }

    /// Removes the first frame for the buddy lists. The caller sets its state.
    #[inline]
    pub fn pop<'m>(&mut self, metadata: &'m [FrameMeta]) -> Option<(Pfn, &'m FrameMeta)> {
        let pfn = Pfn::new(self.head);
        let meta = metadata.get(pfn.index())?;
        self.head = meta.next();
        self.len -= 1;
        Some((pfn, meta))
    }

    /// Adds `count` frames from the buddy lists, of which `first` is the lowest and the first to be handed out.
    pub fn push_block(&mut self, metadata: &[FrameMeta], first: u32, count: u32, word: Word) {
        let mut number = first;
        for meta in &metadata[first as usize..(first + count) as usize] {
            number += 1;
            meta.store(word);
            meta.set_next(number);
        }
        self.push_linked(metadata, first, number - 1, count);
    }

    /// Adds `count` frames that are linked from `first` to `last` and have their state already.
    pub fn push_linked(&mut self, metadata: &[FrameMeta], first: u32, last: u32, count: u32) {
        metadata[last as usize].set_next(self.head);
        self.head = first;
        self.len += count;
    }
}

/// Locks `mutex`, laid out for the case that it is free.
#[inline]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    loop {
        match mutex.try_lock() {
            Some(guard) => return guard,
            None => {
                cold_path();
                while mutex.is_locked() {
                    spin_loop();
                }
            }
        }
    }
}
