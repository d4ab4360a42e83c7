//! The regions of a space, as the calls of the space change them.

use core::fmt;
use core::iter;

use super::chunks::{Chunks, Position};
use super::{Region, RegionFlags, Summary};
use crate::address::PageRange;
use crate::backing::Backing;
use crate::error::VasError;

/// The regions of a space, by address. They never overlap, and neighbours that agree are one.
#[derive(Clone)]
pub struct RegionMap {
    chunks: Chunks,
    /// Bytes in all regions.
    bytes: u64,
    /// The region that the last fault found: the next fault is most often in the same one. Size 0 after any change.
    last: Summary,
}

impl Default for RegionMap {
    fn default() -> Self {
        Self {
            chunks: Chunks::new(),
            bytes: 0,
            last: Summary::NONE,
        }
    }
}

/// What a call needs to know of a range before it changes it, from one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survey {
    /// Whether any region meets the range.
    pub(crate) any: bool,
    /// The first address of the range that no region holds.
    pub(crate) hole: Option<u64>,
    /// The first region of device memory that meets the range.
    pub(crate) device: Option<PageRange>,
    /// The first region that meets the range and may never become writable.
    pub(crate) read_only: Option<PageRange>,
    /// Whether one region reaches beyond the range at both ends.
    pub(crate) inside_one: bool,
    /// The addresses around the range that no region outside it holds.
    pub(crate) alone: Alone,
}

impl Survey {
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole.
    pub(crate) fn covered(&self) -> Result<(), VasError> {
        match self.hole {
            Some(address) => Err(VasError::NotMapped { address }),
            None => Ok(()),
        }
    }
}

impl RegionMap {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether [`last`](Self::last) answers for `address`.
    #[inline(always)]
    pub(crate) fn has_summary(&self, address: u64) -> bool {
        address.wrapping_sub(self.last.start) < self.last.size
    }

    /// The region that the last fault found.
    #[inline(always)]
    pub(crate) fn last(&self) -> &Summary {
        &self.last
    }

    /// Finds the region of `address` and remembers it; false if there is none. O(log n).
    pub(crate) fn look_up(&mut self, address: u64) -> bool {
        let Some((range, region)) = self.find(address) else {
            return false;
        };
        self.last = Summary::of(range, region);
        true
    }

    #[inline]
    fn range(&self, at: Position) -> PageRange {
        PageRange::new_unchecked(self.chunks.start(at), self.chunks.region(at).end)
    }

    #[inline]
    fn view(&self, at: Position) -> (PageRange, &Region) {
        (self.range(at), self.chunks.region(at))
    }

    /// Where the region that holds `address` stands.
    #[inline]
    fn position(&self, address: u64) -> Option<Position> {
        let at = self.chunks.at_or_below(address)?;
        (address < self.chunks.region(at).end).then_some(at)
    }

    /// Where the first region that ends above `address` stands.
    fn position_above(&self, address: u64) -> Option<Position> {
        match self.chunks.at_or_below(address) {
            Some(at) if address < self.chunks.region(at).end => Some(at),
            Some(at) => self.chunks.next(at),
            None => self.chunks.first(),
        }
    }

