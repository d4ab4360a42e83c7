//! The device of the swap area, and reads from it.
//!
//! # Protocol of a read
//!
//! 1. The reader reserves a frame and a transfer, and makes the slot's word `Reading`, with itself in the list of parked
//!    faults. Of several only one comes through; the others find `Reading` and park.
//! 2. Neighbours that are `Out` are made `Reading` too, with nobody in their lists.
//! 3. The transfer has the frames; the one reference to each is the slot's, or will be given up when it is done.
//! 4. [`Completion::finished`] makes each word `Cached`, and serves or queues who has parked. If the read has failed, the
//!    word is `Out` again and the frame is free. A transfer of several pages says nothing about any of them then: the
//!    faults are queued to read theirs alone. A page whose own transfer has failed is lost to those who wait for it now;
//!    who comes later tries again.

use core::ops::Range;
use core::ptr;
use core::task::{RawWaker, RawWakerVTable, Waker};

use faultline_fallible::Arc;

use super::{SlotState, SwapError, SwapSlot, SwapStats};
use crate::Memory;
use crate::address::PAGE_SIZE;
use crate::fault::{PageRead, ParkedFaults};
use crate::frame::{Pfn, ReservedFrame};
use crate::platform::Platform;
use crate::sync::{Mutex, mutant};
use crate::transfer::{
    BlockDevice, Completion, Direction, Finished, MAX_SEGMENTS, Prepared, SECTOR_SIZE, Segment, TransferResult,
    Transfers,
};

/// Transfers that can be at the device, or on their way, at once, and as many again of one page.
const TRANSFERS: usize = 128;

const SECTORS_PER_SLOT: u64 = PAGE_SIZE / SECTOR_SIZE;

/// The device of the swap area.
pub(crate) struct SwapDevice {
    device: Mutex<Option<Arc<dyn BlockDevice>>>,
    transfers: Transfers,
    /// Faults that wait for a transfer to come free.
    waiting: Mutex<ParkedFaults>,
    /// Woken when a read has ended.
    pub(super) watcher: Mutex<Option<Waker>>,
}

impl SwapDevice {
    pub(crate) fn new() -> Self {
        Self {
            device: Mutex::new(None),
            transfers: Transfers::new(),
            waiting: Mutex::new(ParkedFaults::NONE),
            watcher: Mutex::new(None),
        }
    }

    /// The device, if swap is on.
    pub(crate) fn device(&self) -> Option<Arc<dyn BlockDevice>> {
        self.device.lock().clone()
    }

    /// The transfers to and from it.
    pub(crate) fn transfers(&'static self) -> &'static Transfers {
        &self.transfers
    }
}

/// Where a slot is on the device.
pub(crate) const fn sector_of(slot: SwapSlot) -> u64 {
    slot.number() as u64 * SECTORS_PER_SLOT
}

/// The slot that is there on the device.
pub(crate) const fn slot_at(sector: u64) -> SwapSlot {
    SwapSlot::new((sector / SECTORS_PER_SLOT) as u32)
}

/// The whole page of a slot, as a piece of a transfer.
pub(crate) fn segment_of(slot: SwapSlot, frame: Pfn) -> Segment {
    Segment::page(sector_of(slot), frame.frame())
}

impl<P: Platform> Memory<P> {
    /// Makes a device the swap area: all of it, from its first sector on. There is one area at a time. Takes 8 bytes of
    /// kernel memory for each page, and room for transfers that stays.
    ///
    /// # Errors
    /// [`SwapError::AlreadyOn`], [`SwapError::ReadOnly`], [`SwapError::TooSmall`], [`SwapError::NoKernelMemory`].
    pub fn swap_on(&'static self, device: Arc<dyn BlockDevice>) -> Result<(), SwapError> {
        if device.is_read_only() {
            return Err(SwapError::ReadOnly);
        }
        let slots = u32::try_from(device.sectors() / SECTORS_PER_SLOT).unwrap_or(u32::MAX - 1);
        if slots == 0 {
            return Err(SwapError::TooSmall);
        }
        let missing = TRANSFERS.saturating_sub(self.swap.transfers.count());
        self.swap.transfers.add(missing)?;
        let missing = TRANSFERS.saturating_sub(self.swap.transfers.single_count());
        self.swap.transfers.add_singles(missing)?;
        self.reads.prepare()?;
        let mut place = self.swap.device.lock();
        if place.is_some() {
            return Err(SwapError::AlreadyOn);
        }
        self.frames.swap.attach(slots)?;
        *place = Some(device);
        drop(place);
        self.adjust_watermarks();
        Ok(())
    }

