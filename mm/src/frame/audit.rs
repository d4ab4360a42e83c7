//! The slow check: every frame and every list against the counters.

use super::account::FrameAccount;
use super::allocator::FrameAllocator;
use super::buddy::{Buddy, MAX_ORDER};
use super::list::{FrameList, lock};
use super::meta::{FrameState, NONE, Word};
use super::pfn::Pfn;

/// The first thing that an [`audit`](FrameAllocator::audit) found wrong. Each one is a bug in the allocator, or memory
/// overwritten by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discrepancy {
    /// The equation does not hold.
    #[error("frames are not conserved: {0}")]
    NotConserved(FrameAccount),
    /// A counter differs from the number of frames in that state.
    #[error("{found} frames are {state}, but the counter says {counter}")]
    Count {
        /// The state.
        state: FrameState,
        /// Frames in it.
        found: u64,
        /// What the counter says.
        counter: u64,
    },
    /// The metadata of a frame holds no state, or a frame inside a block does not say so, or one outside does.
    #[error("the metadata of frame {frame} makes no sense")]
    Metadata {
        /// The frame.
        frame: Pfn,
    },
    /// A block is not aligned to its size, too large, or in a state in which there are no blocks.
    #[error("frame {frame} begins a block of order {order} that can't be")]
    Block {
        /// The first frame of the block.
        frame: Pfn,
        /// Its order.
        order: u8,
    },
    /// Two buddies are both free and were not merged.
    #[error("frame {frame} and its buddy of order {order} are both free")]
    Unmerged {
        /// The first frame of one of the blocks.
        frame: Pfn,
        /// Their order.
        order: u8,
    },
    /// A frame on a free list is not in the list's state, or linked wrongly.
    #[error("frame {frame} is on a list of {list} frames and should not be")]
    ListEntry {
        /// The frame.
        frame: Pfn,
        /// The state of the frames on that list.
        list: FrameState,
    },
    /// A list is longer or shorter than its length says, or runs in a circle.
    #[error("a list of {list} frames has {found} entries, but its length says {length}")]
    ListLength {
        /// The state of the frames on that list.
        list: FrameState,
        /// Entries found, no more than one too many.
        found: u64,
        /// What its length says.
        length: u64,
    },
}

const STATES: [FrameState; 8] = [
    FrameState::Free,
    FrameState::Cached,
    FrameState::Zeroed,
    FrameState::Reserved,
    FrameState::Mapped,
    FrameState::PageTable,
    FrameState::Pinned,
    FrameState::Quarantined,
];

impl FrameAllocator {
    /// Walks all metadata and all free lists, and compares them with each other and with the counters.
    ///
    /// For tests and debug builds: costs some ten instructions for each frame. Call it while no other CPU is inside the
    /// allocator.
    ///
    /// # Errors
    ///
    /// The first [`Discrepancy`] found.
    pub fn audit(&self) -> Result<FrameAccount, Discrepancy> {
        let account = self.account();
        if !account.is_conserved() {
            return Err(Discrepancy::NotConserved(account));
        }
        let found = self.count_states()?;
        for state in STATES {
            let (found, counter) = (found[state as usize], account.in_state(state));
            if found != counter {
                return Err(Discrepancy::Count { state, found, counter });
            }
        }
        for cpu in self.each_cpu() {
            self.audit_list(&lock(&cpu.cache), Word::CACHED, FrameState::Cached)?;
        }
        self.audit_list(&lock(&self.zeroed), Word::ZEROED, FrameState::Zeroed)?;
        self.audit_buddy(&lock(&self.buddy))?;
        Ok(account)
    }

    /// The number of frames in each state, by the metadata.
    fn count_states(&self) -> Result<[u64; 9], Discrepancy> {
        let mut counts = [0; 9];
        let mut next = 0;
        while let Some(meta) = self.metadata.get(next) {
            let (frame, word) = (Pfn::new(next as u32), meta.load());
            let state = word.state().ok_or(Discrepancy::Metadata { frame })?;
            let order = word.order();
            if order > 0 {
                let fits = order <= MAX_ORDER && next.is_multiple_of(1 << order);
                if !fits || !matches!(state, FrameState::Free | FrameState::Reserved) {
                    return Err(Discrepancy::Block { frame, order });
                }
            }
            let size = 1 << order;
            let block = self
                .metadata
                .get(next..next + size)
                .ok_or(Discrepancy::Block { frame, order })?;
            if let Some(stray) = block[1..].iter().position(|tail| !tail.load().is_tail()) {
                return Err(Discrepancy::Metadata {
                    frame: frame.offset(stray as u32 + 1),
                });
            }
            if state == FrameState::Free && order < MAX_ORDER {
                let buddy = self.metadata.get(next ^ size).map(|buddy| buddy.load());
                if buddy == Some(word) {
                    return Err(Discrepancy::Unmerged { frame, order });
                }
            }
            counts[state as usize] += size as u64;
            next += size;
        }
        Ok(counts)
    }

    fn audit_list(&self, list: &FrameList, word: Word, state: FrameState) -> Result<(), Discrepancy> {
        let length = u64::from(list.len());
        let (mut next, mut found) = (list.head(), 0);
        while next != NONE && found <= length {
            let frame = Pfn::new(next);
            match self.metadata.get(frame.index()) {
                Some(meta) if meta.load() == word => next = meta.next(),
                _ => return Err(Discrepancy::ListEntry { frame, list: state }),
            }
            found += 1;
        }
        if found != length {
            return Err(Discrepancy::ListLength {
                list: state,
                found,
                length,
            });
        }
        Ok(())
    }

    fn audit_buddy(&self, buddy: &Buddy) -> Result<(), Discrepancy> {
        let list = FrameState::Free;
        let mut found = 0;
        for order in 0..=MAX_ORDER {
            let (mut prev, mut next) = (NONE, buddy.head(order));
            if (next != NONE) != buddy.is_occupied(order) {
                return Err(Discrepancy::ListEntry {
                    frame: Pfn::new(next),
                    list,
                });
            }
            while next != NONE && found <= buddy.free() {
                let frame = Pfn::new(next);
                let meta = self
                    .metadata
                    .get(frame.index())
                    .ok_or(Discrepancy::ListEntry { frame, list })?;
                if meta.load() != Word::block(FrameState::Free, order) || meta.prev() != prev {
                    return Err(Discrepancy::ListEntry { frame, list });
                }
                found += 1 << order;
                (prev, next) = (next, meta.next());
            }
        }
        if found != buddy.free() {
            return Err(Discrepancy::ListLength {
                list,
                found,
                length: buddy.free(),
            });
        }
        Ok(())
    }
}
