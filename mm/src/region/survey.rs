//! What a call needs to know of a range before it changes it.

use core::iter;

use super::chunks::Position;
use super::{Region, RegionFlags, RegionMap};
use crate::address::PageRange;
use crate::backing::Backing;
use crate::error::VasError;

/// What a call needs to know of a range before it changes it, from one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survey {
    /// Where the first region stands that ends above the start of the range. Valid until the regions change.
    pub(crate) first: Option<Position>,
    /// Whether any region meets the range.
    pub(crate) any: bool,
    /// The first address of the range that no region holds.
    pub(crate) hole: Option<u64>,
    /// Whether a region of device memory meets the range.
    has_device: bool,
    /// Whether a region meets the range that may never become writable.
    has_read_only: bool,
    /// Whether one region reaches beyond the range at both ends.
    pub(crate) inside_one: bool,
}

impl Survey {
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole.
    #[inline]
    pub(crate) fn covered(&self) -> Result<(), VasError> {
        match self.hole {
            Some(address) => Err(VasError::NotMapped { address }),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn note(&mut self, region: &Region) {
        self.has_device |= is_device(region);
        self.has_read_only |= is_read_only(region);
    }

    /// The first region of device memory that meets the range.
    #[inline]
    pub(crate) fn device(&self, regions: &RegionMap) -> Option<PageRange> {
        self.has_device.then(|| regions.first_that(self.first, is_device))?
    }

    /// The first region that meets the range and may never become writable.
    #[inline]
    pub(crate) fn read_only(&self, regions: &RegionMap) -> Option<PageRange> {
        self.has_read_only
            .then(|| regions.first_that(self.first, is_read_only))?
    }
}

#[inline(always)]
fn is_device(region: &Region) -> bool {
    matches!(region.backing, Backing::Physical { .. })
}

#[inline(always)]
fn is_read_only(region: &Region) -> bool {
    region.flags.contains(RegionFlags::READ_ONLY)
}

impl RegionMap {
    /// Everything that a call wants to know of `range`, in one pass.
    #[inline(always)]
    pub(crate) fn survey(&self, range: PageRange) -> Survey {
        let first = self.position_above(range.start());
        let mut survey = Survey {
            first,
            any: false,
            hole: None,
            has_device: false,
            has_read_only: false,
            inside_one: false,
        };
        if let Some(at) = first {
            let (found, region) = self.view(at);
            if found.start() <= range.start() && range.end() <= found.end() {
                survey.any = true;
                survey.inside_one = found.start() < range.start() && range.end() < found.end();
                survey.note(region);
                return survey;
            }
        }
        self.survey_several(range, survey)
    }

    /// The first region from `first` on that is so.
    #[cold]
    fn first_that(&self, first: Option<Position>, is_so: fn(&Region) -> bool) -> Option<PageRange> {
        iter::successors(first, |&at| self.chunks.next(at))
            .find(|&at| is_so(self.chunks.region(at)))
            .map(|at| self.range(at))
    }

    /// As [`survey`](Self::survey), where the range is not within one region.
    #[inline(never)]
    fn survey_several(&self, range: PageRange, mut survey: Survey) -> Survey {
        let mut at = survey.first;
        let mut expected = range.start();
        while let Some(position) = at {
            let (found, region) = self.view(position);
            if found.start() >= range.end() {
                break;
            }
            survey.any = true;
            if found.start() > expected && survey.hole.is_none() {
                survey.hole = Some(expected);
            }
            survey.note(region);
            expected = found.end();
            if expected >= range.end() {
                break;
            }
            at = self.chunks.next(position);
        }
        if expected < range.end() && survey.hole.is_none() {
            survey.hole = Some(expected);
        }
        survey
    }

    /// The addresses around `range` that no region outside it holds; `first` is where the first region that ends above its
    /// start stands.
    pub(crate) fn alone_from(&self, range: PageRange, first: Option<Position>) -> Alone {
        let Some(first) = first else {
            return Alone {
                low: self.chunks.last().map_or(0, |at| self.chunks.region(at).end),
                high: u64::MAX,
            };
        };
        let low = if self.chunks.start(first) < range.start() {
            range.start()
        } else {
            self.chunks.previous(first).map_or(0, |at| self.chunks.region(at).end)
        };
        let mut next = Some(first);
        let mut steps = 0;
        while let Some(at) = next
            && self.chunks.region(at).end <= range.end()
        {
            // A few regions are walked over faster than they are looked up.
            steps += 1;
            next = if steps < 4 {
                self.chunks.next(at)
            } else {
                self.position_above(range.end())
            };
        }
        let high = next.map_or(u64::MAX, |at| self.chunks.start(at).max(range.end()));
        Alone { low, high }
    }

    /// The addresses around `range` that no region outside it holds.
    pub(crate) fn alone(&self, range: PageRange) -> Alone {
        self.alone_from(range, self.position_above(range.start()))
    }
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