    /// Forgets the device and the words of its slots, all of which are free.
    pub(super) fn detach_swap(&self) {
        let mut place = self.swap.device.lock();
        self.frames.swap.detach();
        let device = place.take();
        drop(place);
        drop(device);
    }

    /// What the swap area is used for; all 0 if there never was one.
    #[must_use]
    pub fn swap_stats(&self) -> SwapStats {
        let area = &self.frames.swap;
        let slots = area.slots();
        SwapStats {
            slots,
            used: slots.saturating_sub(area.free()),
            cached: area.cached(),
            reads: area.counters.reads.get(),
            writes: area.counters.writes.get(),
            read_ahead: area.counters.read_ahead.get(),
            errors: area.counters.errors.get(),
        }
    }

    /// Slots of the area that are in use.
    pub(super) fn used_swap_slots(&self) -> u32 {
        let area = &self.frames.swap;
        area.slots().saturating_sub(area.free())
    }

    /// Begins the read of the page of a slot whose word the caller has just made `Reading`, and of those slots of `ahead`
    /// that are `Out`.
    pub(crate) fn start_swap_read(
        &'static self,
        device: &dyn BlockDevice,
        mut prepared: Prepared,
        slot: SwapSlot,
        frame: ReservedFrame<'static>,
        ahead: Range<u32>,
    ) {
        prepared.push(segment_of(slot, frame.map()));
        if !ahead.is_empty() {
            self.add_ahead(&mut prepared, ahead, self.left_by_read_ahead());
        }
        prepared.start(device, self.swap_reads(), 0);
    }

    /// Reads those slots of `ahead` that are `Out`, for whoever will come for them, as far as more frames are free than
    /// `reserve`. False, and nothing is done, if no transfer is free.
    pub(crate) fn read_swap_ahead(&'static self, ahead: Range<u32>, reserve: u64) -> bool {
        let Some(device) = self.swap.device() else { return true };
        let Some(mut prepared) = self.swap.transfers.prepare(Direction::Read) else {
            return false;
        };
        self.add_ahead(&mut prepared, ahead, reserve);
        if !prepared.segments().is_empty() {
            prepared.start(&*device, self.swap_reads(), 0);
        }
        true
    }

    /// Frames that reading ahead leaves free: with fewer, memory is short.
    pub(crate) fn left_by_read_ahead(&self) -> u64 {
        u64::from(self.frames.watermarks().low).max(MAX_SEGMENTS as u64)
    }

    /// Adds those slots of `ahead` that are `Out` to a transfer, as far as more frames are free than `reserve`.
    fn add_ahead(&self, prepared: &mut Prepared, ahead: Range<u32>, reserve: u64) {
        let area = &self.frames.swap;
        let end = ahead.end.min(area.slots());
        if ahead.start >= end {
            return;
        }
        let cpu = self.platform.cpu();
        let mut spare = self.frames.available().saturating_sub(reserve);
        for slot in (ahead.start..end).map(SwapSlot::new) {
            let word = area.load(slot);
            if word.state != SlotState::Out {
                continue;
            }
            if spare == 0 || prepared.is_full() {
                return;
            }
            let Ok(frame) = self.frames.allocate(cpu) else { return };
            let waiting = ParkedFaults::NONE;
            if area.exchange(slot, word, word.with(SlotState::Reading { waiting })) {
                prepared.push(segment_of(slot, frame.map()));
                area.counters.read_ahead.add(1);
                spare -= 1;
            }
        }
    }

