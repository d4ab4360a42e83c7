//! A sorted array in chunks: the regions of a space by their first address.
//!
//! ```text
//!   firsts  [ 0x1000 | 0x9000 | 0x7f00 ... ]     the first address of each chunk, in one array
//!               │        │
//!   chunks   [starts | regions]  ...             up to 16 each; the starts stand together
//! ```
//!
//! A lookup is two binary searches, the first in an array of which 100,000 regions need some 60 KiB, the second in two
//! cache lines; then it reads one region. Nothing is chased from node to node, which is what a lookup in a large tree
//! spends its time on. An insertion moves half a chunk on average, and, once in many insertions, half of `firsts`.
//!
//! # Guarantees
//! - Starts ascend strictly, within a chunk and from chunk to chunk; no chunk is empty; `firsts[i]` is the first start of
//!   `chunks[i]`.
//! - A chunk is split only if both its neighbours are nearly full, so that memory is used by 2/3 at least under
//!   insertions in any order; after removals, neighbours that fit into half a chunk are joined.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;

use arrayvec::ArrayVec;

use super::Region;

/// Regions in a chunk: their starts fill two cache lines.
const CHUNK: usize = 16;

/// A neighbour with so much room takes some of a full chunk.
const ROOM: usize = CHUNK / 4;

/// The start of a region that is not there: above that of any.
const NONE: u64 = u64::MAX;

#[derive(Clone)]
#[repr(C, align(64))]
struct Chunk {
    /// The start of each region, then [`NONE`].
    starts: [u64; CHUNK],
    regions: ArrayVec<Region, CHUNK>,
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self {
            starts: [NONE; CHUNK],
            regions: ArrayVec::new_const(),
        })
    }

    #[inline]
    fn len(&self) -> usize {
        self.regions.len()
    }

    #[inline]
    fn room(&self) -> usize {
        self.regions.remaining_capacity()
    }

    fn insert(&mut self, slot: usize, start: u64, region: Region) {
        self.starts.copy_within(slot..CHUNK - 1, slot + 1);
        self.starts[slot] = start;
        self.regions.insert(slot, region);
    }

    fn remove(&mut self, slot: usize) -> Region {
        self.starts.copy_within(slot + 1.., slot);
        self.starts[CHUNK - 1] = NONE;
        self.regions.remove(slot)
    }

    /// Moves the regions from `slot` on to the front of `next`, which has room for them.
    fn move_up(&mut self, slot: usize, next: &mut Chunk) {
        let moved = self.len() - slot;
        next.starts.copy_within(..CHUNK - moved, moved);
        next.starts[..moved].copy_from_slice(&self.starts[slot..][..moved]);
        self.starts[slot..].fill(NONE);
        next.regions.extend(self.regions.drain(slot..));
        next.regions.rotate_right(moved);
    }

    /// Moves the regions below `slot` to the end of `previous`, which has room for them.
    fn move_down(&mut self, slot: usize, previous: &mut Chunk) {
        let end = previous.len();
        previous.starts[end..end + slot].copy_from_slice(&self.starts[..slot]);
        self.starts.copy_within(slot.., 0);
        self.starts[CHUNK - slot..].fill(NONE);
        previous.regions.extend(self.regions.drain(..slot));
    }
}

/// Where a region stands; valid until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    chunk: usize,
    slot: usize,
}

