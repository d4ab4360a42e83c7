//! Running ahead: who writes to untouched memory one page after the other gets several pages with one fault.
//!
//! A space remembers where it expects the next first write of a few streams. From the second fault on that comes where it
//! is expected, each gets twice as many pages as the one before, at most
//! [`MemoryConfig::run_ahead`](crate::MemoryConfig::run_ahead); any other gets its own page alone. Advice goes first: in a
//! region that is touched in no order nothing runs ahead, and in one that is touched in order every fault does.
//!
//! The pages are those behind the one that faulted, up to the first that has something, in the same region and the same
//! last-level table, and only while frames are plenty. Their entries are published in the hold of the lock that commits the
//! fault. They are neither accessed nor dirty, and may be dropped without being written until somebody writes to them
//! ([`Entry::LAZY`]): so pages that nobody needed cost no write when memory is short.

use faultline_trace::Kind;

use super::slot::RequestRef;
use crate::Memory;
use crate::address::PAGE_SIZE;
use crate::entry::Entry;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::region::Order;
use crate::space::Inner;
use crate::sync::atomic::AtomicU64;
use crate::sync::mutant;
use crate::tables::index;

/// Streams of a space that are remembered.
const STREAMS: usize = 4;

/// First writes that came one after the other.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The page behind those that the last fault got.
    next: u64,
    /// How many of its faults were where they were expected.
    hits: u32,
}

/// The streams of first writes of a space; guarded by its lock.
pub(crate) struct FirstWrites {
    streams: [Stream; STREAMS],
    /// The one that is forgotten next.
    oldest: u8,
}

impl FirstWrites {
    pub(crate) const fn new() -> Self {
        Self {
            // No page is there.
            streams: [Stream {
                next: u64::MAX,
                hits: 0,
            }; STREAMS],
            oldest: 0,
        }
    }

    /// The stream that this first write is of, a new one if of none.
    #[inline(always)]
    fn of(&mut self, page: u64) -> usize {
        if let Some(found) = self.streams.iter().position(|stream| stream.next == page) {
            self.streams[found].hits += 1;
            return found;
        }
        let oldest = usize::from(self.oldest);
        self.oldest = (self.oldest + 1) % STREAMS as u8;
        self.streams[oldest].hits = 0;
        oldest
    }
}

impl<P: Platform> Memory<P> {
    /// Maps the pages behind that of a first write, which has its own, as far as it runs ahead.
    #[inline(never)]
    pub(super) fn run_ahead(&'static self, inner: &mut Inner<P>, request: RequestRef<P>) {
        let page = request.page;
        if !inner.regions.has_summary(page) && !inner.regions.look_up(page) {
            return;
        }
        let found = inner.regions.last();
        let (order, end) = (found.order, found.start + found.size);
        let most = self.config.run_ahead;
        let stream = inner.first_writes.of(page);
        let size = match order {
            // The third fault is the first that runs ahead: two neighbours are often all that a small program writes.
            Order::Normal => most.min(1 << inner.first_writes.streams[stream].hits.saturating_sub(1).min(6)),
            Order::Sequential => most,
            Order::Random => 1,
        };
        let region = if mutant!(RunBeyondRegion) {
            size
        } else {
            (end - page) / PAGE_SIZE
        };
        let behind = match size.min(region) {
            1 => 1,
            size => self.map_ahead(inner, request, size as usize),
        };
        inner.first_writes.streams[stream].next = page + behind as u64 * PAGE_SIZE;
    }

    /// Maps pages behind that of a first write, so that it gets `size` of them at most. Returns how many pages behind its own
    /// the next first write is to be expected.
    fn map_ahead(&'static self, inner: &Inner<P>, request: RequestRef<P>, size: usize) -> usize {
        let Some(above) = inner.root.and_then(|root| self.level2(root, request.page)) else {
            return 1;
        };
        let entries = &self.table(above.get().frame())[index(request.page, 1)..];
        let is_free = |word: &&AtomicU64| EntryRef(word).get().is_empty() || mutant!(RunOverMarker);
        let free = entries.iter().take(size).skip(1).take_while(is_free);
        let most = free.clone().count();
        if !self.frames.has_plenty(most as u64) {
            return 1;
        }
        let flags = request.flags & !Entry::ACCESSED | Entry::LAZY;
        let mut mapped = 0;
        for word in free {
            let Ok(frame) = self.zeroed_for::<false>(request) else {
                break;
            };
            EntryRef(word).set(Entry::present(frame.map(), flags));
            mapped += 1;
        }
        self.counters.ahead.add(mapped as u64);
        self.trace_request(Kind::FaultAhead, request, request.page + PAGE_SIZE, mapped as u64);
        // What has something already will not be written for the first time.
        let next = entries.iter().skip(1 + mapped).take_while(|word| !is_free(word));
        1 + mapped + next.take(size).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_that_were_seen_last_are_remembered() {
        let mut writes = FirstWrites::new();
        let page = |stream| stream * 0x10_0000;
        for stream in 0..STREAMS as u64 {
            let at = writes.of(page(stream));
            assert_eq!(writes.streams[at].hits, 0);
            writes.streams[at].next = page(stream) + PAGE_SIZE;
        }
        for stream in 0..STREAMS as u64 {
            let at = writes.of(page(stream) + PAGE_SIZE);
            assert_eq!((at, writes.streams[at].hits), (stream as usize, 1));
        }
        let oldest = writes.of(page(9));
        assert_eq!((oldest, writes.streams[oldest].hits), (0, 0));
    }
}
