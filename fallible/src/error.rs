//! The one error of all allocations.

use alloc::collections::TryReserveError;

/// There is no memory for an allocation (or it would be larger than the address space).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory")]
pub struct AllocError;

impl From<TryReserveError> for AllocError {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}
