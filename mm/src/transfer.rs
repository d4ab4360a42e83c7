//! Transfers between frames and a block device.
//!
//! # Protocol
//!
//! ```text
//!            (1) fill             (2) start                  (3) complete
//!  free ─────────────► prepared ───────────► at the device ────────────────► finished
//!   ▲                     │                                                     │
//!   └─────────────────────┴─────────────────────────────────────────────────────┘
//!                                     (4) drop
//! ```
//!
//! 1. Whoever wants a transfer takes a record from the [`Transfers`] and writes the segments into it. Records are made at
//!    once, when a device is attached, so that a transfer never allocates: writing pages out is what frees memory. Most have
//!    room for 64 segments; some have room for one, for faults that read their page alone.
//! 2. [`BlockDevice::start`] takes the [`Transfer`], and with it the right to read or write the frames of its segments.
//!    There is one `Transfer` for each record, so the frames come back once.
//! 3. [`Transfer::complete`] hands the record back to whoever started it, with the result. A transfer that is dropped
//!    instead counts as failed ([`TransferError::Abandoned`]): no waiter is left behind by a driver that forgets one.
//! 4. The record is free, and whoever waits for one is woken.
//!
//! While a transfer is at the device, its frames are in the state `Reserved`, `Mapped` or `Pinned` by references of
//! whoever started it; nobody frees them, whatever happens to the fault or the space that the page is for.

mod queue;

use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;

use faultline_fallible::{AllocError, Box, Vec};
use thiserror::Error;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

pub use queue::TransferQueue;

use crate::sync::{Mutex, MutexGuard};

/// Bytes of a sector: the unit of addresses on a device (Virtio 1.2, section 5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// Segments of one transfer at most.
pub const MAX_SEGMENTS: usize = 64;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the device to the frames.
    Read,
    /// From the frames to the device.
    Write,
}

/// A piece of one frame, and where it is on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first sector on the device.
    pub sector: u64,
    /// The frame.
    pub frame: PhysFrame,
    /// Where the piece starts in the frame, in bytes.
    pub offset: u16,
    /// Its length in bytes, a multiple of [`SECTOR_SIZE`], not 0; `offset + length` is at most 4096.
    pub length: u16,
}

impl Segment {
    /// A whole frame.
    #[must_use]
    pub const fn page(sector: u64, frame: PhysFrame) -> Self {
        Self {
            sector,
            frame,
            offset: 0,
            length: 4096,
        }
    }

    /// The sector behind the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.sector + self.length as u64 / SECTOR_SIZE
    }
}

/// Why a transfer failed. None of the frames of a failed read has content that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// The device reported an error, or moved fewer bytes than it was asked to.
    #[error("the device could not move sector {sector}")]
    Device {
        /// The first sector of the transfer.
        sector: u64,
    },
    /// A segment lies beyond the end of the device.
    #[error("sector {sector} is beyond the end of the device, which has {sectors}")]
    BeyondEnd {
        /// The first sector of the segment.
        sector: u64,
        /// Sectors of the device.
        sectors: u64,
    },
    /// The device can only be read.
    #[error("the device is read-only")]
    ReadOnly,
    /// The device did not answer in time, and was given up.
    #[error("the device did not answer")]
    Timeout,
    /// The driver dropped the transfer.
    #[error("the driver dropped the transfer")]
    Abandoned,
}

/// What a transfer ends with.
pub type TransferResult = Result<(), TransferError>;

/// A device that moves sectors to and from frames.
///
/// Transfers may be completed in any order, on any CPU, from a task but not from an interrupt handler, and also before
/// [`start`](Self::start) returns.
pub trait BlockDevice: Send + Sync {
    /// Its name for diagnostics: `vda`, `model0`.
    fn name(&self) -> &str;

    /// How many sectors it has.
    fn sectors(&self) -> u64;

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool {
        false
    }

    /// Starts a transfer, or queues it. Never waits. Every transfer is completed once, also if the device fails or never
    /// answers; the device may gather transfers and start them together at the end of the executor's turn.
    fn start(&self, transfer: Transfer);
}

