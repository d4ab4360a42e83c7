//! Faults on pages that were swapped out.
//!
//! The marker of such a fault stands for the entry's reference to the swap slot, so the slot stays what it is while the
//! fault is not stale. What is to be done shows in the slot's word: a page that a frame has is mapped; one that is being
//! read is waited for; one that is on the device alone is read, by this fault, with its neighbours
//! ([`window`](crate::swap)).

use faultline_trace::{FaultClass, Kind};

use super::fill::read_only;
use super::parked::ParkedFaults;
use super::service::Step;
use super::slot::{RequestRef, SlotToken};
use super::{Ending, PageRead};
use crate::Memory;
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::swap::{SlotState, SlotWord, SwapSlot};
use crate::sync::mutant;

impl<P: Platform> Memory<P> {
    /// An access to a page that is in a swap slot.
    #[inline(never)]
    pub(super) fn serve_swap(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
    ) -> Step<P> {
        let (token, mut inner) = match self.lock_valid(token, &request, entry) {
            Ok(valid) => valid,
            Err(over) => return over,
        };
        let Some(slot) = request.before.swap_slot() else {
            unreachable!("a fault on a page that is in no swap slot");
        };
        let word = self.frames.swap.load(slot);
        if word.frame().is_some() {
            if self.may_be_written_elsewhere(slot) {
                drop(inner);
                return self.park_for_flush(token);
            }
            if let Some(frame) = self.frames.take_cached(slot) {
                self.publish::<true>(request, entry, self.returned_entry(frame, request.flags));
                let ahead = inner.streams.hit(slot);
                let step = self.resolved_or_read(token, inner, FaultClass::Swap);
                if let Some(ahead) = ahead {
                    self.read_swap_ahead(ahead, self.left_by_read_ahead());
                }
                return step;
            }
        }
        let read = token.take_page_read();
        if read == PageRead::Failed {
            return self.complete(token, inner, Ending::ReadFailed);
        }
        match word.state {
            SlotState::Reading { waiting } if !mutant!(ReadSlotTwice) => {
                drop(inner);
                let to = |list| word.with(SlotState::Reading { waiting: list });
                match self.park(token, waiting, |list| self.frames.swap.exchange(slot, word, to(list))) {
                    Ok(()) => Step::Parked,
                    Err(token) => Step::Reclassified(token),
                }
            }
            SlotState::Out | SlotState::Reading { .. } => {
                let ahead = match read {
                    PageRead::Fresh if !inner.regions.is_random(request.page) => inner.streams.miss(slot),
                    PageRead::Fresh | PageRead::Alone | PageRead::Failed => 0..0,
                };
                drop(inner);
                self.read_swapped(token, request, slot, word, ahead)
            }
            // It has come meanwhile.
            SlotState::Writing { .. } | SlotState::Cached { .. } | SlotState::Kept { .. } => {
                drop(inner);
                Step::Again(token)
            }
            SlotState::Free => unreachable!("a marker stands for a reference to a free swap slot"),
        }
    }

    /// Starts to read a page whose slot's word was `word`, which says that it is on the device alone.
    fn read_swapped(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        slot: SwapSlot,
        word: SlotWord,
        ahead: core::ops::Range<u32>,
    ) -> Step<P> {
        let Some(device) = self.swap.device() else {
            unreachable!("a page is on a device that is gone");
        };
        // SAFETY: the token is held.
        let progress = unsafe { token.slot().progress() };
        let frame = match progress.frame.take() {
            Some(frame) => frame,
            None => match self.frame_for_fault(self.platform.cpu()) {
                Ok(frame) => frame,
                Err(_) => return Step::NoMemory(token),
            },
        };
        let Some(prepared) = self.prepare_swap_read(ahead.is_empty()) else {
            progress.frame = Some(frame);
            return self.park_for_transfer(token);
        };
        self.trace_request(Kind::FaultFrame, request, frame.address().as_u64(), 0);
        let to = |list| word.with(SlotState::Reading { waiting: list });
        let parked = self.park(token, ParkedFaults::NONE, |list| {
            self.frames.swap.exchange(slot, word, to(list))
        });
        match parked {
            Ok(()) => {
                self.start_swap_read(&*device, prepared, slot, frame, ahead);
                Step::Parked
            }
            Err(token) => {
                // Another fault was faster, or the page of this one is gone.
                drop(frame);
                Step::Reclassified(token)
            }
        }
    }

    /// Lets a fault wait until a transfer is free.
    #[cold]
    fn park_for_transfer(&'static self, token: SlotToken<P>) -> Step<P> {
        let parked = self.with_waiting_for_transfer(|waiting| {
            self.park_for_device(token, *waiting, false, |list| {
                *waiting = list;
                true
            })
        });
        match parked {
            Ok(()) => Step::Parked,
            Err(token) => Step::Again(token),
        }
    }

    /// Whether the page of a slot that somebody holds a reference to may have left just now, so that some CPU can still
    /// write to it. A page that was clean is no case: its translation says so, and the processor looks at the entry again
    /// before it writes (Intel SDM volume 3, section 4.8).
    #[inline(always)]
    pub(crate) fn may_be_written_elsewhere(&self, slot: SwapSlot) -> bool {
        self.reclaim.has_unflushed()
            && matches!(self.frames.swap.load(slot).state, SlotState::Writing { .. })
            && !mutant!(MapUnflushed)
    }

    /// The entry of a page that has come back, whose frame gained a reference for it. Its owner may write to it at once, if
    /// it has no other: that the page differs from what is in its slot then shows in the dirty bit.
    pub(crate) fn returned_entry(&self, frame: Pfn, flags: u64) -> Entry {
        let flags = if self.frames.mapping_count(frame) == 1 || mutant!(ReturnWritable) {
            flags
        } else {
            read_only(flags)
        };
        Entry::present(frame, flags | Entry::ACCESSED)
    }
}
