//! Transfers that wait for their device, first in, first out.
//!
//! Two stacks through the records themselves: new transfers go on one, and whoever takes the next finds it on the other,
//! which is filled by turning the first one over when it is empty. So a queue has no limit and needs no memory.

use faultline_fallible::Box;

use super::{Record, Transfer};
use core::mem::ManuallyDrop;

/// A queue of transfers.
#[derive(Default)]
pub struct TransferQueue {
    /// New ones, the newest on top.
    pushed: Option<Box<Record>>,
    /// Older ones, the oldest on top.
    next: Option<Box<Record>>,
    length: usize,
}

impl TransferQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pushed: None,
            next: None,
            length: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds one behind all others.
    pub fn push(&mut self, transfer: Transfer) {
        let mut record = transfer.into_record();
        if self.length == 0 {
            self.next = Some(record);
        } else {
            record.below = self.pushed.take();
            self.pushed = Some(record);
        }
        self.length += 1;
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Transfer> {
        if self.length == 0 {
            return None;
        }
        if self.next.is_none() {
            while let Some(mut record) = self.pushed.take() {
                self.pushed = record.below.take();
                record.below = self.next.take();
                self.next = Some(record);
            }
        }
        let mut record = self.next.take()?;
        self.next = record.below.take();
        self.length -= 1;
        Some(Transfer(ManuallyDrop::new(record)))
    }
}

impl Drop for TransferQueue {
    /// What is still in the queue counts as failed, as any transfer that is dropped.
    fn drop(&mut self) {
        while let Some(transfer) = self.pop() {
            drop(transfer);
        }
    }
}

impl core::fmt::Debug for TransferQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} transfers", self.length)
    }
}
