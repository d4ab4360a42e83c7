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
//! | Free    | `ENQUEUED` alone               |
//! | Queued  | `LIVE`, `ENQUEUED`             |
//! | Polling | `LIVE`, `ENQUEUED` after a wake|
//! | Waiting | `LIVE`                         |
//! | Done    | `DONE`, `ENQUEUED`; `LIVE` while a run queue has the slot |
//!
//! 1. `spawn` stores the word ([`State::spawn`]): the slot came from the free list and is its own. Published by the
//!    **Release** of the inbox that the task is pushed on.
//! 2. The executor pops the task and clears `ENQUEUED` *before* it polls ([`State::begin_poll`]). **AcqRel**: it
//!    acquires what every waker wrote before its wake, also of the wakers that found the bit set.
//! 3. A wake during the poll sets `ENQUEUED`; the task is pushed and is polled again.
//! 4. A wake of a waiting task ([`State::wake`]). **AcqRel**: it releases what the waker wrote to the poll that
//!    follows. A wake that finds `ENQUEUED` set must still be a read-modify-write: a mere load could be ordered before
//!    the waker's writes, the poll could then miss both the writes and the wake.
//! 5. The poll returned `Pending`: nothing is written; the state is what the wakes made of it.
//! 6. The poll returned `Ready`, or the task was cancelled: the future is gone ([`State::complete`]). The generation is
//!    bumped: no waker of the task matches any more. **AcqRel**: it releases the output to the join handle, and acquires
//!    the handle's registration of its waker.
//! 7. The last of the references below is released ([`State::release`], [`State::leave_queue`]); the slot goes to the free
//!    list. **AcqRel**: whoever frees the slot acquires what the other owners did to it.
//!
//! Two bits are references to the slot: `LIVE` (the executor's) and `HANDLE` (the join handle's). The slot is free when the
//! second of them goes. The output belongs to the executor until `DONE` is set, then to the join handle. The waker of
//! whoever awaits the handle belongs to the handle while `JOINER` is clear, and may only be read while it is set.
//!
//! # A slot that is in a queue has `LIVE`
//!
//! `ENQUEUED` is clear only while `LIVE` is set: a slot that is free, or done and in no queue, keeps `ENQUEUED` set, which
//! means that no waker can push it. Whoever sets the bit pushes the slot, and until it is popped again `LIVE` stays: if the
//! task ends with `ENQUEUED` set, because it was woken during its last poll, the executor keeps its reference and gives the
//! slot another poll function, which lets go of it ([`State::leave_queue`]) when it is popped. So a pop needs no look at
//! the state.
//!
//! # Wakers hold no reference
//!
//! A waker compares its generation with the word's, then sets `ENQUEUED`. These are two steps, so the task may end
//! between them; that does no harm in any state that the slot can be in by then:
//! * Free, or done and in no queue: the waker finds `ENQUEUED` set and pushes nothing.
//! * Done, and just popped: the bit was cleared, so the waker sets it and pushes the slot once more. `leave_queue` sees the
//!   bit and leaves `LIVE` to the next pop.
//! * Used by a new task: a spurious wake, which every future has to tolerate. The bit is clear only after the first
//!   `begin_poll` of the new task, whose release makes all that `spawn` wrote visible to the waker.
//!
//! # The word
//!
//! ```text
//!   63            48 47             32 31         17  16   15             0
//!  ┌────────────────┬─────────────────┬─────────────┬─────┬────────────────┐
//!  │                │ generation,     │ flags       │carry│ generation,    │
//!  │                │ high half       │             │     │ low half = tag │
//!  └────────────────┴─────────────────┴─────────────┴─────┴────────────────┘
//! ```
//!
//! The tag stands where a waker's word has it, so that one comparison of 16 bits finds a stale waker. The end of a task
//! adds 1; the next spawn takes a carry to the high half.

use crate::sync::{AtomicU64, Ordering};

/// The flags of the state word.
pub(crate) mod bits {
    /// The part of the generation that a waker carries.
    pub(crate) const TAG: u64 = 0xffff;
    /// The carry out of [`TAG`].
    pub(crate) const CARRY: u64 = 1 << 16;
    /// One in the part of the generation that wakers do not carry.
    pub(crate) const HIGH: u64 = 1 << 32;

    /// There is a future in the slot, or a run queue has it. Written by the CPU that runs the task only.
    pub(crate) const LIVE: u64 = 1 << 17;
    /// The task is in a run queue, or whoever set this bit is about to push it, or nobody may push the slot.
    pub(crate) const ENQUEUED: u64 = 1 << 18;
    /// A join handle exists.
    pub(crate) const HANDLE: u64 = 1 << 19;
    /// The task has ended, and the slot is not free yet; the output, if there is one, belongs to the join handle.
    pub(crate) const DONE: u64 = 1 << 20;
    /// The task has ended with an output, and the output is in the slot.
    pub(crate) const OUTPUT: u64 = 1 << 21;
    /// The task has ended because its poll panicked.
    pub(crate) const PANICKED: u64 = 1 << 22;
    /// The waker of the task that awaits the join handle is in the slot.
    pub(crate) const JOINER: u64 = 1 << 23;
    /// The task was queued because its timer is due, and has not been polled since. Set by the CPU that runs the task only.
    pub(crate) const DUE: u64 = 1 << 24;

    /// The references to the slot.
    pub(crate) const REFERENCES: u64 = LIVE | HANDLE;
    /// All flags.
    pub(crate) const FLAGS: u64 = 0x7fff << 17;
}
use bits::*;

/// The generation in a state word.
#[inline(always)]
pub(crate) const fn generation_of(word: u64) -> u32 {
    ((word >> 32 << 16) + (word & (TAG | CARRY))) as u32
}

