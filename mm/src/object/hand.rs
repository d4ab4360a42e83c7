//! The hand over objects: pages that nothing maps and nobody has used since it last came by leave memory.
//!
//! It takes the objects in turn, and the pages of each in order. A page that was used is passed, and counts as not used from
//! then on. A page that is mapped stays, until the hand over spaces has emptied the entries that map it. Of the others those
//! that are clean are dropped, and those that are not leave to the swap area, to be written with the batch they leave in.
//!
//! That nothing maps a page is certain under the object's lock: its frame has one reference, which is the object's, and
//! others come by way of the object or from an entry that has one. A CPU may still know the frame by a mapping that is
//! gone. So a frame that is dropped is free when nobody has a [hold](FrameAllocator::hold) any more, and a page that leaves
//! is written after a flush.

use core::ops::Range;
use core::sync::atomic::Ordering;

use faultline_fallible::Arc;

use super::memory_object::{MemoryObject, Pages};
use super::state::{Page, PageState};
use crate::frame::{FrameAllocator, Pfn};
use crate::memory::Memory;
use crate::platform::Platform;
use crate::swap::{Leaving, SwapSlot};

/// What a step of the hand came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObjectStep {
    /// Pages that it looked at.
    pub looked: usize,
    /// Frames that came free.
    pub dropped: usize,
    /// The hand has been at every object.
    pub round: bool,
}

/// What has become of a page.
enum Gone {
    /// It is mapped, or not in memory, or has nowhere to go.
    Stays,
    /// Its disk has it.
    Dropped,
    /// It is to be written to its slot.
    Left(SwapSlot, Pfn),
}

impl<P: Platform> Memory<P> {
    /// Moves the hand over about `most` pages of one object. Pages that leave to the swap area get their slots from
    /// `leaving`, if they may, and are told to `left`, which says whether it can take another. The caller has a
    /// [hold](FrameAllocator::hold) on frames until everything is flushed if any leave.
    pub(crate) fn step_objects(
        &'static self,
        most: usize,
        leaving: Option<&mut Leaving<'_>>,
        left: impl FnMut(SwapSlot, Pfn) -> bool,
    ) -> ObjectStep {
        let objects = &self.frames.objects;
        let Some(object) = objects.all.next(None) else {
            return ObjectStep {
                round: true,
                ..ObjectStep::default()
            };
        };
        let round = objects.round.load(Ordering::Relaxed);
        let mut pages = object.pages.lock();
        if pages.round == round {
            objects.round.store(round + 1, Ordering::Relaxed);
            return ObjectStep {
                round: true,
                ..ObjectStep::default()
            };
        }
        let mut step = ObjectStep::default();
        if !object.stays {
            self.step_pages(&mut pages, most, leaving, left, &mut step);
        }
        if object.stays || pages.hand.is_none() {
            pages.round = round;
            pages.hand = Some(0);
            drop(pages);
            objects.all.move_to_end(&object);
        } else {
            drop(pages);
        }
        step
    }

    /// Moves the hand over pages of one object; it is nowhere when it has come to the end.
    fn step_pages(
        &'static self,
        pages: &mut Pages,
        most: usize,
        mut leaving: Option<&mut Leaving<'_>>,
        mut left: impl FnMut(SwapSlot, Pfn) -> bool,
        step: &mut ObjectStep,
    ) {
        let mut more = true;
        while more && step.looked < most {
            let Some(page) = pages.hand.and_then(|from| pages.tree.next_page(from)) else {
                pages.hand = None;
                return;
            };
            pages.hand = Some(page + 1);
            step.looked += 1;
            if pages.tree.get_mut(page).is_some_and(PageState::forget_use) {
                continue;
            }
            match self.let_page_go(pages, page, leaving.as_deref_mut()) {
                Gone::Stays => {}
                Gone::Dropped => step.dropped += 1,
                Gone::Left(slot, frame) => more = left(slot, frame),
            }
        }
    }

    /// Lets those pages of one object go in `range` that nothing maps, whether they were used or not, and looks at about `most`
    /// of them. Pages that leave to the swap area are told to `left`, as by [`step_objects`](Self::step_objects). Says where to
    /// go on, if that is not all, and how many frames came free.
    pub(crate) fn let_pages_go(
        &'static self,
        object: &MemoryObject,
        range: Range<u64>,
        most: usize,
        leaving: &mut Leaving<'_>,
        mut left: impl FnMut(SwapSlot, Pfn) -> bool,
    ) -> (Option<u64>, usize) {
        let mut dropped = 0;
        let mut pages = object.pages.lock();
        let mut at = range.start;
        for _ in 0..most {
            let next = pages
                .tree
                .next_page(at)
                .filter(|&page| page < range.end && !object.stays);
            let Some(page) = next else {
                return (None, dropped);
            };
            at = page + 1;
            match self.let_page_go(&mut pages, page, Some(leaving)) {
                Gone::Stays => {}
                Gone::Dropped => dropped += 1,
                Gone::Left(slot, frame) if left(slot, frame) => {}
                Gone::Left(..) => break,
            }
        }
        (Some(at), dropped)
    }

