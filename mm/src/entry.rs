//! The encoding of page-table entries.
//!
//! An entry is in one of these states (Intel SDM volume 3, section 4.5.4, says which bits the processor ignores):
//!
//! ```text
//!  Empty        0
//!  InFlight     bit 0 = 0, bit 1 = 1; bits 8..24 fault slot, bits 24..64 sequence number of the slot
//!  Swapped      bits 0 and 1 = 0, bit 2 = 1; bits 32..64 swap slot
//!  Present      bit 0 = 1; address in bits 12..52; the software bits below
//! ```
//!
//! Software bits of a present entry, all ignored by the processor:
//!
//! | bit | name | meaning |
//! |---|---|---|
//! | 9 | [`COW`](Entry::COW) | the region may be writable, but a write must first get a frame of its own |
//! | 10 | [`BORROWED`](Entry::BORROWED) | the entry holds no reference to its frame (zero frame, file frame, device) |
//! | 11 | [`BUSY`](Entry::BUSY) | a copy-on-write fault on this entry is in flight |
//! | 52 | [`SHARED`](Entry::SHARED) | in a leaf: the page belongs to shared memory, fork keeps it writable; in a level-2 entry: the table below is shared copy-on-write |
//! | 53, 54 | [`AGE`](Entry::AGE) | how often the page was found without its accessed bit set |
//! | 55 | [`LAZY`](Entry::LAZY) | unless the page is dirty, its content is not needed any more |
//!
//! Transitions of a leaf, all under the lock of the space that owns the table:
//!
//! ```text
//!            (1) admit                (2) commit
//!  Empty ─────────────► InFlight ─────────────────► Present
//!    ▲  ▲                  │ ▲  │                   │  ▲  │
//!    │  │   (3) revoke     │ │  │   (4) BUSY set/cleared, copy-on-write commit
//!    │  └──────────────────┘ │  │ (3) revoke        │
//!    │                   (1) │  ▼                   │ (6) leave
//!    │ (5)                  Swapped ◄───────────────┤
//!    ├─────────────────────────┘                    │
//!    │   (5) unmap, DONTNEED                        │
//!    └──────────────────────────────────────────────┘
//! ```
//!
//! 1. A fault is admitted: its slot and the slot's sequence number are written. The fault's request remembers what the
//!    marker stands for: nothing, or a swap slot.
//! 2. The service publishes the frame, if and only if the very same marker is still there.
//! 3. A call that changes what the region says about the page takes the marker away, and puts back what it stands for; the
//!    fault is then stale.
//! 4. The copy-on-write commit replaces the frame if and only if `BUSY` is still set, and clears it.
//! 5. The mapping ends; the reference to the frame, or to the swap slot, goes.
//! 6. The page is swapped out: the entry names a swap slot, and holds a reference to it.

use core::fmt;

use crate::address::PAGE_SIZE;
use crate::backing::CachePolicy;
use crate::frame::Pfn;
use crate::protection::{Access, Protection};
use crate::swap::SwapSlot;

/// A page-table entry of any level.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

/// What an entry says, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Nothing.
    Empty,
    /// A fault on the page is being served.
    InFlight(Marker),
    /// The page is in a swap slot.
    Swapped {
        /// The slot.
        slot: SwapSlot,
    },
    /// The page, or the table below, is there.
    Present {
        /// The frame.
        frame: Pfn,
        /// Whether a write must first get a frame of its own.
        cow: bool,
    },
}

/// Names one use of one fault slot. Sequence numbers make sure that a marker of an earlier use is never taken for a
/// later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Index of the slot.
    pub slot: u16,
    /// Use number of the slot, 40 bits.
    pub sequence: u64,
}

impl Marker {
    /// Sequence numbers are kept in this many bits: one use a nanosecond wraps after 18 minutes of nothing but faults
    /// on one slot, and a marker lives for one fault.
    pub const SEQUENCE_BITS: u32 = 40;
}

impl Entry {
    /// No mapping.
    pub const EMPTY: Entry = Entry(0);

    /// The translation is valid.
    pub const PRESENT: u64 = 1 << 0;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// User mode is allowed.
    pub const USER: u64 = 1 << 2;
    /// Write-through.
    pub const PWT: u64 = 1 << 3;
    /// Cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Set by the processor at the first access.
    pub const ACCESSED: u64 = 1 << 5;
    /// Set by the processor at the first write.
    pub const DIRTY: u64 = 1 << 6;
    /// In a level-2 entry: it maps 2 MiB.
    pub const HUGE: u64 = 1 << 7;
    /// A write must first get a frame of its own.
    pub const COW: u64 = 1 << 9;
    /// No reference to the frame is held.
    pub const BORROWED: u64 = 1 << 10;
    /// A copy-on-write fault is in flight.
    pub const BUSY: u64 = 1 << 11;
    /// Shared memory (leaf) or shared table (level 2).
    pub const SHARED: u64 = 1 << 52;
    /// How often the page was found without its accessed bit set, up to 3.
    pub const AGE: u64 = 0b11 << 53;
    /// The content of a page that is not dirty is not needed any more.
    pub const LAZY: u64 = 1 << 55;
    /// Instruction fetches are refused.
    pub const NO_EXECUTE: u64 = 1 << 63;

