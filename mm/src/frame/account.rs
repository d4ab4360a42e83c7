//! Where every frame is: the conservation equation.

use core::fmt;

use super::allocator::FrameAllocator;
use super::list::lock;
use super::meta::FrameState;

use crate::sync::atomic::Ordering;

/// The number of frames in each state.
///
/// Printed, it is the equation in one line:
///
/// ```text
/// free 120000 + cached 40 + zeroed 64 + reserved 1 + mapped 9000 + page tables 80 + pinned 1887 + quarantined 0 = 131072 of 131072 frames
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameAccount {
    /// All frames that the allocator knows.
    pub total: u64,
    /// In the buddy lists.
    pub free: u64,
    /// In the CPUs' caches.
    pub cached: u64,
    /// In the zeroed pool.
    pub zeroed: u64,
    /// In flight, held by tokens.
    pub reserved: u64,
    /// Mapped, each counted once however many entries refer to it.
    pub mapped: u64,
    /// Page tables, each counted once however many parents it has.
    pub page_tables: u64,
    /// Never handed out.
    pub pinned: u64,
    /// Waiting for a TLB generation.
    pub quarantined: u64,
}

impl FrameAccount {
    /// The frames in all states together.
    pub const fn sum(&self) -> u64 {
        self.free
            + self.cached
            + self.zeroed
            + self.reserved
            + self.mapped
            + self.page_tables
            + self.pinned
            + self.quarantined
    }

    /// Whether every frame is somewhere, and none twice.
    pub const fn is_conserved(&self) -> bool {
        self.sum() == self.total
    }

    /// The frames that an allocation could take.
    pub const fn available(&self) -> u64 {
        self.free + self.cached + self.zeroed
    }

    /// The number of frames in `state`; 0 for absent ones, which are not in the total.
    pub const fn in_state(&self, state: FrameState) -> u64 {
        match state {
            FrameState::Absent => 0,
            FrameState::Free => self.free,
            FrameState::Cached => self.cached,
            FrameState::Zeroed => self.zeroed,
            FrameState::Reserved => self.reserved,
            FrameState::Mapped => self.mapped,
            FrameState::PageTable => self.page_tables,
            FrameState::Pinned => self.pinned,
            FrameState::Quarantined => self.quarantined,
        }
    }
}

impl fmt::Display for FrameAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "free {} + cached {} + zeroed {} + reserved {} + mapped {} + page tables {} + pinned {} + quarantined {} \
             = {} of {} frames",
            self.free,
            self.cached,
            self.zeroed,
            self.reserved,
            self.mapped,
            self.page_tables,
            self.pinned,
            self.quarantined,
            self.sum(),
            self.total,
        )
    }
}

impl FrameAllocator {
    /// Counts the frames in each state, from counters: the cost grows with the number of CPUs, not of frames.
    ///
    /// Exact when no other CPU is inside the allocator; otherwise it may be off by the frames that move meanwhile.
    pub fn account(&self) -> FrameAccount {
        let (mut flow, mut kept, mut cached) = (0u64, 0u64, 0u64);
        for cpu in self.each_cpu() {
            let cache = lock(&cpu.cache);
            cached += u64::from(cache.len());
            flow = flow.wrapping_add(cache.out()).wrapping_add(cpu.tally.flow());
            kept = kept.wrapping_add(cpu.tally.kept());
        }
        let pool = lock(&self.zeroed);
        let zeroed = u64::from(pool.len());
        flow = flow.wrapping_add(pool.out());
        drop(pool);
        let buddy = lock(&self.buddy);
        let free = buddy.free();
        flow = flow.wrapping_add(buddy.out);
        drop(buddy);
        FrameAccount {
            total: self.total.load(Ordering::Relaxed),
            free,
            cached,
            zeroed,
            reserved: flow & 0xFFFF_FFFF,
            mapped: flow >> 32,
            page_tables: kept & 0xFFFF_FFFF,
            pinned: self.pinned.load(Ordering::Relaxed),
            quarantined: kept >> 32,
        }
    }
}
