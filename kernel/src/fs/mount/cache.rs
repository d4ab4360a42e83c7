//! The metadata of a mounted file system: a few units of the disk in memory.
//!
//! # Protocol
//! ```text
//!            (1) take                    (2) finished
//!  Empty ──────────────► Reading ─────────────────────► Ready | Failed
//!    ▲                                                     │ (3) another unit is taken
//!    └─────────────────────────────────────────────────────┘
//! ```
//! 1. A reader whose unit is in no slot takes the least recently used slot, increments its sequence number, and starts a
//!    transfer. Other readers of the unit wait in the slot's queue.
//! 2. The completion sets the state and wakes the slot's queue. A waiter compares the sequence number with the one that it
//!    saw: if it differs, the slot was taken for another unit meanwhile, and the waiter looks for its own again.
//! 3. A slot with readers, or with a transfer in flight, is not taken. A reader that finds no slot waits for one.
//!
//! A reader that is dropped while its unit is at the disk leaves nothing behind: the unit arrives all the same. The
//! frames, the queues and the records for transfers are taken when the file system is mounted, and nothing here allocates
//! after that.

use core::sync::atomic::{AtomicU32, Ordering};

use faultline_executor::{WaitQueue, yield_now};
use faultline_ext4::{Source, UNIT};
use faultline_fallible::AllocError;
use faultline_mm::{
    Completion, Direction, Finished, Prepared, SECTOR_SIZE, Segment, TransferError, TransferResult, Transfers,
};
use spin::{Mutex, Once};
use x86_64::structures::paging::PhysFrame;

use crate::arch::cpu;
use crate::block::Disk;
use crate::machine::memory;
use crate::memory::phys_to_virt;

/// Units that are kept: a quarter of a mebibyte.
const SLOTS: usize = 64;

/// Reads in a row that are answered at once before others run. A read looks at one block at most.
const TURN: u32 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Reading,
    Ready,
    Failed(TransferError),
}

#[derive(Clone, Copy)]
struct Slot {
    /// Which unit of the disk it has.
    unit: u64,
    state: State,
    /// How often it was taken.
    sequence: u64,
    /// Readers that have its frame now.
    readers: u32,
    /// When it was used last, by the count of uses.
    used: u64,
}

struct Slots {
    slots: [Slot; SLOTS],
    uses: u64,
}

/// What a look for a unit came to.
enum Found {
    /// It is in the slot, which has one reader more.
    Ready(usize),
    /// It is on its way to the slot, in the turn of this sequence number.
    Reading(usize, u64),
    /// All slots are at the disk or read from.
    Full,
}

/// The cache of the one mounted file system.
pub struct Cache {
    disk: &'static Disk,
    transfers: &'static Transfers,
    frames: [PhysFrame; SLOTS],
    slots: Mutex<Slots>,
    /// Readers that wait for the unit of a slot.
    arrived: [WaitQueue; SLOTS],
    /// Readers that wait for a slot.
    freed: WaitQueue,
    reads: AtomicU32,
}

static TRANSFERS: Once<Transfers> = Once::new();

static CACHE: Once<Cache> = Once::new();

