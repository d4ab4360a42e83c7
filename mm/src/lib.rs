#![no_std]
//! See docs/architecture.md.

pub mod frame;

pub use frame::{
    FRAME_SIZE, FrameAccount, FrameAllocator, FrameError, FrameMeta, FrameState, OutOfFrames, Pfn, QuarantineList,
    ReservedFrame, ReservedRun, RetiredFrame,
};
