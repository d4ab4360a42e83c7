//! Counters of the frames in the states that no list counts.

use core::sync::atomic::{AtomicU64, Ordering};

/// One CPU's share of the counters.
///
/// A frame may enter a state on one CPU and leave it on another, so a share may be negative: shares wrap, and only
/// their sum means something. Two 32-bit counters lie in one word, so that a frame that goes from one to the other
/// costs one addition; the carry between the halves comes out right in the sum.
#[derive(Debug)]
pub(super) struct Tally {
    /// Reserved in the low half, mapped in the high half.
    flow: AtomicU64,
    /// Page tables in the low half, quarantined in the high half.
    kept: AtomicU64,
}

const LOW: u64 = 1;
const HIGH: u64 = 1 << 32;

impl Tally {
    pub const fn new() -> Self {
        Self {
            flow: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
    }

    /// `n` frames go from reserved to mapped.
    #[inline]
    pub fn mapped(&self, n: u64) {
        self.flow.fetch_add((HIGH - LOW).wrapping_mul(n), Ordering::Relaxed);
    }

    /// A frame goes from mapped to reserved.
    #[inline]
    pub fn unmapped(&self) {
        self.flow.fetch_sub(HIGH - LOW, Ordering::Relaxed);
    }

    /// A frame goes from reserved to page table.
    #[inline]
    pub fn table_made(&self) {
        self.flow.fetch_sub(LOW, Ordering::Relaxed);
        self.kept.fetch_add(LOW, Ordering::Relaxed);
    }

    /// A frame goes from page table to reserved.
    #[inline]
    pub fn table_retired(&self) {
        self.flow.fetch_add(LOW, Ordering::Relaxed);
        self.kept.fetch_sub(LOW, Ordering::Relaxed);
    }

    /// A frame goes from reserved to quarantined.
    #[inline]
    pub fn quarantined(&self) {
        self.flow.fetch_sub(LOW, Ordering::Relaxed);
        self.kept.fetch_add(HIGH, Ordering::Relaxed);
    }

    /// `n` frames go from quarantined to reserved.
    #[inline]
    pub fn unquarantined(&self, n: u64) {
        self.flow.fetch_add(n, Ordering::Relaxed);
        self.kept.fetch_sub(HIGH.wrapping_mul(n), Ordering::Relaxed);
    }

    /// `n` frames go from reserved to pinned, which is counted elsewhere.
    #[inline]
    pub fn pinned(&self, n: u64) {
        self.flow.fetch_sub(n, Ordering::Relaxed);
    }

    /// A frame goes from pinned to reserved.
    #[inline]
    pub fn unpinned(&self) {
        self.flow.fetch_add(LOW, Ordering::Relaxed);
    }

    pub fn flow(&self) -> u64 {
        self.flow.load(Ordering::Relaxed)
    }

    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
}
