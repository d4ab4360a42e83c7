//! What can go wrong, with what a person needs to see the mistake.

use faultline_fallible::AllocError;
use thiserror::Error;

use crate::address::PageRange;
use crate::protection::{Access, Protection};

/// Why a call of an address space was refused. A refused call has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VasError {
    /// The size is 0.
    #[error("empty range at {start:#x}")]
    EmptyRange {
        /// Start of the range.
        start: u64,
    },
    /// The range wraps around, is not canonical, or is not wholly in the user half.
    #[error("{size:#x} bytes at {start:#x} are not a range of user addresses")]
    BadRange {
        /// Start of the range.
        start: u64,
        /// Size in bytes.
        size: u64,
    },
    /// An address that has to be aligned is not.
    #[error("{address:#x} is not aligned to {alignment:#x}")]
    Unaligned {
        /// The address.
        address: u64,
        /// The alignment that was needed, in bytes.
        alignment: u64,
    },
    /// Something is mapped there already.
    #[error("{wanted} overlaps the region {existing}")]
    Overlap {
        /// What was asked for.
        wanted: PageRange,
        /// The region in the way.
        existing: PageRange,
    },
    /// Part of the range is not mapped.
    #[error("nothing is mapped at {address:#x}")]
    NotMapped {
        /// The first address without a region.
        address: u64,
    },
    /// No gap in the mmap area is large enough.
    #[error("no room for {size:#x} bytes in the address space")]
    NoRoom {
        /// Size in bytes.
        size: u64,
    },
    /// Too few frames are free.
    #[error("out of memory: {needed} more frames were needed")]
    OutOfMemory {
        /// How many frames were missing when the call gave up.
        needed: u64,
    },
    /// There is no memory for the kernel's own bookkeeping of the space.
    #[error("out of kernel memory")]
    NoKernelMemory,
    /// Another call that takes several steps is changing the space: wait for a [`Turn`](crate::Turn).
    #[error("another call is changing the address space")]
    Busy,
    /// The space has as many regions as it may have.
    #[error("the address space has {limit} regions, which is the limit")]
    TooManyRegions {
        /// The limit.
        limit: usize,
    },
    /// A break outside the heap.
    #[error("the break can't be {wanted:#x}: the heap is {start:#x}..{limit:#x}")]
    BadBreak {
        /// What was asked for.
        wanted: u64,
        /// Where the heap starts.
        start: u64,
        /// How far it can grow.
        limit: u64,
    },
    /// A stack that does not fit the user half.
    #[error("a stack of {size:#x} bytes can't end at {top:#x}")]
    BadStack {
        /// One past the highest address.
        top: u64,
        /// Size in bytes.
        size: u64,
    },
    /// `init` was called on a space that has a top table.
    #[error("the address space has a top table at {root:#x} already")]
    AlreadyInitialized {
        /// Physical address of the table.
        root: u64,
    },
    /// The space has no top table: `init` was not called, or the space was destroyed.
    #[error("the address space has no top table")]
    NoTable,
    /// A frame that the caller does not own, or that can't be used so.
    #[error("frame {address:#x} can't be used here: {reason}")]
    BadFrame {
        /// Physical address.
        address: u64,
        /// Why.
        reason: &'static str,
    },
    /// The operation is not defined for this kind of region.
    #[error("{operation} is not possible for the region {region}")]
    WrongKind {
        /// The operation.
        operation: &'static str,
        /// The region.
        region: PageRange,
    },
    /// The backing object does not allow this protection.
    #[error("the backing of {range} does not allow {protection}")]
    Forbidden {
        /// The range.
        range: PageRange,
        /// What was asked for.
        protection: Protection,
    },
}

impl From<AllocError> for VasError {
    fn from(_: AllocError) -> Self {
        Self::NoKernelMemory
    }
}

/// Why a fault can't be resolved: the access was wrong, or its memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FaultError {
    /// The address is not canonical.
    #[error("{access} of the non-canonical address {address:#x}")]
    NonCanonical {
        /// The address.
        address: u64,
        /// What was tried.
        access: Access,
    },
    /// The address belongs to the kernel.
    #[error("{access} of the kernel address {address:#x}")]
    KernelAddress {
        /// The address.
        address: u64,
        /// What was tried.
        access: Access,
    },
    /// No region holds the address.
    #[error("{access} of {address:#x}, where nothing is mapped")]
    NoRegion {
        /// The address.
        address: u64,
        /// What was tried.
        access: Access,
    },
    /// The region does not allow the access.
    #[error("{access} of {address:#x} in a region that allows {protection}")]
    Protection {
        /// The address.
        address: u64,
        /// What was tried.
        access: Access,
        /// What the region allows.
        protection: Protection,
    },
    /// The stack can't grow that far: its cap or its guard gap is reached.
    #[error("{access} of {address:#x} beyond the stack's limit {limit:#x}")]
    StackLimit {
        /// The address.
        address: u64,
        /// What was tried.
        access: Access,
        /// The lowest address that the stack may reach.
        limit: u64,
    },
    /// The page lies beyond the end of its backing object (`SIGBUS`).
    #[error("{access} of {address:#x} beyond the end of the mapped file")]
    BeyondEnd {
        /// The address.
        address: u64,
        /// What was tried.
        access: Access,
    },
    /// The device could not deliver the page (`SIGBUS`).
    #[error("the content of {address:#x} could not be read")]
    ReadFailed {
        /// The address.
        address: u64,
    },
    /// The address space was destroyed while the fault was in flight.
    #[error("the address space of {address:#x} is gone")]
    SpaceGone {
        /// The address.
        address: u64,
    },
}

impl FaultError {
    /// The address that was accessed.
    #[must_use]
    pub const fn address(&self) -> u64 {
        match *self {
            FaultError::NonCanonical { address, .. }
            | FaultError::KernelAddress { address, .. }
            | FaultError::NoRegion { address, .. }
            | FaultError::Protection { address, .. }
            | FaultError::StackLimit { address, .. }
            | FaultError::BeyondEnd { address, .. }
            | FaultError::ReadFailed { address }
            | FaultError::SpaceGone { address } => address,
        }
    }

    /// A small number for traces, one per variant.
    #[must_use]
    pub const fn reason(&self) -> u64 {
        match self {
            FaultError::NonCanonical { .. } => 1,
            FaultError::KernelAddress { .. } => 2,
            FaultError::NoRegion { .. } => 3,
            FaultError::Protection { .. } => 4,
            FaultError::StackLimit { .. } => 5,
            FaultError::BeyondEnd { .. } => 6,
            FaultError::ReadFailed { .. } => 7,
            FaultError::SpaceGone { .. } => 8,
        }
    }
}

/// A copy between the kernel and user memory stopped at a bad address (`EFAULT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("user copy stopped after {copied} bytes: {cause}")]
pub struct UserCopyError {
    /// Bytes that were copied before.
    pub copied: usize,
    /// Why the next byte could not be.
    pub cause: FaultError,
}
