//! What a space holds.

use faultline_trace::FaultClass;

use super::VirtualAddressSpace;
use crate::address::PAGE_SIZE;
use crate::backing::Backing;
use crate::entry::Entry;
use crate::platform::Platform;
use crate::tables::{index, span};

/// What a space holds. Sizes in bytes, the others are counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Regions.
    pub regions: usize,
    /// Bytes in all regions.
    pub virtual_bytes: u64,
    /// Bytes in anonymous private regions.
    pub anonymous_bytes: u64,
    /// Bytes in shared regions.
    pub shared_bytes: u64,
    /// Bytes in file regions.
    pub file_bytes: u64,
    /// Bytes in device regions.
    pub physical_bytes: u64,
    /// Pages of 4 KiB that are mapped to frames of the space's own (the zero frame, file frames and devices left out).
    pub resident_pages: u64,
    /// Pages that are mapped to frames it has borrowed.
    pub borrowed_pages: u64,
    /// Pages whose frame another entry, or a sharer of the table, refers to as well.
    pub shared_pages: u64,
    /// 2 MiB entries.
    pub huge_pages: u64,
    /// Page-table pages, the top table and shared ones included.
    pub table_pages: u64,
    /// Faults in flight.
    pub faults_in_flight: u32,
    /// Faults served, by [`FaultClass`].
    pub served: [u64; FaultClass::ALL.len()],
    /// Frames that wait for a flush.
    pub quarantined: usize,
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Walks the space and counts. The lock is held meanwhile: a diagnostic, not a hot path.
    #[must_use]
    pub fn get_stats(&self) -> SpaceStats {
        let inner = self.lock();
        let mut stats = SpaceStats {
            regions: inner.regions.len(),
            virtual_bytes: inner.regions.bytes(),
            faults_in_flight: inner.in_flight,
            served: inner.served,
            quarantined: inner.quarantine.len(),
            ..SpaceStats::default()
        };
        for (range, region) in inner.regions.iter() {
            *match region.backing {
                Backing::Anonymous => &mut stats.anonymous_bytes,
                Backing::Shared { .. } => &mut stats.shared_bytes,
                Backing::File { .. } => &mut stats.file_bytes,
                Backing::Physical { .. } => &mut stats.physical_bytes,
            } += range.size();
        }
        let Some(root) = inner.root else { return stats };
        stats.table_pages = 1;
        let memory = self.memory;
        for slot in 0..index(0x7fff_ffff_f000, 4) + 1 {
            let level3 = memory.entry(root, slot).get();
            if !level3.is_present() {
                continue;
            }
            stats.table_pages += 1;
            for slot in 0..512 {
                let level2 = memory.entry(level3.frame(), slot).get();
                if !level2.is_present() {
                    continue;
                }
                stats.table_pages += 1;
                for slot in 0..512 {
                    let above = memory.entry(level2.frame(), slot).get();
                    if above.has(Entry::PRESENT | Entry::HUGE) {
                        stats.huge_pages += 1;
                        stats.resident_pages += span(2) / PAGE_SIZE;
                    } else if above.is_present() {
                        stats.table_pages += 1;
                        for slot in 0..512 {
                            stats.count(
                                memory.entry(above.frame(), slot).get(),
                                above.has(Entry::SHARED),
                                |leaf| memory.frames.mapping_count(leaf.frame()) > 1,
                            );
                        }
                    }
                }
            }
        }
        stats
    }

    /// Bytes in all regions.
    #[must_use]
    pub fn virtual_bytes(&self) -> u64 {
        self.lock().regions.bytes()
    }

    /// Faults that were served for this space, by class.
    #[must_use]
    pub fn faults_served(&self) -> [u64; FaultClass::ALL.len()] {
        self.lock().served
    }
}

impl SpaceStats {
    fn count(&mut self, leaf: Entry, in_shared_table: bool, shared: impl FnOnce(Entry) -> bool) {
        if !leaf.is_present() {
            return;
        }
        if leaf.has(Entry::BORROWED) {
            self.borrowed_pages += 1;
            return;
        }
        self.resident_pages += 1;
        if in_shared_table || shared(leaf) {
            self.shared_pages += 1;
        }
    }
}
