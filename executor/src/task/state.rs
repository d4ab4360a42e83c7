//! The state word of a task: who may do what to its slot.
//!
//! ```text
//!              (1)                  (2)
//!   Free ───────────────► Queued ─────────────► Polling
//!    ▲                      ▲ ▲                   │ │ │
//!    │                   (4)│ │(3)                │ │ │
//!    │                      │ └───────────────────┘ │ │
//!    │                      │                    (5)│ │
//!    │                   Waiting ◄──────────────────┘ │
//!    │                                             (6)│
//!    │        (7)                                     ▼
//!    └─────────────────────────────────────────────  Done
//! ```
//!
//! | State   | bits                           |
//! |---------|--------------------------------|
//! | Free    | none                           |
//! | Queued  | `LIVE`, `ENQUEUED`             |
//! | Polling | `LIVE`, `ENQUEUED` after a wake|
//! | Waiting | `LIVE`                         |
//! | Done    | `DONE`; `ENQUEUED` after a wake during the last poll |
//!
//! 1. `spawn` stores the word: the slot came from the free list, so nobody else may write it. Published by the release
//!    of the inbox that the task is pushed on.
//! 2. The executor pops the task and clears `ENQUEUED` *before* it polls ([`State::begin_poll`]). **AcqRel**: it
//!    acquires what every waker wrote before its wake, also of the wakers that found the bit set.
//! 3. A wake during the poll sets `ENQUEUED`; the task is pushed and is polled again.
//! 4. A wake of a waiting task ([`State::wake`]). **AcqRel**: it releases what the waker wrote to the poll that
//!    follows. A wake that finds `ENQUEUED` set must still be a read-modify-write: a mere load could be ordered before
//!    the waker's writes, the poll could then miss both the writes and the wake.
//! 5. The poll returned `Pending`: nothing is written; the state is what the wakes made of it.
//! 6. The poll returned `Ready`, or the task was cancelled: the future is gone ([`State::complete`]). **AcqRel**: it
//!    releases the output to the join handle, and acquires the handle's registration of its waker.
//! 7. The last of the references below is released ([`State::release`]); the generation is bumped and the slot goes to
//!    the free list. **AcqRel**: whoever frees the slot acquires what the other owners did to it.
//!
//! Four bits are references to the slot: `LIVE` (the executor's, to the future), `ENQUEUED` (the run queue's),
//! `HANDLE` (the join handle's) and `MOVING` (the list of tasks that change their queue). The slot is free when all are
//! clear. A waker holds no reference: it compares the generation in the same read-modify-write that sets the bit.
//!
//! The output belongs to the executor until `DONE` is set, then to the join handle. The waker of whoever awaits the
//! handle belongs to the handle while `JOINER` is clear, and may only be read while it is set.
//!
//! In the word, the low half of the generation stands on top, where a waker's word has it too, the high half below it,
//! then the effective class, then the flags.

use crate::{
    Class,
    sync::{AtomicU64, Ordering},
};

/// The flags of the state word.
pub(crate) mod bits {
    /// There is a future in the slot. Written by the CPU that runs the task only.
    pub(crate) const LIVE: u64 = 1 << 0;
    /// The task is in a run queue, or whoever set this bit is about to push it.
    pub(crate) const ENQUEUED: u64 = 1 << 1;
    /// A join handle exists.
    pub(crate) const HANDLE: u64 = 1 << 2;
    /// The task is on the list of tasks that have to change their queue.
    pub(crate) const MOVING: u64 = 1 << 3;
    /// The future is to be dropped instead of polled.
    pub(crate) const CANCEL: u64 = 1 << 4;
    /// The task has ended; the output, if there is one, belongs to the join handle.
    pub(crate) const DONE: u64 = 1 << 5;
    /// The task has ended with an output, and the output is in the slot.
    pub(crate) const OUTPUT: u64 = 1 << 6;
    /// The task has ended because its poll panicked.
    pub(crate) const PANICKED: u64 = 1 << 7;
    /// The waker of the task that awaits the join handle is in the slot.
    pub(crate) const JOINER: u64 = 1 << 8;
    /// The references to the slot; it is free when none is set.
    pub(crate) const REFERENCES: u64 = LIVE | ENQUEUED | HANDLE | MOVING;

    /// Where the two bits of the effective class stand.
    pub(crate) const CLASS_SHIFT: u32 = 16;

    /// The part of the generation that a waker carries.
    pub(crate) const TAG: u64 = 0xffff << 48;
}
use bits::*;

/// The effective class in a state word.
#[inline(always)]
pub(crate) const fn class_of(word: u64) -> Class {
    Class::from_bits(word >> CLASS_SHIFT)
}

/// The generation in a state word.
#[inline(always)]
pub(crate) const fn generation_of(word: u64) -> u32 {
    ((word >> 32) as u32).rotate_left(16)
}

/// The part of a state word that holds this generation.
#[inline(always)]
const fn generation_bits(generation: u32) -> u64 {
    (generation.rotate_left(16) as u64) << 32
}

/// What is left to do after a task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    /// Nothing: the slot is released by its other owners.
    Released,
    /// The slot is free; it belongs to the caller, who gives it to the free list.
    Freed,
    /// Wake the joiner, then release [`LIVE`].
    WakeJoiner,
    /// There is no join handle any more: drop the output, then release [`LIVE`].
    Unclaimed,
}

/// What is left to do after a reference was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// Somebody else holds a reference.
    Shared,
    /// The slot is free; it belongs to the caller, who gives it to the free list.
    Freed,
}

/// The state word; the module has the diagram.
#[derive(Debug)]
pub(crate) struct State(AtomicU64);