    /// Age 1.
    pub(crate) const YEAR: u64 = 1 << 53;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    const IN_FLIGHT: u64 = 1 << 1;
    const SLOT_SHIFT: u32 = 8;
    const SEQUENCE_SHIFT: u32 = 24;
    const SWAPPED: u64 = 1 << 2;
    const SWAP_SLOT_SHIFT: u32 = 32;

    /// Flags of every entry that points to a table of the user half: rights are decided below it.
    pub(crate) const TABLE: u64 = Self::PRESENT | Self::WRITABLE | Self::USER;

    /// The entry with these bits.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Entry(bits)
    }

    /// All 64 bits.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// A present entry.
    #[inline(always)]
    #[must_use]
    pub const fn present(frame: Pfn, flags: u64) -> Self {
        Entry((frame.number() as u64 * PAGE_SIZE) | flags | Self::PRESENT)
    }

    /// An in-flight marker.
    #[inline(always)]
    #[must_use]
    pub const fn in_flight(marker: Marker) -> Self {
        Entry(Self::IN_FLIGHT | (marker.slot as u64) << Self::SLOT_SHIFT | marker.sequence << Self::SEQUENCE_SHIFT)
    }

    /// The entry of a page that is in a swap slot.
    #[inline(always)]
    #[must_use]
    pub const fn swapped(slot: SwapSlot) -> Self {
        Entry(Self::SWAPPED | (slot.number() as u64) << Self::SWAP_SLOT_SHIFT)
    }

    /// Whether there is nothing: no page, in memory or in a swap slot, and no fault in flight.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the translation is valid.
    #[inline(always)]
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// With `flags` set.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, flags: u64) -> Self {
        Entry(self.0 | flags)
    }

    /// With `flags` cleared.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, flags: u64) -> Self {
        Entry(self.0 & !flags)
    }

    /// The age of a present entry, up to 3.
    #[inline(always)]
    #[must_use]
    pub const fn age(self) -> u64 {
        (self.0 & Self::AGE) / Self::YEAR
    }

    /// The frame of a present entry.
    #[inline(always)]
    #[must_use]
    pub const fn frame(self) -> Pfn {
        Pfn::new(((self.0 & Self::ADDRESS) / PAGE_SIZE) as u32)
    }

    /// Whether every one of these maps a frame that it holds no reference to, and a copy of it for another space is the
    /// same: file pages and pages of zeros that a write has to go through a fault for.
    #[inline(always)]
    pub(crate) fn are_untracked(entries: [Self; 4]) -> bool {
        const PLAIN: u64 = Entry::PRESENT | Entry::BORROWED | Entry::COW;
        let (all, any) = entries
            .iter()
            .fold((PLAIN, 0), |(all, any), entry| (all & entry.0, any | entry.0));
        all == PLAIN && any & (Self::WRITABLE | Self::BUSY | Self::SHARED) == 0
    }

    /// Whether every one of these is empty.
    #[inline(always)]
    pub(crate) fn are_empty(entries: [Self; 4]) -> bool {
        entries.iter().fold(0, |any, entry| any | entry.0) == 0
    }

    /// The marker, if the entry is one.
    #[inline(always)]
    #[must_use]
    pub const fn marker(self) -> Option<Marker> {
        if self.0 & (Self::PRESENT | Self::IN_FLIGHT) == Self::IN_FLIGHT {
            Some(Marker {
                slot: (self.0 >> Self::SLOT_SHIFT) as u16,
                sequence: self.0 >> Self::SEQUENCE_SHIFT,
            })
        } else {
            None
        }
    }

    /// The swap slot that the entry names, if it does.
    #[inline(always)]
    #[must_use]
    pub const fn swap_slot(self) -> Option<SwapSlot> {
        if self.0 & (Self::PRESENT | Self::IN_FLIGHT | Self::SWAPPED) == Self::SWAPPED {
            Some(SwapSlot::new((self.0 >> Self::SWAP_SLOT_SHIFT) as u32))
        } else {
            None
        }
    }

    /// Whether the processor would allow the access by user mode, as far as this leaf decides.
    #[inline(always)]
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        self.has(Self::PRESENT | Self::USER)
            && match access {
                Access::Read => true,
                Access::Write => self.0 & Self::WRITABLE != 0,
                Access::Execute => self.0 & Self::NO_EXECUTE == 0,
            }
    }

    /// Decodes the entry.
    #[must_use]
    pub const fn state(self) -> EntryState {
        if self.is_present() {
            return EntryState::Present {
                frame: self.frame(),
                cow: self.has(Self::COW),
            };
        }
        if let Some(marker) = self.marker() {
            return EntryState::InFlight(marker);
        }
        match self.swap_slot() {
            Some(slot) => EntryState::Swapped { slot },
            None => EntryState::Empty,
        }
    }

    /// Leaf flags for a page that user mode may use with `protection`, once it is there. An empty protection has no
    /// user bit, so that every access faults although the page keeps its content.
    #[inline]
    #[must_use]
    pub const fn flags_for(protection: Protection) -> u64 {
        if protection.is_empty() {
            return Self::NO_EXECUTE;
        }
        let mut flags = Self::USER;
        if protection.contains(Protection::WRITE) {
            flags |= Self::WRITABLE;
        }
        if !protection.contains(Protection::EXECUTE) {
            flags |= Self::NO_EXECUTE;
        }
        flags
    }

    /// Cache bits of a leaf.
    #[must_use]
    pub const fn cache_flags(policy: CachePolicy) -> u64 {
        match policy {
            CachePolicy::WriteBack => 0,
            CachePolicy::WriteThrough => Self::PWT,
            CachePolicy::Uncached => Self::PCD | Self::PWT,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {:?}", self.0, self.state())
    }
}