/// Who starts transfers, and gets their records back.
pub trait Completion: Send + Sync {
    /// The transfer is over; dropping `finished` frees its record.
    fn finished(&'static self, finished: Finished, result: TransferResult);
}

/// What a record says while it is in use.
struct Content {
    direction: Direction,
    /// How many of `room` there are.
    used: usize,
    /// The segments, and room for more.
    room: Box<[Segment]>,
    /// Whose transfer it is.
    tag: u64,
    completion: Option<&'static dyn Completion>,
}

impl Content {
    #[inline(always)]
    fn segments(&self) -> &[Segment] {
        &self.room[..self.used]
    }
}

/// Room for one transfer.
struct Record {
    content: Content,
    /// Where it comes from.
    home: &'static Transfers,
    /// The record below this one on a stack of a [`TransferQueue`].
    below: Option<Box<Record>>,
}

/// A transfer on its way to a device or at it; stands for its record, and exists once.
#[must_use = "a transfer that is dropped has failed"]
pub struct Transfer(ManuallyDrop<Box<Record>>);

impl Transfer {
    /// Which way the bytes go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.0.content.direction
    }

    /// The pieces, in the order in which they were added; those that follow each other on the device may be moved as one.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        self.0.content.segments()
    }

    /// How much is moved, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        // Most transfers have one piece, and a loop is made for many.
        match self.segments() {
            [one] => one.length.into(),
            several => several.iter().map(|segment| u64::from(segment.length)).sum(),
        }
    }

    /// Hands the frames back: the device does not touch them any more. Whoever started the transfer may start others before
    /// this returns, so the caller holds no lock that [`BlockDevice::start`] takes.
    pub fn complete(self, result: TransferResult) {
        finish(self.into_record(), result);
    }

    fn into_record(self) -> Box<Record> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used again, and its destructor, which would take the record too, does not run.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }

    /// Why a device of so many sectors can't do this; a check that every driver makes first.
    ///
    /// # Errors
    /// [`TransferError::BeyondEnd`], [`TransferError::ReadOnly`].
    pub fn check(&self, sectors: u64, read_only: bool) -> TransferResult {
        if read_only && self.direction() == Direction::Write {
            return Err(TransferError::ReadOnly);
        }
        let beyond = |segment: &&Segment| segment.end() > sectors;
        let found = match self.segments() {
            [one] => Some(one).filter(beyond),
            several => several.iter().find(beyond),
        };
        match found {
            Some(&Segment { sector, .. }) => Err(TransferError::BeyondEnd { sector, sectors }),
            None => Ok(()),
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // SAFETY: the record is taken once: `into_record` forgets the transfer.
        let record = unsafe { ManuallyDrop::take(&mut self.0) };
        finish(record, Err(TransferError::Abandoned));
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("direction", &self.direction())
            .field("segments", &self.segments())
            .finish_non_exhaustive()
    }
}

fn finish(mut record: Box<Record>, result: TransferResult) {
    let completion = record.content.completion.take();
    let finished = Finished(Some(record));
    if let Some(completion) = completion {
        completion.finished(finished, result);
    }
}

/// The record of a transfer that is over. Dropping it frees the record.
pub struct Finished(Option<Box<Record>>);

impl Finished {
    fn content(&self) -> &Content {
        // The record is there until `drop`.
        &self.0.as_ref().expect("a finished transfer has its record").content
    }

    /// What [`Prepared::start`] was given: whose transfer it is.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.content().tag
    }

    /// Which way the bytes went.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.content().direction
    }

    /// The pieces.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        self.content().segments()
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            let home = record.home;
            home.put_back(record);
        }
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("tag", &self.tag())
            .field("direction", &self.direction())
            .field("segments", &self.segments())
            .finish()
    }
}

/// A transfer that is being put together. Dropping it frees the record.
pub struct Prepared(Finished);

impl Prepared {
    fn content_mut(&mut self) -> &mut Content {
        &mut self.0.0.as_mut().expect("a prepared transfer has its record").content
    }

