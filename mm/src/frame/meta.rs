//! What is known about one frame: sixteen bytes.
//!
//! The state, the order, a small counter and the reference count share one 64-bit word, so that a transition checks
//! and changes all of them in one compare-exchange: of two racing frees exactly one succeeds, and the other is told
//! what it found. The two link words belong to whoever owns the frame in its state: the buddy lists, a cache, the pool
//! of zeroed frames or a quarantine. Those of a mapped frame are idle; if its page is in a swap slot too, the small
//! counter says so and the first link names the slot.

use core::fmt;
use core::sync::atomic::AtomicU32;

use crate::sync::atomic::{AtomicU64, Ordering};

/// What a frame is used for. The transitions are drawn in the [module documentation](crate::frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameState {
    /// Not RAM that the allocator knows: device memory, firmware, a hole, or past the end of the memory map.
    Absent = 0,
    /// In the buddy lists.
    Free = 1,
    /// In a CPU's cache of single frames. Counts as free.
    Cached = 2,
    /// In the pool of zeroed frames. Counts as free.
    Zeroed = 3,
    /// In flight: held by a token, visible to no page table.
    Reserved = 4,
    /// Mapped by as many page-table entries (or owned by as many objects) as its count says.
    Mapped = 5,
    /// A page-table page, used by as many parents as its count says.
    PageTable = 6,
    /// RAM that is never handed out: the ramdisk, the kernel image, the shared zero frame, a DMA buffer. It can be
    /// mapped; the count is the number of mappings.
    Pinned = 7,
    /// Taken out of an address space and waiting until no CPU can hold a translation of it.
    Quarantined = 8,
}

impl FrameState {
    /// The state in the field's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Free => "free",
            Self::Cached => "cached",
            Self::Zeroed => "zeroed",
            Self::Reserved => "reserved",
            Self::Mapped => "mapped",
            Self::PageTable => "page table",
            Self::Pinned => "pinned",
            Self::Quarantined => "quarantined",
        }
    }

    const ALL: [Self; 9] = [
        Self::Absent,
        Self::Free,
        Self::Cached,
        Self::Zeroed,
        Self::Reserved,
        Self::Mapped,
        Self::PageTable,
        Self::Pinned,
        Self::Quarantined,
    ];
}

impl fmt::Display for FrameState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The link that points nowhere. It is past the end of every metadata array, so one bounds check also finds the end
/// of a list.
pub(super) const NONE: u32 = u32::MAX;

/// The first word of the metadata: state in bits 0..8, order in 8..16, a 16-bit counter in 16..32, count in 32..64.
///
/// The state byte has one value more than [`FrameState`]: *tail*, a frame inside a block of several frames. What the
/// block is used for stands in the word of its first frame, its *head*, so that a block changes hands in O(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

const TAIL: u8 = 9;

impl Word {
    pub const ABSENT: Self = Self::of(FrameState::Absent);
    pub const CACHED: Self = Self::of(FrameState::Cached);
    pub const ZEROED: Self = Self::of(FrameState::Zeroed);
    pub const RESERVED: Self = Self::of(FrameState::Reserved);
    pub const QUARANTINED: Self = Self::of(FrameState::Quarantined);
    /// A quarantined page table whose entries are all empty has 1 in the small counter.
    pub const QUARANTINED_BLANK: Self = Self::QUARANTINED.add_aux();
    pub const PINNED: Self = Self::of(FrameState::Pinned);
    /// A frame that was never the allocator's to give has 1 in the small counter.
    pub const PINNED_FOR_EVER: Self = Self::PINNED.add_aux();
    pub const MAPPED_ONCE: Self = Self::of(FrameState::Mapped).add_count(1);
    /// In the small counter of a mapped frame: the first link names a swap slot.
    pub const NAMES_SLOT: u16 = 1;
    /// Likewise: the page was read from there a short while ago.
    pub const FRESH: u16 = 2;
    pub const TABLE_ONCE: Self = Self::of(FrameState::PageTable).add_count(1);
    pub const TAIL: Self = Self(TAIL as u64);

    const ORDER_SHIFT: u32 = 8;
    const AUX_SHIFT: u32 = 16;
    const COUNT_SHIFT: u32 = 32;

    pub const fn of(state: FrameState) -> Self {
        Self(state as u64)
    }

