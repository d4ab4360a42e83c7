//! Reading pages into their object, from a file or from swap slots.

use arrayvec::ArrayVec;
use faultline_fallible::Arc;

use super::disk_file::{DiskFile, Piece, Pieces};
use super::memory_object::{MemoryObject, Pages};
use super::reads::{MOST, Waiting};
use super::state::{Page, PageState};
use crate::address::PAGE_SIZE;
use crate::fault::waiter::complete_first;
use crate::fault::{Ending, FaultOutcome, PageRead};
use crate::frame::Pfn;
use crate::memory::Memory;
use crate::platform::Platform;
use crate::swap::{SlotState, SwapSlot, sector_of};
use crate::sync::atomic::Ordering;
use crate::sync::mutant;
use crate::transfer::{BlockDevice, Completion, Direction, Finished, MAX_SEGMENTS, Prepared, Segment, TransferResult};

/// What became of the wish for a page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The page is on its way, and who wants it hangs in the record of the read.
    Waits {
        /// The record.
        read: u16,
    },
    /// There is nothing to wait for: it is there, or it is zeros.
    Ready,
    /// It lies beyond the end of the object.
    BeyondEnd,
    /// The file does not know where it is.
    Failed,
    /// There is no frame for it, or no kernel memory for its place.
    NoFrame,
    /// As many reads are in flight as there can be.
    NoRecord,
    /// It is in a swap slot that is being read together with others, for nobody in particular.
    ReadAhead {
        /// The slot, in whose word faults can wait.
        slot: SwapSlot,
    },
}

/// How many pages a read may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// One.
    Alone,
    /// As many as the stream that the page belongs to suggests.
    Stream,
    /// That many, or fewer.
    Pages(u64),
}

/// Where the read-ahead that a read makes is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    /// Nowhere.
    None,
    /// When this page is used.
    At(u64),
}

/// Where the pages of a read come from.
enum Origin<'a> {
    File(&'a dyn DiskFile),
    Swap(Arc<dyn BlockDevice>),
}

impl Origin<'_> {
    fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::File(file) => file.device(),
            Self::Swap(device) => &**device,
        }
    }
}

/// What fills a read: pages are added while there is room.
struct Filling<'a> {
    origin: Origin<'a>,
    index: u16,
    prepared: Prepared,
    frames: ArrayVec<Pfn, MOST>,
    marker: Marker,
}

impl<P: Platform> Memory<P> {
    /// Wishes for a page of an object. If the page is in flight, or its read begins now, `hang` is called with those who
    /// wait for it, under the object's lock; the read may be over before this returns.
    pub(crate) fn wish(
        &'static self,
        object: &MemoryObject,
        page: u64,
        window: Window,
        hang: impl FnOnce(&mut Waiting),
    ) -> Wish {
        let mut pages = object.pages.lock();
        if page >= pages.end {
            return Wish::BeyondEnd;
        }
        let origin = match (pages.tree.get(page).page(), object.file.as_deref()) {
            (Page::InFlight { .. }, Some(file)) if mutant!(ReadTwice) => {
                pages.tree.remove(page);
                Origin::File(file)
            }
            (Page::InFlight { read, .. }, _) => {
                hang(&mut self.reads.record(read).lock().waiting);
                return Wish::Waits { read };
            }
            (Page::Absent, Some(file)) => Origin::File(file),
            (Page::SwappedOut { slot }, _) if !self.frames.take_back(&mut pages, page, slot) => {
                if let SlotState::Reading { .. } = self.frames.swap.load(slot).state {
                    return Wish::ReadAhead { slot };
                }
                let Some(device) = self.swap.device() else {
                    unreachable!("a page is on a device that is gone");
                };
                Origin::Swap(device)
            }
            (Page::Resident { .. } | Page::Absent | Page::SwappedOut { .. }, _) => return Wish::Ready,
        };
        let Some(this) = pages.this.upgrade() else {
            return Wish::BeyondEnd;
        };
        let Some(index) = self.reads.take() else {
            return Wish::NoRecord;
        };
        let Some(prepared) = self.reads.transfers.prepare(Direction::Read) else {
            self.reads.give_back(index);
            return Wish::NoRecord;
        };
        let (count, marker) = self.plan(&pages, page, window);
        let mut filling = Filling {
            origin,
            index,
            prepared,
            frames: ArrayVec::new(),
            marker,
        };
        if let Err(refused) = self.add_page(&mut filling, &mut pages, page) {
            self.reads.give_back(index);
            return refused;
        }
        let mut at = page + 1;
        while at - page < count && at < pages.end && self.add_page(&mut filling, &mut pages, at).is_ok() {
            at += 1;
        }
        let wanted = u64::from(!matches!(window, Window::Pages(_)));
        if object.file.is_some() {
            self.counters.object_misses.add(wanted);
            self.counters.read_ahead.add(at - page - wanted);
        }
        let Filling {
            origin,
            prepared,
            frames,
            ..
        } = filling;
        {
            let mut read = self.reads.record(index).lock();
            read.object = Some(this);
            read.first = page;
            read.frames = frames;
            hang(&mut read.waiting);
        }
        drop(pages);
        if prepared.segments().is_empty() {
            drop(prepared);
            self.end_read(index, true);
        } else {
            prepared.start(origin.device(), self.object_reads(), index.into());
        }
        Wish::Waits { read: index }
    }

