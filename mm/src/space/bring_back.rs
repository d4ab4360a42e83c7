//! Pages in swap slots that come back without a fault, when the swap area is switched off.

use super::fork::EVERYTHING;
use super::turn::pause;
use super::{Inner, Space};
use crate::address::{HUGE_PAGE_SIZE, PageRange};
use crate::entry::Entry;
use crate::frame::TableLock;
use crate::platform::Platform;
use crate::tables::index;

impl<P: Platform> Space<P> {
    /// Maps every page whose swap slot has a frame, in steps. Pages with markers are left to their faults.
    pub(crate) async fn map_cached(&self) {
        let mut left = Some(EVERYTHING);
        while let Some(range) = left {
            {
                let mut inner = self.lock();
                let part = self.part(&inner, range);
                self.map_cached_part(&mut inner, part);
                left = Self::rest(range, part);
            }
            pause().await;
        }
    }

    fn map_cached_part(&self, inner: &mut Inner<P>, part: PageRange) {
        let Some(root) = inner.root else { return };
        let memory = self.memory;
        let mut at = part.start();
        while at < part.end()
            && let Some((found, region)) = inner.regions.first_above(at)
            && let Some(range) = found.intersection(PageRange::new_unchecked(at, part.end()))
        {
            at = range.end();
            let flags = Entry::flags_for(region.protection);
            memory.for_each_level2(root, range, |start, entry2| {
                let above = entry2.get();
                if above.has(Entry::HUGE) {
                    return;
                }
                let table = above.frame();
                let _lock = if above.has(Entry::SHARED) {
                    memory.frames.lock_table(table)
                } else {
                    TableLock::NONE
                };
                let span = PageRange::new_unchecked(start.max(range.start()), range.end().min(start + HUGE_PAGE_SIZE));
                let indices = index(span.start(), 1)..index(span.end() - 1, 1) + 1;
                memory.for_each_used(table, indices, |_, leaf, entry| {
                    // What some CPU can still write to comes in the next round.
                    if let Some(slot) = entry.swap_slot()
                        && !memory.may_be_written_elsewhere(slot)
                        && let Some(frame) = memory.frames.take_cached(slot)
                    {
                        leaf.set(memory.returned_entry(frame, flags));
                    }
                });
            });
        }
    }
}
