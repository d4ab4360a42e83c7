//! A sorted array in three levels: the regions of a space by their first address.
//!
//! ```text
//!   firsts  [ 0x1000 | 0x7f00 ... ]              the first address of each group, in one array
//!               │
//!   groups  [firsts | gaps | chunks]  ...        up to 64 chunks each
//!               │
//!   chunks  [starts | regions]  ...              up to 16 regions each; the starts stand together
//! ```
//!
//! A lookup is three binary searches in arrays of numbers, the last in two cache lines; then it reads one region. An
//! insertion moves half a chunk on average and now and then half a group, however many regions there are.
//!
//! # Guarantees
//! - Starts ascend strictly, within a chunk and from chunk to chunk; no chunk and no group is empty; each `firsts` names
//!   the first start below it.
//! - A chunk is split only if both its neighbours in its group are nearly full; after removals, neighbours that fit into
//!   half a chunk (or half a group) are joined.
//! - **Gaps.** The gap of a region is the free stretch below it, down to the end of the region before. `gaps` says for
//!   each chunk and each group what the largest gap of its regions is *at most*: what makes a gap larger raises it, what
//!   makes one smaller leaves it alone, and a search that finds nothing below it lowers it to what it saw. So changes pay
//!   nothing, and [`highest_gap`](Chunks::highest_gap) skips what can't hold a mapping. `searched` remembers in the same
//!   way above which address there is no room for how much.
//! - **Memory.** Only [`prepare`](Chunks::prepare) allocates. What follows it finds its chunks among the spare ones.

mod chunk;
mod gaps;
mod group;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use faultline_fallible::{AllocError, Box, Vec};

use self::chunk::{CHUNK, Chunk};
use self::gaps::Searched;
use self::group::{GROUP, Group};
use super::Region;

/// The start of a region that is not there: above that of any.
const NONE: u64 = u64::MAX;

/// Most regions that one preparation is for.
pub(super) const MOST: usize = 6;

/// Emptied chunks that are kept: what was prepared may have been meant for them.
const KEPT: usize = 2;

/// Where a region stands; valid until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    group: u32,
    chunk: u16,
    slot: u16,
}

impl Position {
    pub(super) const FIRST: Self = Self {
        group: 0,
        chunk: 0,
        slot: 0,
    };

    #[inline(always)]
    const fn at(group: usize, chunk: usize, slot: usize) -> Self {
        Self {
            group: group as u32,
            chunk: chunk as u16,
            slot: slot as u16,
        }
    }

    #[inline(always)]
    const fn indices(self) -> (usize, usize, usize) {
        (self.group as usize, self.chunk as usize, self.slot as usize)
    }
}

