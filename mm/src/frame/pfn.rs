//! Frame numbers.

use core::fmt;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// Bytes in a frame.
pub const FRAME_SIZE: u64 = 4096;

/// The number of a 4 KiB frame: its physical address divided by 4096.
///
/// Thirty-two bits reach 16 TiB. [`Pfn::NONE`] is no frame: no metadata array is long enough to hold it, so every
/// operation on it is refused as foreign.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u32);

impl Pfn {
    /// The number that belongs to no frame.
    pub const NONE: Self = Self(u32::MAX);

    /// The frame with this number.
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The frame that holds `address`; [`Pfn::NONE`] for an address past 16 TiB.
    #[inline]
    pub const fn containing(address: PhysAddr) -> Self {
        let number = address.as_u64() / FRAME_SIZE;
        if number < u32::MAX as u64 {
            Self(number as u32)
        } else {
            Self::NONE
        }
    }

    /// The frame number itself.
    #[inline]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The frame number as an index into the metadata.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The physical address of the frame's first byte.
    #[inline]
    pub const fn address(self) -> PhysAddr {
        PhysAddr::new_truncate((self.0 as u64) * FRAME_SIZE)
    }

    /// The frame as the `x86_64` crate names it.
    #[inline]
    pub fn frame(self) -> PhysFrame<Size4KiB> {
        PhysFrame::containing_address(self.address())
    }

    /// The frame `count` frames further on; [`Pfn::NONE`] past the end of the numbering.
    #[inline]
    pub const fn offset(self, count: u32) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl From<PhysFrame<Size4KiB>> for Pfn {
    /// The number of `frame`; [`Pfn::NONE`] for a frame past 16 TiB.
    #[inline]
    fn from(frame: PhysFrame<Size4KiB>) -> Self {
        Self::containing(frame.start_address())
    }
}

impl From<Pfn> for PhysFrame<Size4KiB> {
    #[inline]
    fn from(pfn: Pfn) -> Self {
        pfn.frame()
    }
}

impl From<Pfn> for PhysAddr {
    #[inline]
    fn from(pfn: Pfn) -> Self {
        pfn.address()
    }
}

impl fmt::Display for Pfn {
    /// The frame's physical address in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            f.write_str("none")
        } else {
            write!(f, "{:#x}", self.address().as_u64())
        }
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({self})")
    }
}
