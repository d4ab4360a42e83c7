//! How much of a call one step does.

use super::{Inner, Space};
use crate::address::{HUGE_PAGE_SIZE, PageRange};
use crate::platform::Platform;
use crate::tables::walk_bound;

impl<P: Platform> Space<P> {
    /// The front part of `range` that one step does. It ends with the range, or where the span of a last-level table ends: so
    /// cutting a call into parts cuts no table in two, and no part but the first and the last needs memory to split one.
    pub(super) fn part(&self, inner: &Inner<P>, range: PageRange) -> PageRange {
        let (regions, tables) = self.memory.config.step;
        let mut end = range.end();
        if let Some(limit) = inner.regions.start_of_nth_above(range.start(), regions) {
            end = end.min(limit.next_multiple_of(HUGE_PAGE_SIZE));
        }
        let front = PageRange::new_unchecked(range.start(), end);
        let Some(root) = inner.root else { return front };
        // Only where regions are: a walk over all that could be mapped would cost more than most calls.
        let mut left = walk_bound(tables);
        let mut at = front.start();
        while at < front.end()
            && let Some((region, _)) = inner.regions.first_above(at)
            && region.start() < front.end()
        {
            let spans = PageRange::spanning(
                region.start().max(at),
                region.end().next_multiple_of(HUGE_PAGE_SIZE).min(front.end()),
            );
            if let Some(end) = self.memory.end_of_bounded_walk(root, spans, &mut left)
                && end < front.end()
            {
                return PageRange::new_unchecked(range.start(), end);
            }
            at = spans.end();
        }
        front
    }

    /// What is left of `range` after `part`.
    pub(super) fn rest(range: PageRange, part: PageRange) -> Option<PageRange> {
        (part.end() < range.end()).then(|| PageRange::new_unchecked(part.end(), range.end()))
    }
}
