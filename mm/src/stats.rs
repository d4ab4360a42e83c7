//! Counters: what was served, refused, flushed and skipped.

use core::sync::atomic::{AtomicU64, Ordering};

use faultline_trace::FaultClass;

/// One counter. Counters order nothing: they are read for reports only, hence `Relaxed`.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $live:ident => $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        #[derive(Debug, Default)]
        pub(crate) struct $live {
            pub(crate) served: [Counter; FaultClass::ALL.len()],
            $(pub(crate) $field: Counter,)*
        }

        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot {
            /// Faults served, by [`FaultClass`] (index by its number).
            pub served: [u64; FaultClass::ALL.len()],
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                let mut served = [0; FaultClass::ALL.len()];
                for (to, from) in served.iter_mut().zip(&self.served) {
                    *to = from.get();
                }
                $snapshot { served, $($field: self.$field.get(),)* }
            }
        }
    };
}

counters! {
    /// What happened to faults and TLBs since the start, over all spaces.
    Counters => MemoryStats {
        /// Faults that joined one in flight.
        coalesced,
        /// Faults whose entry allowed the access already.
        spurious,
        /// Faults that were refused.
        denied,
        /// Faults whose space had changed under them at commit.
        stale,
        /// Faults given up because nobody waited any more.
        cancelled,
        /// Faults that had to wait for a slot.
        slot_waits,
        /// Times that a fault had to wait for a free frame.
        memory_waits,
        /// Times that a fault had to wait for a device.
        device_waits,
        /// Frames for faults that came zeroed from the pool.
        pool_hits,
        /// Pages mapped behind a first write because the writes before it came one page after the other.
        ahead,
        /// Pages mapped around a file fault because they were in memory already.
        around,
        /// Pages of files that were in memory when somebody wanted them.
        object_hits,
        /// Reads of a page of a file that somebody waited for.
        object_misses,
        /// Pages of files that were read before anybody wanted them.
        read_ahead,
        /// Pages of files that were dropped because memory was needed, or on advice.
        object_drops,
        /// Last-level tables copied because a shared one was to change.
        tables_unshared,
        /// Last-level tables taken back by their last sharer without a copy.
        tables_taken_back,
        /// Generation bumps.
        tlb_bumps,
        /// Single pages invalidated.
        tlb_pages,
        /// Whole TLB slots flushed.
        tlb_flushes,
        /// Switches that found nothing to flush.
        tlb_skips,
        /// Roots loaded.
        root_loads,
        /// Pages that reclaim looked at.
        pages_scanned,
        /// Frames that reclaim freed.
        pages_reclaimed,
        /// Full rounds of the reclaimer over all memory.
        reclaim_rounds,
        /// Batches of pages that were written to the swap area.
        batches_written,
    }
}

impl MemoryStats {
    /// All faults that the service completed.
    #[must_use]
    pub fn total_served(&self) -> u64 {
        self.served.iter().sum()
    }
}
