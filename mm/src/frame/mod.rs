//! Physical frames that can't be lost.
//!
//! Every frame of the machine has sixteen bytes of metadata that say what it is used for. A frame in flight is a
//! value that owns it ([`ReservedFrame`], [`RetiredFrame`], [`ReservedRun`]); a frame that page tables refer to is a
//! number ([`Pfn`]) with a reference count; every step between the two is a method that checks the state it finds.
//!
//! # States
//!
//! ```text
//!           ┌──────┐ ─────── 1 ──────▶ ┌────────┐        take         ┌──────────┐ ── 6 ─▶ ┌─────────────┐
//!   new ──▶ │ Free │                   │ Cached │ ─────── 3 ────────▶ │          │         │   Mapped    │ ↺ 7
//!           └──────┘ ◀────── 2 ─────── └────────┘ ◀────── 4 ───────── │          │ ◀─ 8 ── └─────────────┘
//!             │  ▲                                                    │          │ ── 9 ─▶ ┌─────────────┐
//!             │  └──────────────────────── 4, run ─────────────────── │ Reserved │         │  PageTable  │ ↺ 10
//!             └─────────────────────────── 3, run ──────────────────▶ │ (a token │ ◀─ 11 ─ └─────────────┘
//!                                                                     │ owns it) │ ── 12 ▶ ┌─────────────┐
//!                                      ┌────────┐ ─────── 3 ────────▶ │          │         │   Pinned    │ ↺ 7
//!                                      │ Zeroed │                     │          │ ◀─ 13 ─ └─────────────┘
//!                                      └────────┘ ◀────── 5 ───────── │          │                ▲
//!                                                                     └──────────┘                │ 14
//!                                     ┌─────────────┐                      │                  ┌────────┐
//!             Cached, Zeroed ◀─ 16 ─ │ Quarantined │ ◀──────── 15 ────────┘                  │ Absent │
//!                                     └─────────────┘                                         └────────┘
//! ```
//!
//! 1. An empty cache is filled from the buddy lists.
//! 2. A full cache, or with [`set_zeroed_target`] and [`drain_caches`] the pool, is drained into them, and neighbours
//!    merge.
//! 3. [`allocate`], [`allocate_for_fault`], [`allocate_zeroed`], [`take_for_zeroing`]; [`allocate_contiguous`] for a run.
//! 4. The token is dropped or `free`d.
//! 5. [`put_zeroed`].
//! 6. [`ReservedFrame::map`], [`ReservedRun::map`]: one reference.
//! 7. [`add_mapping`] and [`remove_mapping`] count references.
//! 8. [`remove_mapping`] takes the last reference of a mapped frame: a [`RetiredFrame`].
//! 9. [`ReservedFrame::into_page_table`]: one parent.
//! 10. [`table_add_ref`] and [`table_remove_ref`] count parents.
//! 11. [`table_remove_ref`] takes the last parent: a [`RetiredFrame`].
//! 12. [`ReservedFrame::pin`], [`ReservedRun::pin`].
//! 13. [`unpin`].
//! 14. [`pin_range`]; these frames stay pinned for ever.
//! 15. [`RetiredFrame::quarantine`].
//! 16. [`QuarantineList::release_up_to`]: every CPU has passed the generation. A page table whose entries are all empty
//!     is a zeroed frame then.
//!
//! # Guarantees
//!
//! - **Conservation.** Each transition takes a frame from one counter and gives it to another, so
//!   `free + cached + zeroed + reserved + mapped + page tables + pinned + quarantined == total` whenever nobody is
//!   inside a method. [`account`](FrameAllocator::account) returns all of them; [`audit`](FrameAllocator::audit) counts
//!   the frames themselves and compares.
//! - **No frame is lost.** Whatever owns a frame returns it when it is dropped: tokens, runs, quarantine lists.
//! - **Refusal changes nothing.** A double free, a frame of nobody's RAM or of a device, one more reference than fits:
//!   a [`FrameError`] names the frame, the state found and the state expected. State and count are one word and change
//!   in one compare-exchange, so this holds between CPUs that race, too.
//! - **Free means available.** Cached and zeroed frames count as free, and an allocation fails only after it has looked
//!   in every list. Cached frames go back and merge before a contiguous allocation fails.
//! - **Freeing needs no memory.** Every list is linked through the metadata.
//! - **No waiter is missed.** [`poll_allocate`](FrameAllocator::poll_allocate) is woken by the next frame that comes
//!   free, by whatever way.
//!
//! # Locks and memory order
//!
//! Each cache, the pool and the buddy lists have a spin lock; the only one taken inside another is the buddy lists',
//! last. A frame's word is written by its owner (with Release), or by compare-exchange (AcqRel) while it is mapped, a
//! page table or pinned, so what one owner did to a frame happens before the next owner gets it. Link words belong to
//! the owner. Counters are relaxed.
//!
//! # Cost
//!
//! In instructions, with 0 % and with 99 % of memory in use in scattered frames. Refilling and draining the caches is
//! shared among the frames that need it, and the call of the measuring function is included.
//!
//! | Step                                                    | 0 % | 99 % |
//! |---------------------------------------------------------|----:|-----:|
//! | take, map, unmap and free one frame, again and again    |  74 |   74 |
//! | [`allocate`] and `map`, 1000 frames one after the other |  46 |   48 |
//! | [`allocate_zeroed`] and `map`                           |  24 |   24 |
//! | [`remove_mapping`] and `free`, 1000 frames              |  79 |  132 |
//! | [`remove_mapping`] and `quarantine`                     |  40 |   40 |
//! | [`QuarantineList::release_up_to`], each frame           |  62 |  113 |
//! | [`add_mapping`]                                         |  26 |   26 |
//! | [`remove_mapping`] that is not the last                 |  35 |   35 |
//! | [`allocate_contiguous`] of 512 frames and `map`         | 888 | none |
//!
//! `cargo build --release -p faultline-mm --example frame_cost` and the commands at the top of that example print them.
//!
//! The metadata takes 16 bytes for each frame, 0.4 % of memory.
//!
//! # Example
//!
//! ```
//! use faultline_mm::{FrameAllocator, FrameMeta, FrameState, QuarantineList};
//! use x86_64::PhysAddr;
//!
//! let end = PhysAddr::new(64 << 20);
//! let metadata = (0..FrameAllocator::required_metadata(end)).map(|_| FrameMeta::new()).collect::<Vec<_>>();
//! let frames = FrameAllocator::new(metadata.leak(), [PhysAddr::new(1 << 20)..end], 1);
//! frames.pin_range(PhysAddr::new(0)..PhysAddr::new(1 << 20))?;
//!
//! let pfn = frames.allocate(0)?.map(); // the count of 1 belongs to the entry that is now written
//! frames.add_mapping(pfn)?; // a second entry
//! assert!(frames.remove_mapping(pfn, 0)?.is_none()); // one is left
//!
//! let mut quarantine = QuarantineList::new(&frames);
//! let retired = frames.remove_mapping(pfn, 0)?.expect("it was the last");
//! retired.quarantine(&mut quarantine, 7); // removed at TLB generation 7
//! assert_eq!(frames.state(pfn), FrameState::Quarantined);
//! assert_eq!(quarantine.release_up_to(7, 0), 1); // which every CPU has passed
//!
//! let refused = frames.remove_mapping(pfn, 0).unwrap_err();
//! assert_eq!(refused.to_string(), format!("frame {pfn} is cached, not mapped"));
//! assert!(frames.account().is_conserved());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`allocate`]: FrameAllocator::allocate
//! [`allocate_for_fault`]: FrameAllocator::allocate_for_fault
//! [`allocate_contiguous`]: FrameAllocator::allocate_contiguous
//! [`allocate_zeroed`]: FrameAllocator::allocate_zeroed
//! [`take_for_zeroing`]: FrameAllocator::take_for_zeroing
//! [`put_zeroed`]: FrameAllocator::put_zeroed
//! [`set_zeroed_target`]: FrameAllocator::set_zeroed_target
//! [`drain_caches`]: FrameAllocator::drain_caches
//! [`add_mapping`]: FrameAllocator::add_mapping
//! [`remove_mapping`]: FrameAllocator::remove_mapping
//! [`table_add_ref`]: FrameAllocator::table_add_ref
//! [`table_remove_ref`]: FrameAllocator::table_remove_ref
//! [`pin_range`]: FrameAllocator::pin_range
//! [`unpin`]: FrameAllocator::unpin

mod account;
mod allocator;
mod audit;
mod buddy;
mod error;
#[cfg(any(test, feature = "fault-injection"))]
mod inject;
mod limbo;
mod list;
mod meta;
mod of_object;
mod pfn;
mod pinned;
mod published;
mod quarantine;
mod run;
#[cfg(test)]
mod steps;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod token;
mod waiter;
mod watermarks;
mod zeroed;

pub use account::FrameAccount;
pub use allocator::{FrameAllocator, MAX_CPUS};
pub use audit::Discrepancy;
pub use buddy::MAX_ORDER;
pub use error::{FrameError, OutOfFrames};
pub use meta::{FrameMeta, FrameState};
pub use pfn::{FRAME_SIZE, Pfn};
pub use quarantine::QuarantineList;
pub use run::ReservedRun;
pub(crate) use table::{TABLE_ROUNDS, TableLock};
pub use token::{ReservedFrame, RetiredFrame};
pub use watermarks::Watermarks;
