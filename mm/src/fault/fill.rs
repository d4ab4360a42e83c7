//! How each class of fault gets its frame, fills it and publishes it.
//!
//! Every step ends in the same way: lock the space, see that the fault is not stale and its marker is still there,
//! store the entry, complete. A frame that was taken and can't be published goes back by its token.

use faultline_trace::{FaultClass, Kind};

use super::service::{Step, still_marked};
use super::slot::{RequestRef, SlotToken};
use crate::Memory;
use crate::entry::Entry;
use crate::frame::{OutOfFrames, Pfn, ReservedFrame, RetiredFrame};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::space::Guard;
use crate::swap::SwapSlot;
use crate::sync::mutant;
use crate::tlb::Change;

/// Leaf flags of an entry that a write has to go through a fault for.
pub(super) const fn read_only(flags: u64) -> u64 {
    flags & !Entry::WRITABLE | Entry::COW
}

/// A fault that is not stale, and the lock of its space.
type Valid<'a, P> = (SlotToken<P>, Guard<'a, P>);

/// What was locked; returns from the step if the fault is over.
macro_rules! valid {
    ($locked:expr) => {
        match $locked {
            Ok(valid) => valid,
            Err(over) => return over,
        }
    };
}
pub(super) use valid;

impl<P: Platform> Memory<P> {
    /// Locks the space of a fault; the step's end, with the fault completed, if the space has changed under it.
    #[inline(always)]
    pub(super) fn lock_valid<'a>(
        &'static self,
        token: SlotToken<P>,
        request: &'a RequestRef<P>,
        entry: EntryRef<'_>,
    ) -> Result<Valid<'a, P>, Step<P>> {
        let inner = request.space().lock();
        // SAFETY: the space's lock is held.
        let stale = unsafe { token.slot().shared() }.stale;
        // The entry is only looked at if the fault is not stale: a stale one's table may be gone.
        if (stale || !still_marked(*request, entry)) && !mutant!(SkipRevalidation) {
            debug_assert!(stale, "a marker went without its fault being revoked");
            return Err(self.complete_stale(token, inner));
        }
        Ok((token, inner))
    }

    /// A zeroed frame for a fault.
    #[inline(always)]
    pub(super) fn zeroed_for<const TRACED: bool>(
        &'static self,
        request: RequestRef<P>,
    ) -> Result<ReservedFrame<'static>, OutOfFrames> {
        let cpu = self.platform.cpu();
        if self.frames.zeroed_target() > 0
            && let Some(frame) = self.frames.allocate_zeroed(cpu)
        {
            self.counters.pool_hits.add(1);
            if TRACED {
                self.trace_request(Kind::FaultFrame, request, frame.address().as_u64(), 1);
            }
            return Ok(frame);
        }
        let frame = self.frame_for_fault(cpu)?;
        let address = frame.address().as_u64();
        if TRACED {
            self.trace_request(Kind::FaultFrame, request, address, 0);
        }
        if !mutant!(ForgetZero) {
            self.platform.zero_frame(frame.frame());
        }
        if TRACED {
            self.trace_request(Kind::FaultFill, request, address, 0);
        }
        Ok(frame)
    }

    #[inline(always)]
    pub(super) fn publish<const TRACED: bool>(&self, request: RequestRef<P>, entry: EntryRef<'_>, value: Entry) {
        entry.set(value);
        if TRACED {
            self.trace_page(Kind::FaultCommit, request, value.bits());
        }
    }

    /// A first write to anonymous memory: a zeroed frame.
    #[inline(always)]
    pub(super) fn serve_demand_zero<const TRACED: bool>(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
    ) -> Step<P> {
        let Ok(frame) = self.zeroed_for::<TRACED>(request) else {
            return Step::NoMemory(token);
        };
        let (token, mut inner) = valid!(self.lock_valid(token, &request, entry));
        self.publish::<TRACED>(
            request,
            entry,
            Entry::present(frame.map(), request.flags | Entry::DIRTY),
        );
        if self.config.run_ahead > 1 {
            self.run_ahead(&mut inner, request);
        }
        self.resolved::<TRACED>(token, inner, FaultClass::DemandZero)
    }

    /// A first read of anonymous memory: the shared frame of zeros.
    #[inline(always)]
    pub(super) fn serve_zero_page<const TRACED: bool>(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
    ) -> Step<P> {
        let (token, inner) = valid!(self.lock_valid(token, &request, entry));
        self.publish::<TRACED>(
            request,
            entry,
            Entry::present(self.zero_frame, read_only(request.flags) | Entry::BORROWED),
        );
        self.resolved::<TRACED>(token, inner, FaultClass::ZeroPage)
    }

    /// A write to a present entry that lacks the right: the last owner of the frame gets it back, any other gets a
    /// copy.
    #[inline(never)]
    pub(super) fn serve_cow<const TRACED: bool>(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
    ) -> Step<P> {
        let slot = token.slot();
        let space = request.space();
        let mut inner = space.lock();
        // SAFETY: the space's lock is held.
        if unsafe { slot.shared() }.stale {
            return self.complete_stale(token, inner);
        }
        let before = entry.get();
        let old = before.frame();
        let borrowed = before.has(Entry::BORROWED);
        if !borrowed && self.frames.mapping_count(old) <= 1 + u32::from(mutant!(ReuseSharedFrame)) {
            let kept = before
                .without(Entry::COW | Entry::BUSY)
                .with(Entry::WRITABLE | Entry::DIRTY | Entry::ACCESSED);
            self.publish::<TRACED>(request, entry, kept);
            space.finish(&mut inner, Change::upgrade(request.page));
            return self.resolved::<TRACED>(token, inner, FaultClass::CowReuse);
        }
        if !borrowed && !space.is_flushed() {
            // A CPU that has not heard that the page lost its right to write would write to the old frame after the copy.
            return self.park_until_flushed(token, space, inner);
        }
        // The lock is held while the page is copied: that takes less than to count a reference that would keep the old frame
        // what it is, and to look at everything again.
        let Ok(copy) = self.copy_for::<TRACED>(request, old, borrowed) else {
            drop(inner);
            return Step::NoMemory(token);
        };
        let keep = before.bits() & (Entry::USER | Entry::NO_EXECUTE);
        let value = Entry::present(copy.map(), keep | Entry::WRITABLE | Entry::ACCESSED | Entry::DIRTY);
        entry.swap(value);
        if TRACED {
            self.trace_page(Kind::FaultCommit, request, value.bits());
        }
        if !borrowed {
            space.retire(&mut inner, old);
        }
        if !mutant!(DropCowFlush) {
            space.finish(&mut inner, Change::leaf(request.page));
        }
        let class = if old == self.zero_frame {
            FaultClass::DemandZero
        } else {
            FaultClass::CowCopy
        };
        self.resolved::<TRACED>(token, inner, class)
    }

    /// A frame with the content of `old`.
    #[inline(always)]
    pub(super) fn copy_for<const TRACED: bool>(
        &'static self,
        request: RequestRef<P>,
        old: Pfn,
        borrowed: bool,
    ) -> Result<ReservedFrame<'static>, OutOfFrames> {
        if borrowed && old == self.zero_frame {
            return self.zeroed_for::<TRACED>(request);
        }
        let copy = self.frame_for_fault(self.platform.cpu())?;
        let address = copy.address().as_u64();
        if TRACED {
            self.trace_request(Kind::FaultFrame, request, address, 0);
        }
        self.platform.copy_frame(old.frame(), copy.frame());
        if TRACED {
            self.trace_request(Kind::FaultFill, request, address, 0);
        }
        Ok(copy)
    }

    /// Gives up the reference of an entry to a swap slot.
    #[cold]
    pub(crate) fn drop_swapped(&self, slot: SwapSlot) {
        if let Some(retired) = self.frames.drop_swap_reference(slot, self.platform.cpu()) {
            self.free_retired(retired);
        }
    }

    /// Frees a frame that no TLB can know.
    #[inline(always)]
    pub(crate) fn free_retired(&self, retired: RetiredFrame<'_>) {
        self.platform
            .trace(Kind::FrameFree, 0, 0, retired.address().as_u64(), 0);
        retired.free();
    }

    /// Gives up one reference to a frame that no TLB can know by it.
    #[inline(always)]
    pub(crate) fn drop_mapping(&self, frame: Pfn, cpu: usize) {
        match self.frames.remove_mapping(frame, cpu) {
            Ok(Some(retired)) => self.free_retired(retired),
            Ok(None) => {}
            Err(error) => unreachable!("a reference that was held is gone: {error}"),
        }
    }
}
