//! What the allocator refuses, and why.

use super::meta::FrameState;
use super::pfn::Pfn;

/// An operation on a frame was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is in another state than the operation needs: a double free, a frame that was never handed out, or
    /// device memory, which is [`FrameState::Absent`].
    #[error("frame {frame} is {found}, not {expected}")]
    WrongState {
        /// The frame.
        frame: Pfn,
        /// The state it is in.
        found: FrameState,
        /// The state that the operation works on.
        expected: FrameState,
    },
    /// The frame lies past the end of the memory map.
    #[error("frame {frame} lies past the end of memory at {end}")]
    Foreign {
        /// The frame.
        frame: Pfn,
        /// The first frame past the end.
        end: Pfn,
    },
    /// One more reference and the counter would be full.
    #[error("frame {frame} has {count} references and can take no more")]
    CountOverflow {
        /// The frame.
        frame: Pfn,
        /// Its references.
        count: u32,
    },
    /// A reference was dropped that was never taken.
    #[error("frame {frame} is {state} and has no reference to drop")]
    NoReference {
        /// The frame.
        frame: Pfn,
        /// The state it is in.
        state: FrameState,
    },
    /// The frame is pinned and still has references, or was never the allocator's to give.
    #[error("frame {frame} stays pinned: {count} references")]
    StaysPinned {
        /// The frame.
        frame: Pfn,
        /// Its references; 0 for a frame pinned for ever.
        count: u32,
    },
}

/// No free frame, or no free run of the size asked for. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no run of {wanted} free frames: {free} frames are free")]
pub struct OutOfFrames {
    /// Contiguous frames asked for.
    pub wanted: u32,
    /// Frames that were free, in whatever pieces.
    pub free: u32,
}
