//! A disk for tests: it keeps transfers until the test lets them go, in any order, and fails those that the test names.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

use faultline_fallible::Arc;
use x86_64::PhysAddr;

use super::machine::*;
use crate::swap::Left;
use crate::tables::Leaf;
use crate::tlb::Change;
use crate::*;

/// A page of the disk.
type Page = [u64; 512];

/// What the test decides and the disk holds.
#[derive(Default)]
struct Inside {
    pages: BTreeMap<u64, Page>,
    waiting: Vec<Transfer>,
    /// Sectors whose transfers fail.
    bad: Vec<u64>,
    /// Transfers are done at once.
    at_once: bool,
    started: usize,
}

/// A disk of whole pages.
pub struct Disk {
    memory: &'static Memory<Machine>,
    pages: u64,
    inside: Mutex<Inside>,
}

impl Disk {
    /// A disk that does every transfer at once.
    pub fn new(world: &World, pages: u64) -> Arc<Self> {
        let inside = Inside {
            at_once: true,
            ..Inside::default()
        };
        Arc::try_new(Self {
            memory: world.memory,
            pages,
            inside: Mutex::new(inside),
        })
        .unwrap()
    }

    /// Whether transfers are done at once, or wait for [`finish`](Self::finish).
    pub fn at_once(&self, at_once: bool) {
        self.inside.lock().unwrap().at_once = at_once;
    }

    /// Makes transfers of a page fail, or work again.
    pub fn fail(&self, slot: SwapSlot, fails: bool) {
        let sector = u64::from(slot.number()) * 8;
        let bad = &mut self.inside.lock().unwrap().bad;
        bad.retain(|&known| known != sector);
        if fails {
            bad.push(sector);
        }
    }

    /// The first word of a page.
    pub fn word(&self, slot: SwapSlot) -> Option<u64> {
        let inside = self.inside.lock().unwrap();
        inside.pages.get(&(u64::from(slot.number()) * 8)).map(|page| page[0])
    }

    /// Transfers that wait.
    pub fn waiting(&self) -> usize {
        self.inside.lock().unwrap().waiting.len()
    }

    /// Transfers that were started.
    pub fn started(&self) -> usize {
        self.inside.lock().unwrap().started
    }

    /// Does one of the transfers that wait.
    pub fn finish(&self, index: usize) {
        let transfer = self.inside.lock().unwrap().waiting.remove(index);
        self.work(transfer);
    }

    /// Does all of them, the last first.
    pub fn finish_all(&self) {
        while self.waiting() > 0 {
            self.finish(self.waiting() - 1);
        }
    }

    fn work(&self, transfer: Transfer) {
        let fails = {
            let mut inside = self.inside.lock().unwrap();
            let fails = transfer
                .segments()
                .iter()
                .any(|piece| inside.bad.contains(&piece.sector));
            for piece in transfer.segments().iter().filter(|_| !fails) {
                let at = piece.frame.start_address().as_u64();
                let frame = self.memory.platform().phys_to_virt(PhysAddr::new(at)).cast::<Page>();
                let page = inside.pages.entry(piece.sector).or_insert([0; 512]);
                match transfer.direction() {
                    // SAFETY: the frame is in the machine's buffer, and the device's until the transfer is done.
                    Direction::Read => unsafe { frame.write(*page) },
                    // SAFETY: as above.
                    Direction::Write => *page = unsafe { frame.read() },
                }
            }
            fails
        };
        let sector = transfer.segments()[0].sector;
        transfer.complete(if fails {
            Err(TransferError::Device { sector })
        } else {
            Ok(())
        });
    }
}

impl BlockDevice for Disk {
    fn name(&self) -> &str {
        "test"
    }

    fn sectors(&self) -> u64 {
        self.pages * 8
    }

    fn start(&self, transfer: Transfer) {
        let mut inside = self.inside.lock().unwrap();
        inside.started += 1;
        if inside.at_once {
            drop(inside);
            self.work(transfer);
        } else {
            inside.waiting.push(transfer);
        }
    }
}

impl World {
    /// A machine's swap area of so many pages.
    pub fn swap(&self, pages: u64) -> Arc<Disk> {
        let disk = Disk::new(self, pages);
        let device = Arc::clone(&disk);
        self.memory
            .swap_on(faultline_fallible::unsize!(device => dyn BlockDevice))
            .unwrap();
        disk
    }

    /// Makes the pages of a range leave, as far as they are in tables of the space's own; returns what has become of them,
    /// and the last error. Nothing is written yet, and no frame is free.
    pub fn leave(&self, space: &Vas, start: u64, pages: u64) -> (Vec<Left>, Result<(), SwapError>) {
        let mut left = Vec::new();
        let mut inner = space.lock();
        let mut change = Change::new();
        let mut result = Ok(());
        {
            let mut leaving = self.memory.frames.leave();
            for page in (0..pages).map(|page| start + page * PAGE_SIZE) {
                let Leaf::Own(entry, value) = self.memory.leaf(inner.root.unwrap(), page) else {
                    continue;
                };
                const STAY: u64 = Entry::BORROWED | Entry::BUSY | Entry::SHARED;
                if value.is_present() && value.bits() & STAY == 0 {
                    match leaving.entry(entry) {
                        Ok(slot) => left.push(slot),
                        Err(error) => result = Err(error),
                    }
                    change.page(page);
                }
            }
        }
        space.finish(&mut inner, change);
        (left, result)
    }

    /// Writes what has left, and frees the frames that nothing maps any more.
    pub fn write_out(&self, disk: &Disk, left: &[Left]) {
        for &left in left {
            let retired = match left {
                Left::Dirty(slot, frame) => {
                    let fails = {
                        let mut inside = disk.inside.lock().unwrap();
                        let sector = u64::from(slot.number()) * 8;
                        let from = self.memory.platform().phys_to_virt(frame.address()).cast::<Page>();
                        // SAFETY: the frame is in the machine's buffer, and the slot holds a reference to it.
                        inside.pages.insert(sector, unsafe { from.read() });
                        inside.bad.contains(&sector)
                    };
                    let gone = self.memory.frames.written(slot, !fails, 0);
                    gone.or_else(|| self.memory.frames.drop_cached(slot, 0))
                }
                Left::Clean(slot) | Left::Joined(slot) => self.memory.frames.drop_cached(slot, 0),
            };
            if let Some(retired) = retired {
                retired.free();
            }
        }
    }

    /// Swaps the pages of a range out, as far as they are in tables of the space's own; says how many were written.
    pub fn page_out(&self, disk: &Disk, space: &Vas, start: u64, pages: u64) -> usize {
        let (left, result) = self.leave(space, start, pages);
        assert_eq!(result, Ok(()));
        self.write_out(disk, &left);
        left.iter().filter(|left| matches!(left, Left::Dirty(..))).count()
    }
}
