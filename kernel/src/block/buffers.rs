//! Reads of a disk as it is, for its node in `/dev`.
//!
//! A read goes through one of [`BUFFERS`] frames that are taken at the start. A buffer is *free*, *at the disk*, or *held*
//! by whoever reads it. A reader that is gone while its buffer is at the disk leaves it to the disk: it comes free when the
//! transfer is over.

use core::future::poll_fn;
use core::task::{Poll, Waker};

use faultline_executor::WaitQueue;
use faultline_mm::{Completion, Direction, Finished, SECTOR_SIZE, Segment, TransferResult, Transfers};
use spin::{Mutex, Once};
use x86_64::structures::paging::PhysFrame;

use super::Disk;
use crate::arch::cpu;
use crate::machine::memory;
use crate::memory::{PAGE, phys_to_virt};
use crate::syscall::Errno;

/// Reads that can be at disks at once.
const BUFFERS: usize = 64;

enum State {
    Free,
    AtDisk(Option<Waker>),
    /// At the disk, and nobody waits.
    Left,
    Over(TransferResult),
    Held,
}

struct Buffer {
    state: State,
    frame: PhysFrame,
}

static POOL: Once<Pool> = Once::new();

static TRANSFERS: Once<Transfers> = Once::new();

/// Who waits for a buffer.
static FREE: WaitQueue = WaitQueue::new();

struct Pool([Mutex<Buffer>; BUFFERS]);

/// Takes the frames.
///
/// # Panics
/// If there is no memory for them.
pub fn start() {
    let transfers = TRANSFERS.call_once(Transfers::new);
    transfers
        .add(BUFFERS)
        .expect("there is memory for the disks' buffers at the start");
    POOL.call_once(|| {
        Pool(core::array::from_fn(|_| {
            let frame = memory().frames().allocate(cpu::index());
            let frame = frame.expect("there is memory for the disks' buffers at the start");
            Mutex::new(Buffer {
                state: State::Free,
                frame: frame.pin().frame(),
            })
        }))
    });
}

impl Completion for Pool {
    fn finished(&'static self, finished: Finished, result: TransferResult) {
        let index = finished.tag() as usize;
        drop(finished);
        let mut buffer = self.0[index].lock();
        match core::mem::replace(&mut buffer.state, State::Over(result)) {
            State::AtDisk(waker) => {
                drop(buffer);
                waker.into_iter().for_each(Waker::wake);
            }
            _ => {
                buffer.state = State::Free;
                drop(buffer);
                FREE.wake_one();
            }
        }
    }
}

/// A buffer that somebody has.
struct Hold {
    pool: &'static Pool,
    index: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut buffer = self.pool.0[self.index].lock();
        if let State::AtDisk(_) = buffer.state {
            buffer.state = State::Left;
            return;
        }
        buffer.state = State::Free;
        drop(buffer);
        FREE.wake_one();
    }
}

fn take(pool: &'static Pool) -> Option<Hold> {
    let index = pool.0.iter().position(|buffer| {
        let mut buffer = buffer.lock();
        let is_free = matches!(buffer.state, State::Free);
        if is_free {
            buffer.state = State::Held;
        }
        is_free
    })?;
    Some(Hold { pool, index })
}

/// Reads from byte `start` of a disk on, up to the end of the page of the disk. Says how many bytes; 0 at the end of the
/// disk.
///
/// # Errors
/// `EIO` if the disk fails.
pub async fn read(disk: &'static Disk, start: u64, to: &mut [u8]) -> Result<usize, Errno> {
    let (page, end) = (start & !(PAGE - 1), disk.length());
    let offset = (start - page) as usize;
    let there = end.saturating_sub(page).min(PAGE) as usize;
    let length = there.saturating_sub(offset).min(to.len());
    let (Some(pool), Some(transfers), 1..) = (POOL.get(), TRANSFERS.get(), length) else {
        return Ok(0);
    };
    let hold = FREE.wait_until(|| take(pool)).await;
    let frame = pool.0[hold.index].lock().frame;
    // There are as many records as buffers, and a record is back before its buffer is.
    let mut prepared = transfers.prepare(Direction::Read).ok_or(Errno::EIO)?;
    prepared.push(Segment {
        sector: page / SECTOR_SIZE,
        frame,
        offset: 0,
        length: there as u16,
    });
    pool.0[hold.index].lock().state = State::AtDisk(None);
    prepared.start(disk.device, pool, hold.index as u64);
    let result = poll_fn(|context| {
        let mut buffer = pool.0[hold.index].lock();
        match &mut buffer.state {
            State::AtDisk(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            State::Over(result) => Poll::Ready(*result),
            _ => Poll::Ready(Ok(())),
        }
    })
    .await;
    result.map_err(|_| Errno::EIO)?;
    let bytes = phys_to_virt(frame.start_address().as_u64());
    // SAFETY: the frame is the buffer's, which is held; the disk is done with it.
    let bytes = unsafe { core::slice::from_raw_parts(bytes, there) };
    to[..length].copy_from_slice(&bytes[offset..offset + length]);
    Ok(length)
}
