//! Address spaces in which every page fault is a future.
//!
//! - [`VirtualAddressSpace`]: regions, page tables, and every call that changes them.
//! - [`VirtualAddressSpace::handle_page_fault`]: a fault as a future; [`Memory::fault_service`]: the task that serves
//!   them.
//! - [`frame`]: frames that can't be lost, with one equation for all of them.
//! - [`Memory::switch_to`]: TLB generations, checked before each return to user mode.
//!
//! The crate knows no hardware: [`Platform`] is all that it asks of a machine. It knows no executor: futures and wakers
//! are all that passes.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

mod address;
mod backing;
mod entry;
mod error;
mod fault;
pub mod frame;
#[cfg(feature = "simulation")]
mod inspect;
mod memory;
mod object;
mod platform;
mod protection;
mod reclaim;
mod region;
mod space;
mod stats;
mod swap;
mod sync;
mod tables;
mod tlb;
mod transfer;

pub use address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange, USER_END};
pub use backing::{Backing, CachePolicy, FillError, PageSource};
pub use entry::{Entry, EntryState, Marker};
pub use error::{FaultError, UserCopyError, VasError};
pub use fault::{FaultFuture, FaultOutcome, FaultResult, FaultService};
pub use frame::{
    FRAME_SIZE, FrameAccount, FrameAllocator, FrameError, FrameMeta, FrameState, OutOfFrames, Pfn, QuarantineList,
    ReservedFrame, ReservedRun, RetiredFrame, Watermarks,
};
#[cfg(feature = "simulation")]
pub use inspect::SlotView;
pub use memory::{FaultMode, Memory, MemoryConfig};
pub use object::{DiskFile, LocateError, MAX_PIECES, MemoryObject, PageError, PageIn, Piece, Pieces};
pub use platform::{MAX_CPUS, Pcid, Platform};
pub use protection::{Access, FaultInfo, Protection};
pub use reclaim::{ReclaimState, Reclaimer};
pub use region::{Region, RegionFlags};
pub use space::{
    Advice, GlobalMemory, Layout, MapRequest, MappedRegion, PageCounts, Placement, RegionView, RemapTarget, Space,
    SpaceStats, Turn, UserBytes, UserCopy, VirtualAddressSpace,
};
pub use stats::MemoryStats;
pub use swap::{SwapError, SwapSlot, SwapStats};
pub use tlb::Flushed;
pub use transfer::{
    BlockDevice, Completion, Direction, Finished, MAX_SEGMENTS, Prepared, SECTOR_SIZE, Segment, Transfer,
    TransferError, TransferQueue, TransferResult, Transfers,
};

#[cfg(test)]
mod tests;
