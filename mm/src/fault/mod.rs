//! Page faults as futures.
//!
//! # The life of a fault
//!
//! ```text
//!  thread                      slot and entry                          fault service
//!  ──────                      ──────────────                          ─────────────
//!  trap
//!  handle_page_fault
//!  first poll ── admit ──────► claim slot, write marker, push ───────► take
//!  Pending                     (or join the slot of an earlier fault)  get a frame, fill it   (may wait)
//!                                                                      lock the space
//!                              marker still there? publish the entry ◄─ commit
//!  woken ◄──────────────────── every waiter gets the result ◄───────── complete
//!  second poll: Ready
//!  resume
//! ```
//!
//! # Guarantees
//!
//! - **Single flight.** At most one slot serves a page of a space: a second fault finds the marker, or the slot in the
//!   space's side list, and joins as a waiter. One frame is allocated, all are woken.
//! - **Nothing stale is committed.** Every call that changes what a region says about a page takes the markers of the
//!   range away and marks their slots stale, under the same lock under which a commit looks for the marker.
//! - **Content before entry.** An entry is stored with `Release` after the frame was filled.
//! - **No waiter is left.** A slot is released only through completion, which gives every waiter a result; a future that
//!   is dropped unlinks its own node.
//! - **No allocation.** Slots, links and queues are made at boot; waiters are nodes in their futures.
//!
//! # The side list
//!
//! A fault whose entry cannot carry a marker is found through a list of slots in its space: the last-level table does
//! not exist yet or is shared copy-on-write, or the entry is present (copy-on-write; then its busy bit is set too).
//! Locks nest in this order: space, then slot lists or frames.

mod admit;
mod ahead;
mod class;
mod commit;
mod fill;
mod future;
mod huge;
mod parked;
mod permits;
mod service;
mod side;
pub(crate) mod slot;
mod swap;
mod table;
pub(crate) mod waiter;

pub(crate) use ahead::FirstWrites;
pub use future::FaultFuture;
pub(crate) use huge::HUGE_ORDER;
pub(crate) use parked::ParkedFaults;
pub use service::FaultService;
pub(crate) use slot::PageRead;
pub(crate) use table::FaultTable;

use faultline_trace::FaultClass;

use crate::error::FaultError;
use crate::platform::Platform;
use crate::protection::{FaultInfo, Protection};
use crate::sync::mutant;

/// What a fault that waits takes of the kernel's memory: its slot, and its future, which its thread has.
pub(crate) const fn waiting_bytes<P: Platform>() -> usize {
    size_of::<slot::Slot<P>>() + size_of::<FaultFuture<'static, P>>()
}

/// How a fault that was not refused ended. In every case the thread executes its instruction again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The entry now allows the access.
    Resolved(FaultClass),
    /// The entry now allows the access, and the fault waited for a device that had the page.
    Read(FaultClass),
    /// The entry allowed the access already: another thread was faster, or the processor used an old translation, which
    /// was invalidated.
    Spurious,
    /// The space changed while the fault was in flight; executing again shows what it says now.
    Retry,
}

/// What a fault ends with.
pub type FaultResult = Result<FaultOutcome, FaultError>;

/// How a queued fault ended, as each of its waiters is told: small, because it is stored with each of them. The address
/// and the access are the waiter's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was not refused.
    Done(FaultOutcome),
    /// [`FaultError::NoRegion`].
    NoRegion,
    /// [`FaultError::Protection`], with what the region allows.
    Protection(Protection),
    /// [`FaultError::BeyondEnd`].
    BeyondEnd,
    /// [`FaultError::ReadFailed`].
    ReadFailed,
    /// [`FaultError::SpaceGone`].
    SpaceGone,
}

impl Ending {
    /// What it means for a waiter's own access, which may be another than that of the fault that came first.
    #[cold]
    fn refusal(self, info: FaultInfo) -> FaultResult {
        let FaultInfo { address, access, .. } = info;
        Err(match self {
            Self::Done(outcome) => return Ok(outcome),
            Self::Protection(protection) if protection.allows(access) && !mutant!(RefuseJoiner) => {
                return Ok(FaultOutcome::Retry);
            }
            Self::Protection(protection) => FaultError::Protection {
                address,
                access,
                protection,
            },
            Self::NoRegion => FaultError::NoRegion { address, access },
            Self::BeyondEnd => FaultError::BeyondEnd { address, access },
            Self::ReadFailed => FaultError::ReadFailed { address },
            Self::SpaceGone => FaultError::SpaceGone { address },
        })
    }
}