    /// The transfer that a read starts with, of one page or of several, if there is one for several. None is free: the fault
    /// has to wait for one ([`with_waiting_for_transfer`](Self::with_waiting_for_transfer)).
    pub(crate) fn prepare_swap_read(&'static self, alone: bool) -> Option<Prepared> {
        let transfers = &self.swap.transfers;
        let large = if alone {
            None
        } else {
            transfers.prepare(Direction::Read)
        };
        large.or_else(|| transfers.prepare_single())
    }

    /// Changes the list of faults that wait for a transfer, and sees to it that they are queued when one comes free.
    pub(crate) fn with_waiting_for_transfer<R>(&'static self, f: impl FnOnce(&mut ParkedFaults) -> R) -> R {
        let result = f(&mut self.swap.waiting.lock());
        // Register, then look: one that came free in between would wake nobody.
        self.swap
            .transfers
            .wake_when_free(Direction::Read, &transfer_waker(self));
        if let Some(free) = self.swap.transfers.prepare_single() {
            // It goes back at once, and wakes.
            drop(free);
        }
        result
    }

    fn queue_waiting_for_transfer(&'static self) {
        let waiting = core::mem::replace(&mut *self.swap.waiting.lock(), ParkedFaults::NONE);
        self.queue_parked(waiting, |_| {});
    }

    fn swap_reads(&'static self) -> &'static SwapReads<P> {
        let this: *const Self = self;
        // SAFETY: `SwapReads` is a transparent wrapper of a memory, so a reference to the one is one to the other.
        unsafe { &*this.cast::<SwapReads<P>>() }
    }
}

/// The memory, as the end of reads from the swap area sees it.
#[repr(transparent)]
struct SwapReads<P: Platform>(Memory<P>);

impl<P: Platform> Completion for SwapReads<P> {
    fn finished(&'static self, finished: Finished, result: TransferResult) {
        let memory = &self.0;
        let cpu = memory.platform.cpu();
        let outcome = match result {
            Ok(()) => PageRead::Fresh,
            Err(_) if finished.segments().len() > 1 => PageRead::Alone,
            Err(_) => PageRead::Failed,
        };
        if result.is_err() {
            memory.frames.swap.counters.errors.add(1);
        }
        for segment in finished.segments() {
            let frame = Pfn::from(segment.frame);
            let (waiting, retired) = memory.frames.read(slot_at(segment.sector), frame, result.is_ok(), cpu);
            if let Some(retired) = retired {
                memory.free_retired(retired);
            }
            match outcome {
                PageRead::Fresh => memory.serve_parked(waiting),
                PageRead::Alone | PageRead::Failed => {
                    if !mutant!(ForgetSwapReadError) {
                        memory.queue_parked(waiting, |token| token.note_page_read(outcome));
                    }
                }
            }
        }
        let watcher = memory.swap.watcher.lock().take();
        if let Some(watcher) = watcher {
            watcher.wake();
        }
    }
}

/// Queues the faults that wait for a transfer.
fn transfer_waker<P: Platform>(memory: &'static Memory<P>) -> Waker {
    // SAFETY: the vtable's functions take what is given here: a memory that lives for ever.
    unsafe { Waker::from_raw(RawWaker::new(ptr::from_ref(memory).cast(), vtable::<P>())) }
}

const fn vtable<P: Platform>() -> &'static RawWakerVTable {
    &RawWakerVTable::new(
        |memory| RawWaker::new(memory, vtable::<P>()),
        |memory| wake::<P>(memory),
        |memory| wake::<P>(memory),
        |_| {},
    )
}

fn wake<P: Platform>(memory: *const ()) {
    // SAFETY: `transfer_waker` made the pointer from a reference to a memory that lives for ever.
    let memory: &'static Memory<P> = unsafe { &*memory.cast::<Memory<P>>() };
    memory.queue_waiting_for_transfer();
}
