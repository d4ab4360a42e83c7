//! What a space holds.

use faultline_trace::FaultClass;

use super::fork::EVERYTHING;
use super::turn::pause;
use super::{Space, VirtualAddressSpace};
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::entry::{Entry, EntryState};
use crate::frame::Pfn;
use crate::platform::Platform;
use crate::swap::SwapSlot;
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
    /// Bytes in private, writable regions that are no stack: what `RLIMIT_DATA` counts.
    pub data_bytes: u64,
    /// Bytes in locked regions.
    pub locked_bytes: u64,
    /// Pages of 4 KiB that are mapped to frames of the space's own (the zero frame, file frames and devices left out).
    pub resident_pages: u64,
    /// Pages that are mapped to frames it has borrowed.
    pub borrowed_pages: u64,
    /// Pages that are in swap slots.
    pub swapped_pages: u64,
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
    /// Pages that are in swap slots: they have no frame.
    pub swapped: u64,
    /// Pages in memory that were accessed lately.
    pub referenced: u64,
    /// Pages in memory whose content is not needed any more (`MADV_FREE`).
    pub lazy: u64,
    /// Last-level tables.
    pub tables: u64,
}

impl PageCounts {
    /// Pages that are in memory.
    #[must_use]
    pub const fn resident(&self) -> u64 {
        self.own + self.shared + self.borrowed
    }

    /// Adds the pages of another range; a table that both ranges have counts twice.
    pub const fn add(&mut self, other: Self) {
        self.own += other.own;
        self.shared += other.shared;
        self.borrowed += other.borrowed;
        self.swapped += other.swapped;
        self.referenced += other.referenced;
        self.lazy += other.lazy;
        self.tables += other.tables;
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Walks the space and counts. The lock is held for a bounded part at a time, so what others change meanwhile may be
    /// counted before or after. The whole takes long for a large space: [`get_stats_in_steps`](Self::get_stats_in_steps)
    /// lets others run.
    #[must_use]
    pub fn get_stats(&self) -> SpaceStats {
        let mut stats = self.begin_stats();
        let mut left = Some(EVERYTHING);
        while let Some(range) = left {
            left = self.count_part(range, &mut stats);
        }
        stats
    }

    /// As [`get_stats`](Self::get_stats), letting others run after each part.
    pub async fn get_stats_in_steps(&self) -> SpaceStats {
        let mut stats = self.begin_stats();
        let mut left = Some(EVERYTHING);
        while let Some(range) = left {
            left = self.count_part(range, &mut stats);
            pause().await;
        }
        stats
    }

    /// What is counted as it changes.
    fn begin_stats(&self) -> SpaceStats {
        let inner = self.lock();
        let bytes = inner.regions.bytes();
        SpaceStats {
            regions: inner.regions.len(),
            virtual_bytes: bytes.all,
            data_bytes: bytes.data,
            locked_bytes: bytes.locked,
            faults_in_flight: inner.in_flight,
            served: inner.served,
            quarantined: inner.quarantine.len(),
            table_pages: u64::from(inner.root.is_some()),
            ..SpaceStats::default()
        }
    }

    /// Counts a part of a range that is bounded; returns what is left of it.
    fn count_part(&self, range: PageRange, stats: &mut SpaceStats) -> Option<PageRange> {
        let inner = self.lock();
        let part = self.part(&inner, range);
        let mut at = part.start();
        while at < part.end()
            && let Some((found, region)) = inner.regions.first_above(at)
            && let Some(found) = found.intersection(PageRange::new_unchecked(at, part.end()))
        {
            *match region.backing {
                Backing::Anonymous => &mut stats.anonymous_bytes,
                Backing::Shared { .. } => &mut stats.shared_bytes,
                Backing::Private { .. } | Backing::File { .. } => &mut stats.file_bytes,
                Backing::Physical { .. } => &mut stats.physical_bytes,
            } += found.size();
            at = found.end();
        }
        let rest = Space::<P>::rest(range, part);
        let root = inner.root?;
        stats.table_pages += self.memory.count_upper_tables(root, part);
        self.memory.for_each_level2(root, part, |_, entry2| {
            let above = entry2.get();
            if above.has(Entry::PRESENT | Entry::HUGE) {
                stats.huge_pages += 1;
                stats.resident_pages += span(2) / PAGE_SIZE;
            } else if above.is_present() {
                stats.table_pages += 1;
                self.memory.for_each_used(above.frame(), 0..512, |_, _, leaf| {
                    stats.count(self.settled(leaf), above.has(Entry::SHARED), |leaf| {
                        self.memory.frames.mapping_count(leaf.frame()) > 1
                    });
                });
            }
        });
        rest
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
                counts.referenced += part.size() / PAGE_SIZE;
            } else if above.is_present() {
                counts.tables += 1;
                for page in part.iter() {
                    let leaf = self.settled(memory.entry(above.frame(), index(page, 1)).get());
                    let EntryState::Present { frame, .. } = leaf.state() else {
                        counts.swapped += u64::from(leaf.swap_slot().is_some());
                        continue;
                    };
                    counts.referenced += u64::from(leaf.has(Entry::ACCESSED) || leaf.age() == 0);
                    counts.lazy += u64::from(leaf.has(Entry::LAZY) && !leaf.has(Entry::DIRTY));
                    let borrowed = leaf.has(Entry::BORROWED);
                    *match above.has(Entry::SHARED) || memory.frames.mapping_count(frame) > 1 {
                        _ if borrowed => &mut counts.borrowed,
                        true => &mut counts.shared,
                        false => &mut counts.own,
                    } += 1;
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

    /// The swap slot that the page of an address is in, if it is in no frame of this space.
    #[must_use]
    pub fn swap_slot_of(&self, address: u64) -> Option<SwapSlot> {
        let inner = self.lock();
        match self.memory.leaf(inner.root?, address) {
            Leaf::Own(_, value) | Leaf::Shared(value) => self.settled(value).swap_slot(),
            Leaf::Huge(_) | Leaf::None => None,
        }
    }

    /// Bytes in all regions.
    #[must_use]
    pub fn virtual_bytes(&self) -> u64 {
        self.lock().regions.bytes().all
    }

    /// Bytes in private, writable regions that are no stack.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.lock().regions.bytes().data
    }

    /// Bytes in locked regions.
    #[must_use]
    pub fn locked_bytes(&self) -> u64 {
        self.lock().regions.bytes().locked
    }

    /// Faults that were served for this space, by class.
    #[must_use]
    pub fn faults_served(&self) -> [u64; FaultClass::ALL.len()] {
        self.lock().served
    }
}

impl SpaceStats {
    /// Frames that the space holds, alone or with others: those it maps as its own, and page tables.
    #[must_use]
    pub const fn held_pages(&self) -> u64 {
        self.resident_pages + self.table_pages
    }

    fn count(&mut self, leaf: Entry, in_shared_table: bool, shared: impl FnOnce(Entry) -> bool) {
        if !leaf.is_present() {
            self.swapped_pages += u64::from(leaf.swap_slot().is_some());
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