/// The word with the next generation.
#[inline(always)]
const fn bump(word: u64) -> u64 {
    word + 1
}

/// The word with its carry moved to the high half.
#[cold]
const fn carry(word: u64) -> u64 {
    (word - CARRY + HIGH) & (0xffff * HIGH + HIGH - 1)
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
    /// Wake the joiner. A queue has the slot.
    WakeJoinerOfQueued,
    /// There is no join handle any more: drop the output, then complete without one.
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
        Self(AtomicU64::new(ENQUEUED))
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

    /// Transition 1. The caller owns the slot. `HANDLED` says whether there is a join handle. Returns the new word.
    #[inline(always)]
    pub(crate) fn spawn<const HANDLED: bool>(&self) -> u64 {
        let mut generation = self.load() & !FLAGS;
        if generation & CARRY != 0 {
            generation = carry(generation);
        }
        let word = generation | LIVE | ENQUEUED | if HANDLED { HANDLE } else { 0 };
        // Relaxed: the push on the inbox publishes it. A stray wake before this store finds `ENQUEUED` set, as does one
        // after it. (Loom's model does not order a store after a read-modify-write of another thread that it overwrites,
        // so for loom this is one, too.)
        #[cfg(not(loom))]
        self.0.store(word, Ordering::Relaxed);
        #[cfg(loom)]
        self.0.swap(word, Ordering::Relaxed);
        word
    }

    /// Transitions 3 and 4. `tag` has the generation of the waker in its [`TAG`] bits. `true` says that
    /// the caller must push the task.
    #[inline(always)]
    pub(crate) fn wake(&self, tag: u64) -> bool {
        self.load() as u16 == tag as u16
            // In this form it is one `lock bts`.
            && self.0.fetch_or(ENQUEUED, Ordering::AcqRel) & ENQUEUED == 0
    }

    /// Transition 2. The caller has popped the task from a run queue; [`LIVE`] keeps the slot.
    #[inline(always)]
    pub(crate) fn begin_poll(&self) {
        // The result is not used: this is one `lock and`.
        self.0.fetch_and(!(ENQUEUED | DUE), Ordering::AcqRel);
    }

    /// Notes that a task is queued because its timer is due. The caller has set its `ENQUEUED`.
    pub(crate) fn set_due(&self) {
        self.0.fetch_or(DUE, Ordering::Relaxed);
    }

    /// Whether the task is queued. The caller has changed the slot's queue before. **AcqRel**, a read-modify-write that
    /// writes nothing: a wake that sets `ENQUEUED` after it sees the new queue; one that was before it is seen here.
    pub(crate) fn is_queued(&self) -> bool {
        self.0.fetch_or(0, Ordering::AcqRel) & ENQUEUED != 0
    }

    /// Transitions 6 and 7 in one, for a task without an output that nobody else has a reference to. `false`, and nothing
    /// is changed, if that is not so.
    #[inline(always)]
    pub(crate) fn complete_alone(&self) -> bool {
        let word = self.load();
        let free = bump(word).wrapping_sub(LIVE).wrapping_add(ENQUEUED);
        word & FLAGS == LIVE
            && self
                .0
                .compare_exchange(word, free, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Transition 6. `OUTCOME` is [`OUTPUT`], [`PANICKED`] or 0 for a task without an output.
    #[inline(always)]
    pub(crate) fn complete<const OUTCOME: u64>(&self) -> Completed {
        let mut word = self.load();
        loop {
            debug_assert!(word & LIVE != 0 && word & DONE == 0);
            let done = bump(word) | DONE | ENQUEUED | OUTCOME;
            let queued = word & ENQUEUED != 0;
            let (next, completed) = if word & HANDLE == 0 {
                if OUTCOME & OUTPUT != 0 {
                    return Completed::Unclaimed;
                }
                if queued {
                    (done, Completed::Released)
                } else {
                    (without(done, LIVE), Completed::Freed)
                }
            } else if word & JOINER != 0 {
                let wake = if queued {
                    Completed::WakeJoinerOfQueued
                } else {
                    Completed::WakeJoiner
                };
                (done, wake)
            } else if queued {
                (done, Completed::Released)
            } else {
                (done & !LIVE, Completed::Released)
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

    /// Transition 7: releases one of the [`REFERENCES`] of a task that is [`DONE`].
    #[inline(always)]
    pub(crate) fn release(&self, reference: u64) -> Released {
        let mut word = self.load();
        loop {
            debug_assert!(word & reference != 0);
            match self
                .0
                .compare_exchange_weak(word, without(word, reference), Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return released(word, reference),
                Err(now) => word = now,
            }
        }
    }

    /// Transition 7 of a task that is [`DONE`] and was in a run queue: the caller has popped it and called
    /// [`State::begin_poll`]. Releases [`LIVE`], unless a waker that was overtaken by the end of the task has queued it
    /// again.
    pub(crate) fn leave_queue(&self) -> Released {
        let mut word = self.load();
        loop {
            debug_assert!(word & LIVE != 0 && word & DONE != 0);
            if word & ENQUEUED != 0 {
                return Released::Shared;
            }
            let next = without(word | ENQUEUED, LIVE);
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return released(word, LIVE),
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

/// The word of a task that is done after `reference` was released.
#[inline(always)]
const fn without(word: u64, reference: u64) -> u64 {
    match released(word, reference) {
        Released::Shared => word & !reference,
        Released::Freed => word & !FLAGS | ENQUEUED,
    }
}

/// Whether the slot is free after `reference` was released.
#[inline(always)]
const fn released(word: u64, reference: u64) -> Released {
    if word & REFERENCES & !reference == 0 {
        Released::Freed
    } else {
        Released::Shared
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
