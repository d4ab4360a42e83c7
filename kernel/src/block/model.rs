//! Modelled disks: memory that is as slow as a disk, in the machine's own time.
//!
//! When a transfer is over is the model's business ([`ModelDisk`]); the task sleeps until then by the executor's timers and
//! moves the bytes. Where a tick of the clock is an instruction, a run with such a disk repeats instruction by instruction.

use core::convert::Infallible;

use faultline_drivers::model_disk::{Behaviour, ModelDisk};
use faultline_executor::{Class, yield_now};
use faultline_mm::{BlockDevice, Direction, SECTOR_SIZE, Segment, Transfer, TransferResult};
use spin::Mutex;

use super::{Bell, Driver, Tally};
use crate::arch;
use crate::config::disk::Parameters;
use crate::machine::executor;
use crate::memory::{PAGE, PhysRange, phys_to_virt};
use crate::time;

/// Bytes that the task moves before others have their turn.
const BYTES_A_POLL: u64 = 512 * 1024;

/// Where the sectors are.
enum Content {
    /// Memory of the disk's own.
    Memory(PhysRange),
    /// A file of the boot archive; zeros behind its end.
    File(&'static [u8]),
}

struct Modelled {
    name: &'static str,
    sectors: u64,
    is_read_only: bool,
    content: Content,
    state: Mutex<ModelDisk>,
    bell: Bell,
    tally: Tally,
}

/// A disk of zeros, in memory that is its own.
pub fn in_memory(name: &'static str, range: PhysRange, size: u64, parameters: &Parameters) -> &'static dyn Driver {
    // SAFETY: the range was carved for this disk, and all physical memory is mapped.
    unsafe { phys_to_virt(range.start).write_bytes(0, range.len() as usize) };
    make(name, Content::Memory(range), size, parameters.read_only, parameters)
}

/// A disk with the content of a file. It can't be written: the file belongs to everybody.
pub fn of_file(name: &'static str, file: &'static [u8], parameters: &Parameters) -> &'static dyn Driver {
    make(name, Content::File(file), file.len() as u64, true, parameters)
}

#[allow(clippy::disallowed_types, reason = "it runs before the first program")]
fn make(
    name: &'static str,
    content: Content,
    size: u64,
    is_read_only: bool,
    parameters: &Parameters,
) -> &'static dyn Driver {
    use crate::startup::Box;

    let behaviour = Behaviour {
        latency: parameters.latency,
        bandwidth: parameters.bandwidth,
        depth: parameters.depth,
        jitter: parameters.jitter,
        errors: parameters.errors,
        seed: parameters.seed,
        hang: parameters.hang,
        limit: parameters.limit(),
    };
    let state = ModelDisk::new(behaviour).expect("there is memory for the disks at the start");
    let disk: &'static Modelled = Box::leak(Box::new(Modelled {
        name,
        sectors: size.div_ceil(SECTOR_SIZE),
        is_read_only,
        content,
        state: Mutex::new(state),
        bell: Bell::default(),
        tally: Tally::default(),
    }));
    let task = executor().spawn("modelled disk", Class::Device, serve(disk));
    task.expect("the first tasks have room").detach();
    disk
}

impl Driver for Modelled {
    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn give_up(&self) {
        self.state.lock().give_up();
        self.bell.ring();
    }
}

impl BlockDevice for Modelled {
    fn name(&self) -> &str {
        self.name
    }

    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn start(&self, transfer: Transfer) {
        if let Some(transfer) = self.tally.start(transfer, self) {
            let sooner = self.state.lock().push(time::now(), transfer);
            // The task sleeps until the deadline as it was.
            if sooner {
                self.bell.ring();
            }
        }
    }
}

/// The disk's task.
async fn serve(disk: &'static Modelled) -> Infallible {
    let mut moved = 0;
    loop {
        // What is over by then is found by the next round, which follows at once.
        let now = time::now();
        while let Some((transfer, result)) = disk.take(now) {
            if result.is_ok() {
                for segment in transfer.segments() {
                    disk.move_bytes(transfer.direction(), segment);
                    moved += u64::from(segment.length);
                }
            }
            disk.tally.complete(transfer, result);
            if moved >= BYTES_A_POLL {
                moved = 0;
                yield_now().await;
            }
        }
        let deadline = disk.state.lock().deadline();
        disk.bell.wait_until(deadline.unwrap_or(u64::MAX)).await;
    }
}

impl Modelled {
    fn take(&self, now: u64) -> Option<(Transfer, TransferResult)> {
        self.state.lock().take(now)
    }

    /// Moves the bytes of a segment, which the driver has checked to be on the disk.
    fn move_bytes(&self, direction: Direction, segment: &Segment) {
        let at = segment.sector * SECTOR_SIZE;
        let frame = phys_to_virt(segment.frame.start_address().as_u64());
        let frame = frame.wrapping_add(segment.offset.into());
        let length = usize::from(segment.length);
        match &self.content {
            Content::Memory(range) => {
                let own = phys_to_virt(range.start + at);
                let (from, to) = match direction {
                    Direction::Read => (own, frame),
                    Direction::Write => (frame, own),
                };
                // SAFETY: 1. the segment lies on the disk, whose memory is whole pages, and in its frame; 2. the frame
                // belongs to the transfer, so nobody else writes to it, and the disk's memory is in nobody's frame; 3.
                // pages are aligned where both are.
                unsafe {
                    if length as u64 == PAGE && at.is_multiple_of(PAGE) {
                        arch::pages::copy(from, to);
                    } else {
                        core::ptr::copy_nonoverlapping(from, to, length);
                    }
                }
            }
            Content::File(file) => {
                let rest = file.get(at as usize..).unwrap_or_default();
                let there = rest.len().min(length);
                // SAFETY: as above; only reads come here.
                unsafe {
                    core::ptr::copy_nonoverlapping(rest.as_ptr(), frame, there);
                    frame.add(there).write_bytes(0, length - there);
                }
            }
        }
    }
}
