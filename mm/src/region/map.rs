//! The regions of a space, as the calls of the space change them.

use core::fmt;
use core::iter;

use super::chunks::{Chunks, Position};
use super::{Order, Region, RegionFlags, Summary};
use crate::address::PageRange;
use crate::error::VasError;

/// The regions of a space, by address. They never overlap, and neighbours that agree are one.
pub struct RegionMap {
    pub(super) chunks: Chunks,
    bytes: Bytes,
    /// The region that the last fault found: the next fault is most often in the same one. Size 0 after any change.
    last: Summary,
}

/// Bytes in the regions of a space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// In all.
    pub(crate) all: u64,
    /// In those that are private and writable and no stack (`RLIMIT_DATA`).
    pub(crate) data: u64,
    /// In those that are locked.
    pub(crate) locked: u64,
}

impl Bytes {
    #[inline]
    fn add(&mut self, region: &Region, size: u64) {
        self.all += size;
        self.data += size * u64::from(region.is_data());
        self.locked += size * u64::from(region.flags.contains(RegionFlags::LOCKED));
    }

    #[inline]
    fn take(&mut self, region: &Region, size: u64) {
        self.all -= size;
        self.data -= size * u64::from(region.is_data());
        self.locked -= size * u64::from(region.flags.contains(RegionFlags::LOCKED));
    }
}

impl Default for RegionMap {
    fn default() -> Self {
        Self {
            chunks: Chunks::new(),
            bytes: Bytes::default(),
            last: Summary::NONE,
        }
    }
}

impl RegionMap {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> Bytes {
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
        let Some(at) = self.position(address) else {
            return false;
        };
        let (range, region) = self.view(at);
        self.last = Summary::of(range, region, at);
        true
    }

    /// Whether the pages around `address` are touched in no order.
    #[inline(always)]
    pub(crate) fn is_random(&self, address: u64) -> bool {
        if self.has_summary(address) {
            return self.last.order == Order::Random;
        }
        self.look_for_random(address)
    }

    #[inline(never)]
    fn look_for_random(&self, address: u64) -> bool {
        self.find(address)
            .is_some_and(|(_, region)| region.order() == Order::Random)
    }

    #[inline]
    pub(super) fn range(&self, at: Position) -> PageRange {
        PageRange::new_unchecked(self.chunks.start(at), self.chunks.region(at).end)
    }

    #[inline]
    pub(super) fn view(&self, at: Position) -> (PageRange, &Region) {
        (self.range(at), self.chunks.region(at))
    }

    /// Where the region that holds `address` stands.
    #[inline]
    fn position(&self, address: u64) -> Option<Position> {
        let at = self.chunks.at_or_below(address)?;
        (address < self.chunks.region(at).end).then_some(at)
    }

    /// Where the first region that ends above `address` stands.
    #[inline(always)]
    pub(super) fn position_above(&self, address: u64) -> Option<Position> {
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

    /// As [`find`](Self::find), without a search where it is the region that the last fault found.
    #[inline(always)]
    pub(crate) fn find_summed(&self, address: u64) -> Option<(PageRange, &Region)> {
        let Summary { start, size, at, .. } = self.last;
        if self.has_summary(address) && self.chunks.stands(at, start) {
            let region = self.chunks.region(at);
            debug_assert_eq!(region.end, start + size);
            return Some((PageRange::new_unchecked(start, region.end), region));
        }
        self.find(address)
    }

    /// The first region that ends above `address`.
    pub(crate) fn first_above(&self, address: u64) -> Option<(PageRange, &Region)> {
        self.position_above(address).map(|at| self.view(at))
    }

    /// Where the region starts that comes `count` regions after the first one that ends above `address`. O(count).
    pub(crate) fn start_of_nth_above(&self, address: u64, count: usize) -> Option<u64> {
        let mut at = self.position_above(address)?;
        for _ in 0..count {
            at = self.chunks.next(at)?;
        }
        Some(self.chunks.start(at))
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
        self.iter_from(self.chunks.first())
    }

    /// The regions that meet `range`, in order, each as far as it is in it: one lookup, then a step each.
    pub(crate) fn iter_in(&self, range: PageRange) -> impl Iterator<Item = (PageRange, PageRange, &Region)> {
        self.iter_from(self.position_above(range.start()))
            .map_while(move |(found, region)| Some((found.intersection(range)?, found, region)))
    }

    fn iter_from(&self, first: Option<Position>) -> impl Iterator<Item = (PageRange, &Region)> {
        iter::successors(first, |&at| self.chunks.next(at)).map(|at| self.view(at))
    }

    /// Allocates what [`insert`](Self::insert) of a region that starts at `start` may need, after anything there was removed.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    #[inline]
    pub(crate) fn prepare_insert(&mut self, start: u64) -> Result<(), VasError> {
        let before = start.checked_sub(1).and_then(|below| self.chunks.at_or_below(below));
        Ok(self.chunks.prepare(&[(before, 2)])?)
    }

    /// Allocates what a [`remove`](Self::remove) or an [`update`](Self::update) of `range` may need.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    #[inline]
    pub(crate) fn prepare_change(&mut self, range: PageRange, first: Option<Position>) -> Result<(), VasError> {
        match first {
            None => Ok(()),
            Some(at) if range.end() <= self.chunks.region(at).end => Ok(self.chunks.prepare(&[(first, 2)])?),
            Some(_) => {
                let last = self.chunks.at_or_below(range.end() - 1);
                Ok(self.chunks.prepare(&[(first, 1), (last, 1)])?)
            }
        }
    }

    /// Allocates what moving `old` to `to` may need: to empty `to`, to record it, and to take `old` out.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    pub(crate) fn prepare_move(&mut self, old: PageRange, to: PageRange) -> Result<(), VasError> {
        let before = |range: PageRange| self.chunks.at_or_below(range.start().checked_sub(1)?);
        let places = [(before(to), 3), (before(old), 3)];
        Ok(self.chunks.prepare(&places)?)
    }

