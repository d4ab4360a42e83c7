//! Frames in flight, as values.
//!
//! A token owns its frame. Every way to use the frame consumes the token, and a token that is dropped returns the
//! frame, so that no early return, cancelled future or panic can lose one.

use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::allocator::FrameAllocator;
use super::meta::Word;
use super::pfn::Pfn;
use super::quarantine::QuarantineList;

macro_rules! token_common {
    ($token:ident) => {
        impl<'a> $token<'a> {
            #[inline]
            pub(super) fn new(allocator: &'a FrameAllocator, pfn: Pfn, cpu: usize) -> Self {
                Self {
                    allocator,
                    pfn,
                    cpu: cpu as u32,
                }
            }

            /// The frame's number.
            #[inline]
            pub fn pfn(&self) -> Pfn {
                self.pfn
            }

            /// The frame, as the `x86_64` crate names it.
            #[inline]
            pub fn frame(&self) -> PhysFrame<Size4KiB> {
                self.pfn.frame()
            }

            /// The physical address of the frame's first byte.
            #[inline]
            pub fn address(&self) -> PhysAddr {
                self.pfn.address()
            }

            /// Returns the frame to the allocator, as dropping the token does. The next allocation may get it.
            #[inline]
            pub fn free(self) {}

            /// Ends the token without returning the frame: whoever calls this accounts for it.
            #[inline]
            pub(super) fn publish(self) -> Pfn {
                ManuallyDrop::new(self).pfn
            }
        }

        impl Drop for $token<'_> {
            #[inline]
            fn drop(&mut self) {
                self.allocator.release(self.pfn, self.cpu as usize);
            }
        }

        impl fmt::Debug for $token<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($token)).field(&self.pfn).finish()
            }
        }
    };
}

/// A frame that was taken and is not yet in use. Dropping it returns it.
#[must_use = "dropping a reserved frame returns it to the allocator"]
pub struct ReservedFrame<'a> {
    allocator: &'a FrameAllocator,
    pfn: Pfn,
    cpu: u32,
}

token_common!(ReservedFrame);

impl<'a> ReservedFrame<'a> {
    /// The frame is about to be mapped: its reference count is 1, and belongs to the page-table entry that the caller
    /// writes. [`FrameAllocator::remove_mapping`] is the way back.
    #[inline]
    pub fn map(self) -> Pfn {
        self.allocator.metadata[self.pfn.index()].store(Word::MAPPED_ONCE);
        self.allocator.cpu(self.cpu as usize).tally.mapped(1);
        self.publish()
    }

    /// The frame becomes a page table with one parent. [`FrameAllocator::table_remove_ref`] is the way back.
    #[inline]
    pub fn into_page_table(self) -> Pfn {
        self.allocator.metadata[self.pfn.index()].store(Word::TABLE_ONCE);
        self.allocator.cpu(self.cpu as usize).tally.table_made();
        self.publish()
    }

    /// The frame becomes one that nobody can free, with no mapping yet. [`FrameAllocator::unpin`] is the way back.
    pub fn pin(self) -> Pfn {
        self.allocator.metadata[self.pfn.index()].store(Word::PINNED);
        self.allocator.cpu(self.cpu as usize).tally.pinned(1);
        self.allocator.pinned.fetch_add(1, Ordering::Relaxed);
        self.publish()
    }
}

/// A frame that just lost its last reference and may still be in somebody's TLB.
///
/// Decide: [`quarantine`](Self::quarantine) it until every CPU has passed the generation of its removal, or
/// [`free`](Self::free) it at once if no CPU can hold a translation of it. Dropping it frees it, so that it is never
/// lost.
#[must_use = "a retired frame must be quarantined, or freed if no TLB can hold it"]
pub struct RetiredFrame<'a> {
    allocator: &'a FrameAllocator,
    pfn: Pfn,
    cpu: u32,
}

token_common!(RetiredFrame);

impl<'a> RetiredFrame<'a> {
    /// Puts the frame at the end of `list`, until [`QuarantineList::release_up_to`] is told of `generation`.
    #[inline]
    pub fn quarantine(self, list: &mut QuarantineList<'a>, generation: u64) {
        list.push(self, generation);
    }

    /// Uses the frame again for something else. Only if no TLB can hold a translation of it.
    #[inline]
    pub fn reuse(self) -> ReservedFrame<'a> {
        let (allocator, cpu) = (self.allocator, self.cpu);
        ReservedFrame {
            allocator,
            pfn: self.publish(),
            cpu,
        }
    }

    #[inline]
    pub(super) fn allocator(&self) -> &'a FrameAllocator {
        self.allocator
    }

    #[inline]
    pub(super) fn cpu(&self) -> usize {
        self.cpu as usize
    }
}

/// Contiguous frames that were taken together and are not yet in use. Dropping it returns them all.
#[must_use = "dropping a reserved run returns it to the allocator"]
pub struct ReservedRun<'a> {
    allocator: &'a FrameAllocator,
    pfn: Pfn,
    order: u8,
    cpu: u8,
}

impl<'a> ReservedRun<'a> {
    pub(super) fn new(allocator: &'a FrameAllocator, pfn: Pfn, order: u8, cpu: usize) -> Self {
        // The allocator keeps less than 256 CPUs apart, so the low bits name the same one.
        Self {
            allocator,
            pfn,
            order,
            cpu: cpu as u8,
        }
    }

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
    /// [`FrameAllocator::remove_mapping`], and the run merges again when all are back. About three instructions for
    /// each frame. Returns the first.
    pub fn map(self) -> Pfn {
        self.allocator.cpu(self.cpu.into()).tally.mapped(1 << self.order);
        self.publish_as(Word::MAPPED_ONCE)
    }

    /// Every frame becomes pinned, for a device that reads or writes them as one. [`FrameAllocator::unpin`] takes
    /// them back one by one. Returns the first.
    pub fn pin(self) -> Pfn {
        self.allocator.cpu(self.cpu.into()).tally.pinned(1 << self.order);
        self.allocator.pinned.fetch_add(1 << self.order, Ordering::Relaxed);
        self.publish_as(Word::PINNED)
    }

    /// Returns the frames to the allocator, as dropping the run does.
    pub fn free(self) {}

    fn publish_as(self, word: Word) -> Pfn {
        let first = self.pfn.index();
        for meta in &self.allocator.metadata[first..first + self.len()] {
            meta.store(word);
        }
        ManuallyDrop::new(self).pfn
    }
}

impl Drop for ReservedRun<'_> {
    fn drop(&mut self) {
        self.allocator.release_run(self.pfn, self.order);
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
