//! Swap: pages of private memory on a block device.
//!
//! A swap slot is one page of the swap area. Everything about it is in one word:
//!
//! ```text
//!         (1) leave              (2) written             (3) frame freed         (4) first fault
//!  Free ─────────────► Writing ─────────────► Cached ─────────────────► Out ─────────────────► Reading
//!   ▲                     │                     │  ▲                                             │
//!   │                     │ (2) write failed    │  └─────────────────────────────────────────────┘
//!   │                     ▼                     │                     (5) read
//!   └─────────────────── Kept ──────────────────┘
//!              (6) nobody needs it any more
//! ```
//!
//! 1. An entry leaves (`FrameAllocator::leave`): it names the slot from now on, and its reference to the frame is
//!    the slot's. A slot that already has the same page takes the entry along without a write.
//! 2. The page is on the device (`FrameAllocator::written`), or could not be written and stays in its frame.
//! 3. Nothing maps the frame, and it is needed (`FrameAllocator::drop_cached`).
//! 4. A fault takes a frame and starts the read; its neighbours are read too. Others that come park in the word.
//! 5. The read has ended: all that parked are queued, and find the page in its frame. After a failed read the slot is `Out`
//!    again.
//! 6. The count is 0, and no frame has the page; or another page needs the slot.
//!
//! # References
//!
//! - `count` is the number of entries, of markers that stand for one, and of pages of shared objects that name the slot.
//! - A slot that names a frame holds one reference to it while its count is not 0, or its page is being written: so nobody
//!   may take the frame for its own and write to it. Slot and frame have the same page, for all who have either.
//! - A cached slot with count 0 is *idle*: its page is in a frame that may be written to. It is the frame's, whose record
//!   names the slot, and holds no reference. If the page leaves again and was not written, the slot has it already. An
//!   idle slot may be given to another page at any time; the word decides, not the frame's record.
//!
//! # Locks and memory order
//!
//! Words are changed by compare-exchange (`AcqRel`), or under their own locked bit, which is innermost but for the words
//! of frames. Which slot a frame gets is decided under `SwapArea::leaving`, taken inside the lock of a space or table.

mod area;
mod device;
mod leave;
mod off;
mod references;
mod window;
mod word;

pub(crate) use area::SwapArea;
pub(crate) use device::{SwapDevice, sector_of, segment_of, slot_at};
pub(crate) use leave::{Leaving, Left};
pub(crate) use window::Streams;
pub(crate) use word::{SlotState, SlotWord};

use thiserror::Error;

/// A page of the swap area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwapSlot(u32);

impl SwapSlot {
    /// Slot number `number`.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number, from 0.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its place in the words.
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why swap can't do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SwapError {
    /// There is a swap area already.
    #[error("there is a swap area already")]
    AlreadyOn,
    /// The swap area is being switched off.
    #[error("the swap area is being switched off")]
    Closing,
    /// A page can't be read.
    #[error("page {} of the swap area can't be read", slot.number())]
    Unreadable {
        /// Its slot.
        slot: SwapSlot,
    },
    /// There is no swap area.
    #[error("there is no swap area")]
    Off,
    /// The device has no room for a page.
    #[error("the device has room for no page")]
    TooSmall,
    /// The device can't be written.
    #[error("the device is read-only")]
    ReadOnly,
    /// Every slot is in use.
    #[error("the swap area is full")]
    Full,
    /// A slot has as many references as its count can hold.
    #[error("a swap slot has too many references")]
    TooManyReferences,
    /// What is swapped out does not fit into memory.
    #[error("what is swapped out does not fit into memory")]
    OutOfMemory,
    /// There is no memory for the kernel's own bookkeeping.
    #[error("out of kernel memory")]
    NoKernelMemory,
}

impl From<faultline_fallible::AllocError> for SwapError {
    fn from(_: faultline_fallible::AllocError) -> Self {
        Self::NoKernelMemory
    }
}

/// What the swap area is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// Slots of the area; 0 without one.
    pub slots: u32,
    /// Slots in use.
    pub used: u32,
    /// Slots whose page is in a frame too.
    pub cached: u32,
    /// Pages that were read since the start, those that were read ahead included.
    pub reads: u64,
    /// Pages that were written.
    pub writes: u64,
    /// Pages that were read before anybody touched them.
    pub read_ahead: u64,
    /// Transfers that failed.
    pub errors: u64,
}