/// Makes the cache for a disk.
///
/// # Errors
/// There is no memory for it, or it was made before.
pub fn start(disk: &'static Disk) -> Result<&'static Cache, AllocError> {
    let transfers = TRANSFERS.call_once(Transfers::new);
    if CACHE.get().is_some() {
        return Err(AllocError);
    }
    transfers.add(SLOTS)?;
    let mut frames = [PhysFrame::containing_address(x86_64::PhysAddr::zero()); SLOTS];
    for slot in &mut frames {
        // One that is missing ends the mount; those before it stay with the kernel.
        let frame = memory().frames().allocate(cpu::index()).map_err(|_| AllocError)?;
        *slot = frame.pin().frame();
    }
    let empty = Slot {
        unit: 0,
        state: State::Empty,
        sequence: 0,
        readers: 0,
        used: 0,
    };
    Ok(CACHE.call_once(|| Cache {
        disk,
        transfers,
        frames,
        slots: Mutex::new(Slots {
            slots: [empty; SLOTS],
            uses: 0,
        }),
        arrived: [const { WaitQueue::new() }; SLOTS],
        freed: WaitQueue::new(),
        reads: AtomicU32::new(0),
    }))
}

impl Cache {
    /// The disk.
    pub const fn disk(&self) -> &'static Disk {
        self.disk
    }

    /// Looks for a unit; starts to read it if no slot has it.
    fn find(&'static self, unit: u64) -> Found {
        let mut guard = self.slots.lock();
        let Slots { slots, uses } = &mut *guard;
        *uses += 1;
        let there = slots
            .iter()
            .position(|slot| slot.unit == unit && matches!(slot.state, State::Ready | State::Reading));
        if let Some(index) = there {
            let slot = &mut slots[index];
            slot.used = *uses;
            if slot.state == State::Reading {
                return Found::Reading(index, slot.sequence);
            }
            slot.readers += 1;
            return Found::Ready(index);
        }
        let can_go = |slot: &&Slot| slot.readers == 0 && slot.state != State::Reading;
        let oldest = slots.iter().filter(can_go).map(|slot| slot.used).min();
        let oldest = oldest.and_then(|used| slots.iter().position(|slot| slot.used == used && can_go(&slot)));
        let Some(index) = oldest else {
            return Found::Full;
        };
        let slot = &mut slots[index];
        slot.unit = unit;
        slot.sequence += 1;
        slot.used = *uses;
        let sequence = slot.sequence;
        match self.prepare(unit, index) {
            Some(prepared) => {
                slot.state = State::Reading;
                drop(guard);
                prepared.start(self.disk.device, self, index as u64);
            }
            None => slot.state = State::Failed(TransferError::Abandoned),
        }
        Found::Reading(index, sequence)
    }

    /// The read of a unit, which begins before the end of the disk. There is a record for each slot.
    fn prepare(&self, unit: u64, index: usize) -> Option<Prepared> {
        let length = self.disk.length().checked_sub(unit.checked_mul(UNIT)?)?.min(UNIT);
        let mut prepared = self.transfers.prepare(Direction::Read).filter(|_| length > 0)?;
        prepared.push(Segment {
            sector: unit * (UNIT / SECTOR_SIZE),
            frame: self.frames[index],
            offset: 0,
            length: length as u16,
        });
        Some(prepared)
    }

    /// What a turn of a slot came to; none while it lasts.
    fn outcome(&self, index: usize, sequence: u64) -> Option<TransferResult> {
        let slot = self.slots.lock().slots[index];
        if slot.sequence != sequence {
            // Over long ago: look again.
            return Some(Ok(()));
        }
        match slot.state {
            State::Reading => None,
            State::Failed(error) => Some(Err(error)),
            State::Ready | State::Empty => Some(Ok(())),
        }
    }

    fn has_free_slot(&self) -> bool {
        let slots = self.slots.lock();
        let is_free = |slot: &Slot| slot.readers == 0 && slot.state != State::Reading;
        slots.slots.iter().any(is_free)
    }

    /// The slot that has a unit, with one reader more.
    async fn slot(&'static self, unit: u64) -> Result<usize, TransferError> {
        loop {
            match self.find(unit) {
                Found::Ready(index) => return Ok(index),
                Found::Reading(index, sequence) => {
                    let outcome = self.arrived[index].wait_until(|| self.outcome(index, sequence));
                    outcome.await?;
                }
                Found::Full => self.freed.wait_until(|| self.has_free_slot().then_some(())).await,
            }
        }
    }
}

impl Completion for Cache {
    fn finished(&'static self, finished: Finished, result: TransferResult) {
        let index = finished.tag() as usize;
        // The record is free before the slot is.
        drop(finished);
        self.slots.lock().slots[index].state = match result {
            Ok(()) => State::Ready,
            Err(error) => State::Failed(error),
        };
        self.arrived[index].wake_all();
        self.freed.wake_all();
    }
}

/// The cache as a source of metadata.
#[derive(Clone, Copy)]
pub struct Metadata(pub &'static Cache);

impl Source for Metadata {
    type Error = TransferError;

    async fn read<T: Send>(
        &self,
        at: u64,
        length: usize,
        with: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<T, TransferError> {
        let cache = self.0;
        if cache.reads.fetch_add(1, Ordering::Relaxed) % TURN == TURN - 1 {
            yield_now().await;
        }
        let (unit, offset) = (at / UNIT, (at % UNIT) as usize);
        let end = at.saturating_add(length as u64);
        if end > cache.disk.length() {
            return Err(TransferError::BeyondEnd {
                sector: at / SECTOR_SIZE,
                sectors: cache.disk.device.sectors(),
            });
        }
        let index = cache.slot(unit).await?;
        let bytes = phys_to_virt(cache.frames[index].start_address().as_u64());
        // SAFETY: 1. the frame is the slot's, pinned, and mapped like all memory; 2. while the slot has a reader nobody
        // takes it for another unit, so the disk does not write to it.
        let bytes = unsafe { core::slice::from_raw_parts(bytes.cast_const(), UNIT as usize) };
        let value = with(&bytes[offset..offset + length]);
        cache.slots.lock().slots[index].readers -= 1;
        cache.freed.wake_one();
        Ok(value)
    }
}