/// The sorted array.
pub(super) struct Chunks {
    firsts: Vec<u64>,
    gaps: Vec<u64>,
    groups: Vec<Box<Group>>,
    len: usize,
    searched: Searched,
    spare_chunks: ArrayVec<Box<Chunk>, MOST>,
    spare_groups: ArrayVec<Box<Group>, MOST>,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self {
            firsts: Vec::new(),
            gaps: Vec::new(),
            groups: Vec::new(),
            len: 0,
            searched: Searched::NOTHING,
            spare_chunks: ArrayVec::new_const(),
            spare_groups: ArrayVec::new_const(),
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn chunk(&self, at: Position) -> &Chunk {
        let (group, chunk, _) = at.indices();
        &self.groups[group].chunks[chunk]
    }

    /// Whether the region that starts at `start` stands at `at`, which may have been valid before insertions and removals.
    #[inline(always)]
    pub(super) fn stands(&self, at: Position, start: u64) -> bool {
        let (group, chunk, slot) = at.indices();
        let chunk = self.groups.get(group).and_then(|group| group.chunks.get(chunk));
        // Behind the last region, starts are `NONE`.
        chunk.is_some_and(|chunk| chunk.starts.get(slot) == Some(&start))
    }

    /// The last region that starts at or below `address`. O(log n).
    #[inline]
    pub(super) fn at_or_below(&self, address: u64) -> Option<Position> {
        let group = self.firsts.partition_point(|&first| first <= address).checked_sub(1)?;
        let address = address.min(NONE - 1);
        let found = &self.groups[group];
        // Most spaces have few chunks.
        let chunk = found.firsts[..found.len()].partition_point(|&first| first <= address) - 1;
        let slot = found.chunks[chunk].starts.partition_point(|&start| start <= address) - 1;
        Some(Position::at(group, chunk, slot))
    }

    /// The first region.
    #[inline]
    pub(super) fn first(&self) -> Option<Position> {
        (self.len > 0).then_some(Position::FIRST)
    }

    /// The last region.
    #[inline]
    pub(super) fn last(&self) -> Option<Position> {
        let group = self.groups.len().checked_sub(1)?;
        Some(self.last_of_group(group))
    }

    #[inline]
    fn last_of_group(&self, group: usize) -> Position {
        let chunk = self.groups[group].len() - 1;
        Position::at(group, chunk, self.groups[group].chunks[chunk].len() - 1)
    }

    /// The region after this one.
    #[inline]
    pub(super) fn next(&self, at: Position) -> Option<Position> {
        let (group, chunk, slot) = at.indices();
        let here = &self.groups[group];
        if slot + 1 < here.chunks[chunk].len() {
            Some(Position::at(group, chunk, slot + 1))
        } else if chunk + 1 < here.len() {
            Some(Position::at(group, chunk + 1, 0))
        } else if group + 1 < self.groups.len() {
            Some(Position::at(group + 1, 0, 0))
        } else {
            None
        }
    }

    /// The region before this one.
    #[inline]
    pub(super) fn previous(&self, at: Position) -> Option<Position> {
        let (group, chunk, slot) = at.indices();
        if slot > 0 {
            Some(Position::at(group, chunk, slot - 1))
        } else if chunk > 0 {
            Some(Position::at(
                group,
                chunk - 1,
                self.groups[group].chunks[chunk - 1].len() - 1,
            ))
        } else {
            Some(self.last_of_group(group.checked_sub(1)?))
        }
    }

    #[inline]
    pub(super) fn start(&self, at: Position) -> u64 {
        self.chunk(at).starts[usize::from(at.slot)]
    }

    #[inline]
    pub(super) fn region(&self, at: Position) -> &Region {
        &self.chunk(at).regions[usize::from(at.slot)]
    }

    /// A region, to change what leaves every gap as it is or makes it smaller.
    #[inline]
    pub(super) fn region_mut(&mut self, at: Position) -> &mut Region {
        let (group, chunk, slot) = at.indices();
        &mut self.groups[group].chunks[chunk].regions[slot]
    }

    /// Moves the end of a region, to an address that is above its start and not above the region after.
    #[inline]
    pub(super) fn set_end(&mut self, at: Position, end: u64) {
        let region = self.region_mut(at);
        let shrinks = end < region.end;
        region.end = end;
        if shrinks {
            self.note_gap_above(at, end);
        }
    }

    /// Moves the start of a region, to an address that is above the region before and below the one after.
    pub(super) fn set_start(&mut self, at: Position, start: u64) {
        let (group, chunk, slot) = at.indices();
        let here = &mut self.groups[group];
        let grows = start > here.chunks[chunk].starts[slot];
        here.chunks[chunk].starts[slot] = start;
        if slot == 0 {
            here.firsts[chunk] = start;
            if chunk == 0 {
                self.firsts[group] = start;
            }
        }
        if grows {
            self.note_gap(at, self.end_before(at));
        }
    }

    /// The end of the region before this one, or 0.
    #[inline]
    fn end_before(&self, at: Position) -> u64 {
        self.previous(at).map_or(0, |before| self.region(before).end)
    }

    /// Says that the gap of a region may have grown; `below` is where it starts.
    #[inline]
    fn note_gap(&mut self, at: Position, below: u64) {
        let (group, chunk, _) = at.indices();
        let start = self.start(at);
        let gap = start - below;
        self.searched.note_gap(start, gap);
        self.groups[group].note_gap(chunk, gap);
        if gap > self.gaps[group] {
            self.gaps[group] = gap;
        }
    }

    /// Says that the free stretch above a region, or above where it was, now starts at `below`.
    #[inline]
    fn note_gap_above(&mut self, at: Position, below: u64) {
        match self.next(at) {
            Some(next) => self.note_gap(next, below),
            None => self.searched = Searched::NOTHING,
        }
    }

    /// Allocates what insertions may need: so many after each of these regions (before all, for `None`), in any order, with
    /// removals between them. Nothing else allocates.
    ///
    /// # Errors
    /// [`AllocError`]; the regions are as they were.
    #[inline]
    pub(super) fn prepare(&mut self, places: &[(Option<Position>, usize)]) -> Result<(), AllocError> {
        let (mut chunks, mut groups) = (0, 0);
        // The places may be in one chunk.
        let all: usize = places.iter().map(|&(_, count)| count).sum();
        for &(after, count) in places {
            let (group, chunk, _) = after.unwrap_or(Position::FIRST).indices();
            let Some(here) = self.groups.get(group) else {
                chunks += 1;
                groups += 1;
                continue;
            };
            if here.chunks[chunk].room() < all {
                chunks += count;
                // Insertions at the other places may fall into the same group.
                groups += usize::from(here.room() < MOST);
            }
        }
        if chunks <= self.spare_chunks.len() && groups <= self.spare_groups.len() {
            return Ok(());
        }
        self.allocate(chunks, groups)
    }

    #[cold]
    fn allocate(&mut self, chunks: usize, groups: usize) -> Result<(), AllocError> {
        debug_assert!(chunks <= MOST && groups <= MOST, "more than one preparation is for");
        self.firsts.try_reserve(groups)?;
        self.gaps.try_reserve(groups)?;
        self.groups.try_reserve(groups)?;
        while self.spare_chunks.len() < chunks {
            self.spare_chunks.push(Chunk::try_new()?);
        }
        while self.spare_groups.len() < groups {
            self.spare_groups.push(Group::try_new()?);
        }
        Ok(())
    }

    /// Inserts a region after the one at `after`, or before all; its start is between those of its neighbours. The caller has
    /// [prepared](Self::prepare).
    pub(super) fn insert_after(&mut self, after: Option<Position>, start: u64, region: Region) -> Position {
        self.len += 1;
        if self.groups.is_empty() {
            let chunk = self.take_chunk();
            let mut group = self.take_group();
            group.insert(0, chunk);
            self.insert_group(0, group);
        }
        let below = after.map_or(0, |after| self.region(after).end);
        let mut at = after.map_or(Position::FIRST, |after| Position {
            slot: after.slot + 1,
            ..after
        });
        if self.chunk(at).room() == 0 {
            at = self.make_room(at);
        }
        let (group, chunk, slot) = at.indices();
        self.groups[group].chunks[chunk].insert(slot, start, region);
        if slot == 0 {
            self.note_firsts(group, chunk);
        }
        self.note_gap(at, below);
        at
    }

    /// Adds a region behind the last one, which is at `last`. The caller has [prepared](Self::prepare).
    #[inline]
    pub(super) fn push(&mut self, last: Option<Position>, start: u64, region: Region) {
        match last {
            Some(at) if self.chunk(at).room() > 0 => {
                let (group, chunk, slot) = at.indices();
                let below = self.region(at).end;
                self.len += 1;
                self.groups[group].chunks[chunk].push(start, region);
                self.note_gap(Position::at(group, chunk, slot + 1), below);
            }
            _ => {
                self.insert_after(last, start, region);
            }
        }
    }

    /// Takes over the first start of a chunk whose first region changed.
    #[inline]
    fn note_firsts(&mut self, group: usize, chunk: usize) {
        self.groups[group].note_first(chunk);
        if chunk == 0 {
            self.firsts[group] = self.groups[group].firsts[0];
        }
    }

    /// Takes the region at `at` out.
    pub(super) fn remove(&mut self, at: Position) -> Region {
        self.note_gap_above(at, self.end_before(at));
        self.len -= 1;
        let (index, chunk, slot) = at.indices();
        let group = &mut self.groups[index];
        let region = group.chunks[chunk].remove(slot);
        if group.chunks[chunk].len() == 0 {
            let emptied = group.remove(chunk);
            if self.spare_chunks.len() < KEPT {
                self.spare_chunks.push(emptied);
            }
        } else {
            if slot == 0 {
                group.note_first(chunk);
            }
            group.join_around(chunk);
        }
        if group.len() == 0 {
            let emptied = self.remove_group(index);
            if self.spare_groups.is_empty() {
                self.spare_groups.push(emptied);
            }
        } else {
            self.firsts[index] = group.firsts[0];
            if self.groups.len() > 1 && self.groups[index].len() <= GROUP / 4 {
                self.join_groups(index);
            }
        }
        region
    }

    /// Makes room in a full chunk, before or at `at.slot`; returns where that place is now.
    #[cold]
    fn make_room(&mut self, at: Position) -> Position {
        let (mut index, mut chunk, slot) = at.indices();
        if let Some((chunk, slot)) = self.groups[index].spill(chunk, slot) {
            return Position::at(index, chunk, slot);
        }
        if self.groups[index].room() == 0 {
            let mut upper = self.take_group();
            self.groups[index].move_to(GROUP / 2, &mut upper);
            self.insert_group(index + 1, upper);
            self.gaps[index + 1] = self.gaps[index];
            if chunk >= GROUP / 2 {
                index += 1;
                chunk -= GROUP / 2;
            }
        }
        let new = self.take_chunk();
        let group = &mut self.groups[index];
        group.insert(chunk + 1, new);
        let (chunk, slot) = group.spill_up(chunk, slot, CHUNK / 2);
        Position::at(index, chunk, slot)
    }

    fn take_chunk(&mut self) -> Box<Chunk> {
        self.spare_chunks.pop().expect("the insertion was prepared")
    }

    fn take_group(&mut self) -> Box<Group> {
        self.spare_groups.pop().expect("the insertion was prepared")
    }

    fn insert_group(&mut self, index: usize, group: Box<Group>) {
        let reserved = self
            .firsts
            .try_insert(index, group.firsts[0])
            .and_then(|()| self.gaps.try_insert(index, 0))
            .and_then(|()| self.groups.try_insert(index, group));
        reserved.expect("the insertion was prepared");
    }

    fn remove_group(&mut self, index: usize) -> Box<Group> {
        self.firsts.remove(index);
        self.gaps.remove(index);
        self.groups.remove(index)
    }

    /// Joins a small group with a neighbour, if half a group holds both.
    #[cold]
    fn join_groups(&mut self, index: usize) {
        for low in [index, index.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (self.groups.get(low), self.groups.get(low.wrapping_add(1))) else {
                continue;
            };
            if a.len() + b.len() <= GROUP / 2 {
                let gap = self.gaps[low + 1];
                let mut upper = self.remove_group(low + 1);
                upper.move_to(0, &mut self.groups[low]);
                self.gaps[low] = self.gaps[low].max(gap);
                return;
            }
        }
    }
}
