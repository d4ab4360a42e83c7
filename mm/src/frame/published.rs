//! Operations on frames that page tables refer to: by number, with every state checked.

use super::allocator::FrameAllocator;
use super::error::FrameError;
use super::meta::{FrameMeta, FrameState, Word};
use super::pfn::Pfn;
use super::token::RetiredFrame;
use crate::swap::SwapSlot;

/// The most references a frame can have.
const MAX_COUNT: u32 = u32::MAX - 1;

/// What became of a reference to a frame that had not exactly one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It was the last after all: the frame is reserved now.
    Last,
    /// Likewise, and the frame's first link names a swap slot.
    LastNamingSlot,
    /// Others remain, or the frame is pinned.
    Other,
    /// There was none to drop.
    None,
    /// The frame is neither mapped nor pinned.
    WrongState,
}

/// Drops a reference to a frame whose word was `word` just now.
#[inline]
pub(super) fn drop_reference(meta: &FrameMeta, mut word: Word) -> Dropped {
    loop {
        let (next, dropped) = match word.count() {
            1 if word.names_slot() => (Word::RESERVED, Dropped::LastNamingSlot),
            1 if word.is(FrameState::Mapped) => (Word::RESERVED, Dropped::Last),
            _ if !is_mappable(word) => return Dropped::WrongState,
            0 => return Dropped::None,
            _ => (word.sub_count(), Dropped::Other),
        };
        match meta.exchange(word, next) {
            Ok(()) => return dropped,
            Err(found) => word = found,
        }
    }
}

/// Whether page-table entries may refer to a frame with this word.
#[inline]
fn is_mappable(word: Word) -> bool {
    word.is(FrameState::Mapped) || word.is(FrameState::Pinned)
}

impl FrameAllocator {
    /// One more page-table entry, or owner, refers to `pfn`, which is mapped or pinned. The caller holds a reference
    /// already, or the frame is pinned.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`], [`FrameError::WrongState`], or [`FrameError::CountOverflow`] at `u32::MAX - 1`
    /// references.
    #[inline]
    pub fn add_mapping(&self, pfn: Pfn) -> Result<(), FrameError> {
        let meta = self.meta(pfn)?;
        let mut word = meta.load();
        loop {
            if !is_mappable(word) {
                return Err(self.wrong_state(pfn, FrameState::Mapped));
            }
            if word.count() >= MAX_COUNT {
                return Err(FrameError::CountOverflow {
                    frame: pfn,
                    count: word.count(),
                });
            }
            match meta.exchange(word, word.add_count(1)) {
                Ok(()) => return Ok(()),
                Err(found) => word = found,
            }
        }
    }