// The fields of a marker fill the word without touching the present bit, and every software bit is one that the
// processor ignores in a present entry.
const _: () = {
    assert!(Marker::SEQUENCE_BITS + Entry::SEQUENCE_SHIFT == 64);
    assert!(Entry::SLOT_SHIFT + u16::BITS == Entry::SEQUENCE_SHIFT);
    let all = Entry::in_flight(Marker {
        slot: u16::MAX,
        sequence: (1 << Marker::SEQUENCE_BITS) - 1,
    });
    assert!(!all.is_present());
    assert!(Entry::COW | Entry::BORROWED | Entry::BUSY == 0b111 << 9);
    assert!(Entry::ADDRESS & (Entry::SHARED | Entry::AGE | Entry::NO_EXECUTE | 0xfff) == 0);
    assert!((Entry::AGE | Entry::LAZY) & (Entry::SHARED | Entry::NO_EXECUTE) == 0 && Entry::AGE & Entry::LAZY == 0);
    assert!(u32::BITS + Entry::SWAP_SLOT_SHIFT == 64);
    let last = Entry::swapped(SwapSlot::new(u32::MAX));
    assert!(!last.is_present() && last.marker().is_none());
    match last.swap_slot() {
        Some(slot) => assert!(slot.number() == u32::MAX),
        None => panic!("a swapped entry must decode"),
    }
    assert!(all.swap_slot().is_none() && Entry::EMPTY.swap_slot().is_none());
    match all.marker() {
        Some(marker) => assert!(marker.slot == u16::MAX && marker.sequence == (1 << Marker::SEQUENCE_BITS) - 1),
        None => panic!("a marker must decode"),
    }
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
        fn markers_round_trip(slot: u16, sequence in 0u64..1 << Marker::SEQUENCE_BITS) {
            let marker = Marker { slot, sequence };
            let entry = Entry::in_flight(marker);
            prop_assert_eq!(entry.state(), EntryState::InFlight(marker));
            prop_assert!(!entry.is_present() && !entry.is_empty());
        }

        #[test]
        fn swapped_entries_round_trip(number: u32) {
            let slot = SwapSlot::new(number);
            let entry = Entry::swapped(slot);
            prop_assert_eq!(entry.state(), EntryState::Swapped { slot });
            prop_assert!(!entry.is_present() && !entry.is_empty() && entry.marker().is_none());
            for access in [Access::Read, Access::Write, Access::Execute] {
                prop_assert!(!entry.allows(access));
            }
        }

        #[test]
        fn present_entries_round_trip(pfn: u32, cow: bool) {
            let frame = Pfn::new(pfn);
            let flags = if cow { Entry::COW } else { 0 };
            let entry = Entry::present(frame, flags | Entry::flags_for(Protection::READ_WRITE));
            prop_assert_eq!(entry.state(), EntryState::Present { frame, cow });
            prop_assert!(entry.allows(Access::Write) && !entry.allows(Access::Execute));
        }
    }

    #[test]
    fn no_protection_has_no_user_bit() {
        let entry = Entry::present(Pfn::new(1), Entry::flags_for(Protection::empty()));
        for access in [Access::Read, Access::Write, Access::Execute] {
            assert!(!entry.allows(access));
        }
    }
}
