//! Transfers at a simulated device, until it answers them: late, and in any order.

use std::cell::{Ref, RefCell, RefMut};

use faultline_mm::{FrameState, PAGE_SIZE, Segment, Transfer, TransferError};

use crate::world::{fail, world};

/// A transfer at a device.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    pub transfer: Transfer,
    /// How often the frame of each segment had been freed when the transfer began.
    epochs: Vec<u32>,
    due: u64,
    /// What the device remembers of it.
    pub with: T,
}

impl<T> Pending<T> {
    /// The device answers.
    pub fn end(self, fails: bool) {
        let sector = self.transfer.segments()[0].sector;
        self.transfer.complete(if fails {
            Err(TransferError::Device { sector })
        } else {
            Ok(())
        });
    }

    /// No frame was taken away from the device.
    pub fn check_frames(&self, device: &str) {
        let physical = &world().physical;
        for (segment, &epoch) in self.transfer.segments().iter().zip(&self.epochs) {
            let frame = frame_of(segment);
            if physical.state(frame) != Some(FrameState::Mapped) || physical.epoch(frame) != epoch {
                fail(format!(
                    "{device} has a transfer with frame {frame}, which is not its own any more"
                ));
            }
        }
    }
}

/// The transfers of one device.
#[derive(Debug)]
pub(crate) struct Queue<T>(RefCell<Vec<Pending<T>>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Queue<T> {
    pub fn all(&self) -> Ref<'_, Vec<Pending<T>>> {
        self.0.borrow()
    }

    pub fn all_mut(&self) -> RefMut<'_, Vec<Pending<T>>> {
        self.0.borrow_mut()
    }

    /// When the next answer is due.
    pub fn next_due(&self) -> Option<u64> {
        self.all().iter().map(|pending| pending.due).min()
    }

    /// A transfer whose answer is due.
    pub fn take_due(&self) -> Option<Pending<T>> {
        let now = world().clock.get();
        let mut all = self.all_mut();
        let place = all.iter().position(|pending| pending.due <= now)?;
        Some(all.swap_remove(place))
    }

    /// Adds a transfer. True if the device answers before the caller goes on, and everything else too.
    pub fn add(&self, transfer: Transfer, with: T) -> bool {
        let world = world();
        let epochs = transfer.segments().iter();
        let epochs = epochs.map(|segment| world.physical.epoch(frame_of(segment))).collect();
        let due = world.clock.get() + world.random.borrow_mut().below(40);
        let mut all = self.all_mut();
        all.push(Pending {
            transfer,
            epochs,
            due,
            with,
        });
        let at_once = world.random.borrow_mut().chance(1, 6);
        if at_once {
            all.iter_mut().for_each(|pending| pending.due = 0);
        }
        at_once
    }
}

pub(crate) fn frame_of(segment: &Segment) -> u32 {
    (segment.frame.start_address().as_u64() / PAGE_SIZE) as u32
}
