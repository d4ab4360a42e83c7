//! Reclaim: making frames free before they are needed.
//!
//! # The way of a page
//!
//! ```text
//!                (1) old              (2) flushed             (3) written
//!  mapped ──────────────► left ─────────────────► safe ─────────────────► free
//!    ▲                     │                        │                       ▲
//!    │                     └─── a fault maps it ◄───┤                       │
//!    └──────────────────────────────┘               └───────────────────────┘
//!                                                     (3) clean: nothing to write
//! ```
//!
//! 1. The [hand] visits a last-level table. An entry whose page was accessed since the last visit gets age 0, another
//!    gets older; an old one leaves. The entry of an anonymous page names a swap slot from then on. That of a page of an
//!    object is empty: the object still has the page.
//! 2. A [batch] of at most 64 pages ends with one flush of everything on every CPU
//!    ([`Memory::flush_everywhere`]). Until it is over, a CPU may still write to a page that has left. So all frames that
//!    come free for whatever reason are on [hold](crate::FrameAllocator::hold); a change of a space flushes everything,
//!    because what it finds absent may have left just now; and a fault on a page that is to be written waits, so that
//!    nobody copies it, or takes it for the only one, too early.
//! 3. **The write starts after the flush**, in one transfer for the batch: slots are given in the order of addresses, so
//!    neighbours in memory are neighbours on the device. Frames are free when it is over, or at once where the slot has the
//!    page already. A page that could not be written stays in its frame.
//!
//! # Who does what
//!
//! The [task](Reclaimer) sleeps until frames are few ([`Watermarks`]), or a batch needs somebody to go on
//! with it. It fills batches of its own, three at most in different stages. `madvise` fills batches too, and whoever awaits
//! one may be killed at any time: what has left is then finished by the task. Nothing here allocates.
//!
//! # Locks
//!
//! Space, shared table, batch, slots. No lock is held while a transfer is started, or while a future waits.

mod advice;
mod batch;
mod hand;
mod leave;
mod punch;
mod task;
mod visit;

pub use task::Reclaimer;

use crate::Memory;
use crate::fault::ParkedFaults;
use crate::frame::Watermarks;
use crate::platform::Platform;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

pub(crate) use batch::Batches;

/// What the reclaimer has done lately.
#[derive(Default)]
pub(crate) struct Progress {
    /// Frames freed since the start.
    freed: AtomicU64,
    /// Full rounds since the last frame was freed.
    fruitless: AtomicU64,
    /// Pages that have left and are not written or dropped yet.
    leaving: AtomicUsize,
    /// Batches that may have taken pages out of tables since their last flush everywhere: those that hold frames.
    unflushed: AtomicUsize,
    /// Faults that wait until such a batch is flushed.
    parked: Mutex<ParkedFaults>,
    /// A fault has found no frame since the task last looked.
    asked: AtomicBool,
}

impl Progress {
    /// Whether some CPU may use a page that is in no table any more. To be asked after the tables were looked at: whoever
    /// takes a page out says so before.
    #[inline(always)]
    pub(crate) fn has_unflushed(&self) -> bool {
        // Pairs with the release of the entry that was taken out.
        fence(Ordering::Acquire);
        self.unflushed.load(Ordering::Relaxed) != 0
    }

    /// The faults that wait for a flush.
    pub(crate) fn with_parked<R>(&self, f: impl FnOnce(&mut ParkedFaults) -> R) -> R {
        f(&mut self.parked.lock())
    }
}

/// Whether it makes sense to wait for the reclaimer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimState {
    /// Something can be reclaimed at all: there is a swap area, or an object whose pages are on a disk.
    pub is_possible: bool,
    /// Full rounds over all memory since a frame was freed.
    pub fruitless_rounds: u64,
    /// Pages that have left their tables and will be free when they are written.
    pub leaving: usize,
    /// A fault has found no frame, and the task has not looked since: the rounds may be those of an older shortage.
    pub is_asked: bool,
}

impl ReclaimState {
    /// Whether nobody should wait any longer: all memory was visited twice and nothing was freed, nothing is under way, and
    /// the task knows of everybody who waits.
    #[must_use]
    pub const fn is_hopeless(&self) -> bool {
        !self.is_possible || self.fruitless_rounds >= 2 && self.leaving == 0 && !self.is_asked
    }
}

impl<P: Platform> Memory<P> {
    /// The task that makes frames free: spawn it once, in a class below the fault service. It never ends.
    pub fn reclaimer(&'static self) -> Reclaimer<P> {
        Reclaimer::new(self)
    }

    /// Whether it makes sense to wait for the reclaimer.
    #[must_use]
    pub fn reclaim_state(&self) -> ReclaimState {
        ReclaimState {
            is_possible: self.frames.watermarks() != Watermarks::NONE,
            fruitless_rounds: self.reclaim.fruitless.load(Ordering::Relaxed),
            leaving: self.reclaim.leaving.load(Ordering::Relaxed),
            is_asked: self.reclaim.asked.load(Ordering::Relaxed),
        }
    }

    /// Keeps frames free from now on if there is something to reclaim, and none if not: after a swap area, or the first object
    /// whose pages are on a disk, has come or gone.
    pub(crate) fn adjust_watermarks(&self) {
        let possible = self.frames.swap.slots() > 0 || self.reads.is_prepared();
        let watermarks = match self.config.watermarks {
            _ if !possible => Watermarks::NONE,
            Some(watermarks) => watermarks,
            None => Watermarks::for_frames(self.frames.account().total),
        };
        self.frames.set_watermarks(watermarks);
    }

    /// A fault waits for a frame.
    pub(crate) fn ask_reclaimer(&self) {
        self.reclaim.asked.store(true, Ordering::Relaxed);
        self.frames.call_reclaimer();
    }

    /// Frames were freed that faults may wait for.
    fn note_freed(&self, frames: usize) {
        if frames > 0 {
            self.reclaim.freed.fetch_add(frames as u64, Ordering::Relaxed);
            self.reclaim.fruitless.store(0, Ordering::Relaxed);
            self.counters.pages_reclaimed.add(frames as u64);
            self.frames.refill_reserve(self.platform.cpu());
        }
    }
}
