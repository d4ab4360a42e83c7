//! The binary sink: blocks of the ring as frames of `faultline_trace::wire` to a virtio serial port.
//!
//! Block numbers go round in a circle: free, current, on its way, free. The device takes blocks in the order in which
//! they were sent.

use core::hint::spin_loop;
use core::ptr::NonNull;

use faultline_drivers::virtio_port::DEPTH;
use faultline_trace::wire::{Body, RECORD, TRAILER, encode_header, trailer};
use faultline_trace::{Category, Event};
use spin::Mutex;

use super::ring::{self, BLOCKS, EVENTS_AT};
use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::{clock, smp};
use crate::config::TraceFull;
use crate::virtio_ports::{self, Port};

/// Looks at the device before a host that takes nothing counts as gone.
const PATIENCE: u32 = 50_000_000;

const _: () = assert!(BLOCKS <= DEPTH);

struct Stream {
    port: Port,
    /// Blocks that are free, as a bit set.
    free: u64,
    /// The current block of each CPU, unless its events are being lost.
    current: [Option<usize>; MAX_CPUS],
    /// The number of the next frame.
    frame: u32,
    /// Events that were sent.
    sent: u64,
    /// Events that were lost.
    lost: u64,
    full: TraceFull,
    /// The host took nothing for [`PATIENCE`] looks, so nobody waits for it until it does.
    stuck: bool,
}

static STREAM: Mutex<Option<Stream>> = Mutex::new(None);

/// Finds the port and says what will follow. Returns whether there is a port.
pub fn start(categories: Category, full: TraceFull) -> bool {
    if !ring::has_blocks() {
        return false;
    }
    let Some(port) = virtio_ports::take(virtio_ports::TRACE) else {
        ::log::warn!("no trace: the machine has no virtio serial port for it");
        return false;
    };
    let mut stream = Stream {
        port,
        free: (1 << BLOCKS) - 1,
        current: [None; MAX_CPUS],
        frame: 0,
        sent: 0,
        lost: 0,
        full,
        stuck: false,
    };
    let body = Body::Start {
        counter_hz: clock::counter_hz(),
        time: clock::counter(),
        categories: categories.bits(),
        cpus: smp::count() as u16,
    };
    stream.send_alone(body);
    // `ring::start` makes the first blocks current, one for each CPU.
    stream.wait_until_idle();
    (0..smp::count()).for_each(|cpu| stream.take(cpu, cpu));
    *STREAM.lock() = Some(stream);
    true
}

impl Stream {
    fn take(&mut self, cpu: usize, block: usize) {
        self.free &= !(1 << block);
        self.current[cpu] = Some(block);
    }

    /// Takes back what the device is done with.
    fn reclaim(&mut self) {
        while let Some(buffer) = self.port.reclaim() {
            let at = buffer.as_ptr().cast::<u8>() as usize - ring::block(0) as usize;
            self.free |= 1 << (at / ring::BLOCK);
            self.stuck = false;
        }
    }

    /// Hands `length` bytes of a block to the device.
    fn send(&mut self, block: usize, offset: usize, length: usize) {
        // SAFETY: the range lies in the block.
        let start = unsafe { ring::block(block).add(offset) };
        let Some(buffer) = NonNull::new(core::ptr::slice_from_raw_parts_mut(start, length)) else {
            return;
        };
        self.free &= !(1 << block);
        self.frame += 1;
        // SAFETY: the block is not free, so that nobody writes to it, until the device has given it back. The queue has
        // room for all blocks, so there is no error.
        let _ = unsafe { self.port.send(buffer) };
    }

    /// Sends a frame without a payload in a block that is free.
    fn send_alone(&mut self, body: Body) {
        let Some(block) = self.wait_for_free() else { return };
        // SAFETY: the block is free, and this is the only reference to it.
        let header = unsafe { core::slice::from_raw_parts_mut(ring::block(block), EVENTS_AT) };
        let length = encode_header(self.frame, body, header);
        self.send(block, 0, length);
    }