    /// The region that holds `address`: O(log n), clones nothing.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<(PageRange, &Region)> {
        self.position(address).map(|at| self.view(at))
    }

    /// The first region that ends above `address`.
    pub(crate) fn first_above(&self, address: u64) -> Option<(PageRange, &Region)> {
        self.position_above(address).map(|at| self.view(at))
    }

    /// The last region that starts below `address`.
    pub(crate) fn last_below(&self, address: u64) -> Option<(PageRange, &Region)> {
        let at = self.chunks.at_or_below(address.checked_sub(1)?)?;
        Some(self.view(at))
    }

    /// The first region that intersects `range`.
    pub(crate) fn first_overlap(&self, range: PageRange) -> Option<PageRange> {
        let (found, _) = self.first_above(range.start())?;
        (found.start() < range.end()).then_some(found)
    }

    /// All regions, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PageRange, &Region)> {
        iter::successors(self.chunks.first(), |&at| self.chunks.next(at)).map(|at| self.view(at))
    }

    /// Everything that a call wants to know of `range`, in one pass.
    pub(crate) fn survey(&self, range: PageRange) -> Survey {
        let before = self.chunks.at_or_below(range.start());
        let mut low = 0;
        let mut at = match before {
            None => self.chunks.first(),
            Some(at) => {
                let (found, _) = self.view(at);
                if found.start() < range.start() {
                    low = found.end().min(range.start());
                } else if let Some(previous) = self.chunks.previous(at) {
                    low = self.chunks.region(previous).end;
                }
                if range.start() < found.end() {
                    Some(at)
                } else {
                    self.chunks.next(at)
                }
            }
        };
        let mut survey = Survey {
            any: false,
            hole: None,
            device: None,
            read_only: None,
            inside_one: false,
            alone: Alone { low, high: u64::MAX },
        };
        let mut expected = range.start();
        while let Some(position) = at {
            let (found, region) = self.view(position);
            if found.start() >= range.end() {
                survey.alone.high = found.start();
                break;
            }
            survey.any = true;
            if found.start() > expected && survey.hole.is_none() {
                survey.hole = Some(expected);
            }
            if survey.device.is_none() && matches!(region.backing, Backing::Physical { .. }) {
                survey.device = Some(found);
            }
            if survey.read_only.is_none() && region.flags.contains(RegionFlags::READ_ONLY) {
                survey.read_only = Some(found);
            }
            expected = found.end();
            if expected > range.end() {
                survey.inside_one = found.start() < range.start();
                survey.alone.high = range.end();
                break;
            }
            at = self.chunks.next(position);
        }
        if expected < range.end() && survey.hole.is_none() {
            survey.hole = Some(expected);
        }
        survey
    }

    /// Adds a region where none is, and joins it with neighbours that agree.
    pub(crate) fn insert(&mut self, range: PageRange, mut region: Region) {
        debug_assert!(self.first_overlap(range).is_none(), "{range} overlaps a region");
        self.last = Summary::NONE;
        region.end = range.end();
        self.bytes += range.size();
        let before = self.chunks.at_or_below(range.start());
        let after = match before {
            Some(at) => self.chunks.next(at),
            None => self.chunks.first(),
        };
        let after = after
            .filter(|&at| self.chunks.start(at) == range.end() && region.joins(range.start(), self.chunks.region(at)));
        if let Some(at) = before {
            let start = self.chunks.start(at);
            let previous = self.chunks.region_mut(at);
            if previous.end == range.start() && previous.joins(start, &region) {
                previous.end = region.end;
                if let Some(after) = after {
                    self.join_below(after);
                }
                return;
            }
        }
        match after {
            Some(at) => {
                self.chunks.set_start(at, range.start());
                self.chunks.region_mut(at).backing = region.backing;
            }
            None => self.chunks.insert_after(before, range.start(), region),
        }
    }

    /// Takes out everything in `range`; regions that reach beyond it keep their outer parts.
    pub(crate) fn remove(&mut self, range: PageRange) {
        self.last = Summary::NONE;
        while let Some(at) = self.position_above(range.start()) {
            let found = self.range(at);
            let Some(cut) = found.intersection(range) else {
                return;
            };
            self.bytes -= cut.size();
            if cut.end() == found.end() {
                if cut.start() == found.start() {
                    self.chunks.remove(at);
                } else {
                    self.chunks.region_mut(at).end = cut.start();
                }
                continue;
            }
            // The region goes on above the range: nothing is left to take out after it.
            let region = self.chunks.region_mut(at);
            let back = region.backing.advanced(cut.end() - found.start());
            if cut.start() == found.start() {
                region.backing = back;
                self.chunks.set_start(at, cut.end());
            } else {
                let back = Region {
                    backing: back,
                    ..*region
                };
                region.end = cut.start();
                self.chunks.insert_after(Some(at), cut.end(), back);
            }
            return;
        }
    }

    /// Splits the region at `at` at `address`, which is inside it; returns where the part above stands.
    fn split(&mut self, at: Position, address: u64) -> Option<Position> {
        let start = self.chunks.start(at);
        let region = self.chunks.region_mut(at);
        let back = Region {
            backing: region.backing.advanced(address - start),
            ..*region
        };
        region.end = address;
        self.chunks.insert_after(Some(at), address, back);
        self.position(address)
    }

    /// Changes every region in `range`, splitting those that reach beyond it; neighbours that then agree are joined.
    pub(crate) fn update(&mut self, range: PageRange, mut change: impl FnMut(&mut Region)) {
        self.last = Summary::NONE;
        let mut next = self.position_above(range.start());
        while let Some(mut at) = next {
            let found = self.range(at);
            if found.start() >= range.end() {
                if found.start() == range.end() {
                    self.join_below(at);
                }
                return;
            }
            if found.start() < range.start() {
                next = self.split(at, range.start());
                continue;
            }
            if found.end() > range.end()
                && let Some(back) = self.split(at, range.end())
                && let Some(front) = self.chunks.previous(back)
            {
                at = front;
            }
            change(self.chunks.region_mut(at));
            at = self.join_below(at);
            next = self.chunks.next(at);
        }
    }

    /// Joins the region at `at` with the one below it, if they agree; returns where it stands then.
    #[inline]
    fn join_below(&mut self, at: Position) -> Position {
        let Some(below) = self.chunks.previous(at) else {
            return at;
        };
        let (found, region) = self.view(below);
        let joins = found.end() == self.chunks.start(at) && region.joins(found.start(), self.chunks.region(at));
        if !joins {
            return at;
        }
        let end = self.chunks.remove(at).end;
        // The removal may have moved chunks.
        let below = self.position(found.start()).unwrap_or(below);
        self.chunks.region_mut(below).end = end;
        below
    }

    /// Moves the start of the region at `start` down to `to`; what is between is free.
    pub(crate) fn grow_down(&mut self, start: u64, to: u64) {
        self.last = Summary::NONE;
        if let Some(at) = self.position(start) {
            self.bytes += start - to;
            self.chunks.set_start(at, to);
        }
    }

    /// The uppermost `size` bytes of the highest gap between `start` and `end` that holds them. O(regions above it).
    pub(crate) fn highest_gap(&self, start: u64, mut end: u64, size: u64) -> Option<PageRange> {
        let mut below = self.chunks.at_or_below(end.checked_sub(1)?);
        loop {
            let bottom = below.map_or(start, |at| self.chunks.region(at).end.max(start));
            if bottom < end && end - bottom >= size {
                return Some(PageRange::new_unchecked(end - size, end));
            }
            let at = below?;
            let first = self.chunks.start(at);
            if first <= start {
                return None;
            }
            end = first.min(end);
            below = self.chunks.previous(at);
        }
    }

    /// How many more regions an operation on `range` can leave behind at most.
    pub(crate) const SPLIT_COST: usize = 2;
}

/// A stretch of addresses in which only one range has regions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone {
    low: u64,
    high: u64,
}

impl Alone {
    /// Everything: no region is left.
    pub(crate) const EVERYTHING: Self = Self { low: 0, high: u64::MAX };

    /// Everything below `end`, where what was mapped is gone.
    pub(crate) const fn below(end: u64) -> Self {
        Self { low: 0, high: end }
    }

    /// Whether the `size` bytes from `start`, the span of a table, lie in it: then the table serves nobody else.
    #[inline]
    pub(crate) fn holds_span(self, start: u64, size: u64) -> bool {
        self.low <= start && start + size <= self.high
    }
}

impl fmt::Debug for RegionMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(range, region)| (range, (region.protection, &region.backing, region.flags))),
            )
            .finish()
    }
}