    /// Adds a piece.
    ///
    /// # Panics
    /// If it is [full](Self::is_full), or if the piece is not as [`Segment`] says.
    pub fn push(&mut self, segment: Segment) {
        let Segment { offset, length, .. } = segment;
        assert!(
            length > 0
                && u64::from(length).is_multiple_of(SECTOR_SIZE)
                && u32::from(offset) + u32::from(length) <= 4096,
            "bad segment {segment:?}"
        );
        let content = self.content_mut();
        content.room[content.used] = segment;
        content.used += 1;
    }

    /// Pieces so far.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        self.0.segments()
    }

    /// Whether no other piece fits in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let content = self.0.content();
        content.used == content.room.len()
    }

    /// Gives it to the device. `completion` gets it back, and learns by `tag` whose it is.
    pub fn start(mut self, device: &dyn BlockDevice, completion: &'static dyn Completion, tag: u64) {
        let content = self.content_mut();
        content.tag = tag;
        content.completion = Some(completion);
        if let Some(record) = self.0.0.take() {
            device.start(Transfer(ManuallyDrop::new(record)));
        }
    }
}

/// The records of a machine.
pub struct Transfers {
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    /// Those with room for [`MAX_SEGMENTS`].
    records: Vec<Box<Record>>,
    /// Writes leave this many of them for reads.
    for_reads: usize,
    /// All of them that there are.
    count: usize,
    /// Those with room for one segment, and how many of them there are.
    singles: Vec<Box<Record>>,
    single_count: usize,
    /// Who found none for a read, and for a write.
    waiters: [Option<Waker>; 2],
}

impl Transfers {
    /// What the record of a transfer of one segment takes.
    pub const SINGLE_BYTES: usize = size_of::<Record>() + size_of::<Segment>();

    /// No record.
    #[must_use]
    pub fn new() -> Self {
        Self { free: Mutex::default() }
    }

    /// Makes `count` more, some 2 KiB each; writes will leave a quarter of all to reads.
    ///
    /// # Errors
    /// There is no memory for all of them; those made so far stay.
    pub fn add(&'static self, count: usize) -> Result<(), AllocError> {
        {
            let mut free = self.free.lock();
            let room = free.count + count - free.records.len();
            free.records.try_reserve(room)?;
        }
        for _ in 0..count {
            let record = self.make_record(MAX_SEGMENTS)?;
            let mut free = self.free.lock();
            free.records.try_push(record)?;
            free.count += 1;
            free.for_reads = free.count / 4;
        }
        Ok(())
    }

    /// Makes `count` more for reads of one segment ([`prepare_single`](Self::prepare_single)), some 100 bytes each.
    ///
    /// # Errors
    /// There is no memory for all of them; those made so far stay.
    pub fn add_singles(&'static self, count: usize) -> Result<(), AllocError> {
        {
            let mut free = self.free.lock();
            let room = free.single_count + count - free.singles.len();
            free.singles.try_reserve(room)?;
        }
        for _ in 0..count {
            let record = self.make_record(1)?;
            let mut free = self.free.lock();
            free.singles.try_push(record)?;
            free.single_count += 1;
        }
        Ok(())
    }

    fn make_record(&'static self, room: usize) -> Result<Box<Record>, AllocError> {
        let nothing = Segment {
            sector: 0,
            frame: PhysFrame::containing_address(PhysAddr::zero()),
            offset: 0,
            length: 0,
        };
        let content = Content {
            direction: Direction::Read,
            used: 0,
            room: Box::try_from_iter((0..room).map(|_| nothing))?,
            tag: 0,
            completion: None,
        };
        Box::try_new(Record {
            content,
            home: self,
            below: None,
        })
    }

