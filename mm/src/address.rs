//! User address ranges, checked once and then trusted.

use core::fmt;

use x86_64::VirtAddr;

use crate::error::VasError;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a huge page, and the span of one last-level page table.
pub const HUGE_PAGE_SIZE: u64 = 2 * 1024 * 1024;
/// One past the last user address: the last page of the lower half is left out, as on Linux, so that no instruction can
/// end at the canonical boundary (a `syscall` there would return to a non-canonical address).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// A non-empty, page-aligned range of user addresses: `start..end`, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// The pages that hold `start..start + size`: `start` is rounded down, the end is rounded up.
    ///
    /// # Errors
    /// [`VasError::EmptyRange`] for size 0; [`VasError::BadRange`] if the range wraps, is not canonical or leaves the
    /// user half.
    pub fn covering(start: VirtAddr, size: u64) -> Result<Self, VasError> {
        let first = start.as_u64();
        if size == 0 {
            return Err(VasError::EmptyRange { start: first });
        }
        let bad = VasError::BadRange { start: first, size };
        let end = first.checked_add(size).ok_or(bad)?;
        if end > USER_END {
            return Err(bad);
        }
        Ok(Self {
            start: first & !(PAGE_SIZE - 1),
            end: end.next_multiple_of(PAGE_SIZE),
        })
    }

    /// As [`covering`](Self::covering), but refuses a start that is not page-aligned.
    ///
    /// # Errors
    /// [`VasError::Unaligned`], and those of [`covering`](Self::covering).
    pub fn aligned(start: VirtAddr, size: u64) -> Result<Self, VasError> {
        if !start.is_aligned(PAGE_SIZE) {
            return Err(VasError::Unaligned {
                address: start.as_u64(),
                alignment: PAGE_SIZE,
            });
        }
        Self::covering(start, size)
    }

    /// A range whose bounds are known to be aligned, ordered and in the user half.
    pub(crate) const fn new_unchecked(start: u64, end: u64) -> Self {
        debug_assert!(
            start < end && end <= USER_END && start.is_multiple_of(PAGE_SIZE) && end.is_multiple_of(PAGE_SIZE)
        );
        Self { start, end }
    }

    /// Whole tables, or a part of one, between two aligned addresses; may reach one page beyond the user half.
    pub(crate) const fn spanning(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// First address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One past the last address.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end - self.start
    }

    /// Length in pages of 4 KiB.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.size() / PAGE_SIZE
    }

    /// The part that two ranges have in common.
    #[must_use]
    pub fn intersection(self, other: PageRange) -> Option<PageRange> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// The addresses of its pages.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        (self.start..self.end).step_by(PAGE_SIZE as usize)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
