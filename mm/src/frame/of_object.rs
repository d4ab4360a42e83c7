//! Frames that belong to a memory object, as their metadata says.
//!
//! A frame that an object has, beside the entries that map it, is marked in a link word, which is idle while a frame is
//! mapped: then an entry that maps it privately can be emptied, because the object still has the page. The mark is no frame
//! number, and every list writes the link word, so no frame has the mark of an earlier use.
//!
//! The object makes the mark before anybody else can map the frame, and takes it away before it gives up its reference.
//! So who finds that his reference is the only one finds no mark either; who finds the mark without the object's lock may
//! know something old, and has to expect that the object has just lost the page.

use super::allocator::FrameAllocator;
use super::meta::NONE;
use super::pfn::Pfn;
use super::token::ReservedFrame;

/// The mark. No metadata array is so long that it is the number of a frame.
const OBJECT: u32 = NONE - 1;

impl FrameAllocator {
    /// As [`ReservedFrame::map`]; the one reference is that of an object.
    #[inline(always)]
    pub(crate) fn map_for_object(&self, frame: ReservedFrame<'_>) -> Pfn {
        self.mark_of_object(frame.pfn());
        frame.map()
    }

    /// An object has `pfn` from now on, to which the caller has the only reference.
    #[inline(always)]
    pub(crate) fn mark_of_object(&self, pfn: Pfn) {
        if let Some(meta) = self.metadata.get(pfn.index()) {
            meta.set_next(OBJECT);
        }
    }

    /// The object is about to give up the only reference to `pfn`, or to hand it over.
    #[inline(always)]
    pub(crate) fn unmark_of_object(&self, pfn: Pfn) {
        if let Some(meta) = self.metadata.get(pfn.index()) {
            meta.set_next(NONE);
        }
    }

    /// Whether an object has `pfn`, to which the caller has a reference.
    #[inline]
    #[allow(dead_code, reason = "for the hand that takes pages out of spaces")]
    pub(crate) fn is_of_object(&self, pfn: Pfn) -> bool {
        self.metadata.get(pfn.index()).is_some_and(|meta| meta.next() == OBJECT)
    }

    /// An object gives up its reference to `pfn`, which it alone may still have in its tree.
    pub(crate) fn leave_object(&self, pfn: Pfn) {
        self.unmark_of_object(pfn);
        if let Ok(Some(retired)) = self.remove_mapping(pfn, 0) {
            // Every mapping held a reference until its own flush, so no TLB knows the frame.
            retired.free();
        }
    }
}
