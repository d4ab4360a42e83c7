//! The pool of zeroed frames: those that the kernel zeroed when it had nothing better to do, and page tables that were
//! given up with all their entries empty.

use crate::sync::atomic::Ordering;

use super::allocator::FrameAllocator;
use super::list::lock;
use super::meta::{FrameMeta, NONE, Word};
use super::pfn::Pfn;
use super::token::ReservedFrame;

/// The pool takes page tables that were given up empty while it has fewer frames than this, whatever its target is. They
/// serve the next tables, and anybody when no other frame is left.
const TABLES: u32 = 64;

/// Page tables on their way out of quarantine whose entries are all empty, linked through their metadata.
pub(super) struct BlankFrames {
    head: u32,
}

impl BlankFrames {
    pub fn new() -> Self {
        Self { head: NONE }
    }

    #[inline]
    pub fn push(&mut self, pfn: Pfn, meta: &FrameMeta) {
        meta.set_next(self.head);
        self.head = pfn.number();
    }

    fn pop<'m>(&mut self, metadata: &'m [FrameMeta]) -> Option<(Pfn, &'m FrameMeta)> {
        let pfn = Pfn::new(self.head);
        let meta = metadata.get(pfn.index())?;
        self.head = meta.next();
        Some((pfn, meta))
    }
}

impl FrameAllocator {
    /// Takes a frame whose bytes are all zero, if the pool has one. If not, [`allocate`](Self::allocate) one and zero
    /// it.
    #[inline]
    pub fn allocate_zeroed(&self, cpu: usize) -> Option<ReservedFrame<'_>> {
        #[cfg(any(test, feature = "fault-injection"))]
        if self.injector.would_fail() {
            return None;
        }
        let (pfn, meta) = lock(&self.zeroed).take(self.metadata)?;
        #[cfg(any(test, feature = "fault-injection"))]
        self.injector.fails();
        Some(ReservedFrame::new(self, meta, pfn, self.cpu_index(cpu)))
    }

    /// Sets how many zeroed frames the kernel keeps ready; 0, as at the start, switches the pool off. Frames above
    /// the new target go back to the buddy lists.
    pub fn set_zeroed_target(&self, frames: u32) {
        let mut pool = lock(&self.zeroed);
        self.zeroed_target.store(frames, Ordering::Relaxed);
        let excess = pool.len().saturating_sub(frames);
        if excess > 0 {
            self.drain(&mut pool, excess);
            drop(pool);
            self.waiter.notify();
        }
    }

    /// The number of zeroed frames that the kernel keeps ready.
    pub fn zeroed_target(&self) -> u32 {
        self.zeroed_target.load(Ordering::Relaxed)
    }

    /// Takes a frame for the kernel to zero when it is idle, and to return with [`put_zeroed`](Self::put_zeroed).
    ///
    /// `None` when the pool is full or off, when somebody waits for memory, or when the CPU's cache and the buddy lists
    /// are empty.
    pub fn take_for_zeroing(&self, cpu: usize) -> Option<ReservedFrame<'_>> {
        if lock(&self.zeroed).len() >= self.zeroed_target() || self.waiter.is_waiting() {
            return None;
        }
        let cpu = self.cpu_index(cpu);
        let (pfn, meta) = self.take_ordinary(self.low.load(Ordering::Relaxed), cpu)?;
        Some(ReservedFrame::new(self, meta, pfn, cpu))
    }

    /// Puts frames into the pool, and those for which it has no room into the cache. Returns their number.
    #[inline]
    pub(super) fn release_blank(&self, cpu: u32, mut blank: BlankFrames) -> usize {
        if blank.head == NONE {
            return 0;
        }
        let mut released = 0;
        let mut pool = lock(&self.zeroed);
        let room = self.zeroed_target().max(TABLES);
        while pool.len() < room
            && let Some((pfn, meta)) = blank.pop(self.metadata)
        {
            pool.put(pfn, meta, Word::ZEROED);
            released += 1;
        }
        drop(pool);
        if blank.head == NONE {
            self.waiter.notify();
            return released;
        }
        released + self.release_each(cpu, || blank.pop(self.metadata))
    }

    /// Puts a frame into the pool of zeroed frames, or frees it if the pool is full. All its bytes must be zero.
    pub fn put_zeroed(&self, frame: ReservedFrame<'_>) {
        let mut pool = lock(&self.zeroed);
        if pool.len() >= self.zeroed_target() {
            drop(pool);
            return frame.free();
        }
        let (pfn, meta) = frame.publish();
        pool.put(pfn, meta, Word::ZEROED);
        drop(pool);
        self.waiter.notify();
    }
}