    /// Adds a page to a read that is absent in memory and on its device.
    ///
    /// # Errors
    /// The wish can't be granted, or the page is not of that kind; nothing has changed.
    fn add_page(&'static self, filling: &mut Filling<'_>, pages: &mut Pages, page: u64) -> Result<(), Wish> {
        let mut pieces = Pieces::new();
        let slot = match (pages.tree.get(page).page(), &filling.origin) {
            (Page::Absent, Origin::File(file)) => {
                file.locate(page, &mut pieces).map_err(|_| Wish::Failed)?;
                None
            }
            (Page::SwappedOut { slot }, Origin::Swap(_)) if self.frames.is_on_device_alone(slot) => {
                pieces.push(Piece {
                    sector: sector_of(slot),
                    offset: 0,
                    length: PAGE_SIZE as u16,
                });
                Some(slot)
            }
            _ => return Err(Wish::Ready),
        };
        if filling.frames.is_full() || filling.prepared.segments().len() + pieces.len() > MAX_SEGMENTS {
            return Err(Wish::NoRecord);
        }
        pages.tree.prepare(page).map_err(|_| Wish::NoFrame)?;
        let frame = self
            .frames
            .allocate_for_fault(self.platform.cpu())
            .map_err(|_| Wish::NoFrame)?;
        if !pieces.are_whole_page() && !mutant!(ForgetHole) {
            self.platform.zero_frame(frame.frame());
        }
        let frame = self.frames.map_for_object(frame);
        for piece in pieces.iter() {
            filling.prepared.push(Segment {
                sector: piece.sector,
                frame: frame.frame(),
                offset: piece.offset,
                length: piece.length,
            });
        }
        filling.frames.push(frame);
        let mut state = PageState::in_flight(filling.index, slot);
        if filling.marker == Marker::At(page) {
            state = state.with_marker();
        }
        if mutant!(EarlyResident) {
            state = state.read_in(frame);
        }
        match pages.tree.get_mut(page) {
            Some(swapped_out) => *swapped_out = state,
            None => pages.tree.insert(page, state),
        }
        Ok(())
    }

    /// How many pages a read from `page` on is to have, and where the next one is to begin.
    fn plan(&self, pages: &Pages, page: u64, window: Window) -> (u64, Marker) {
        let wanted = match window {
            Window::Alone => return (1, Marker::None),
            Window::Pages(count) => count,
            Window::Stream => stream(pages, page),
        };
        // What is read ahead leaves most free frames to those who need one now.
        let spare = self.frames.available() / SPARE;
        let count = wanted.min(MOST as u64).min(spare).max(1);
        let more = page + count < pages.end;
        match window {
            Window::Stream if count > 1 && more => (count, Marker::At(page + 1)),
            Window::Pages(_) if more => (count, Marker::At(page)),
            _ => (count, Marker::None),
        }
    }

    /// Somebody has come to the marker of a stream: reads what is behind that which is in memory, if it is not too far
    /// ahead.
    #[cold]
    pub(crate) fn read_ahead(&'static self, object: &MemoryObject, page: u64) {
        let next = {
            let pages = object.pages.lock();
            let end = pages.end.min(page + 2 * MOST as u64);
            let mut behind = page..end;
            let next = behind.find(|&page| !pages.tree.get(page).is_here_or_in_flight());
            next.map(|next| (next, stream(&pages, next)))
        };
        if let Some((next, count)) = next {
            self.wish(object, next, Window::Pages(count), |_| {});
        }
    }

    /// The read of a record is over.
    pub(super) fn end_read(&'static self, index: u16, read_well: bool) {
        let (object, first, frames) = {
            let mut read = self.reads.record(index).lock();
            let frames = core::mem::take(&mut read.frames);
            (read.object.take(), read.first, frames)
        };
        let alone = frames.len() == 1;
        if let Some(object) = &object {
            if read_well {
                self.clear_behind_end(object, first, &frames);
            }
            self.settle(object, index, first, &frames, read_well);
        }
        let read = match read_well {
            true => PageRead::Fresh,
            // It says nothing about any page of several.
            false if !alone => PageRead::Alone,
            false => PageRead::Failed,
        };
        self.dismiss(index, read);
        self.reads.give_back(index);
        self.feed_starved();
        // This may be the last reference.
        drop(object);
    }