    /// Sends the current block of a CPU, this one or one that stands still, if there is an event in it. It is not current any
    /// more.
    fn send_current(&mut self, cpu: usize) {
        let events = cpu::locals()[cpu].tracing.words.recorded();
        let (Some(block), [first, .., last] | [first @ last]) = (self.current[cpu], events) else {
            return;
        };
        let body = Body::Events {
            cpu: cpu as u16,
            count: events.len() as u32,
            first: self.sent,
            lost: self.lost,
            times: (first.time, last.time),
            check: None,
        };
        self.sent += events.len() as u64;
        let payload = events.len() * RECORD;
        let mut header = [0; EVENTS_AT];
        let length = encode_header(self.frame, body, &mut header);
        // SAFETY: header and trailer lie in the block, before and after its events, where nobody else writes.
        unsafe {
            let start = ring::block(block);
            start.add(EVENTS_AT - length).copy_from(header.as_ptr(), length);
            start
                .add(EVENTS_AT + payload)
                .copy_from(trailer(self.frame).as_ptr(), TRAILER);
        }
        self.current[cpu] = None;
        self.send(block, EVENTS_AT - length, length + payload + TRAILER);
    }

    /// A free block, if there is one now or soon.
    fn wait_for_free(&mut self) -> Option<usize> {
        self.reclaim();
        if self.free == 0 && self.full == TraceFull::Wait && !self.stuck {
            for _ in 0..PATIENCE {
                spin_loop();
                self.reclaim();
                if self.free != 0 {
                    break;
                }
            }
            self.stuck = self.free == 0;
        }
        (self.free != 0).then(|| self.free.trailing_zeros() as usize)
    }

    /// Waits until the device has everything; not for ever.
    fn wait_until_idle(&mut self) {
        for _ in 0..PATIENCE {
            self.reclaim();
            if self.port.is_idle() {
                return;
            }
            spin_loop();
        }
    }

    /// Sends this CPU's current block and makes a free one current. Returns whether there is one.
    fn exchange(&mut self) -> bool {
        let cpu = cpu::index();
        self.send_current(cpu);
        match self.wait_for_free() {
            Some(block) => {
                self.take(cpu, block);
                ring::here().set_current(block);
                true
            }
            None => {
                self.current[cpu] = None;
                ring::here().set_none();
                false
            }
        }
    }

    fn finish(&mut self) {
        for cpu in 0..smp::count() {
            self.send_current(cpu);
            cpu::locals()[cpu].tracing.words.set_none();
        }
        self.send_alone(Body::End {
            events: self.sent,
            lost: self.lost,
        });
        self.wait_until_idle();
    }
}

/// For an event that finds no room: sends the current block and makes another one current. Returns whether there is one;
/// if not, the event is lost.
pub fn exchange() -> bool {
    let mut stream = STREAM.lock();
    let Some(stream) = stream.as_mut() else { return false };
    let there = stream.exchange();
    stream.lost += u64::from(!there);
    there
}

/// Sends this CPU's current block although it is not full.
pub fn flush() {
    if !ring::here().recorded().is_empty()
        && let Some(stream) = STREAM.lock().as_mut()
    {
        stream.exchange();
    }
}

/// Gives what the host has sent to `take`. Returns whether there was anything.
pub fn receive(take: impl FnOnce(&[u8])) -> bool {
    STREAM.lock().as_mut().is_some_and(|stream| stream.port.receive(take))
}

/// Sends everything, and the end. The other CPUs stand still.
pub fn finish() {
    if let Some(stream) = STREAM.lock().as_mut() {
        stream.finish();
        if stream.lost > 0 {
            ::log::warn!(
                "{} events of the trace were lost: the host did not take them in time",
                stream.lost
            );
        }
    }
}

/// [`finish`] for a kernel that failed.
///
/// # Safety
/// No other code runs again.
pub unsafe fn last_words() {
    // SAFETY: whoever held the lock does not run again. Its work was interrupted; the worst that follows is a frame that
    // the reader finds damaged.
    unsafe { STREAM.force_unlock() };
    finish();
}

const _: () = assert!(size_of::<Event>() == RECORD);