/// The sorted array.
#[derive(Clone, Default)]
pub(super) struct Chunks {
    firsts: Vec<u64>,
    #[allow(
        clippy::vec_box,
        reason = "a chunk is 1 KiB: the vector moves when a chunk is inserted"
    )]
    chunks: Vec<Box<Chunk>>,
    len: usize,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self {
            firsts: Vec::new(),
            chunks: Vec::new(),
            len: 0,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The last region that starts at or below `address`. O(log n).
    #[inline]
    pub(super) fn at_or_below(&self, address: u64) -> Option<Position> {
        let chunk = self.firsts.partition_point(|&first| first <= address).checked_sub(1)?;
        let starts = &self.chunks[chunk].starts;
        let slot = starts.partition_point(|&start| start <= address.min(NONE - 1)) - 1;
        Some(Position { chunk, slot })
    }

    /// The first region.
    #[inline]
    pub(super) fn first(&self) -> Option<Position> {
        (self.len > 0).then_some(Position { chunk: 0, slot: 0 })
    }

    /// The last region.
    pub(super) fn last(&self) -> Option<Position> {
        let chunk = self.chunks.len().checked_sub(1)?;
        let slot = self.chunks[chunk].len() - 1;
        Some(Position { chunk, slot })
    }

    /// The region after this one.
    #[inline]
    pub(super) fn next(&self, at: Position) -> Option<Position> {
        if at.slot + 1 < self.chunks[at.chunk].len() {
            Some(Position {
                slot: at.slot + 1,
                ..at
            })
        } else if at.chunk + 1 < self.chunks.len() {
            Some(Position {
                chunk: at.chunk + 1,
                slot: 0,
            })
        } else {
            None
        }
    }

    /// The region before this one.
    #[inline]
    pub(super) fn previous(&self, at: Position) -> Option<Position> {
        if at.slot > 0 {
            Some(Position {
                slot: at.slot - 1,
                ..at
            })
        } else {
            let chunk = at.chunk.checked_sub(1)?;
            Some(Position {
                chunk,
                slot: self.chunks[chunk].len() - 1,
            })
        }
    }

    #[inline]
    pub(super) fn start(&self, at: Position) -> u64 {
        self.chunks[at.chunk].starts[at.slot]
    }

    #[inline]
    pub(super) fn region(&self, at: Position) -> &Region {
        &self.chunks[at.chunk].regions[at.slot]
    }

    #[inline]
    pub(super) fn region_mut(&mut self, at: Position) -> &mut Region {
        &mut self.chunks[at.chunk].regions[at.slot]
    }

    /// Moves the start of a region, to an address that is above the region before and below the one after.
    pub(super) fn set_start(&mut self, at: Position, start: u64) {
        self.chunks[at.chunk].starts[at.slot] = start;
        if at.slot == 0 {
            self.firsts[at.chunk] = start;
        }
    }

    /// Inserts a region after the one at `after`, or before all; its start is between those of its neighbours.
    pub(super) fn insert_after(&mut self, after: Option<Position>, start: u64, region: Region) {
        self.len += 1;
        if self.chunks.is_empty() {
            self.firsts.push(start);
            self.chunks.push(Chunk::new());
        }
        let mut at = after.map_or(Position { chunk: 0, slot: 0 }, |after| Position {
            slot: after.slot + 1,
            ..after
        });
        if self.chunks[at.chunk].room() == 0 {
            at = self.make_room(at);
        }
        self.chunks[at.chunk].insert(at.slot, start, region);
        if at.slot == 0 {
            self.firsts[at.chunk] = start;
        }
    }

    /// Takes the region at `at` out.
    pub(super) fn remove(&mut self, at: Position) -> Region {
        self.len -= 1;
        let chunk = &mut self.chunks[at.chunk];
        let region = chunk.remove(at.slot);
        if chunk.len() == 0 {
            self.firsts.remove(at.chunk);
            self.chunks.remove(at.chunk);
            return region;
        }
        if at.slot == 0 {
            self.firsts[at.chunk] = chunk.starts[0];
        }
        if self.chunks.len() > 1 {
            self.join_around(at.chunk);
        }
        region
    }

    /// Makes room in a full chunk, before or at `at.slot`; returns where that place is now.
    #[cold]
    fn make_room(&mut self, at: Position) -> Position {
        let index = at.chunk;
        if let Some(next) = self.chunks.get(index + 1)
            && next.room() >= ROOM
        {
            let keep = CHUNK - next.room() / 2;
            return self.spill_up(at, keep);
        }
        if let Some(before) = index.checked_sub(1)
            && self.chunks[before].room() >= ROOM
        {
            let moved = self.chunks[before].room() / 2;
            let (low, high) = self.chunks.split_at_mut(index);
            high[0].move_down(moved, &mut low[before]);
            self.firsts[index] = self.chunks[index].starts[0];
            return if at.slot >= moved {
                Position {
                    slot: at.slot - moved,
                    ..at
                }
            } else {
                Position {
                    chunk: before,
                    slot: self.chunks[before].len() - moved + at.slot,
                }
            };
        }
        self.chunks.insert(index + 1, Chunk::new());
        self.firsts.insert(index + 1, 0);
        self.spill_up(at, CHUNK / 2)
    }

    /// Keeps `keep` regions of a full chunk and moves the others to the next; returns where `at` is now.
    fn spill_up(&mut self, at: Position, keep: usize) -> Position {
        let (low, high) = self.chunks.split_at_mut(at.chunk + 1);
        low[at.chunk].move_up(keep, &mut high[0]);
        self.firsts[at.chunk + 1] = high[0].starts[0];
        if at.slot <= keep {
            at
        } else {
            Position {
                chunk: at.chunk + 1,
                slot: at.slot - keep,
            }
        }
    }

    /// Joins a chunk that lost a region with a neighbour, if half a chunk holds both.
    fn join_around(&mut self, index: usize) {
        for low in [index, index.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (self.chunks.get(low), self.chunks.get(low.wrapping_add(1))) else {
                continue;
            };
            if a.len() + b.len() <= CHUNK / 2 {
                let mut upper = self.chunks.remove(low + 1);
                self.firsts.remove(low + 1);
                let moved = upper.len();
                upper.move_down(moved, &mut self.chunks[low]);
                return;
            }
        }
    }
}
