//! What a disk has done.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faultline_mm::{BlockDevice, Direction, Transfer, TransferResult};

/// Counts of a disk's transfers. They order nothing.
#[derive(Debug, Default)]
pub struct Tally {
    transfers: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    errors: AtomicU64,
    in_flight: AtomicU64,
    most: AtomicU64,
}

impl Tally {
    /// A transfer was given to `disk`, which is to serve it; none if it is over already, because the disk can't.
    pub(super) fn start(&self, transfer: Transfer, disk: &impl BlockDevice) -> Option<Transfer> {
        let direction = transfer.direction() as usize;
        self.transfers[direction].fetch_add(1, Relaxed);
        self.bytes[direction].fetch_add(transfer.length(), Relaxed);
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        if now > self.most.load(Relaxed) {
            self.most.fetch_max(now, Relaxed);
        }
        match transfer.check(disk.sectors(), disk.is_read_only()) {
            Ok(()) => Some(transfer),
            Err(error) => {
                self.complete(transfer, Err(error));
                None
            }
        }
    }

    /// It is over: hands it back.
    pub(super) fn complete(&self, transfer: Transfer, result: TransferResult) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.errors.fetch_add(result.is_err().into(), Relaxed);
        transfer.complete(result);
    }

    /// Transfers that were started in this direction.
    pub fn transfers(&self, direction: Direction) -> u64 {
        self.transfers[direction as usize].load(Relaxed)
    }

    /// Their bytes.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Relaxed)
    }

    /// Transfers that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Transfers that the disk has now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// The most that it had at once.
    pub fn most(&self) -> u64 {
        self.most.load(Relaxed)
    }
}