impl State {
    /// A free slot of generation 0.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The whole word. Relaxed: callers use it for decisions that a read-modify-write confirms, or for reports.
    #[inline(always)]
    pub(crate) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The whole word, with everything that was written before it. For the join handle: it sees the output of a task
    /// that is [`DONE`].
    #[inline(always)]
    pub(crate) fn load_acquire(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The generation of the slot.
    #[inline(always)]
    pub(crate) fn generation(&self) -> u32 {
        generation_of(self.load())
    }

    /// Transition 1. The caller owns the slot. Relaxed: the push on the inbox publishes it.
    #[inline(always)]
    pub(crate) fn spawn(&self, class: Class) {
        let generation = self.load() & (u64::MAX << 32);
        let word = generation | (class as u64) << CLASS_SHIFT | LIVE | ENQUEUED | HANDLE;
        self.0.store(word, Ordering::Relaxed);
    }

    /// Transitions 3 and 4. `tag` has the generation of the waker in its [`TAG`] bits; `also` is set together with
    /// [`ENQUEUED`]. The class says that the caller must push the task on the inbox of that class.
    #[inline(always)]
    pub(crate) fn wake(&self, tag: u64, also: u64) -> Option<Class> {
        let mut word = self.load();
        loop {
            if (word ^ tag) & TAG != 0 || word & LIVE == 0 {
                return None;
            }
            match self
                .0
                .compare_exchange_weak(word, word | ENQUEUED | also, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if word & ENQUEUED == 0 => return Some(class_of(word)),
                Ok(_) => return None,
                Err(now) => word = now,
            }
        }
    }

    /// Transition 2. The caller has popped the task from a run queue and has seen [`LIVE`]. Returns the word from
    /// before.
    #[inline(always)]
    pub(crate) fn begin_poll(&self) -> u64 {
        // A subtraction and not an `and`: the processor has a fetching form of it, and the bit is known to be set.
        let word = self.0.fetch_sub(ENQUEUED, Ordering::AcqRel);
        debug_assert!(word & ENQUEUED != 0 && word & LIVE != 0);
        word
    }

    /// Transition 6. `outcome` is [`OUTPUT`], [`PANICKED`] or 0 for a cancelled task.
    #[inline(always)]
    pub(crate) fn complete(&self, outcome: u64) -> Completed {
        let mut word = self.load();
        loop {
            debug_assert!(word & LIVE != 0 && word & DONE == 0);
            let (next, completed) = if word & HANDLE == 0 {
                if outcome & OUTPUT != 0 {
                    return Completed::Unclaimed;
                }
                without(word, LIVE)
            } else if word & JOINER != 0 {
                (word | DONE | outcome, Completed::WakeJoiner)
            } else {
                ((word | DONE | outcome) & !LIVE, Completed::Released)
            };
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return completed,
                Err(now) => word = now,
            }
        }
    }

    /// Transition 7: releases one of the [`REFERENCES`].
    #[inline(always)]
    pub(crate) fn release(&self, reference: u64) -> Released {
        let mut word = self.load();
        loop {
            debug_assert!(word & reference != 0);
            let (next, completed) = without(word, reference);
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if completed == Completed::Freed => return Released::Freed,
                Ok(_) => return Released::Shared,
                Err(now) => word = now,
            }
        }
    }

    /// The join handle goes away. `Err` with the word if the task is [`DONE`]: then the handle owns the output, drops it
    /// and calls [`State::release`].
    pub(crate) fn drop_handle(&self) -> Result<(), u64> {
        let mut word = self.load_acquire();
        loop {
            if word & DONE != 0 {
                return Err(word);
            }
            // Not done, so `LIVE` is set, and this can't free the slot.
            match self
                .0
                .compare_exchange_weak(word, word & !HANDLE, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Sets or clears [`JOINER`] for the join handle. `Err` if the task is [`DONE`]: the output is there. **AcqRel**:
    /// setting it releases the waker to [`State::complete`].
    pub(crate) fn set_joiner(&self, registered: bool) -> Result<(), ()> {
        let mut word = self.load_acquire();
        loop {
            if word & DONE != 0 {
                return Err(());
            }
            let next = if registered { word | JOINER } else { word & !JOINER };
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }
}

/// The word after `reference` was released, and whether the slot is free then.
#[inline(always)]
const fn without(word: u64, reference: u64) -> (u64, Completed) {
    if word & REFERENCES & !reference != 0 {
        (word & !reference, Completed::Released)
    } else {
        (generation_bits(generation_of(word).wrapping_add(1)), Completed::Freed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn generation_round_trip() {
        for generation in [0, 1, 0xffff, 0x1_0000, 0x1234_5678, u32::MAX] {
            assert_eq!(generation_of(generation_bits(generation)), generation);
            assert_eq!(generation_bits(generation) & TAG, u64::from(generation as u16) << 48);
        }
    }

    #[test]
    fn the_last_reference_frees_the_slot_and_bumps_the_generation() {
        let state = State::new();
        state.spawn(Class::User);
        state.begin_poll();
        assert_eq!(state.complete(OUTPUT), Completed::Released);
        assert_eq!(state.drop_handle().map_err(|word| word & OUTPUT), Err(OUTPUT));
        assert_eq!(state.release(HANDLE), Released::Freed);
        assert_eq!(state.load() & REFERENCES, 0);
        assert_eq!(state.generation(), 1);
    }

    #[test]
    fn a_wake_during_the_last_poll_keeps_the_slot_until_the_queue_lets_go() {
        let state = State::new();
        state.spawn(Class::User);
        assert_eq!(state.drop_handle(), Ok(()));
        state.begin_poll();
        assert_eq!(state.wake(0, 0), Some(Class::User));
        assert_eq!(state.complete(0), Completed::Released);
        assert_eq!(state.wake(0, 0), None);
        assert_eq!(state.release(ENQUEUED), Released::Freed);
    }
}
