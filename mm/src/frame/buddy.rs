//! The buddy lists: free blocks of `1 << order` frames, each aligned to its size.
//!
//! The lists are doubly linked through the metadata of the blocks' first frames, so a buddy found free is taken out
//! of the middle of its list in O(1) and merged. A block is found by its head's word alone (`Free` with the order);
//! the other frames of a block are tails. Two free buddies are never left unmerged.

use super::list::FrameList;
use super::meta::{FrameMeta, FrameState, NONE, Word};

/// The order of the largest block: 1024 frames, 4 MiB.
pub const MAX_ORDER: u8 = 10;

const ORDERS: usize = MAX_ORDER as usize + 1;

#[derive(Debug)]
pub(super) struct Buddy {
    heads: [u32; ORDERS],
    /// One bit for each order whose list is not empty.
    occupied: u32,
    /// Frames in all lists.
    free: u64,
    /// Frames handed out as runs, less those returned as runs. Wraps, as [`FrameList::out`] does.
    pub out: u64,
}

impl Buddy {
    pub const fn new() -> Self {
        Self {
            heads: [NONE; ORDERS],
            occupied: 0,
            free: 0,
            out: 0,
        }
    }

    pub fn free(&self) -> u64 {
        self.free
    }

    pub fn head(&self, order: u8) -> u32 {
        self.heads[usize::from(order)]
    }

    pub fn is_occupied(&self, order: u8) -> bool {
        self.occupied & 1 << order != 0
    }

    fn insert(&mut self, metadata: &[FrameMeta], head: u32, order: u8) {
        let list = &mut self.heads[usize::from(order)];
        let meta = &metadata[head as usize];
        meta.store(Word::block(FrameState::Free, order));
        meta.set_prev(NONE);
        meta.set_next(*list);
        if let Some(second) = metadata.get(*list as usize) {
            second.set_prev(head);
        }
        *list = head;
        self.occupied |= 1 << order;
    }

    fn unlink(&mut self, metadata: &[FrameMeta], meta: &FrameMeta, order: u8) {
        let (prev, next) = (meta.prev(), meta.next());
        if let Some(after) = metadata.get(next as usize) {
            after.set_prev(prev);
        }
        match metadata.get(prev as usize) {
            Some(before) => before.set_next(next),
            None => {
                self.heads[usize::from(order)] = next;
                if next == NONE {
                    self.occupied &= !(1 << order);
                }
            }
        }
    }

    /// Frees a block that the caller owns and merges it with its buddies as far as they are free: at most
    /// [`MAX_ORDER`] steps.
    pub fn put(&mut self, metadata: &[FrameMeta], mut head: u32, mut order: u8) {
        self.free += 1 << order;
        while order < MAX_ORDER {
            let buddy = head ^ 1 << order;
            let Some(meta) = metadata.get(buddy as usize) else {
                break;
            };
            if meta.load() != Word::block(FrameState::Free, order) {
                break;
            }
            self.unlink(metadata, meta, order);
            if buddy < head {
                metadata[head as usize].store(Word::TAIL);
                head = buddy;
            } else {
                meta.store(Word::TAIL);
            }
            order += 1;
        }
        self.insert(metadata, head, order);
    }

    /// Frees the frames `first..end`, all tails, in the largest blocks that their alignment allows.
    pub fn put_range(&mut self, metadata: &[FrameMeta], mut first: u32, end: u32) {
        while first < end {
            let order = first
                .trailing_zeros()
                .min((end - first).ilog2())
                .min(u32::from(MAX_ORDER)) as u8;
            self.put(metadata, first, order);
            first += 1 << order;
        }
    }

    /// Takes a block of `1 << order` frames, the smallest that fits split down, and returns its first frame. The
    /// caller owns the block and must set its head's word; the other frames are tails.
    pub fn take(&mut self, metadata: &[FrameMeta], order: u8) -> Option<u32> {
        let fitting = self.occupied >> order;
        if fitting == 0 {
            return None;
        }
        let mut size = order + fitting.trailing_zeros() as u8;
        let head = self.heads[usize::from(size)];
        self.unlink(metadata, &metadata[head as usize], size);
        while size > order {
            size -= 1;
            self.insert(metadata, head + (1 << size), size);
        }
        self.free -= 1 << order;
        Some(head)
    }

    /// Moves at least `1 << order` frames and less than twice as many, or as many as there are, to a list of single
    /// frames in the state that `word` says. The smallest blocks go first and whole, so that large ones are split
    /// last and misaligned rests don't travel along.
    pub fn take_singles(&mut self, metadata: &[FrameMeta], order: u8, word: Word, list: &mut FrameList) {
        let enough = list.len() + (1 << order);
        while list.len() < enough && self.occupied != 0 {
            if self.is_occupied(0) {
                self.take_from_singles(metadata, enough - list.len(), word, list);
                continue;
            }
            let size = order.min(self.occupied.trailing_zeros() as u8);
            let Some(head) = self.take(metadata, size) else { return };
            list.push_block(metadata, head, 1 << size, word);
        }
    }

    /// Moves up to `count` blocks of one frame, linked as they are: what fragmented memory is made of.
    fn take_from_singles(&mut self, metadata: &[FrameMeta], count: u32, word: Word, list: &mut FrameList) {
        let first = self.heads[0];
        let (mut last, mut next, mut taken) = (first, first, 0);
        while taken < count
            && let Some(meta) = metadata.get(next as usize)
        {
            meta.store(word);
            (last, next) = (next, meta.next());
            taken += 1;
        }
        self.heads[0] = next;
        match metadata.get(next as usize) {
            Some(rest) => rest.set_prev(NONE),
            None => self.occupied &= !1,
        }
        self.free -= u64::from(taken);
        list.push_linked(metadata, first, last, taken);
    }

    /// Moves up to `count` frames from a list of single frames back. Neighbours that leave the list one after the
    /// other, as frames do that were freed in the order of their addresses, come back as blocks.
    pub fn put_singles(&mut self, metadata: &[FrameMeta], count: u32, list: &mut FrameList) {
        // No frame has the number 0, so nothing is a neighbour of the empty run.
        let (mut first, mut end) = (0, 0);
        for _ in 0..count {
            let Some((pfn, meta)) = list.pop(metadata) else { break };
            meta.store(Word::TAIL);
            let number = pfn.number();
            if number + 1 == first {
                first = number;
            } else if number == end {
                end += 1;
            } else {
                self.put_range(metadata, first, end);
                (first, end) = (number, number + 1);
            }
        }
        self.put_range(metadata, first, end);
    }
}
