//! Contiguous frames: huge pages and device buffers.

use core::fmt;
use core::mem::ManuallyDrop;

use x86_64::PhysAddr;

use super::allocator::FrameAllocator;
use super::buddy::MAX_ORDER;
use super::error::OutOfFrames;
use super::list::lock;
use super::meta::{FrameState, Word};
use super::pfn::Pfn;

use crate::sync::atomic::Ordering;

impl FrameAllocator {
    /// Takes `1 << order` contiguous frames, aligned to their size. Order 9 is 2 MiB.
    ///
    /// If the buddy lists have no such run, the caches are drained into them, then the zeroed pool, and they are
    /// searched again. Without the draining it takes at most [`MAX_ORDER`] splits, however long the run.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if there is no such run, or `order` is above [`MAX_ORDER`].
    pub fn allocate_contiguous(&self, order: u8, cpu: usize) -> Result<ReservedRun<'_>, OutOfFrames> {
        #[cfg(any(test, feature = "fault-injection"))]
        if self.injector.fails() {
            return Err(self.out_of_frames(order));
        }
        if order > MAX_ORDER {
            return Err(self.out_of_frames(order));
        }
        if let Some(run) = self.take_run(order, cpu) {
            return Ok(run);
        }
        if self.available() >= 1 << order {
            for zeroed in [false, true] {
                self.drain_caches(zeroed);
                if let Some(run) = self.take_run(order, cpu) {
                    return Ok(run);
                }
            }
        }
        Err(self.out_of_frames(order))
    }

    fn take_run(&self, order: u8, cpu: usize) -> Option<ReservedRun<'_>> {
        let mut buddy = lock(&self.buddy);
        let head = buddy.take(self.metadata, order)?;
        self.metadata[head as usize].store(Word::block(FrameState::Reserved, order));
        buddy.out = buddy.out.wrapping_add(1 << order);
        Some(ReservedRun {
            allocator: self,
            pfn: Pfn::new(head),
            order,
            cpu: self.cpu_index(cpu) as u8,
        })
    }
}

/// Contiguous frames that were taken together and are not yet in use. Dropping it returns them all.
#[must_use = "dropping a reserved run returns it to the allocator"]
pub struct ReservedRun<'a> {
    allocator: &'a FrameAllocator,
    pfn: Pfn,
    order: u8,
    /// The index of a CPU's cache, which is below [`MAX_CPUS`](super::MAX_CPUS).
    cpu: u8,
}

impl ReservedRun<'_> {
    /// The number of the first frame, a multiple of [`len`](Self::len).
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The physical address of the first byte, a multiple of the run's size.
    pub fn address(&self) -> PhysAddr {
        self.pfn.address()
    }

    /// The order: the run has `1 << order` frames.
    pub fn order(&self) -> u8 {
        self.order
    }

    /// The number of frames.
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> usize {
        1 << self.order
    }

    /// Every frame becomes mapped with a count of 1, on its own: each can be given back singly with
    /// [`FrameAllocator::remove_mapping`], and the run merges again when all are back. Returns the first.
    pub fn map(self) -> Pfn {
        self.allocator.cpu(self.cpu.into()).tally.mapped(1 << self.order);
        self.publish(Word::MAPPED_ONCE)
    }

    /// Every frame becomes pinned, for a device that reads or writes them as one. [`FrameAllocator::unpin`] takes
    /// them back one by one. Returns the first.
    pub fn pin(self) -> Pfn {
        self.allocator.cpu(self.cpu.into()).tally.pinned(1 << self.order);
        self.allocator.pinned.fetch_add(1 << self.order, Ordering::Relaxed);
        self.publish(Word::PINNED)
    }

    /// Returns the frames to the allocator, as dropping the run does.
    pub fn free(self) {}

    fn publish(self, word: Word) -> Pfn {
        let first = self.pfn.index();
        for meta in &self.allocator.metadata[first..first + self.len()] {
            meta.store(word);
        }
        ManuallyDrop::new(self).pfn
    }
}

impl Drop for ReservedRun<'_> {
    fn drop(&mut self) {
        let mut buddy = lock(&self.allocator.buddy);
        buddy.put(self.allocator.metadata, self.pfn.number(), self.order);
        buddy.out = buddy.out.wrapping_sub(1 << self.order);
        drop(buddy);
        self.allocator.waiter.notify();
    }
}

impl fmt::Debug for ReservedRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReservedRun")
            .field("pfn", &self.pfn)
            .field("order", &self.order)
            .finish()
    }
}