    /// Lets a page go if nothing maps it.
    fn let_page_go(&self, pages: &mut Pages, page: u64, leaving: Option<&mut Leaving<'_>>) -> Gone {
        let Some(state) = pages.tree.get_mut(page) else {
            return Gone::Stays;
        };
        let Some(frame) = state.resident_frame() else {
            return Gone::Stays;
        };
        if self.frames.mapping_count(frame) > 1 {
            return Gone::Stays;
        }
        if state.is_clean() {
            self.drop_clean(pages, page, frame);
            return Gone::Dropped;
        }
        let Some(Ok(slot)) = leaving.map(|leaving| leaving.page(frame)) else {
            return Gone::Stays;
        };
        *state = PageState::swapped_out(slot);
        self.frames.unmark_of_object(frame);
        self.frames.objects.resident.sub(1);
        Gone::Left(slot, frame)
    }

    /// Drops clean pages of files on disks that nothing maps, about `most` of them, those first that were not used lately; says
    /// how many. For a kernel that is about to refuse memory to a call that does not wait.
    pub fn drop_cached(&'static self, most: usize) -> usize {
        /// Objects that are looked at.
        const STEPS: usize = 64;
        /// A page that was used is passed in the first round.
        const ROUNDS: usize = 3;
        let (mut dropped, mut rounds) = (0, 0);
        for _ in 0..STEPS {
            let step = self.step_objects(most, None, |_, _| false);
            dropped += step.dropped;
            rounds += usize::from(step.round);
            if dropped >= most || rounds == ROUNDS {
                break;
            }
        }
        dropped
    }

    fn drop_clean(&self, pages: &mut Pages, page: u64, frame: Pfn) {
        pages.tree.remove(page);
        let objects = &self.frames.objects;
        objects.resident.sub(1);
        objects.from_disk.sub(1);
        self.counters.object_drops.add(1);
        self.frames.leave_object(frame);
    }

    /// Takes a page that is the same on its disk, that nothing maps and no TLB knows, away from its object: the object's
    /// reference to the frame is the caller's then. Says whether it has.
    #[cold]
    pub(crate) fn take_clean_page(&self, pages: &mut Pages, page: u64) -> bool {
        let state = pages.tree.get(page);
        let free = state
            .resident_frame()
            .filter(|&frame| state.is_clean() && self.frames.mapping_count(frame) == 1 && !self.frames.is_held());
        let Some(frame) = free else { return false };
        pages.tree.remove(page);
        self.frames.unmark_of_object(frame);
        self.frames.objects.resident.sub(1);
        self.frames.objects.from_disk.sub(1);
        self.counters.object_drops.add(1);
        true
    }

    /// Drops those pages of an object in `range` that are the same on its disk and that nothing maps, whether they were used
    /// or not, and looks at 64 of them at most. Says where to go on, if that is not all.
    pub fn drop_clean_pages(&'static self, object: &MemoryObject, range: Range<u64>) -> Option<u64> {
        const MOST: usize = 64;
        let mut pages = object.pages.lock();
        let mut at = range.start;
        for _ in 0..MOST {
            let page = pages.tree.next_page(at).filter(|&page| page < range.end)?;
            at = page + 1;
            let state = pages.tree.get(page);
            if let Some(frame) = state.resident_frame()
                && state.is_clean()
                && self.frames.mapping_count(frame) == 1
            {
                self.drop_clean(&mut pages, page, frame);
            }
        }
        Some(at)
    }

    /// Takes the pages of one object back whose swap slots have a frame, about `most` of them from `from` on. Says where to
    /// go on, if that is not all.
    pub(crate) fn take_back_cached(&'static self, object: &MemoryObject, from: u64, most: usize) -> Option<u64> {
        let mut pages = object.pages.lock();
        let mut at = from;
        for _ in 0..most {
            let page = pages.tree.next_page(at)?;
            at = page + 1;
            if let Page::SwappedOut { slot } = pages.tree.get(page).page() {
                self.frames.take_back(&mut pages, page, slot);
            }
        }
        Some(at)
    }

    /// The object behind `after`, or the first one, in the order in which the hand comes to them.
    pub(crate) fn next_object(&'static self, after: Option<&Arc<MemoryObject>>) -> Option<Arc<MemoryObject>> {
        self.frames.objects.all.next(after)
    }
}

impl FrameAllocator {
    /// Makes a page resident that is swapped out, if the slot has a frame; says whether.
    pub(super) fn take_back(&self, pages: &mut Pages, page: u64, slot: SwapSlot) -> bool {
        let Some(frame) = self.take_cached(slot) else {
            return false;
        };
        // Whoever maps the page may write to it, so the slot does not have the same page any more.
        self.forget_swap_slot(frame, slot);
        self.unname_swap_slot(frame);
        self.mark_of_object(frame);
        self.objects.resident.add(1);
        if let Some(state) = pages.tree.get_mut(page) {
            *state = PageState::resident(frame);
        }
        true
    }
}
