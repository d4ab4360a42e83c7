//! How few frames may be free: when the reclaimer starts and stops, and what faults leave for others.
//!
//! ```text
//!   frames in the buddy lists
//!   ──────────────────────────────────────────────────────────────►
//!   0            reserve              low                 high
//!   │ tables,    │ faults take frames │ the reclaimer is  │ it stops
//!   │ reads,     │                    │ woken             │
//!   │ the heap   │                    │                   │
//! ```
//!
//! [`FrameAllocator::allocate_for_fault`] leaves the reserve to the others, which do not wait: page tables on the way of a
//! fault, the kernel heap, files in memory. Freeing needs no frame, so the reserve is small. Where nothing can be reclaimed
//! all three are 0, as at the start: faults take every frame.
//!
//! Frames in the CPUs' caches and zeroed ones are in addition to that; a fault may take them. So that a fault pays nothing
//! for the rule, it is applied where a cache is refilled.

use core::task::Waker;

use super::allocator::FrameAllocator;
use super::list::lock;
use crate::sync::atomic::Ordering;

/// Numbers of frames: reserve <= low <= high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// What faults leave.
    pub reserve: u32,
    /// With fewer frames than this in the buddy lists the reclaimer is woken.
    pub low: u32,
    /// With as many free frames as this it stops.
    pub high: u32,
}

impl Watermarks {
    /// Nothing is kept free.
    pub const NONE: Self = Self {
        reserve: 0,
        low: 0,
        high: 0,
    };

    /// For a machine with so many frames: a reserve of one part in 256, from 16 frames to 4,096 (16 MiB); twice that is low,
    /// and three times high. 384 MiB have a reserve of 1.5 MiB, so that the reclaimer begins 384 frames, or six batches,
    /// before a fault has to wait.
    #[must_use]
    pub const fn for_frames(total: u64) -> Self {
        let reserve = match total / 256 {
            0..16 => 16,
            reserve @ 16..4096 => reserve as u32,
            _ => 4096,
        };
        Self {
            reserve,
            low: 2 * reserve,
            high: 3 * reserve,
        }
    }
}

impl FrameAllocator {
    /// Sets what is kept free from now on.
    pub fn set_watermarks(&self, watermarks: Watermarks) {
        debug_assert!(watermarks.reserve <= watermarks.low && watermarks.low <= watermarks.high);
        self.reserve.store(watermarks.reserve, Ordering::Relaxed);
        self.low.store(watermarks.low, Ordering::Relaxed);
        self.high.store(watermarks.high, Ordering::Relaxed);
        // Faults that left what was the reserve may have it now.
        self.waiter.notify();
    }

    /// What is kept free.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        Watermarks {
            reserve: self.reserve.load(Ordering::Relaxed),
            low: self.low.load(Ordering::Relaxed),
            high: self.high.load(Ordering::Relaxed),
        }
    }

    /// The frames that faults may still take. Takes each list's lock in turn.
    #[must_use]
    pub fn available_for_faults(&self) -> u64 {
        let (spare, buddy) = self.count_free();
        let reserve = self.reserve.load(Ordering::Relaxed);
        spare + buddy.saturating_sub(u64::from(reserve))
    }

    /// Whether so many frames can be taken for what nobody has asked for yet: afterwards the reclaimer is far from being
    /// woken, and no fault from waiting.
    pub(crate) fn has_plenty(&self, frames: u64) -> bool {
        let high = u64::from(self.high.load(Ordering::Relaxed));
        let kept = high.max(self.total.load(Ordering::Relaxed) / 64);
        lock(&self.buddy).free() >= kept + frames
    }

    /// Wakes `waker` once, when frames are few. Look at the frames after this call: see
    /// [`set_low_memory_waker`](Self::set_low_memory_waker).
    pub(crate) fn set_hungry_waker(&self, waker: &Waker) {
        self.hungry.set(waker);
    }

    /// Somebody found no frame, or few: wakes the reclaimer.
    pub(crate) fn call_reclaimer(&self) {
        self.hungry.notify();
    }

    /// Fills the reserve up from this CPU's cache, after frames were freed that faults wait for.
    pub(crate) fn refill_reserve(&self, cpu: usize) {
        let reserve = u64::from(self.reserve.load(Ordering::Relaxed));
        let free = lock(&self.buddy).free();
        if free < reserve {
            let missing = u32::try_from(reserve - free).unwrap_or(u32::MAX);
            self.drain(&mut lock(&self.cpu(self.cpu_index(cpu)).cache), missing);
        }
    }
}

/// The order of the number of frames that a cache may be refilled with, at most `most`, from lists with `free` of which
/// `left` are left: up to twice as many as the order says may come. `None` for none.
pub(super) fn order_of_refill(free: u64, left: u32, most: u8) -> Option<u8> {
    if left == 0 {
        return Some(most);
    }
    match free.saturating_sub(u64::from(left)) {
        0 => None,
        1 => Some(0),
        spare => Some(most.min((spare / 2).ilog2() as u8)),
    }
}