    /// Makes the pages of a read that is over resident, or absent.
    fn settle(&'static self, object: &MemoryObject, index: u16, first: u64, frames: &[Pfn], read_well: bool) {
        let objects = &self.frames.objects;
        let mut pages = object.pages.lock();
        let mut lost = ArrayVec::<Pfn, MOST>::new();
        let mut slots = ArrayVec::<SwapSlot, MOST>::new();
        for (page, &frame) in (first..).zip(frames) {
            let ours = pages.tree.get_mut(page).and_then(|state| match state.page() {
                Page::InFlight { read, slot } if read == index => Some((state, slot)),
                _ => None,
            });
            match ours {
                Some((state, slot)) if read_well || mutant!(ForgetReadError) => {
                    *state = state.read_in(frame);
                    objects.resident.add(1);
                    match slot {
                        Some(slot) => slots.push(slot),
                        None => objects.from_disk.add(1),
                    }
                }
                Some((state, Some(slot))) => {
                    *state = PageState::swapped_out(slot);
                    lost.push(frame);
                }
                Some((_, None)) => {
                    pages.tree.remove(page);
                    lost.push(frame);
                }
                // It was cut off or punched meanwhile.
                None => lost.push(frame),
            }
        }
        drop(pages);
        for slot in slots {
            self.drop_swapped(slot);
        }
        for frame in lost {
            self.frames.leave_object(frame);
        }
    }

    /// Zeros behind the end of the file, where the device may have anything.
    fn clear_behind_end(&self, object: &MemoryObject, first: u64, frames: &[Pfn]) {
        let length = object.file_length();
        let last = length / PAGE_SIZE;
        let used = (length % PAGE_SIZE) as usize;
        if used == 0 || last < first {
            return;
        }
        if let Some(frame) = frames.get((last - first) as usize) {
            let bytes = self.platform.phys_to_virt(frame.address());
            // SAFETY: 1. the pointer is valid for 4096 bytes, and `used` is fewer; 2. the record has the frame, which no
            // entry maps yet, and the device is done with it.
            unsafe { bytes.add(used).write_bytes(0, PAGE_SIZE as usize - used) };
        }
    }

    /// Sends everybody away who waits in a record that nobody can find any more.
    fn dismiss(&'static self, index: u16, read: PageRead) {
        let record = self.reads.record(index);
        let faults = record.lock().waiting.take_faults();
        if !mutant!(ForgetParked) {
            self.queue_parked(faults, |token| token.note_page_read(read));
        }
        let ending = match read {
            PageRead::Failed => Ending::ReadFailed,
            PageRead::Fresh | PageRead::Alone => Ending::Done(FaultOutcome::Retry),
        };
        loop {
            let mut record = record.lock();
            // SAFETY: the record's lock is that of the list; futures unlink their nodes under it before they go.
            let Some(waker) = (unsafe { complete_first(&mut record.waiting.futures, ending) }) else {
                break;
            };
            drop(record);
            waker.wake();
        }
    }

    /// Those who found no record look again: there are free ones now.
    fn feed_starved(&'static self) {
        if mutant!(LoseStarved) {
            return;
        }
        // The last read that ends feeds all, because some may need no record any more.
        let count = match self.reads.in_flight() {
            0 => usize::MAX,
            _ => self.reads.free(),
        };
        self.faults.retry_for_transfer(count);
        self.feed_futures(count);
    }

    /// Futures that found no record, or no frame, look again.
    pub(super) fn feed_futures(&self, count: usize) {
        for _ in 0..count {
            if self.reads.starving.load(Ordering::Relaxed) == 0 {
                break;
            }
            let mut starved = self.reads.starved.lock();
            // SAFETY: the lock of the list is held; futures unlink their nodes under it before they go.
            let waker = unsafe { complete_first(&mut starved, Ending::Done(FaultOutcome::Retry)) };
            let Some(waker) = waker else { break };
            self.reads.starving.fetch_sub(1, Ordering::Relaxed);
            drop(starved);
            waker.wake();
        }
    }

    fn object_reads(&'static self) -> &'static ObjectReads<P> {
        let this: *const Self = self;
        // SAFETY: `ObjectReads` is a transparent wrapper of a memory, so a reference to the one is one to the other.
        unsafe { &*this.cast::<ObjectReads<P>>() }
    }
}

/// The part of the free frames that one read may take for pages that nobody has asked for.
const SPARE: u64 = 16;

/// How many pages a stream reads at once that has come to `page`: twice as many as lie in memory before it.
fn stream(pages: &Pages, page: u64) -> u64 {
    const FIRST: u64 = 4;
    if page == 0 {
        return FIRST;
    }
    let before = page.saturating_sub(MOST as u64)..page;
    let run = before
        .rev()
        .take_while(|&before| pages.tree.get(before).is_here_or_in_flight())
        .count() as u64;
    match run {
        0 => 1,
        run => (2 * run).clamp(FIRST, MOST as u64),
    }
}

/// The memory, as the end of reads of objects sees it.
#[repr(transparent)]
struct ObjectReads<P: Platform>(Memory<P>);

impl<P: Platform> Completion for ObjectReads<P> {
    fn finished(&'static self, finished: Finished, result: TransferResult) {
        let index = finished.tag() as u16;
        // The transfer goes back before the record, so that who gets a record finds a transfer.
        drop(finished);
        self.0.end_read(index, result.is_ok());
    }
}
