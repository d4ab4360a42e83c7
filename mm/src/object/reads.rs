//! Records of the reads that are in flight, and who waits for each.
//!
//! # Protocol
//!
//! ```text
//!        (1) take            (2) begin                 (3) end
//!  free ──────────► taken ─────────────► in flight ─────────────► ending
//!   ▲                                                               │
//!   └───────────────────────────────────────────────────────────────┘
//!                                (4) give back
//! ```
//!
//! 1. Whoever reads pages in takes a record, with the lock of the object's pages held.
//! 2. Under that lock the pages become `InFlight` with the record's number, and the record gets the object, the frames,
//!    and the first waiter. Others who find a page in flight hang in its record, under the same lock.
//! 3. The device is done: under the object's lock the pages become resident, or absent again. From then on nobody finds
//!    the record any more.
//! 4. Every waiter was queued or completed, and the record is free.
//!
//! Records, and a transfer for each, are made with the first object that has a file, and never move, so nothing on the way
//! of a fault allocates. Who finds no record free waits until a read has ended: faults in a list of the fault slots,
//! futures in [`Reads::starved`]. Locks nest in this order: pages of an object, record, free records.

use arrayvec::ArrayVec;
use faultline_fallible::{AllocError, Arc, Box, Vec};
use spin::Once;

use super::memory_object::MemoryObject;
use crate::fault::ParkedFaults;
use crate::fault::waiter::WaitList;
use crate::frame::Pfn;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicUsize;
use crate::transfer::Transfers;

/// Pages of one read at most.
pub(super) const MOST: usize = 32;

/// One read.
pub(crate) struct Read {
    /// Whose pages are read; the read keeps the object alive.
    pub object: Option<Arc<MemoryObject>>,
    /// The first page.
    pub first: u64,
    /// The frames of this page and those behind it. The read has a reference to each until it ends.
    pub frames: ArrayVec<Pfn, MOST>,
    /// Who waits.
    pub waiting: Waiting,
}

/// Who waits for the same thing.
pub(crate) struct Waiting {
    /// Faults.
    pub faults: ParkedFaults,
    /// Futures that read a page for the kernel.
    pub futures: WaitList,
}

impl Waiting {
    const NOBODY: Self = Self {
        faults: ParkedFaults::NONE,
        futures: WaitList::new(),
    };

    /// Takes all faults out.
    pub(super) fn take_faults(&mut self) -> ParkedFaults {
        core::mem::replace(&mut self.faults, ParkedFaults::NONE)
    }
}

/// All records of a machine.
pub(crate) struct Reads {
    /// How many there are to be.
    count: u16,
    records: Once<Box<[Mutex<Read>]>>,
    free: Mutex<Vec<u16>>,
    /// Futures that found no record, or no frame.
    pub(super) starved: Mutex<WaitList>,
    /// Futures in that list, to be looked at without the lock.
    pub(super) starving: AtomicUsize,
    pub(super) transfers: Transfers,
}

impl Reads {
    pub fn new(count: u16) -> Self {
        Self {
            count,
            records: Once::new(),
            free: Mutex::new(Vec::new()),
            starved: Mutex::new(WaitList::new()),
            starving: AtomicUsize::new(0),
            transfers: Transfers::new(),
        }
    }

    /// Makes the records and the transfers, if that was not done.
    ///
    /// # Errors
    /// There is no memory for all of them.
    pub fn prepare(&'static self) -> Result<(), AllocError> {
        if self.records.is_completed() {
            return Ok(());
        }
        let missing = usize::from(self.count).saturating_sub(self.transfers.count());
        self.transfers.add(missing)?;
        self.records.try_call_once(|| {
            let records = Box::try_from_iter((0..self.count).map(|_| Mutex::new(Read::NONE)))?;
            let mut free = self.free.lock();
            free.clear();
            free.try_reserve(self.count.into())?;
            for index in (0..self.count).rev() {
                free.try_push(index)?;
            }
            Ok::<_, AllocError>(records)
        })?;
        Ok(())
    }

    /// Whether there has been an object whose pages are on a disk.
    pub(crate) fn is_prepared(&self) -> bool {
        self.records.is_completed()
    }

    /// A free record.
    pub(super) fn take(&self) -> Option<u16> {
        self.free.lock().pop()
    }

    /// The record that a page in flight names.
    pub(super) fn record(&self, index: u16) -> &Mutex<Read> {
        // Only a record that was taken has a number.
        let records = self.records.get().expect("the records of reads were made");
        &records[usize::from(index)]
    }

    /// The record is free again.
    pub(super) fn give_back(&self, index: u16) {
        // Room for all was reserved.
        let _ = self.free.lock().try_push(index);
    }

    /// Records that are free.
    pub fn free(&self) -> usize {
        self.free.lock().len()
    }

    /// Reads in flight.
    pub fn in_flight(&self) -> usize {
        let made = self.records.get().map_or(0, |records| records.len());
        made.saturating_sub(self.free())
    }
}

impl Read {
    const NONE: Self = Self {
        object: None,
        first: 0,
        frames: ArrayVec::new_const(),
        waiting: Waiting::NOBODY,
    };
}
