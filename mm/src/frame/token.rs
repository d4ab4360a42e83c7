//! Frames in flight, as values.
//!
//! A token owns its frame. Every way to use the frame consumes the token, and a token that is dropped returns the
//! frame, so that no early return, cancelled future or panic can lose one.

use core::fmt;
use core::mem::ManuallyDrop;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::allocator::{FrameAllocator, PerCpu};
use super::meta::{FrameMeta, Word};
use super::pfn::Pfn;
use super::quarantine::QuarantineList;

use crate::sync::atomic::Ordering;

/// Defines a token for one frame in the state `Reserved`.
macro_rules! token {
    ($(#[$attribute:meta])* $token:ident, $release:ident) => {
        $(#[$attribute])*
        pub struct $token<'a> {
            allocator: &'a FrameAllocator,
            meta: &'a FrameMeta,
            pfn: Pfn,
            cpu: u32,
        }

        impl<'a> $token<'a> {
            /// `cpu` is the index of a cache. The frame is reserved, and nobody else's.
            #[inline]
            pub(super) fn new(allocator: &'a FrameAllocator, meta: &'a FrameMeta, pfn: Pfn, cpu: u32) -> Self {
                Self { allocator, meta, pfn, cpu }
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
            pub fn free(self) {
                // Not by way of `drop`, which the compiler calls out of line.
                let token = ManuallyDrop::new(self);
                token.allocator.$release(token.pfn, token.meta, token.cpu);
            }

            /// The CPU whose cache and counters the token uses.
            #[inline]
            pub(super) fn home(&self) -> &'a PerCpu {
                self.allocator.cpu(self.cpu)
            }

            /// Ends the token without returning the frame, which is the caller's now.
            #[inline]
            pub(super) fn publish(self) -> (Pfn, &'a FrameMeta) {
                let token = ManuallyDrop::new(self);
                (token.pfn, token.meta)
            }
        }

        impl Drop for $token<'_> {
            #[inline]
            fn drop(&mut self) {
                self.allocator.$release(self.pfn, self.meta, self.cpu);
            }
        }

        impl fmt::Debug for $token<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($token)).field(&self.pfn).finish()
            }
        }
    };
}

token! {
    /// A frame that was taken and is not yet in use. Dropping it returns it.
    #[must_use = "dropping a reserved frame returns it to the allocator"]
    ReservedFrame, release
}

impl ReservedFrame<'_> {
    /// The frame is about to be mapped: its reference count is 1, and belongs to the page-table entry that the caller
    /// writes. [`FrameAllocator::remove_mapping`] is the way back.
    #[inline]
    pub fn map(self) -> Pfn {
        self.home().tally.mapped(1);
        self.meta.store(Word::MAPPED_ONCE);
        self.publish().0
    }

    /// The frame becomes a page table with one parent. [`FrameAllocator::table_remove_ref`] is the way back.
    #[inline]
    pub fn into_page_table(self) -> Pfn {
        self.home().tally.table_made();
        self.meta.store(Word::TABLE_ONCE);
        self.publish().0
    }

    /// The frame becomes one that nobody can free, with no mapping yet. [`FrameAllocator::unpin`] is the way back.
    pub fn pin(self) -> Pfn {
        self.home().tally.pinned(1);
        self.allocator.pinned.fetch_add(1, Ordering::Relaxed);
        self.meta.store(Word::PINNED);
        self.publish().0
    }
}

token! {
    /// A frame that just lost its last reference and may still be in somebody's TLB.
    ///
    /// Decide: [`quarantine`](Self::quarantine) it until every CPU has passed the generation of its removal, or
    /// [`free`](Self::free) it at once if no CPU can hold a translation of it. Dropping it frees it, so that it is
    /// never lost.
    #[must_use = "a retired frame must be quarantined, or freed if no TLB can hold it"]
    RetiredFrame, release_retired
}

impl<'a> RetiredFrame<'a> {
    /// Puts the frame at the end of `list`, until [`QuarantineList::release_up_to`] is told of `generation`.
    #[inline]
    pub fn quarantine(self, list: &mut QuarantineList<'a>, generation: u64) {
        list.push(self, generation, Word::QUARANTINED);
    }

    /// As [`quarantine`](Self::quarantine), for a page table whose entries are all empty: it becomes a zeroed frame, so
    /// that the next table need not be zeroed.
    #[inline]
    pub fn quarantine_blank(self, list: &mut QuarantineList<'a>, generation: u64) {
        list.push(self, generation, Word::QUARANTINED_BLANK);
    }

    /// Uses the frame again for something else. Only if no TLB can hold a translation of it.
    #[inline]
    pub fn reuse(self) -> ReservedFrame<'a> {
        let (allocator, cpu) = (self.allocator, self.cpu);
        let (pfn, meta) = self.publish();
        ReservedFrame::new(allocator, meta, pfn, cpu)
    }

    #[inline]
    pub(super) fn allocator(&self) -> &'a FrameAllocator {
        self.allocator
    }
}
