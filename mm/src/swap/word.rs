//! The word of a swap slot: 64 bits that say everything about it.
//!
//! ```text
//!  bits   0..3    3          4..32    32..64
//!         state   locked     count    the frame; of a slot that is being read, the faults that wait
//! ```
//!
//! A step that changes the word alone is a compare-exchange. One that has to change the count of the frame too takes the
//! locked bit first: while it is set, nobody else changes the word. It is held for a few instructions, inside no other
//! slot's.

use crate::fault::ParkedFaults;
use crate::frame::Pfn;
use crate::swap::SwapError;

/// What a slot is used for. The transitions are drawn in the [module documentation](crate::swap).
///
/// Its discriminants are the bits of the word, so that little is left of encoding and decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum SlotState {
    /// Nothing.
    Free = FREE as u32,
    /// The frame's page is being written, or will be after a flush. The slot holds a reference to the frame.
    Writing { frame: Pfn } = WRITING as u32,
    /// Slot and frame have the same page. The slot holds a reference to the frame if its count is not 0.
    Cached { frame: Pfn } = CACHED as u32,
    /// The page is on the device alone.
    Out = OUT as u32,
    /// The page is being read.
    Reading { waiting: ParkedFaults } = READING as u32,
    /// The page could not be written, so it is in the frame alone. The slot holds a reference to the frame.
    Kept { frame: Pfn } = KEPT as u32,
}

/// The word, decoded but for its locked bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotWord {
    pub(crate) state: SlotState,
    /// Entries, and pages of shared objects, that name the slot.
    pub(crate) count: u32,
}

/// A word in memory.
pub(super) const LOCKED: u64 = 1 << 3;

const COUNT_SHIFT: u32 = 4;
const PAYLOAD_SHIFT: u32 = 32;
const STATE: u64 = 0b111;

const FREE: u64 = 0;
const WRITING: u64 = 1;
const CACHED: u64 = 2;
const OUT: u64 = 3;
const READING: u64 = 4;
const KEPT: u64 = 5;

impl SlotWord {
    /// A slot that nobody uses.
    pub(crate) const FREE: Self = Self {
        state: SlotState::Free,
        count: 0,
    };

    /// The most references to a slot.
    pub(crate) const MAX_COUNT: u32 = (1 << (PAYLOAD_SHIFT - COUNT_SHIFT)) - 1;

    /// In memory, not locked.
    pub(crate) const fn bits(self) -> u64 {
        let (state, payload) = match self.state {
            SlotState::Free => (FREE, 0),
            SlotState::Writing { frame } => (WRITING, frame.number()),
            SlotState::Cached { frame } => (CACHED, frame.number()),
            SlotState::Kept { frame } => (KEPT, frame.number()),
            SlotState::Out => (OUT, 0),
            SlotState::Reading { waiting } => (READING, waiting.bits() as u32),
        };
        state | (self.count as u64) << COUNT_SHIFT | (payload as u64) << PAYLOAD_SHIFT
    }

    /// What a word in memory says, locked or not.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        let payload = (bits >> PAYLOAD_SHIFT) as u32;
        let frame = Pfn::new(payload);
        let state = match bits & STATE {
            WRITING => SlotState::Writing { frame },
            CACHED => SlotState::Cached { frame },
            KEPT => SlotState::Kept { frame },
            OUT => SlotState::Out,
            READING => SlotState::Reading {
                waiting: ParkedFaults::from_bits(payload as u16),
            },
            _ => SlotState::Free,
        };
        let count = (bits >> COUNT_SHIFT) as u32 & Self::MAX_COUNT;
        Self { state, count }
    }

    /// The frame that the slot names.
    pub(crate) const fn frame(self) -> Option<Pfn> {
        match self.state {
            SlotState::Writing { frame } | SlotState::Cached { frame } | SlotState::Kept { frame } => Some(frame),
            SlotState::Free | SlotState::Out | SlotState::Reading { .. } => None,
        }
    }

    /// Whether the slot holds a reference to the frame that it names.
    pub(crate) const fn holds_frame(self) -> bool {
        match self.state {
            SlotState::Writing { .. } | SlotState::Kept { .. } => true,
            SlotState::Cached { .. } => self.count > 0,
            SlotState::Free | SlotState::Out | SlotState::Reading { .. } => false,
        }
    }

    /// Whether the slot may be given to another page: it is free, or its page is in a frame that knows it is there.
    pub(super) const fn is_available(self) -> bool {
        matches!(self.state, SlotState::Free) || self.is_idle()
    }

    /// Whether the slot's page is in a frame, and nobody but the frame needs the slot.
    pub(super) const fn is_idle(self) -> bool {
        self.count == 0 && matches!(self.state, SlotState::Cached { .. })
    }

    /// With another state.
    pub(crate) const fn with(self, state: SlotState) -> Self {
        Self {
            state,
            count: self.count,
        }
    }

    /// With one reference more.
    ///
    /// # Errors
    /// [`SwapError::TooManyReferences`].
    pub(super) const fn add(self) -> Result<Self, SwapError> {
        if self.count == Self::MAX_COUNT {
            return Err(SwapError::TooManyReferences);
        }
        Ok(Self {
            state: self.state,
            count: self.count + 1,
        })
    }

    /// With one reference less.
    ///
    /// # Panics
    /// If it has none.
    pub(super) const fn sub(self) -> Self {
        assert!(self.count > 0, "a swap slot without references lost one");
        Self {
            state: self.state,
            count: self.count - 1,
        }
    }
}

const _: () = {
    // The fields fill the word and do not overlap.
    assert!(STATE & LOCKED == 0 && LOCKED << 1 == 1 << COUNT_SHIFT);
    let full = SlotWord {
        state: SlotState::Writing { frame: Pfn::NONE },
        count: SlotWord::MAX_COUNT,
    };
    assert!(full.bits() | STATE | LOCKED == u64::MAX);
    assert!(SlotWord::FREE.bits() == 0);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 8 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn words_round_trip(frame: u32, head: u16, count in 0..=SlotWord::MAX_COUNT) {
            let frame = Pfn::new(frame);
            let waiting = ParkedFaults::from_bits(head);
            for state in [
                SlotState::Free,
                SlotState::Writing { frame },
                SlotState::Cached { frame },
                SlotState::Kept { frame },
                SlotState::Out,
                SlotState::Reading { waiting },
            ] {
                let word = SlotWord { state, count };
                prop_assert_eq!(SlotWord::from_bits(word.bits()), word);
                prop_assert_eq!(SlotWord::from_bits(word.bits() | LOCKED), word);
                let named = !matches!(state, SlotState::Free | SlotState::Out | SlotState::Reading { .. });
                prop_assert_eq!(word.frame(), named.then_some(frame));
            }
        }
    }

    #[test]
    fn counts_neither_wrap_nor_go_below_zero() {
        let most = SlotWord {
            state: SlotState::Out,
            count: SlotWord::MAX_COUNT,
        };
        assert_eq!(most.add(), Err(SwapError::TooManyReferences));
        assert_eq!(most.sub().add(), Ok(most));
    }

    #[test]
    #[should_panic(expected = "without references")]
    fn a_reference_that_is_not_there_is_not_given_up() {
        let _ = SlotWord::FREE.sub();
    }
}
