//! What the simulation looks at to compare it with what it knows: swap slots and who names them.

use crate::Memory;
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::platform::{MAX_CPUS, Platform};
use crate::swap::{SlotState, SwapSlot};

/// What the word of a swap slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// The slot.
    pub slot: SwapSlot,
    /// Entries, markers and pages of objects that name it.
    pub count: u32,
    /// The frame that has the page.
    pub frame: Option<Pfn>,
    /// Whether the device has the same page as the frame, if nobody has written to that since.
    pub is_written: bool,
    /// Whether nobody uses the slot.
    pub is_free: bool,
}

impl Entry {
    /// The swap slot that an entry names.
    #[must_use]
    pub fn named_slot(self) -> Option<SwapSlot> {
        self.swap_slot()
    }
}

impl<P: Platform> Memory<P> {
    /// The word of a slot.
    #[must_use]
    pub fn slot_view(&self, slot: SwapSlot) -> SlotView {
        let word = self.frames.swap.load(slot);
        SlotView {
            slot,
            count: word.count,
            frame: word.frame(),
            is_written: matches!(word.state, SlotState::Cached { .. }),
            is_free: matches!(word.state, SlotState::Free),
        }
    }

    /// The slot that the record of a mapped frame names.
    #[must_use]
    pub fn slot_named_by(&self, frame: Pfn) -> Option<SwapSlot> {
        self.frames.named_swap_slot(frame)
    }

    /// Calls `f` with each slot that a page of an object names.
    pub fn each_object_slot(&'static self, mut f: impl FnMut(SwapSlot)) {
        let mut at = self.next_object(None);
        while let Some(object) = at {
            for page in 0..object.size().div_ceil(crate::PAGE_SIZE) {
                object.slot_of(page).into_iter().for_each(&mut f);
            }
            at = self.next_object(Some(&object));
        }
    }

    /// Whether a page may have left its table and be used by some CPU all the same.
    #[must_use]
    pub fn has_unflushed_pages(&self) -> bool {
        self.reclaim.has_unflushed()
    }

    /// The CPUs that serve a fault which may take a frame although others wait.
    pub fn permits(&self) -> impl Iterator<Item = usize> {
        (0..MAX_CPUS).filter(|&cpu| self.faults.has_permit(cpu))
    }
}
