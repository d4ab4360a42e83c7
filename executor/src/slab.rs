//! The slots of all tasks: grown in chunks, never freed.
//!
//! Free slots form a lock-free stack linked by index. Its head carries a tag that every pop bumps, so that a pop that
//! was overtaken (the head was popped, its successor too, and the head pushed back) fails instead of installing a
//! stale successor.
//!
//! # Memory order
//!
//! Push on the free stack is **Release** and pop is **Acquire**: the next user of a slot sees everything that the last
//! one did. A chunk is published with **Release** before any of its indices reaches the free stack.

use alloc::{alloc::alloc, boxed::Box};
use core::{alloc::Layout, ptr};

use crate::{
    SpawnError,
    sync::{AtomicPtr, AtomicU32, AtomicU64, Mutex, Ordering},
    task::{Slot, is_representable},
};

/// Slots per chunk.
#[cfg(not(loom))]
const CHUNK: u32 = 64;
#[cfg(loom)]
const CHUNK: u32 = 2;

/// In a link: no slot.
const NONE: u32 = u32::MAX;

/// The slots of all tasks.
pub(crate) struct Slab {
    /// The index of the first free slot (or [`NONE`]) in the low half, the tag in the high half.
    free: AtomicU64,
    /// How many slots there are.
    len: AtomicU32,
    /// How many there may be.
    capacity: u32,
    /// The chunks; null where there is none yet.
    chunks: Box<[AtomicPtr<Slot>]>,
    /// Held while the slab grows.
    growing: Mutex<()>,
}

impl Slab {
    /// A slab for at most `capacity` slots, rounded up to whole chunks. The table of chunks is allocated here.
    pub(crate) fn new(capacity: u32) -> Self {
        let chunks = capacity.clamp(1, NONE - CHUNK).div_ceil(CHUNK);
        Self {
            free: AtomicU64::new(u64::from(NONE)),
            len: AtomicU32::new(0),
            capacity: chunks * CHUNK,
            chunks: (0..chunks).map(|_| AtomicPtr::new(ptr::null_mut())).collect(),
            growing: Mutex::new(()),
        }
    }

    /// How many slots there may be.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The slot with this index, if it exists yet.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<&'static Slot> {
        let chunk = self.chunks.get((index / CHUNK) as usize)?.load(Ordering::Acquire);
        // SAFETY: a chunk that is not null has `CHUNK` slots, and is never freed.
        (!chunk.is_null()).then(|| unsafe { &*chunk.add((index % CHUNK) as usize) })
    }

    /// Every slot that exists.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static Slot> + '_ {
        (0..self.len.load(Ordering::Acquire)).filter_map(|index| self.get(index))
    }

    /// Takes a free slot; makes more if there is none.
    #[inline(always)]
    pub(crate) fn take(&self) -> Result<&'static Slot, SpawnError> {
        self.try_take(self.free.load(Ordering::Acquire))
            .or_else(|head| self.take_again(head))
    }

    /// Takes the slot that is the head of the free stack. `Err` with the head if that is none, or another one by now.
    #[inline(always)]
    fn try_take(&self, head: u64) -> Result<&'static Slot, u64> {
        let index = head as u32;
        let chunk = self.chunks.get((index / CHUNK) as usize).ok_or(head)?;
        // SAFETY: the table has this entry, so it is no end of the stack, and the chunk of a slot that is on the stack was
        // published before. It has `CHUNK` slots, and is never freed.
        let slot: &'static Slot = unsafe { &*chunk.load(Ordering::Acquire).add((index % CHUNK) as usize) };
        // A slot that is free keeps the index of the next one in `next`.
        let next = slot.next.load(Ordering::Relaxed).addr() as u64;
        let bumped = (head >> 32).wrapping_add(1) << 32 | next;
        self.free
            .compare_exchange(head, bumped, Ordering::Acquire, Ordering::Acquire)
            .map(|_| slot)
    }

    /// The usual case, which is no loop, has failed.
    #[cold]
    #[inline(never)]
    fn take_again(&self, mut head: u64) -> Result<&'static Slot, SpawnError> {
        loop {
            if head as u32 == NONE {
                self.grow()?;
                head = self.free.load(Ordering::Acquire);
            }
            match self.try_take(head) {
                Ok(slot) => return Ok(slot),
                Err(now) => head = now,
            }
        }
    }

    /// Gives a slot back.
    #[inline(always)]
    pub(crate) fn give(&self, slot: &'static Slot) {
        self.give_chain(slot.index, slot);
    }

    /// Pushes a chain of slots, from the one with the index `first` to `last`, on the free stack.
    #[inline(always)]
    fn give_chain(&self, first: u32, last: &'static Slot) {
        if let Err(head) = self.try_give(first, last, self.free.load(Ordering::Relaxed)) {
            self.give_again(first, last, head);
        }
    }

    /// Pushes a chain on `head`. `Err` with the head if that is another one by now.
    #[inline(always)]
    fn try_give(&self, first: u32, last: &'static Slot, head: u64) -> Result<(), u64> {
        last.next
            .store(ptr::without_provenance_mut(head as u32 as usize), Ordering::Relaxed);
        let new = head >> 32 << 32 | u64::from(first);
        self.free
            .compare_exchange(head, new, Ordering::Release, Ordering::Relaxed)
            .map(drop)
    }

    /// Another CPU was faster. Out of line, so that the usual case is no loop.
    #[cold]
    #[inline(never)]
    fn give_again(&self, first: u32, last: &'static Slot, mut head: u64) {
        while let Err(now) = self.try_give(first, last, head) {
            head = now;
        }
    }

    /// Makes sure that there are at least `slots`.
    pub(crate) fn reserve(&self, slots: u32) -> Result<(), SpawnError> {
        while self.len.load(Ordering::Relaxed) < slots {
            self.add_chunk(&self.growing.lock())?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn grow(&self) -> Result<(), SpawnError> {
        let guard = self.growing.lock();
        if self.free.load(Ordering::Acquire) as u32 != NONE {
            return Ok(()); // Somebody else was faster.
        }
        self.add_chunk(&guard)
    }

    /// Allocates one chunk and frees its slots. The reference shows that the caller holds `growing`.
    fn add_chunk<G>(&self, _growing: &G) -> Result<(), SpawnError> {
        let first = self.len.load(Ordering::Relaxed);
        if first >= self.capacity {
            return Err(SpawnError::Full {
                capacity: self.capacity,
            });
        }
        let layout = Layout::new::<[Slot; CHUNK as usize]>();
        // SAFETY: the layout is not empty.
        let chunk = unsafe { alloc(layout) }.cast::<Slot>();
        if chunk.is_null() {
            return Err(SpawnError::OutOfMemory);
        }
        let last = chunk.addr() + layout.size() - 1;
        assert!(
            is_representable(chunk.addr()) && is_representable(last),
            "an address needs more than 48 bits"
        );
        for offset in 0..CHUNK {
            let slot = Slot::new(first + offset);
            let next = if offset + 1 < CHUNK { first + offset + 1 } else { NONE };
            slot.next
                .store(ptr::without_provenance_mut(next as usize), Ordering::Relaxed);
            // SAFETY: the allocation has room for `CHUNK` slots, and nobody else knows it.
            unsafe { chunk.add(offset as usize).write(slot) };
        }
        self.chunks[(first / CHUNK) as usize].store(chunk, Ordering::Release);
        self.len.store(first + CHUNK, Ordering::Release);
        // SAFETY: the last slot of the chunk was just written, and is never freed.
        self.give_chain(first, unsafe { &*chunk.add(CHUNK as usize - 1) });
        Ok(())
    }
}
