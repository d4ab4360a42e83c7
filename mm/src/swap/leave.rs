//! Pages that leave: entries that name a slot from now on.

use super::area::Cursor;
use super::{SlotState, SlotWord, SwapError, SwapSlot};
use crate::entry::{Entry, EntryState};
use crate::frame::{FrameAllocator, Pfn};
use crate::memory::EntryRef;
use crate::sync::{MutexGuard, mutant};

/// The right to give slots to frames; held while a batch of entries leaves.
pub(crate) struct Leaving<'a> {
    frames: &'a FrameAllocator,
    cursor: MutexGuard<'a, Cursor>,
}

/// What has become of an entry that left, and what is to be done with the slot that it names now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The page has to be written, after the flush; [`FrameAllocator::written`] is the end of that.
    Dirty(SwapSlot, Pfn),
    /// The slot has the page already: after the flush the frame may go ([`FrameAllocator::drop_cached`]).
    Clean(SwapSlot),
    /// Somebody else has written the page, or is about to.
    Joined(SwapSlot),
}

impl FrameAllocator {
    /// Begins to give slots to pages. To be held for a bounded number of them, inside the lock of their space or table.
    pub(crate) fn leave(&self) -> Leaving<'_> {
        Leaving {
            frames: self,
            cursor: self.swap.leaving.lock(),
        }
    }
}

impl Leaving<'_> {
    /// Gives a slot to a page of an object, whose reference to the frame is the slot's from now on. The page is to be
    /// written after a flush, as one that has left an entry.
    ///
    /// # Errors
    /// [`SwapError::Full`], [`SwapError::Off`].
    pub(crate) fn page(&mut self, frame: Pfn) -> Result<SwapSlot, SwapError> {
        let slot = self.frames.swap.allocate(&mut self.cursor, frame)?;
        self.frames.set_swap_slot(frame, slot, false);
        Ok(slot)
    }

    /// Makes an entry that maps a page of private memory name a swap slot instead.
    ///
    /// The caller holds the lock of the entry, which is present, maps 4 KiB, and is neither borrowed, shared memory, nor
    /// busy. It has a [hold](FrameAllocator::hold) on frames, and keeps it until every CPU has flushed: until then a CPU may
    /// write to the page if the entry was dirty, and read it in any case.
    ///
    /// # Errors
    /// [`SwapError::Full`], [`SwapError::Off`]; [`SwapError::TooManyReferences`]. The entry is as it was.
    pub(crate) fn entry(&mut self, entry: EntryRef<'_>) -> Result<Left, SwapError> {
        let frames = self.frames;
        let area = &frames.swap;
        let value = entry.get();
        let EntryState::Present { frame, .. } = value.state() else {
            unreachable!("only a page that is present can leave: {value:?}");
        };
        debug_assert!(value.bits() & (Entry::BORROWED | Entry::SHARED | Entry::BUSY) == 0);
        // The word may change meanwhile, and be the frame's still: another slot would leave this one without an owner.
        while let Some((slot, word)) = frames.swap_slot_of(frame) {
            if let Some(left) = self.to_slot_of(entry, frame, slot, word) {
                return left;
            }
            if mutant!(SecondSlot) {
                break;
            }
        }
        let slot = area.allocate(&mut self.cursor, frame)?;
        frames.set_swap_slot(frame, slot, false);
        // A CPU may be setting the dirty bit meanwhile; the page is written in any case.
        entry.swap(Entry::swapped(slot));
        Ok(Left::Dirty(slot, frame))
    }

    /// As [`entry`](Self::entry), to the slot that the frame has; `None` if its word has changed.
    fn to_slot_of(
        &self,
        entry: EntryRef<'_>,
        frame: Pfn,
        slot: SwapSlot,
        word: SlotWord,
    ) -> Option<Result<Left, SwapError>> {
        let frames = self.frames;
        let area = &frames.swap;
        // Only a planted mistake asks whether the page is dirty before its entry is taken away.
        let value = if mutant!(DirtyBeforeExchange) {
            entry.get()
        } else {
            Entry::EMPTY
        };
        if word.holds_frame() {
            // Since the slot holds a reference nobody has written to the frame, whatever the dirty bit says.
            let joined = area.update(slot, |now| match now.frame() {
                Some(named) if named == frame && now.holds_frame() => now.add().map_err(Some),
                _ => Err(None),
            });
            return match joined {
                Ok(_) => {
                    entry.swap(Entry::swapped(slot));
                    let dropped = frames.remove_mapping(frame, 0);
                    debug_assert!(matches!(dropped, Ok(None)), "the slot holds a reference");
                    Some(Ok(Left::Joined(slot)))
                }
                Err(Some(error)) => Some(Err(error)),
                // It was the last one, or the frame has left the slot, meanwhile.
                Err(None) => None,
            };
        }
        let writing = SlotWord {
            state: SlotState::Writing { frame },
            count: 1,
        };
        // Not yet known to be clean: as long as the entry is there, a CPU may set its dirty bit.
        if !area.exchange(slot, word, writing) {
            return None;
        }
        let before = entry.swap(Entry::swapped(slot));
        let is_dirty = if mutant!(DirtyBeforeExchange) { value } else { before }.has(Entry::DIRTY);
        if is_dirty && !mutant!(IgnoreDirty) {
            return Some(Ok(Left::Dirty(slot, frame)));
        }
        let cached = writing.with(SlotState::Cached { frame });
        let _ = area.update(slot, |now| Ok::<_, ()>(now.with(cached.state)));
        Some(Ok(Left::Clean(slot)))
    }
}
