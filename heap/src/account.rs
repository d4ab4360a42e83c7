//! Who a block is charged to.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Set in an account's number of bytes (which is a multiple of 32) while its owner may still charge to it.
const OPEN: usize = 1;

/// The bytes charged to one process, and whether the process is still there. It is a block of the heap, and is freed by
/// whoever comes last: the process, or the last block that was charged to it.
#[repr(C, align(32))]
pub(crate) struct Counter(AtomicUsize);

/// An account's name: its address in the heap, in units of 32 bytes from the lowest. Zero is the kernel's own, without
/// limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account(pub(crate) u32);

impl Account {
    /// The kernel's own.
    pub const KERNEL: Self = Self(0);

    /// The account as a number, for a word that says whose turn it is.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The account whose [`Account::to_bits`] gave `bits`.
    ///
    /// # Safety
    /// That account is open, and stays so while the result is charged to.
    #[inline(always)]
    pub const unsafe fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(OPEN))
    }

    /// The bytes charged.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed) & !OPEN
    }

    #[inline(always)]
    pub(crate) fn charge(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes bytes off. Whether the account is over: closed, and nothing is charged to it. Then it is the caller's.
    #[inline(always)]
    #[must_use]
    pub(crate) fn uncharge(&self, bytes: usize) -> bool {
        self.0.fetch_sub(bytes, Ordering::AcqRel) == bytes
    }

    /// The owner charges no more. Returns as [`Counter::uncharge`] does.
    #[must_use]
    pub(crate) fn close(&self) -> bool {
        self.uncharge(OPEN)
    }
}
