//! Frames without a reference that a slow CPU may still reach.
//!
//! A frame can be mapped by several address spaces. When a space that other CPUs have loaded gives up a reference that is
//! not the last, nothing is freed and nothing is quarantined, but those CPUs may still hold the translation. If another
//! space then gives up the last one, the frame must wait for the first space's flush, of which the second knows nothing.
//!
//! So a space that other CPUs have loaded takes a *hold* before it gives up its first reference, and lets it go when all
//! of them have flushed. While anybody has a hold, frames that would be free go to limbo instead; the last one to let go
//! frees them. On one CPU nobody ever takes a hold, and a freed frame costs one test more.
//!
//! # Why no frame slips through
//!
//! Taking the hold happens before the reference is given up, which is a read-modify-write of the frame's count; giving up
//! the last reference is a later one of the same word, and the test of the holds comes after it. So whoever gives up the
//! last reference sees every hold that covers an earlier one, unless it has ended by then. Limbo is emptied under its
//! lock, and only if nobody has a hold at that moment: a frame that came in under a new hold stays.

use crate::sync::atomic::{AtomicU32, Ordering};

use crate::sync::Mutex;

use super::allocator::FrameAllocator;
use super::list::lock;
use super::meta::{FrameMeta, NONE, Word};
use super::pfn::Pfn;
use super::zeroed::BlankFrames;
use crate::sync::mutant;

/// Holds, and the frames that wait for their end, linked through the metadata. Their state is quarantined.
#[derive(Debug)]
pub(super) struct Limbo {
    holds: AtomicU32,
    head: Mutex<u32>,
}

impl Limbo {
    pub const fn new() -> Self {
        Self {
            holds: AtomicU32::new(0),
            head: Mutex::new(NONE),
        }
    }

    /// Whether frames have to wait. Acquire: see the module's documentation.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.holds.load(Ordering::Acquire) != 0
    }
}

impl FrameAllocator {
    /// Whether anybody has a hold: then a frame without references may be in a TLB.
    pub(crate) fn is_held(&self) -> bool {
        self.limbo.is_held()
    }

    /// From now on, no frame that loses its last reference is handed out until [`unhold`](Self::unhold).
    pub fn hold(&self) {
        self.limbo.holds.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends one [`hold`](Self::hold). The last one frees the frames that waited, on `cpu`.
    pub fn unhold(&self, cpu: usize) {
        let before = self.limbo.holds.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a hold ended twice");
        if before == 1 {
            self.empty_limbo(cpu);
        }
    }

    /// A frame lost its last reference: it is free, or waits in limbo.
    #[inline]
    pub(super) fn release_retired(&self, pfn: Pfn, meta: &FrameMeta, cpu: u32) {
        if self.limbo.is_held() {
            self.cpu(cpu).tally.quarantined();
            meta.store(Word::QUARANTINED);
            self.detain(pfn, meta);
        } else {
            self.release(pfn, meta, cpu);
        }
    }

    /// Puts a quarantined frame into limbo.
    #[cold]
    pub(super) fn detain(&self, pfn: Pfn, meta: &FrameMeta) {
        let mut head = lock(&self.limbo.head);
        meta.set_next(*head);
        *head = pfn.number();
        drop(head);
        // The last hold may have ended since it was seen; whoever ended it has found limbo without this frame.
        if !self.limbo.is_held() && !mutant!(ForgetLimbo) {
            self.empty_limbo(0);
        }
    }

    #[cold]
    fn empty_limbo(&self, cpu: usize) {
        let mut head = lock(&self.limbo.head);
        if self.limbo.is_held() {
            return;
        }
        let mut next = core::mem::replace(&mut *head, NONE);
        drop(head);
        let cpu = self.cpu_index(cpu);
        let mut blank = BlankFrames::new();
        let released = self.release_each(cpu, || {
            loop {
                let pfn = Pfn::new(next);
                let meta = self.metadata.get(pfn.index())?;
                next = meta.next();
                if meta.load() != Word::QUARANTINED_BLANK {
                    return Some((pfn, meta));
                }
                blank.push(pfn, meta);
            }
        });
        let released = released + self.release_blank(cpu, blank);
        self.cpu(cpu).tally.unquarantined(released as u64);
    }
}
