//! Frames that are never handed out.

use core::ops::Range;

use x86_64::PhysAddr;

use super::allocator::FrameAllocator;
use super::error::FrameError;
use super::meta::{FrameState, Word};
use super::pfn::Pfn;
use super::token::ReservedFrame;

use crate::sync::atomic::Ordering;

impl FrameAllocator {
    /// Makes the frames of `range`, rounded outwards, known as RAM that is in use: the ramdisk, the kernel image, the
    /// metadata. They can be mapped, count in the total, and are never free. Returns their number.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`] if the range reaches past the metadata, [`FrameError::WrongState`] with the first frame
    /// that is not [`FrameState::Absent`]. Nothing is pinned then.
    pub fn pin_range(&self, range: Range<PhysAddr>) -> Result<usize, FrameError> {
        let first = Pfn::containing(range.start);
        // The last byte's frame and one more, without the overflow that rounding up the end could bring.
        let end = match range.end.as_u64().checked_sub(1) {
            Some(last) if range.start < range.end => Pfn::containing(PhysAddr::new(last)).offset(1),
            _ => return Ok(0),
        };
        let Some(frames) = self.metadata.get(first.index()..end.index()) else {
            return Err(FrameError::Foreign {
                frame: self.end().max(first),
                end: self.end(),
            });
        };
        if let Some(taken) = frames.iter().position(|meta| meta.load() != Word::ABSENT) {
            return Err(self.wrong_state(first.offset(taken as u32), FrameState::Absent));
        }
        for meta in frames {
            meta.store(Word::PINNED_FOR_EVER);
        }
        self.total.fetch_add(frames.len() as u64, Ordering::Relaxed);
        self.pinned.fetch_add(frames.len() as u64, Ordering::Relaxed);
        Ok(frames.len())
    }

    /// Takes back a frame that [`ReservedFrame::pin`] or [`ReservedRun::pin`](super::ReservedRun::pin) pinned.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`], [`FrameError::WrongState`], or [`FrameError::StaysPinned`] if it is mapped somewhere or
    /// came from [`pin_range`](Self::pin_range).
    pub fn unpin(&self, pfn: Pfn, cpu: usize) -> Result<ReservedFrame<'_>, FrameError> {
        let meta = self.meta(pfn)?;
        match meta.exchange(Word::PINNED, Word::RESERVED) {
            Ok(()) => {
                let cpu = self.cpu_index(cpu);
                self.cpu(cpu).tally.unpinned();
                self.pinned.fetch_sub(1, Ordering::Relaxed);
                Ok(ReservedFrame::new(self, meta, pfn, cpu))
            }
            Err(found) if found.is(FrameState::Pinned) => Err(FrameError::StaysPinned {
                frame: pfn,
                count: found.count(),
            }),
            Err(_) => Err(self.wrong_state(pfn, FrameState::Pinned)),
        }
    }
}
