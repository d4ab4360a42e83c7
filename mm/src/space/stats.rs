//! What a space holds.

use faultline_trace::FaultClass;

use super::VirtualAddressSpace;
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::platform::Platform;
use crate::tables::{Leaf, index, span};

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

/// Pages of a range that have a frame, and the tables that hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages that nobody else has.
    pub own: u64,
    /// Pages whose frames others have too.
    pub shared: u64,
    /// Pages of files that lie in memory anyway.
    pub borrowed: u64,
    /// Last-level tables.
    pub tables: u64,
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

    /// Counts the pages of a range. The lock is held for as long as that takes, which grows with the page tables under the
    /// range: large ranges are for several calls.
    #[must_use]
    pub fn count_pages(&self, range: PageRange) -> PageCounts {
        let mut counts = PageCounts::default();
        let inner = self.lock();
        let Some(root) = inner.root else { return counts };
        let memory = self.memory;
        memory.for_each_level2(root, range, |address, entry| {
            let above = entry.get();
            let spanned = PageRange::spanning(address, address + span(2));
            let Some(part) = spanned.intersection(range) else {
                return;
            };
            if above.has(Entry::PRESENT | Entry::HUGE) {
                counts.own += part.size() / PAGE_SIZE;
            } else if above.is_present() {
                counts.tables += 1;
                for page in part.iter() {
                    let leaf = memory.entry(above.frame(), index(page, 1)).get();
                    if leaf.is_present() {
                        let borrowed = leaf.has(Entry::BORROWED);
                        *match above.has(Entry::SHARED) || memory.frames.mapping_count(leaf.frame()) > 1 {
                            _ if borrowed => &mut counts.borrowed,
                            true => &mut counts.shared,
                            false => &mut counts.own,
                        } += 1;
                    }
                }
            }
        });
        counts
    }

    /// The frame that the page of an address has, and whether others have it too.
    #[must_use]
    pub fn frame_of(&self, address: u64) -> Option<(Pfn, bool)> {
        let inner = self.lock();
        match self.memory.leaf(inner.root?, address) {
            Leaf::Own(_, value) if value.is_present() => {
                let shared = value.has(Entry::BORROWED) || self.memory.frames.mapping_count(value.frame()) > 1;
                Some((value.frame(), shared))
            }
            Leaf::Shared(value) | Leaf::Huge(value) if value.is_present() => Some((value.frame(), true)),
            _ => None,
        }
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
