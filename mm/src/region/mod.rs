//! Regions: what a range of addresses is meant to be, apart from what is there by now.

mod chunks;
mod map;
mod survey;

use bitflags::bitflags;
use faultline_trace::FaultClass;

use crate::address::PageRange;
use crate::backing::Backing;
use crate::entry::Entry;
use crate::protection::{Access, Protection};

pub(crate) use chunks::Position;
pub(crate) use map::RegionMap;
pub(crate) use survey::{Alone, Survey};

bitflags! {
    /// Properties of a region beside its protection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct RegionFlags: u16 {
        /// The heap: one region that `brk` grows and shrinks.
        const HEAP = 1;
        /// A stack: it grows downwards when the guard gap below it allows.
        const STACK = 2;
        /// Served by 2 MiB pages where an aligned run is free.
        const HUGE_PAGES = 4;
        /// Locked in memory: nothing is ever swapped out, so this is for the account.
        const LOCKED = 8;
        /// It may never become writable: a shared mapping of a file that can't be written.
        const READ_ONLY = 16;
        /// A child of `fork` does not have it.
        const NOT_INHERITED = 32;
        /// A child of `fork` has it empty: private anonymous memory that reads as zeros there.
        const WIPED_IN_CHILD = 64;
        /// It is touched in no order, so that reading or running ahead would be in vain.
        const RANDOM = 128;
        /// It is touched in the order of addresses.
        const SEQUENTIAL = 256;
    }
}

/// A range of addresses with one protection and one backing.
#[derive(Clone, Debug)]
pub struct Region {
    pub(crate) end: u64,
    pub(crate) backing: Backing,
    pub(crate) protection: Protection,
    pub(crate) flags: RegionFlags,
}

// What the record of a region may take, its start included; free room in chunks comes on top of it.
const _: () = assert!(size_of::<Region>() + size_of::<u64>() <= 64);

impl Region {
    /// What user mode may do.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Where the pages come from.
    #[must_use]
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Properties.
    #[must_use]
    pub fn flags(&self) -> RegionFlags {
        self.flags
    }

    /// Whether it is private, writable, and no stack: what `RLIMIT_DATA` counts.
    #[inline]
    fn is_data(&self) -> bool {
        self.protection.contains(Protection::WRITE)
            && !self.backing.is_shared()
            && !self.flags.contains(RegionFlags::STACK)
    }

    /// The order in which pages are touched for the first time.
    #[inline]
    fn order(&self) -> Order {
        match self.flags {
            flags if flags.contains(RegionFlags::RANDOM) => Order::Random,
            flags if flags.contains(RegionFlags::SEQUENTIAL) => Order::Sequential,
            _ => Order::Normal,
        }
    }

    fn joins(&self, start: u64, next: &Region) -> bool {
        self.protection == next.protection
            && self.flags == next.flags
            && self.backing.continues(self.end - start, &next.backing)
    }
}

/// The order in which the pages of a region are touched for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// What the faults themselves show.
    Normal,
    /// None, as somebody has said.
    Random,
    /// That of addresses, as somebody has said.
    Sequential,
}

/// What a fault needs to know of the region of a page; copied out, so that nothing is borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) protection: Protection,
    /// The order in which pages are touched.
    pub(crate) order: Order,
    /// Leaf flags of a page of the region's own.
    pub(crate) leaf: u64,
    /// Where the region stood when it was found; others may have come or gone since.
    at: Position,
    /// How a first read is served.
    on_read: FaultClass,
    /// How a first write is served.
    on_write: FaultClass,
}

impl Summary {
    const NONE: Summary = Summary {
        start: 0,
        size: 0,
        protection: Protection::empty(),
        order: Order::Normal,
        leaf: 0,
        at: Position::FIRST,
        on_read: FaultClass::ZeroPage,
        on_write: FaultClass::DemandZero,
    };

    /// How a first access is served.
    #[inline(always)]
    pub(crate) fn class(&self, access: Access) -> FaultClass {
        if access == Access::Write {
            self.on_write
        } else {
            self.on_read
        }
    }

    fn of(range: PageRange, region: &Region, at: Position) -> Self {
        let (on_read, on_write) = match &region.backing {
            Backing::Anonymous if region.flags.contains(RegionFlags::HUGE_PAGES) => {
                (FaultClass::Huge, FaultClass::Huge)
            }
            Backing::Anonymous => (FaultClass::ZeroPage, FaultClass::DemandZero),
            Backing::Private { .. } | Backing::File { .. } => (FaultClass::File, FaultClass::File),
            Backing::Shared { .. } | Backing::Physical { .. } => (FaultClass::Shared, FaultClass::Shared),
        };
        Summary {
            start: range.start(),
            size: range.size(),
            protection: region.protection,
            order: region.order(),
            leaf: Entry::flags_for(region.protection) | Entry::ACCESSED,
            at,
            on_read,
            on_write,
        }
    }
}
