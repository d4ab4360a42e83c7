//! The hand: goes round over all pages that can leave, in every space, and then over the objects'.
//!
//! It visits one space after the other, in each the last-level tables of its regions. A table that several spaces share is
//! visited once a round, whichever of them the hand comes through first. What it costs grows with the tables and regions
//! that there are, not with how often pages are shared.

use faultline_fallible::Arc;

use super::batch::{BATCH, Item, Owner};
use super::visit::{Purpose, Visit};
use crate::Memory;
use crate::address::{PageRange, USER_END};
use crate::platform::Platform;
use crate::space::Space;

/// Where the hand is.
pub(super) struct Hand<P: Platform> {
    /// The space that it is in, and the address; in none before the first, and while it is at the objects.
    space: Option<Arc<Space<P>>>,
    at: u64,
    at_objects: bool,
    visit: Visit,
    /// The number of the round; 0 is that of a table that was never visited.
    round: u16,
}

/// What a step of the hand came to.
pub(super) struct HandStep {
    /// Everything was visited once more.
    pub(super) round_over: bool,
    /// Pages that were looked at.
    pub(super) scanned: u64,
}

/// Rounds are numbered modulo this.
const ROUNDS: u16 = crate::frame::TABLE_ROUNDS;

impl<P: Platform> Hand<P> {
    pub(super) const fn new() -> Self {
        Self {
            space: None,
            at: 0,
            at_objects: false,
            visit: Visit::new(Purpose::Round { number: 1, old: 2 }),
            round: 1,
        }
    }

    /// Moves on by a bounded step, or until the batch is full. Pages leave that were not accessed in `old` rounds.
    pub(super) fn step(&mut self, memory: &'static Memory<P>, batch: &Owner<P>, old: u64) -> HandStep {
        self.visit.purpose = Purpose::Round {
            number: self.round,
            old,
        };
        self.visit.next_step();
        let mut step = HandStep {
            round_over: false,
            scanned: 0,
        };
        while !self.visit.is_over() && !batch.lock().is_full() {
            if self.at_objects {
                if self.step_objects(memory, batch, &mut step) {
                    self.at_objects = false;
                    self.round = 1 + self.round % (ROUNDS - 1);
                    step.round_over = true;
                    break;
                }
                continue;
            }
            let Some(space) = self.space.take().or_else(|| memory.spaces.next(None)) else {
                self.at_objects = true;
                break;
            };
            let next = {
                let mut inner = space.lock();
                let mut batch = batch.lock();
                let range = PageRange::new_unchecked(self.at, USER_END);
                space.visit(&mut inner, range, &mut self.visit, &mut batch)
            };
            self.visit.spend(1);
            match next {
                Some(at) => (self.at, self.space) = (at, Some(space)),
                None => {
                    self.at = 0;
                    self.space = memory.spaces.next(Some(&space));
                    self.at_objects = self.space.is_none();
                    self.visit.leave_table();
                    if self.at_objects {
                        // What was taken out of tables is flushed first: the objects' pages have no other mapping then.
                        break;
                    }
                }
            }
        }
        step.scanned += self.visit.take_scanned();
        step
    }

    /// Moves on over the objects' pages; true when it has been at all of them.
    fn step_objects(&mut self, memory: &'static Memory<P>, batch: &Owner<P>, step: &mut HandStep) -> bool {
        self.visit.spend(8);
        let mut batch = batch.lock();
        batch.hold(memory);
        let mut leaving = memory.frames.leave();
        let result = memory.step_objects(BATCH, Some(&mut leaving), |slot, frame| {
            batch.push(memory, Item::Write(slot, frame));
            !batch.is_full()
        });
        drop(leaving);
        drop(batch);
        step.scanned += result.looked as u64;
        memory.note_freed(result.dropped);
        result.round
    }
}
