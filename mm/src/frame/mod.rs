//! Physical frames that can't be lost.

mod account;
mod allocator;
mod buddy;
mod error;
#[cfg(any(test, feature = "fault-injection"))]
mod inject;
mod list;
mod meta;
mod pfn;
mod published;
mod quarantine;
mod tally;
#[cfg(test)]
mod tests;
mod token;

pub use account::FrameAccount;
pub use allocator::{FrameAllocator, MAX_CPUS};
pub use buddy::MAX_ORDER;
pub use error::{FrameError, OutOfFrames};
pub use meta::{FrameMeta, FrameState};
pub use pfn::{FRAME_SIZE, Pfn};
pub use quarantine::QuarantineList;
pub use token::{ReservedFrame, ReservedRun, RetiredFrame};
