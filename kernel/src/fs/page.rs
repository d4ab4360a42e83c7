//! A frame that the kernel uses for bytes of its own.

use faultline_mm::Platform;
use faultline_mm::frame::{Pfn, ReservedFrame};

use crate::machine::memory;

/// How much of all frames is left for the faults of programs: one in so many.
const RESERVE: u64 = 8;

/// How much is left even by who has no page yet.
const LAST_RESERVE: u64 = 64;

/// Whether `wanted` frames are free. If they are not, those that files have lost are given back, and pages of files on disks
/// that can be read again make room; when a thousand have gone the rest may follow with the next call.
pub fn make_room(wanted: u64) -> bool {
    memory().frames().available() >= wanted || free_some(wanted)
}

#[cold]
fn free_some(wanted: u64) -> bool {
    /// Frames that are given back in one step.
    const PIECE: usize = 64;
    const STEPS: usize = 16;
    for _ in 0..STEPS {
        let some_left = memory().give_back_left(PIECE);
        let dropped = if some_left { 0 } else { memory().drop_cached(PIECE) };
        if memory().frames().available() >= wanted {
            return true;
        }
        if !some_left && dropped == 0 {
            return false;
        }
    }
    true
}

/// A page of bytes in a frame. Dropping it returns the frame.
#[derive(Debug)]
pub struct Page(ReservedFrame<'static>);

/// There is no frame, or too few are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrame;

impl Page {
    /// A page with any content. Who has none yet may take one of the last: then everybody gets on, if slowly.
    ///
    /// # Errors
    /// [`NoFrame`] if too few are left for the faults of programs.
    pub fn new(is_first: bool) -> Result<Self, NoFrame> {
        let frames = memory().frames();
        let reserve = u64::from(Pfn::number(frames.end())) / if is_first { LAST_RESERVE } else { RESERVE };
        if !make_room(reserve) {
            return Err(NoFrame);
        }
        frames.allocate(0).map(Self).map_err(|_| NoFrame)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 4096] {
        let start = memory().platform().phys_to_virt(self.0.address());
        // SAFETY: 1. all physical memory is mapped for ever; 2. the frame is this token's, which is borrowed, so nobody
        // writes it meanwhile; 3. every bit pattern is a byte.
        unsafe { &*start.cast() }
    }

    /// Its bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8; 4096] {
        let start = memory().platform().phys_to_virt(self.0.address());
        // SAFETY: as in `bytes`, and the token is borrowed exclusively.
        unsafe { &mut *start.cast() }
    }
}
