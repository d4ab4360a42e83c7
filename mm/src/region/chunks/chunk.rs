//! The lowest level of the sorted array: up to sixteen regions.

use arrayvec::ArrayVec;
use faultline_fallible::{AllocError, Box};

use super::NONE;
use crate::region::Region;

/// Regions in a chunk: their starts fill two cache lines.
pub(super) const CHUNK: usize = 16;

/// Some regions that follow each other.
#[repr(C, align(64))]
pub(super) struct Chunk {
    /// The start of each region, then [`NONE`].
    pub(super) starts: [u64; CHUNK],
    pub(super) regions: ArrayVec<Region, CHUNK>,
}

impl Chunk {
    pub(super) fn try_new() -> Result<Box<Self>, AllocError> {
        Box::try_new_with(|| Self {
            starts: [NONE; CHUNK],
            regions: ArrayVec::new_const(),
        })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.regions.len()
    }

    #[inline]
    pub(super) fn room(&self) -> usize {
        self.regions.remaining_capacity()
    }

    pub(super) fn insert(&mut self, slot: usize, start: u64, region: Region) {
        self.starts.copy_within(slot..CHUNK - 1, slot + 1);
        self.starts[slot] = start;
        self.regions.insert(slot, region);
    }

    /// Adds a region behind the last one; there is room.
    #[inline]
    pub(super) fn push(&mut self, start: u64, region: Region) {
        self.starts[self.len()] = start;
        self.regions.push(region);
    }

    pub(super) fn remove(&mut self, slot: usize) -> Region {
        self.starts.copy_within(slot + 1.., slot);
        self.starts[CHUNK - 1] = NONE;
        self.regions.remove(slot)
    }

    /// Moves the regions from `slot` on to the front of `next`, which has room for them.
    pub(super) fn move_up(&mut self, slot: usize, next: &mut Chunk) {
        let moved = self.len() - slot;
        next.starts.copy_within(..CHUNK - moved, moved);
        next.starts[..moved].copy_from_slice(&self.starts[slot..][..moved]);
        self.starts[slot..].fill(NONE);
        next.regions.extend(self.regions.drain(slot..));
        next.regions.rotate_right(moved);
    }

    /// Moves the regions below `slot` to the end of `previous`, which has room for them.
    pub(super) fn move_down(&mut self, slot: usize, previous: &mut Chunk) {
        let end = previous.len();
        previous.starts[end..end + slot].copy_from_slice(&self.starts[..slot]);
        self.starts.copy_within(slot.., 0);
        self.starts[CHUNK - slot..].fill(NONE);
        previous.regions.extend(self.regions.drain(..slot));
    }
}