    /// The head of a block of `1 << order` frames.
    pub const fn block(state: FrameState, order: u8) -> Self {
        Self(state as u64 | (order as u64) << Self::ORDER_SHIFT)
    }

    /// The caller has checked that the count does not wrap.
    pub const fn add_count(self, n: u32) -> Self {
        Self(self.0 + ((n as u64) << Self::COUNT_SHIFT))
    }

    /// The caller has checked that the counter is not full.
    pub const fn add_aux(self) -> Self {
        Self(self.0 + (1 << Self::AUX_SHIFT))
    }

    /// The caller has checked that the count is at least one.
    pub const fn sub_count(self) -> Self {
        Self(self.0 - (1 << Self::COUNT_SHIFT))
    }

    /// Whether the frame is mapped and its first link names a swap slot.
    pub const fn names_slot(self) -> bool {
        self.is(FrameState::Mapped) && self.aux() & Self::NAMES_SLOT != 0
    }

    /// With another small counter.
    pub const fn with_aux(self, aux: u16) -> Self {
        Self(self.0 & !(0xffff << Self::AUX_SHIFT) | (aux as u64) << Self::AUX_SHIFT)
    }

    pub const fn is_tail(self) -> bool {
        self.0 as u8 == TAIL
    }

    pub const fn is(self, state: FrameState) -> bool {
        self.0 as u8 == state as u8
    }

    /// The state, or `None` for a tail.
    pub fn state(self) -> Option<FrameState> {
        FrameState::ALL.get(usize::from(self.0 as u8)).copied()
    }

    pub const fn order(self) -> u8 {
        (self.0 >> Self::ORDER_SHIFT) as u8
    }

    pub const fn aux(self) -> u16 {
        (self.0 >> Self::AUX_SHIFT) as u16
    }

    pub const fn count(self) -> u32 {
        (self.0 >> Self::COUNT_SHIFT) as u32
    }
}

/// The metadata of one frame: 16 bytes, 4 KiB of it for every MiB of RAM.
///
/// Every bit pattern is a valid value, so the kernel may lay a slice of these over any initialised memory;
/// [`FrameAllocator::new`](crate::frame::FrameAllocator::new) resets each of them.
#[repr(C, align(16))]
pub struct FrameMeta {
    word: AtomicU64,
    prev: AtomicU32,
    next: AtomicU32,
}

const _: () = assert!(size_of::<FrameMeta>() == 16);

impl FrameMeta {
    /// The metadata of a frame that the allocator does not know.
    pub const fn new() -> Self {
        Self {
            word: AtomicU64::new(Word::ABSENT.0),
            prev: AtomicU32::new(NONE),
            next: AtomicU32::new(NONE),
        }
    }

    #[inline]
    pub(super) fn load(&self) -> Word {
        #[cfg(test)]
        super::steps::step();
        Word(self.word.load(Ordering::Acquire))
    }

    /// Only for the owner of the frame: the holder of its token, or of the lock of the list that it is in.
    #[inline]
    pub(super) fn store(&self, word: Word) {
        #[cfg(test)]
        super::steps::step();
        self.word.store(word.0, Ordering::Release);
    }

    /// Release so that what the owner did happens before the next one's use; Acquire for the next one.
    #[inline]
    pub(super) fn exchange(&self, from: Word, to: Word) -> Result<(), Word> {
        #[cfg(test)]
        super::steps::step();
        match self
            .word
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Ok(()),
            Err(found) => Err(Word(found)),
        }
    }

    // The links are read and written by the frame's owner only, so they need no order of their own.

    #[inline]
    pub(super) fn prev(&self) -> u32 {
        #[cfg(test)]
        super::steps::step();
        self.prev.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_prev(&self, link: u32) {
        #[cfg(test)]
        super::steps::step();
        self.prev.store(link, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn next(&self) -> u32 {
        #[cfg(test)]
        super::steps::step();
        self.next.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_next(&self, link: u32) {
        #[cfg(test)]
        super::steps::step();
        self.next.store(link, Ordering::Relaxed);
    }
}

impl Default for FrameMeta {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FrameMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.load();
        f.debug_struct("FrameMeta")
            .field("state", &word.state().map_or("tail", FrameState::name))
            .field("order", &word.order())
            .field("aux", &word.aux())
            .field("count", &word.count())
            .field("prev", &self.prev())
            .field("next", &self.next())
            .finish()
    }
}