    /// Adds a region above all others, joining it with the last if they agree.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    pub(crate) fn append(&mut self, range: PageRange, mut region: Region) -> Result<(), VasError> {
        let last = self.chunks.last();
        debug_assert!(last.is_none_or(|at| self.chunks.region(at).end <= range.start()));
        self.chunks.prepare(&[(last, 1)])?;
        self.last = Summary::NONE;
        region.end = range.end();
        self.bytes.add(&region, range.size());
        if let Some(at) = last
            && self.chunks.region(at).end == range.start()
            && self.chunks.region(at).joins(self.chunks.start(at), &region)
        {
            self.chunks.set_end(at, region.end);
        } else {
            self.chunks.push(last, range.start(), region);
        }
        Ok(())
    }

    /// Adds a region where none is, as [`insert`](Self::insert), and allocates what that needs.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    #[inline]
    pub(crate) fn add(&mut self, range: PageRange, region: Region) -> Result<(), VasError> {
        let before = self.chunks.at_or_below(range.start());
        self.chunks.prepare(&[(before, 2)])?;
        self.insert_after(before, range, region);
        Ok(())
    }

    /// Adds a region where none is, and joins it with neighbours that agree. What was just mapped is most often touched
    /// next, so that the region is remembered as if a fault had found it. The caller has
    /// [prepared](Self::prepare_insert).
    pub(crate) fn insert(&mut self, range: PageRange, region: Region) {
        self.insert_after(self.chunks.at_or_below(range.start()), range, region);
    }

    /// As [`insert`](Self::insert); `before` is where the last region below the range stands.
    fn insert_after(&mut self, before: Option<Position>, range: PageRange, mut region: Region) {
        debug_assert!(self.first_overlap(range).is_none(), "{range} overlaps a region");
        self.last = Summary::NONE;
        region.end = range.end();
        self.bytes.add(&region, range.size());
        let after = match before {
            Some(at) => self.chunks.next(at),
            None => self.chunks.first(),
        };
        let after = after
            .filter(|&at| self.chunks.start(at) == range.end() && region.joins(range.start(), self.chunks.region(at)));
        if let Some(at) = before {
            let start = self.chunks.start(at);
            let previous = self.chunks.region(at);
            if previous.end == range.start() && previous.joins(start, &region) {
                self.chunks.set_end(at, region.end);
                match after {
                    Some(after) => {
                        self.join_below(after);
                    }
                    None => self.last = Summary::of(PageRange::new_unchecked(start, region.end), &region, at),
                }
                return;
            }
        }
        match after {
            Some(at) => {
                self.chunks.set_start(at, range.start());
                self.chunks.region_mut(at).backing = region.backing;
            }
            None => {
                let found = Summary::of(range, &region, Position::FIRST);
                let at = self.chunks.insert_after(before, range.start(), region);
                self.last = Summary { at, ..found };
            }
        }
    }

    /// Takes out everything in `range`; regions that reach beyond it keep their outer parts. `first` is where the first
    /// region that ends above its start stands. The caller has [prepared](Self::prepare_change).
    pub(crate) fn remove(&mut self, range: PageRange, first: Option<Position>) {
        if self.last.start < range.end() && range.start() < self.last.start + self.last.size {
            self.last = Summary::NONE;
        }
        let mut next = first;
        while let Some(at) = next {
            let found = self.range(at);
            let Some(cut) = found.intersection(range) else {
                return;
            };
            self.bytes.take(self.chunks.region(at), cut.size());
            if cut.end() == found.end() {
                if cut.start() == found.start() {
                    self.chunks.remove(at);
                } else {
                    self.chunks.set_end(at, cut.start());
                }
                if cut.end() == range.end() {
                    return;
                }
                next = self.position_above(range.start());
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
    fn split(&mut self, at: Position, address: u64) -> Position {
        let start = self.chunks.start(at);
        let region = self.chunks.region_mut(at);
        let back = Region {
            backing: region.backing.advanced(address - start),
            ..*region
        };
        region.end = address;
        self.chunks.insert_after(Some(at), address, back)
    }

    /// Changes every region in `range`, splitting those that reach beyond it; neighbours that then agree are joined. The
    /// caller has [prepared](Self::prepare_change). `first` is where the first region that ends above its start stands.
    pub(crate) fn update(&mut self, range: PageRange, first: Option<Position>, change: impl Fn(&mut Region)) {
        self.last = Summary::NONE;
        let mut next = first;
        while let Some(mut at) = next {
            let found = self.range(at);
            if found == range {
                self.change_region(at, &change);
                if self.abuts_below(at) {
                    at = self.join_below(at);
                }
                if let Some(above) = self.chunks.next(at)
                    && self.chunks.start(above) == range.end()
                    && self.chunks.region(at).protection == self.chunks.region(above).protection
                {
                    self.join_below(above);
                }
                return;
            }
            if found.start() >= range.end() {
                if found.start() == range.end() {
                    self.join_below(at);
                }
                return;
            }
            if found.start() < range.start() {
                next = Some(self.split(at, range.start()));
                continue;
            }
            if found.end() > range.end() {
                let back = self.split(at, range.end());
                at = self.chunks.previous(back).unwrap_or(at);
            }
            self.change_region(at, &change);
            at = self.join_below(at);
            next = self.chunks.next(at);
        }
    }

    #[inline(always)]
    fn change_region(&mut self, at: Position, change: &impl Fn(&mut Region)) {
        let size = self.range(at).size();
        let region = self.chunks.region_mut(at);
        self.bytes.take(region, size);
        change(region);
        self.bytes.add(region, size);
    }

    /// Whether the region at `at` starts where the one below it ends.
    #[inline(always)]
    fn abuts_below(&self, at: Position) -> bool {
        let below = self.chunks.previous(at);
        below.is_some_and(|below| self.chunks.region(below).end == self.chunks.start(at))
    }

    /// Joins the region at `at` with the one below it, if they agree; returns where it stands then.
    #[inline]
    fn join_below(&mut self, at: Position) -> Position {
        let Some(below) = self.chunks.previous(at) else {
            return at;
        };
        let (found, region) = self.view(below);
        if found.end() != self.chunks.start(at) || !region.joins(found.start(), self.chunks.region(at)) {
            return at;
        }
        // The end first: so the removal makes no gap.
        self.chunks.region_mut(below).end = self.chunks.region(at).end;
        self.chunks.remove(at);
        // The removal may have moved chunks.
        self.position(found.start()).unwrap_or(below)
    }

    /// Moves the start of the region at `start` down to `to`; what is between is free.
    pub(crate) fn grow_down(&mut self, start: u64, to: u64) {
        self.last = Summary::NONE;
        if let Some(at) = self.position(start) {
            self.bytes.add(self.chunks.region(at), start - to);
            self.chunks.set_start(at, to);
        }
    }

    /// The uppermost `size` bytes of the highest gap between `start` and `end` that holds them.
    pub(crate) fn highest_gap(&mut self, start: u64, end: u64, size: u64) -> Option<PageRange> {
        let found = self.chunks.highest_gap(start, end, size)?;
        Some(PageRange::new_unchecked(found, found + size))
    }

    /// How many regions reach into `range` from outside, or out of it.
    #[cold]
    pub(crate) fn cuts(&self, range: PageRange) -> usize {
        let is_inside = |address| self.find(address).is_some_and(|(found, _)| found.start() < address);
        usize::from(is_inside(range.start())) + usize::from(is_inside(range.end()))
    }

    /// How many more regions an operation on `range` can leave behind at most.
    pub(crate) const SPLIT_COST: usize = 2;
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
