//! The state of one page of an object, in one word.
//!
//! ```text
//!             (1) read                 (2) read ended
//!  Absent ──────────────► InFlight ─────────────────────► Resident
//!   │ ▲ ▲                  ▲ │ │                           │ ▲ │ ▲
//!   │ │ └──────────────────┼─┘ │ (3) read failed           │ │ │ │ (7) still in a frame
//!   │ │                (1) │   └──────────► SwappedOut ────┼─┼─┼─┘
//!   │ │                    └──────────────── │   ▲         │ │ │
//!   │ │                                          └─────────┼─┼─┘ (6) left
//!   │ └──── (5) dropped, cut off, punched ─────────────────┘ │
//!   └────────────────── (4) zeros ───────────────────────────┘
//! ```
//!
//! All under the lock of the object's pages:
//!
//! 1. Whoever wants a page of a file on a disk, or one that is swapped out, gives it a record of
//!    [`Reads`](super::reads::Reads); all others who want the page hang in that record. There is one read of a page at a
//!    time, for all spaces. A page that was swapped out keeps its reference to the swap slot meanwhile.
//! 2. The frame is the object's, which holds one reference to it.
//! 3. The frame goes back; the next who wants the page tries again.
//! 4. A page that comes from nowhere is zeros, at the first touch.
//! 5. The object gives up its reference. A page that was cut off or punched while in flight is absent at once; its frame
//!    stays with the record until the device is done.
//! 6. Nothing maps the page, and it was not used lately: the object's reference to the frame is the swap slot's now.
//! 7. The slot's frame has not gone yet.
//!
//! The slot of a page that has come back is free: all who map the page may write to it, and their dirty bits are in many
//! spaces. So a page that leaves is always written.

use crate::frame::Pfn;
use crate::swap::SwapSlot;

/// No slot of any area has this number.
const NO_SLOT: u32 = u32::MAX;

/// What is known about a page of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageState(u64);

/// A [`PageState`], decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nothing is in memory.
    Absent,
    /// A device reads it.
    InFlight {
        /// The record of the read.
        read: u16,
        /// The swap slot that it is read from.
        slot: Option<SwapSlot>,
    },
    /// It is in a frame to which the object holds a reference.
    Resident {
        /// The frame.
        frame: Pfn,
    },
    /// It is in a swap slot to which the object holds a reference.
    SwappedOut {
        /// The slot.
        slot: SwapSlot,
    },
}

impl PageState {
    /// Not in memory.
    pub const ABSENT: Self = Self(0);

    const IN_FLIGHT: u64 = 1;
    const RESIDENT: u64 = 2;
    const SWAPPED_OUT: u64 = 3;
    const KIND: u64 = 3;
    /// Used since the object's hand last passed.
    const USED: u64 = 1 << 2;
    /// Whoever uses the page first starts the next read-ahead.
    const MARKER: u64 = 1 << 3;
    /// The page is the same on its disk.
    const CLEAN: u64 = 1 << 4;
    const READ_SHIFT: u32 = 16;
    const FRAME_SHIFT: u32 = 32;

    /// On its way from a file, or from a swap slot.
    pub fn in_flight(read: u16, slot: Option<SwapSlot>) -> Self {
        let slot = slot.map_or(NO_SLOT, SwapSlot::number);
        Self(Self::IN_FLIGHT | u64::from(read) << Self::READ_SHIFT | u64::from(slot) << Self::FRAME_SHIFT)
    }

    /// In a swap slot.
    pub const fn swapped_out(slot: SwapSlot) -> Self {
        Self(Self::SWAPPED_OUT | (slot.number() as u64) << Self::FRAME_SHIFT)
    }

    /// In a frame, and used just now.
    pub const fn resident(frame: Pfn) -> Self {
        Self(Self::RESIDENT | Self::USED | (frame.number() as u64) << Self::FRAME_SHIFT)
    }

    /// What a page in flight becomes: in a frame, and not used yet; the same on its disk if it comes from a file.
    pub const fn read_in(self, frame: Pfn) -> Self {
        let clean = match self.page() {
            Page::InFlight { slot: Some(_), .. } => 0,
            _ => Self::CLEAN,
        };
        Self(self.0 & Self::MARKER | Self::RESIDENT | clean | (frame.number() as u64) << Self::FRAME_SHIFT)
    }

