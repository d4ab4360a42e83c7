//! References that entries give up, and when what they referred to may be used again.

use faultline_trace::Kind;

use crate::frame::Pfn;
use crate::platform::Platform;
use crate::space::{Inner, Space};
use crate::sync::atomic::Ordering;
use crate::sync::mutant;

impl<P: Platform> Space<P> {
    /// Before a reference goes: if other CPUs may hold translations of this space, frames are on hold until they have
    /// flushed, because the last reference may be another space's ([`FrameAllocator::hold`]).
    ///
    /// [`FrameAllocator::hold`]: crate::FrameAllocator::hold
    #[inline(always)]
    pub(crate) fn hold_frames(&self, inner: &mut Inner<P>) {
        if !self.is_private_to(self.memory.platform.cpu()) && !mutant!(ForgetHold) {
            self.hold(inner);
        }
    }

    /// As [`hold_frames`](Self::hold_frames), for a reference to a table that other spaces may share. The processor may
    /// walk a table, and mark its entries, until it has flushed, whatever runs on it: so this CPU alone is reason enough,
    /// if there is another one that could free the table meanwhile.
    pub(super) fn hold_tables(&self, inner: &mut Inner<P>) {
        if self.memory.frames.has_several_cpus() && !mutant!(ForgetTableHold) {
            self.hold(inner);
        }
    }

    fn hold(&self, inner: &mut Inner<P>) {
        if !inner.holds_frames {
            inner.holds_frames = true;
            self.memory.frames.hold();
        }
    }

    /// Gives up the reference that an entry of this space held. If it was the last, the frame is free once no CPU can
    /// hold the translation: at once if only this CPU could, because it flushes before it enters user mode again.
    #[inline(always)]
    pub(crate) fn retire(&self, inner: &mut Inner<P>, frame: Pfn) {
        let cpu = self.memory.platform.cpu();
        if self.is_private_to(cpu) || mutant!(ForgetQuarantine) {
            self.memory.drop_mapping(frame, cpu);
        } else {
            self.retire_loaded(inner, frame, cpu);
        }
    }

    /// As [`retire`](Self::retire), where other CPUs may hold the translation.
    #[cold]
    fn retire_loaded(&self, inner: &mut Inner<P>, frame: Pfn, cpu: usize) {
        self.hold_frames(inner);
        match self.memory.frames.remove_mapping(frame, cpu) {
            Ok(None) => {}
            Ok(Some(retired)) => {
                let generation = self.next_generation();
                let address = retired.address().as_u64();
                self.memory
                    .platform
                    .trace(Kind::FrameQuarantine, self.id, 0, address, generation);
                retired.quarantine(&mut inner.quarantine, generation);
            }
            Err(error) => unreachable!("a frame that was mapped is gone: {error}"),
        }
    }

    /// The generation that the next bump will give.
    pub(crate) fn next_generation(&self) -> u64 {
        self.tlb_generation.load(Ordering::Relaxed) + 1
    }
}