    /// How many there are with room for all segments, free or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.free.lock().count
    }

    /// How many there are with room for one segment, free or not.
    #[must_use]
    pub fn single_count(&self) -> usize {
        self.free.lock().single_count
    }

    /// How many are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let free = self.free.lock();
        free.count - free.records.len() + free.single_count - free.singles.len()
    }

    /// A record for a transfer; none if all are in use.
    pub fn prepare(&'static self, direction: Direction) -> Option<Prepared> {
        let mut free = self.free.lock();
        if direction == Direction::Write && free.records.len() <= free.for_reads {
            return None;
        }
        let record = free.records.pop()?;
        drop(free);
        Some(Self::begin(record, direction))
    }

    /// A record for a read of one segment, be it one that has room for more; none if all are in use.
    pub fn prepare_single(&'static self) -> Option<Prepared> {
        let mut free = self.free.lock();
        let record = free.singles.pop().or_else(|| free.records.pop())?;
        drop(free);
        Some(Self::begin(record, Direction::Read))
    }

    #[inline(always)]
    fn begin(mut record: Box<Record>, direction: Direction) -> Prepared {
        record.content.direction = direction;
        record.content.used = 0;
        Prepared(Finished(Some(record)))
    }

    /// Wakes `waker` once, when a record comes free. There is one place for each direction: the task that starts all reads
    /// (or writes) waits there. To be called before it looks for a record again.
    pub fn wake_when_free(&self, direction: Direction, waker: &Waker) {
        self.free.lock().waiters[direction as usize] = Some(waker.clone());
    }

    fn put_back(&self, record: Box<Record>) {
        let is_single = record.content.room.len() == 1;
        let mut free = self.free.lock();
        let place = if is_single {
            &mut free.singles
        } else {
            &mut free.records
        };
        // Room for every record was reserved when it was made.
        let _ = place.try_push(record);
        if free.waiters.iter().any(Option::is_some) {
            Self::wake_waiters(free, is_single);
        }
    }

    #[cold]
    #[inline(never)]
    fn wake_waiters(mut free: MutexGuard<'_, Free>, is_single: bool) {
        let [read, write] = &mut free.waiters;
        // A write can't use a record for a single segment.
        let waiters = [read.take(), if is_single { None } else { write.take() }];
        drop(free);
        for waiter in waiters.into_iter().flatten() {
            waiter.wake();
        }
    }
}