    /// Decodes the word.
    #[inline(always)]
    pub const fn page(self) -> Page {
        match self.0 & Self::KIND {
            Self::RESIDENT => Page::Resident { frame: self.frame() },
            Self::IN_FLIGHT => Page::InFlight {
                read: (self.0 >> Self::READ_SHIFT) as u16,
                slot: match (self.0 >> Self::FRAME_SHIFT) as u32 {
                    NO_SLOT => None,
                    number => Some(SwapSlot::new(number)),
                },
            },
            Self::SWAPPED_OUT => Page::SwappedOut {
                slot: SwapSlot::new((self.0 >> Self::FRAME_SHIFT) as u32),
            },
            _ => Page::Absent,
        }
    }

    /// Whether nothing is in memory, and nothing on its way.
    #[inline(always)]
    pub const fn is_absent(self) -> bool {
        self.0 == 0
    }

    /// Whether it is in memory, or on its way.
    #[inline(always)]
    pub const fn is_here_or_in_flight(self) -> bool {
        matches!(self.0 & Self::KIND, Self::RESIDENT | Self::IN_FLIGHT)
    }

    /// The frame of a resident page.
    #[inline(always)]
    const fn frame(self) -> Pfn {
        Pfn::new((self.0 >> Self::FRAME_SHIFT) as u32)
    }

    /// The frame, if the page is resident.
    #[inline(always)]
    pub const fn resident_frame(self) -> Option<Pfn> {
        if self.0 & Self::KIND == Self::RESIDENT {
            Some(self.frame())
        } else {
            None
        }
    }

    /// The frame, if the page is resident and its first use starts no read.
    #[inline(always)]
    pub const fn unmarked_frame(self) -> Option<Pfn> {
        if self.0 & (Self::KIND | Self::MARKER) == Self::RESIDENT {
            Some(self.frame())
        } else {
            None
        }
    }

    /// Remembers that the page is used, and says whether its use starts a read.
    #[inline(always)]
    pub fn note_use(&mut self) -> bool {
        let marked = self.0 & Self::MARKER != 0;
        self.0 = self.0 & !Self::MARKER | Self::USED;
        marked
    }

    /// Forgets that the page was used; says whether it was.
    pub fn forget_use(&mut self) -> bool {
        let used = self.0 & Self::USED != 0;
        self.0 &= !Self::USED;
        used
    }

    /// The first use of the page starts the next read.
    pub const fn with_marker(self) -> Self {
        Self(self.0 | Self::MARKER)
    }

    /// Whether it is the same on its disk.
    pub const fn is_clean(self) -> bool {
        self.0 & Self::CLEAN != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip() {
        let frame = Pfn::new(0xffff_fffe);
        assert_eq!(PageState::ABSENT.page(), Page::Absent);
        assert_eq!(PageState::resident(frame).page(), Page::Resident { frame });
        for slot in [None, Some(SwapSlot::new(0)), Some(SwapSlot::new(u32::MAX - 1))] {
            let read = u16::MAX;
            assert_eq!(PageState::in_flight(read, slot).page(), Page::InFlight { read, slot });
            let state = PageState::in_flight(3, slot).with_marker().read_in(frame);
            assert_eq!(state.page(), Page::Resident { frame });
            assert_eq!(state.is_clean(), slot.is_none());
        }
        let slot = SwapSlot::new(u32::MAX - 1);
        assert_eq!(PageState::swapped_out(slot).page(), Page::SwappedOut { slot });
    }

    #[test]
    fn a_marker_is_met_once() {
        let mut state = PageState::in_flight(0, None).with_marker().read_in(Pfn::new(7));
        assert_eq!(state.unmarked_frame(), None);
        assert!(state.note_use());
        assert!(!state.note_use());
        assert_eq!(state.unmarked_frame(), Some(Pfn::new(7)));
        assert!(state.forget_use() && !state.forget_use());
        assert!(state.is_clean());
    }
}