    /// One page-table entry, or owner, less refers to `pfn`. With the last reference of a mapped frame gone, the frame
    /// is the caller's, to quarantine or free. A pinned frame only counts.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`], [`FrameError::WrongState`] (a double free), or [`FrameError::NoReference`] for a pinned
    /// frame that nothing maps.
    #[inline]
    pub fn remove_mapping(&self, pfn: Pfn, cpu: usize) -> Result<Option<RetiredFrame<'_>>, FrameError> {
        let meta = self.meta(pfn)?;
        let cpu = self.cpu_index(cpu);
        if let Err(found) = meta.exchange(Word::MAPPED_ONCE, Word::RESERVED)
            && !self.remove_one_of_several(pfn, meta, found)?
        {
            return Ok(None);
        }
        self.cpu(cpu).tally.unmapped();
        Ok(Some(RetiredFrame::new(self, meta, pfn, cpu)))
    }

    /// Drops a reference to a frame whose word was `found` just now, which is not that of a frame with one reference and
    /// nothing else. Says whether it was the last after all.
    #[inline(never)]
    fn remove_one_of_several(&self, pfn: Pfn, meta: &FrameMeta, found: Word) -> Result<bool, FrameError> {
        match drop_reference(meta, found) {
            Dropped::Last => Ok(true),
            Dropped::LastNamingSlot => {
                self.forget_swap_slot(pfn, SwapSlot::new(meta.prev()));
                Ok(true)
            }
            Dropped::Other => Ok(false),
            Dropped::None => Err(FrameError::NoReference {
                frame: pfn,
                state: FrameState::Pinned,
            }),
            Dropped::WrongState => Err(self.wrong_state(pfn, FrameState::Mapped)),
        }
    }

    /// The references to `pfn`, which is mapped or pinned; 0 for a frame in any other state.
    #[inline]
    pub fn mapping_count(&self, pfn: Pfn) -> u32 {
        match self.metadata.get(pfn.index()).map(FrameMeta::load) {
            Some(word) if is_mappable(word) => word.count(),
            _ => 0,
        }
    }

    /// Says that the page of a mapped frame, to which the caller holds a reference, is in a swap slot, and whether it was just
    /// read from there. One caller at a time does.
    pub(crate) fn set_swap_slot(&self, pfn: Pfn, slot: SwapSlot, fresh: bool) {
        let Ok(meta) = self.meta(pfn) else { return };
        meta.set_prev(slot.number());
        let mut word = meta.load();
        let flags = Word::NAMES_SLOT | if fresh { Word::FRESH } else { 0 };
        while word.aux() & flags != flags {
            debug_assert!(word.is(FrameState::Mapped), "only a mapped frame has a swap slot");
            // Release: who sees the counter sees the link.
            match meta.exchange(word, word.with_aux(word.aux() | flags)) {
                Ok(()) => return,
                Err(found) => word = found,
            }
        }
    }

    /// Whether the page of a frame was just read from its swap slot; it was not, from now on.
    pub(crate) fn take_fresh(&self, pfn: Pfn) -> bool {
        let Ok(meta) = self.meta(pfn) else { return false };
        let word = meta.load();
        word.names_slot()
            && word.aux() & Word::FRESH != 0
            && meta.exchange(word, word.with_aux(word.aux() & !Word::FRESH)).is_ok()
    }

    /// No swap slot has the page of a mapped frame any more.
    pub(crate) fn unname_swap_slot(&self, pfn: Pfn) {
        let Ok(meta) = self.meta(pfn) else { return };
        let mut word = meta.load();
        while word.aux() != 0 {
            match meta.exchange(word, word.with_aux(0)) {
                Ok(()) => return,
                Err(found) => word = found,
            }
        }
    }

    /// The swap slot that was said to have the page of a mapped frame; whether it still has, its word says.
    #[inline]
    pub(crate) fn named_swap_slot(&self, pfn: Pfn) -> Option<SwapSlot> {
        let meta = self.metadata.get(pfn.index())?;
        let word = meta.load();
        word.names_slot().then(|| SwapSlot::new(meta.prev()))
    }

    /// Whether a frame that an entry refers to can be taken from it: it is no pinned one.
    #[inline]
    pub(crate) fn is_reclaimable(&self, pfn: Pfn) -> bool {
        let meta = self.metadata.get(pfn.index());
        meta.is_some_and(|meta| meta.load().is(FrameState::Mapped))
    }

    /// One more parent refers to the page table `pfn`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`], [`FrameError::WrongState`], or [`FrameError::CountOverflow`] at `u32::MAX - 1` parents.
    #[inline]
    pub fn table_add_ref(&self, pfn: Pfn) -> Result<(), FrameError> {
        self.update_table(pfn, |word| match word.count() {
            count if count >= MAX_COUNT => Err(FrameError::CountOverflow { frame: pfn, count }),
            _ => Ok(word.add_count(1)),
        })?;
        Ok(())
    }

    /// One parent less refers to the page table `pfn`. With the last one gone, the frame is the caller's, to
    /// quarantine or free.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`] or [`FrameError::WrongState`].
    #[inline]
    pub fn table_remove_ref(&self, pfn: Pfn, cpu: usize) -> Result<Option<RetiredFrame<'_>>, FrameError> {
        let last = self.update_table(pfn, |word| match word.count() {
            1 => Ok(Word::RESERVED),
            _ => Ok(word.sub_count()),
        })?;
        if last.count() > 1 {
            return Ok(None);
        }
        let cpu = self.cpu_index(cpu);
        self.cpu(cpu).tally.table_retired();
        Ok(Some(RetiredFrame::new(self, self.meta(pfn)?, pfn, cpu)))
    }

    /// The parents of the page table `pfn`; 0 for a frame in any other state.
    #[inline]
    pub fn table_ref_count(&self, pfn: Pfn) -> u32 {
        self.table_word(pfn).map_or(0, Word::count)
    }

    #[inline]
    fn table_word(&self, pfn: Pfn) -> Option<Word> {
        let word = self.metadata.get(pfn.index())?.load();
        word.is(FrameState::PageTable).then_some(word)
    }

    /// Changes the word of a page table as `change` says. Returns the word as it was.
    #[inline]
    fn update_table(&self, pfn: Pfn, change: impl Fn(Word) -> Result<Word, FrameError>) -> Result<Word, FrameError> {
        let meta = self.meta(pfn)?;
        let mut word = meta.load();
        loop {
            if !word.is(FrameState::PageTable) {
                return Err(self.wrong_state(pfn, FrameState::PageTable));
            }
            match meta.exchange(word, change(word)?) {
                Ok(()) => return Ok(word),
                Err(found) => word = found,
            }
        }
    }
}