impl Default for Transfers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.count() + self.single_count();
        write!(f, "{} of {all} transfers in use", self.in_use())
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::sync::Mutex;
    use std::vec::Vec;

    use super::*;

    /// Remembers what it is given.
    #[derive(Default)]
    struct Shelf(Mutex<Vec<Transfer>>);

    impl BlockDevice for Shelf {
        fn name(&self) -> &str {
            "shelf"
        }
        fn sectors(&self) -> u64 {
            64
        }
        fn start(&self, transfer: Transfer) {
            self.0.lock().unwrap().push(transfer);
        }
    }

    #[derive(Default)]
    struct Results(Mutex<Vec<(u64, TransferResult)>>);

    impl Completion for Results {
        fn finished(&'static self, finished: Finished, result: TransferResult) {
            self.0.lock().unwrap().push((finished.tag(), result));
        }
    }

    fn page(sector: u64) -> Segment {
        Segment::page(sector, PhysFrame::containing_address(PhysAddr::new(0x1000)))
    }

    #[test]
    fn every_transfer_comes_back_once_and_frees_its_record() {
        let transfers: &'static Transfers = Box::leak(Box::default());
        let results: &'static Results = Box::leak(Box::default());
        let shelf = Shelf::default();
        transfers.add(4).unwrap();
        for tag in 0..3 {
            let mut prepared = transfers.prepare(Direction::Write).unwrap();
            prepared.push(page(8 * tag));
            prepared.start(&shelf, results, tag);
        }
        // The last one is for reads.
        assert!(transfers.prepare(Direction::Write).is_none());
        drop(transfers.prepare(Direction::Read).unwrap());
        assert_eq!(transfers.in_use(), 3);
        let mut started = core::mem::take(&mut *shelf.0.lock().unwrap());
        started.pop().unwrap().complete(Ok(()));
        started.pop().unwrap().complete(Err(TransferError::Timeout));
        drop(started);
        assert_eq!(
            *results.0.lock().unwrap(),
            [
                (2, Ok(())),
                (1, Err(TransferError::Timeout)),
                (0, Err(TransferError::Abandoned))
            ]
        );
        assert_eq!(transfers.in_use(), 0);
    }

    #[test]
    fn a_read_of_one_segment_leaves_the_large_records_to_others() {
        let transfers: &'static Transfers = Box::leak(Box::default());
        transfers.add(1).unwrap();
        transfers.add_singles(1).unwrap();
        let mut single = transfers.prepare_single().unwrap();
        single.push(page(0));
        assert!(single.is_full());
        let large = transfers.prepare_single().unwrap();
        assert!(!large.is_full(), "the large one takes the place of a second small one");
        assert_eq!(transfers.in_use(), 2);
        assert!(transfers.prepare_single().is_none());
        drop(single);
        assert!(
            transfers.prepare(Direction::Read).is_none(),
            "the small one holds one page"
        );
        drop(large);
        assert!(!transfers.prepare(Direction::Read).unwrap().is_full());
        assert_eq!(transfers.in_use(), 0);
        assert_eq!(Transfers::SINGLE_BYTES, 96, "docs/benchmarks.md names it");
    }

    #[test]
    fn who_waits_is_woken_by_a_record_that_is_of_use() {
        let transfers: &'static Transfers = Box::leak(Box::default());
        transfers.add(1).unwrap();
        transfers.add_singles(1).unwrap();
        let (read, write) = (
            std::sync::Arc::new(Woken::default()),
            std::sync::Arc::new(Woken::default()),
        );
        let single = transfers.prepare_single().unwrap();
        let large = transfers.prepare(Direction::Read).unwrap();
        transfers.wake_when_free(Direction::Read, &read.clone().into());
        transfers.wake_when_free(Direction::Write, &write.clone().into());
        drop(single);
        assert_eq!((read.count(), write.count()), (1, 0));
        drop(large);
        assert_eq!((read.count(), write.count()), (1, 1));
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl Woken {
        fn count(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_queue_is_first_in_first_out_and_fails_what_is_left_in_it() {
        let transfers: &'static Transfers = Box::leak(Box::default());
        let results: &'static Results = Box::leak(Box::default());
        let shelf = Shelf::default();
        transfers.add(6).unwrap();
        let mut queue = TransferQueue::new();
        let mut started = (0..6).map(|tag| {
            let mut prepared = transfers.prepare(Direction::Read).unwrap();
            prepared.push(page(8 * tag));
            prepared.start(&shelf, results, tag);
            shelf.0.lock().unwrap().pop().unwrap()
        });
        let mut taken = Vec::new();
        let mut take = |queue: &mut TransferQueue| {
            let transfer = queue.pop().unwrap();
            taken.push(transfer.segments()[0].sector / 8);
            transfer.complete(Ok(()));
        };
        (0..3).for_each(|_| queue.push(started.next().unwrap()));
        take(&mut queue);
        (0..3).for_each(|_| queue.push(started.next().unwrap()));
        (0..3).for_each(|_| take(&mut queue));
        assert_eq!((taken, queue.len()), (std::vec![0, 1, 2, 3], 2));
        drop(queue);
        let results = results.0.lock().unwrap();
        assert_eq!(
            results[4..],
            [(4, Err(TransferError::Abandoned)), (5, Err(TransferError::Abandoned))]
        );
        assert_eq!(transfers.in_use(), 0);
    }

    #[test]
    fn what_a_device_cannot_do_is_refused() {
        let transfers: &'static Transfers = Box::leak(Box::default());
        let results: &'static Results = Box::leak(Box::default());
        let shelf = Shelf::default();
        transfers.add(1).unwrap();
        let mut prepared = transfers.prepare(Direction::Read).unwrap();
        prepared.push(page(56));
        prepared.push(page(57));
        prepared.start(&shelf, results, 0);
        let transfer = shelf.0.lock().unwrap().pop().unwrap();
        assert_eq!(
            transfer.check(64, true),
            Err(TransferError::BeyondEnd {
                sector: 57,
                sectors: 64
            })
        );
        assert_eq!(transfer.check(65, true), Ok(()));
    }
}
