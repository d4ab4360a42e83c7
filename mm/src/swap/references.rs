//! References: of entries and objects to slots, and of slots to frames.

use super::{SlotState, SlotWord, SwapError, SwapSlot};
use crate::fault::ParkedFaults;
use crate::frame::{FrameAllocator, Pfn, RetiredFrame};
use crate::sync::atomic::Ordering;
use crate::sync::mutant;

/// Words that the hand over read-ahead pages looks at in one call.
const HAND: u32 = 2048;

impl FrameAllocator {
    /// One more entry, or page of a shared object, names the slot, which one names already.
    ///
    /// # Errors
    /// [`SwapError::TooManyReferences`].
    pub(crate) fn add_swap_reference(&self, slot: SwapSlot) -> Result<(), SwapError> {
        self.swap.update(slot, SlotWord::add).map(drop)
    }

    /// One entry, or page of a shared object, less names the slot. The last one frees it, unless a frame has the page that
    /// something else maps. Returns the frame if nothing does: no TLB knows it.
    pub(crate) fn drop_swap_reference(&self, slot: SwapSlot, cpu: usize) -> Option<RetiredFrame<'_>> {
        let mut given_up = None;
        let before = self.swap.update(slot, |word| {
            let after = word.sub();
            given_up = None;
            Ok::<_, SwapError>(match after.state {
                SlotState::Out if after.count == 0 => SlotWord::FREE,
                SlotState::Reading { .. } if after.count == 0 && mutant!(FreeWhileRead) => SlotWord::FREE,
                SlotState::Cached { frame } if after.count == 0 => {
                    given_up = Some(frame);
                    after
                }
                SlotState::Kept { frame } if after.count == 0 => {
                    given_up = Some(frame);
                    SlotWord::FREE
                }
                _ => after,
            })
        });
        debug_assert!(before.is_ok());
        given_up.and_then(|frame| self.give_up_cached(frame, cpu))
    }

    /// Gives up a slot's reference to a frame.
    fn give_up_cached(&self, frame: Pfn, cpu: usize) -> Option<RetiredFrame<'_>> {
        match self.remove_mapping(frame, cpu) {
            Ok(retired) => retired,
            Err(error) => unreachable!("the frame of a swap slot is gone: {error}"),
        }
    }

    /// An entry that names the slot, whose page is in a frame, is about to map that: gives up its reference to the slot for
    /// one to the frame. `None` if the page is in no frame.
    pub(crate) fn take_cached(&self, slot: SwapSlot) -> Option<Pfn> {
        self.swap.with_locked(slot, |word| match word.state {
            // The slot's own reference becomes the entry's.
            SlotState::Cached { frame } if word.count == 1 => (word.sub(), Some(frame)),
            SlotState::Kept { frame } if word.count == 1 => (SlotWord::FREE, Some(frame)),
            SlotState::Writing { frame } | SlotState::Cached { frame } | SlotState::Kept { frame } => {
                match self.add_mapping(frame) {
                    Ok(()) => (word.sub(), Some(frame)),
                    Err(_) => (word, None),
                }
            }
            SlotState::Free | SlotState::Out | SlotState::Reading { .. } => (word, None),
        })
    }

    /// Takes the frame of a cached slot away if nothing maps it; the page is on the device. Returns the frame, which no TLB
    /// may know any more.
    pub(crate) fn drop_cached(&self, slot: SwapSlot, cpu: usize) -> Option<RetiredFrame<'_>> {
        let frame = self.swap.with_locked(slot, |word| match word.state {
            SlotState::Cached { frame } if word.count > 0 && self.mapping_count(frame) == 1 => {
                (word.with(SlotState::Out), Some(frame))
            }
            _ => (word, None),
        })?;
        self.give_up_cached(frame, cpu)
    }

    /// The page of a slot was written, or could not be. Returns its frame if nobody needs it any more.
    pub(crate) fn written(&self, slot: SwapSlot, success: bool, cpu: usize) -> Option<RetiredFrame<'_>> {
        let counters = &self.swap.counters;
        let success = success || mutant!(ForgetWriteError);
        if success { &counters.writes } else { &counters.errors }.add(1);
        let mut given_up = None;
        let _ = self.swap.update(slot, |word| {
            given_up = None;
            let SlotState::Writing { frame } = word.state else {
                return Err(());
            };
            if word.count == 0 {
                given_up = Some(frame);
            }
            Ok(match (success, word.count) {
                // The page of an object that has come back meanwhile, and may have been written to.
                (true, 0) if self.named_swap_slot(frame) != Some(slot) => SlotWord::FREE,
                (true, _) => word.with(SlotState::Cached { frame }),
                (false, 0) => SlotWord::FREE,
                (false, _) => word.with(SlotState::Kept { frame }),
            })
        });
        given_up.and_then(|frame| self.give_up_cached(frame, cpu))
    }

    /// The page of a slot was read into `frame`, which the reader holds the one reference to, or could not be. Returns who
    /// waits for it, and the frame if nobody needs it.
    pub(crate) fn read(
        &self,
        slot: SwapSlot,
        frame: Pfn,
        success: bool,
        cpu: usize,
    ) -> (ParkedFaults, Option<RetiredFrame<'_>>) {
        self.swap.counters.reads.add(1);
        if success {
            self.set_swap_slot(frame, slot, true);
        }
        let mut kept = false;
        let before = self.swap.update(slot, |word| {
            kept = success && word.count > 0;
            Ok::<_, SwapError>(match word.count {
                0 => SlotWord::FREE,
                _ if success => word.with(SlotState::Cached { frame }),
                _ => word.with(SlotState::Out),
            })
        });
        let waiting = match before.map(|word| word.state) {
            Ok(SlotState::Reading { waiting }) => waiting,
            _ => unreachable!("a swap slot was read that nobody was reading"),
        };
        let retired = if kept { None } else { self.give_up_cached(frame, cpu) };
        (waiting, retired)
    }

    /// Whether the page of a slot is on the device, in no frame, and not being read.
    pub(crate) fn is_on_device_alone(&self, slot: SwapSlot) -> bool {
        self.swap.load(slot).state == SlotState::Out
    }

    /// The slot that has the same page as a mapped frame, if there is one.
    pub(crate) fn swap_slot_of(&self, frame: Pfn) -> Option<(SwapSlot, SlotWord)> {
        let slot = self.named_swap_slot(frame)?;
        let word = self.swap.load(slot);
        (word.frame() == Some(frame)).then_some((slot, word))
    }

    /// The last reference to a frame is gone that named a slot.
    #[cold]
    #[inline(never)]
    pub(crate) fn forget_swap_slot(&self, frame: Pfn, slot: SwapSlot) {
        let idle = SlotWord {
            state: SlotState::Cached { frame },
            count: 0,
        };
        self.swap.exchange(slot, idle, SlotWord::FREE);
    }

    /// Frees frames of pages that were read before anybody touched them, up to `most`, going round; says how many. A page
    /// that has been read since the hand last came is left for whoever waits for it. Bounded, and needs no memory.
    pub(crate) fn drop_read_ahead(&self, most: usize, cpu: usize) -> usize {
        let area = &self.swap;
        let slots = area.slots();
        let mut freed = 0;
        if area.cached() <= area.idle() || slots == 0 {
            return 0;
        }
        let start = area.hand.load(Ordering::Relaxed);
        let mut at = start;
        for _ in 0..HAND.min(slots) {
            at = if at < slots { at } else { 0 };
            let slot = SwapSlot::new(at);
            at += 1;
            let word = area.load(slot);
            let SlotState::Cached { frame } = word.state else {
                continue;
            };
            if word.count == 0 || self.take_fresh(frame) {
                continue;
            }
            if let Some(retired) = self.drop_cached(slot, cpu) {
                retired.free();
                freed += 1;
                if freed == most {
                    break;
                }
            }
        }
        area.hand.store(at, Ordering::Relaxed);
        freed
    }
}
