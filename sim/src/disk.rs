//! The disk: it answers late, in any order, and sometimes with an error.
//!
//! It writes by itself, as devices do: when an answer is due, the bytes are in the page that was given, whoever may have
//! taken that page meanwhile. So a page that is freed under the device shows.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use faultline_mm::{FillError, FrameState, PAGE_SIZE, PageSource, Pfn};
use x86_64::structures::paging::PhysFrame;

use crate::model::{FILE_PAGES, file_value};
use crate::world::{fail, world};

/// One transfer.
#[derive(Debug)]
struct Transfer {
    /// Physical address of the page.
    target: u64,
    /// How often its frame had been freed when the transfer began.
    epoch: u32,
    index: u64,
    due: u64,
    waker: Waker,
    done: Option<bool>,
}

#[derive(Debug, Default)]
pub(crate) struct Disk(RefCell<Vec<Transfer>>);

impl Disk {
    /// When the next answer is due.
    pub fn next_due(&self) -> Option<u64> {
        let transfers = self.0.borrow();
        transfers
            .iter()
            .filter(|transfer| transfer.done.is_none())
            .map(|transfer| transfer.due)
            .min()
    }

    /// The interrupt: answers what is due.
    pub fn answer(&self) {
        let world = world();
        loop {
            let now = world.clock.get();
            let mut transfers = self.0.borrow_mut();
            let due = transfers
                .iter_mut()
                .find(|transfer| transfer.done.is_none() && transfer.due <= now);
            let Some(transfer) = due else { return };
            let fails = world.random.borrow_mut().chance(world.settings().disk_errors, 16);
            transfer.done = Some(!fails);
            let (target, epoch, index) = (transfer.target, transfer.epoch, transfer.index);
            let waker = transfer.waker.clone();
            drop(transfers);
            let frame = (target / PAGE_SIZE) as u32;
            if world.physical.state(frame) != Some(FrameState::Reserved) || world.physical.epoch(frame) != epoch {
                fail(format!(
                    "the disk writes to frame {frame}, which is not its own any more"
                ));
            }
            if !fails {
                world.physical.set_value(target, file_value(index as u32));
            }
            world.note(|| format!("disk: page {index}{}", if fails { " failed" } else { "" }));
            waker.wake();
        }
    }

    fn poll(&self, index: u64, page: &mut [u8; 4096], context: &Context<'_>) -> Poll<Result<(), FillError>> {
        let world = world();
        let target = (page.as_ptr().addr() - world.physical.watched().0) as u64;
        let epoch = world.physical.epoch((target / PAGE_SIZE) as u32);
        let mut transfers = self.0.borrow_mut();
        let found = transfers
            .iter()
            .position(|transfer| (transfer.target, transfer.epoch, transfer.index) == (target, epoch, index));
        match found {
            Some(place) => match transfers[place].done {
                Some(fine) => {
                    transfers.swap_remove(place);
                    Poll::Ready(if fine { Ok(()) } else { Err(FillError { index }) })
                }
                None => {
                    transfers[place].waker = context.waker().clone();
                    Poll::Pending
                }
            },
            None => {
                let due = world.clock.get() + world.random.borrow_mut().below(40);
                page.fill(0);
                // What is there before the answer.
                world.physical.set_value(target, 0xbad);
                let waker = context.waker().clone();
                transfers.push(Transfer {
                    target,
                    epoch,
                    index,
                    due,
                    waker,
                    done: None,
                });
                drop(transfers);
                // It may also answer before it is waited for.
                if world.random.borrow_mut().chance(1, 6) {
                    self.0.borrow_mut().iter_mut().for_each(|transfer| transfer.due = 0);
                    self.answer();
                }
                Poll::Pending
            }
        }
    }
}

/// The file of a world.
#[derive(Debug)]
pub(crate) struct File {
    /// Pages that are in memory.
    pub resident: Vec<Option<Pfn>>,
}

impl PageSource for File {
    fn len(&self) -> u64 {
        u64::from(FILE_PAGES) * PAGE_SIZE
    }

    fn resident(&self, index: u64) -> Option<PhysFrame> {
        let frame = *self.resident.get(index as usize)?;
        frame.map(PhysFrame::from)
    }

    fn poll_fill(&self, index: u64, page: &mut [u8; 4096], context: &mut Context<'_>) -> Poll<Result<(), FillError>> {
        world().disk.poll(index, page, context)
    }
}
