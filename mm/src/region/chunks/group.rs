//! The middle level of the sorted array: up to 64 chunks.

use arrayvec::ArrayVec;
use faultline_fallible::{AllocError, Box};

use super::NONE;
use super::chunk::{CHUNK, Chunk};

/// Chunks in a group.
pub(super) const GROUP: usize = 64;

/// A neighbour with so much room takes some of a full chunk.
const ROOM: usize = CHUNK / 4;

/// Some chunks that follow each other.
pub(super) struct Group {
    /// The first start of each chunk, then [`NONE`].
    pub(super) firsts: [u64; GROUP],
    /// What the largest gap below a region of each chunk is at most.
    pub(super) gaps: [u64; GROUP],
    pub(super) chunks: ArrayVec<Box<Chunk>, GROUP>,
}

impl Group {
    pub(super) fn try_new() -> Result<Box<Self>, AllocError> {
        Box::try_new_with(|| Self {
            firsts: [NONE; GROUP],
            gaps: [0; GROUP],
            chunks: ArrayVec::new_const(),
        })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    #[inline]
    pub(super) fn room(&self) -> usize {
        self.chunks.remaining_capacity()
    }

    /// Puts a chunk at `index`; its first start is not known yet.
    pub(super) fn insert(&mut self, index: usize, chunk: Box<Chunk>) {
        self.firsts.copy_within(index..GROUP - 1, index + 1);
        self.gaps.copy_within(index..GROUP - 1, index + 1);
        self.gaps[index] = 0;
        self.chunks.insert(index, chunk);
    }

    pub(super) fn remove(&mut self, index: usize) -> Box<Chunk> {
        self.firsts.copy_within(index + 1.., index);
        self.firsts[GROUP - 1] = NONE;
        self.gaps.copy_within(index + 1.., index);
        self.chunks.remove(index)
    }

    /// Moves the chunks from `index` on to the end of `other`, which has room for them.
    pub(super) fn move_to(&mut self, index: usize, other: &mut Group) {
        let (moved, end) = (self.len() - index, other.len());
        other.firsts[end..end + moved].copy_from_slice(&self.firsts[index..][..moved]);
        other.gaps[end..end + moved].copy_from_slice(&self.gaps[index..][..moved]);
        self.firsts[index..].fill(NONE);
        other.chunks.extend(self.chunks.drain(index..));
    }

    /// Takes over what the first start of a chunk is.
    #[inline]
    pub(super) fn note_first(&mut self, index: usize) {
        self.firsts[index] = self.chunks[index].starts[0];
    }

    /// Says that a gap below a region of a chunk is so large.
    #[inline]
    pub(super) fn note_gap(&mut self, index: usize, gap: u64) {
        if gap > self.gaps[index] {
            self.gaps[index] = gap;
        }
    }

    /// Moves some regions of the full chunk at `index` to a neighbour, if one has room; returns where the place `slot` is
    /// now.
    pub(super) fn spill(&mut self, index: usize, slot: usize) -> Option<(usize, usize)> {
        if let Some(next) = self.chunks.get(index + 1)
            && next.room() >= ROOM
        {
            let keep = CHUNK - next.room() / 2;
            return Some(self.spill_up(index, slot, keep));
        }
        let before = index.checked_sub(1)?;
        if self.chunks[before].room() < ROOM {
            return None;
        }
        let moved = self.chunks[before].room() / 2;
        let (low, high) = self.chunks.split_at_mut(index);
        high[0].move_down(moved, &mut low[before]);
        self.note_first(index);
        self.note_gap(before, self.gaps[index]);
        Some(if slot >= moved {
            (index, slot - moved)
        } else {
            (before, self.chunks[before].len() - moved + slot)
        })
    }

    /// Keeps `keep` regions of a full chunk and moves the others to the next; returns where the place `slot` is now.
    pub(super) fn spill_up(&mut self, index: usize, slot: usize, keep: usize) -> (usize, usize) {
        let (low, high) = self.chunks.split_at_mut(index + 1);
        low[index].move_up(keep, &mut high[0]);
        self.note_first(index + 1);
        self.note_gap(index + 1, self.gaps[index]);
        if slot <= keep {
            (index, slot)
        } else {
            (index + 1, slot - keep)
        }
    }

    /// Joins a chunk that lost a region with a neighbour, if half a chunk holds both.
    pub(super) fn join_around(&mut self, index: usize) {
        for low in [index, index.wrapping_sub(1)] {
            let (Some(a), Some(b)) = (self.chunks.get(low), self.chunks.get(low.wrapping_add(1))) else {
                continue;
            };
            if a.len() + b.len() <= CHUNK / 2 {
                let gap = self.gaps[low + 1];
                let mut upper = self.remove(low + 1);
                let moved = upper.len();
                upper.move_down(moved, &mut self.chunks[low]);
                self.note_gap(low, gap);
                return;
            }
        }
    }
}
