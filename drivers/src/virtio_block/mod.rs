//! A virtio disk (Virtio 1.2, section 5.2): transfers between its sectors and frames.
//!
//! # The life of a transfer
//!
//! ```text
//!  push ─► waiting reads  ─┐            one notification                     used ring, in any order
//!          waiting writes ─┴─► fill ─► requests in the queue ─► the device ───────────────────────► take ─► complete
//! ```
//!
//! 1. [`VirtioBlock::push`] queues it. Nothing is said to the device yet, so that transfers of one turn of the executor
//!    go together.
//! 2. [`VirtioBlock::fill`] makes requests of what waits, reads first, as far as there are descriptors, and notifies the
//!    device once. A transfer becomes a request for each run of sectors, and for each part that the device's limits allow;
//!    requests of one transfer need not all be in the queue at once. Reads leave some descriptors to writes, or writes,
//!    which make memory free, would wait for ever behind faults; writes leave some to reads.
//! 3. [`VirtioBlock::take`] returns transfers whose last request was used, and how they ended. A request whose status is
//!    not good, or for which the device wrote less than it was asked to, fails its transfer.
//! 4. The caller completes what it took, without the driver's lock: whoever is told may start another transfer at once.
//!
//! A device that answers for a request that it was not given, or that says that it needs a reset, is broken. So is one that
//! the caller gives up because it does not answer ([`VirtioBlock::give_up`]). It is reset, after which it touches no frame
//! any more (section 2.4.2), and only then does `take` return what it had; all that comes later fails too.
//!
//! Request headers and status bytes are made at the start. Nothing allocates after it.

mod buffers;
mod request;
mod send;
#[cfg(test)]
mod tests;

use core::ptr::NonNull;

use arrayvec::ArrayVec;
use faultline_mm::{Direction, MAX_SEGMENTS, Transfer, TransferError, TransferQueue, TransferResult};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE};
use x86_64::PhysAddr;

use buffers::{NO_INPUTS, no_outputs};
use request::{Limits, cut};

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        /// Pieces have a greatest length.
        const SIZE_MAX = 1 << 1;
        /// Requests have a greatest number of pieces.
        const SEG_MAX = 1 << 2;
        /// It can only be read.
        const RO = 1 << 5;
        /// Without it, writes would end only when they are on stable storage. Nobody here needs that: what is written does
        /// not outlive the machine.
        const FLUSH = 1 << 9;
        /// The modern interface.
        const VERSION_1 = 1 << 32;
    }
}

/// Where things are in the device's configuration.
const CAPACITY: usize = 0;
const SIZE_MAX: usize = 8;
const SEG_MAX: usize = 12;

/// The only queue that is used.
const QUEUE: u16 = 0;

/// Kinds of requests.
const IN: u32 = 0;
const OUT: u32 = 1;

/// The status of a request that went well, and one that no device writes.
const OK: u8 = 0;
const UNWRITTEN: u8 = 0xff;

/// What the device reads first of a request.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

const HEADER: usize = size_of::<Header>();

/// A request in the queue.
#[derive(Clone, Copy, Debug)]
struct Request {
    /// Whose it is: an index of the transfers at the device.
    job: u16,
    /// Where its header and its status are.
    place: u16,
    /// Its segments.
    first: u8,
    count: u8,
    /// Descriptors that it takes.
    descriptors: u8,
}

/// A transfer of which requests are in the queue.
#[derive(Debug)]
struct Job {
    transfer: Transfer,
    /// Segments that are in requests or were.
    sent: usize,
    /// Requests in the queue.
    requests: usize,
    result: TransferResult,
    /// When its first request went into the queue.
    since: u64,
}

/// What one direction has.
#[derive(Debug, Default)]
struct Lane {
    waiting: TransferQueue,
    /// The transfer of which only some segments were sent.
    partial: Option<u16>,
    /// Descriptors that its requests take.
    descriptors: usize,
}

/// What a disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Requests that were given to the device.
    pub requests: u64,
    /// Notifications of the device.
    pub notifications: u64,
    /// The most requests at once in the queue.
    pub most: usize,
}

/// The disk. `N` is the number of descriptors.
pub struct VirtioBlock<H: Hal, T: Transport, const N: usize> {
    transport: T,
    queue: VirtQueue<H, N>,
    /// Where a frame is in the kernel's address space.
    memory: fn(PhysAddr) -> NonNull<u8>,
    /// A page with a header for each request.
    headers: NonNull<u8>,
    /// A page with a status byte for each.
    statuses: NonNull<u8>,
    /// Requests by the descriptor that they begin with.
    requests: [Option<Request>; N],
    jobs: [Option<Job>; N],
    free_jobs: ArrayVec<u16, N>,
    /// Reads and writes.
    lanes: [Lane; 2],
    /// Free places among headers and statuses.
    free_places: ArrayVec<u16, N>,
    in_queue: usize,
    limits: Limits,
    sectors: u64,
    is_read_only: bool,
    /// Why the device was given up.
    dead: Option<DeathOf>,
    counts: BlockCounts,
}

/// How a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathOf {
    /// It broke the rules, or said that it needs a reset.
    Broken,
    /// It did not answer.
    Silent,
}

// SAFETY: the pointers are to memory that belongs to this value alone, from whatever CPU it is used.
unsafe impl<H: Hal, T: Transport + Send, const N: usize> Send for VirtioBlock<H, T, N> {}

impl<H: Hal, T: Transport, const N: usize> VirtioBlock<H, T, N> {
    /// Descriptors that one request takes at most, with its header and its status.
    const LARGEST: usize = if N / 2 < MAX_SEGMENTS + 2 {
        N / 2
    } else {
        MAX_SEGMENTS + 2
    };

    /// Descriptors that reads leave to writes, and writes to reads: room for a request at least.
    const LEFT: [usize; 2] = [Self::LARGEST, N / 2];

    /// Starts the device. `memory` says where a frame is in the kernel's address space.
    ///
    /// # Errors
    /// The device does not have the modern interface, or its queue is shorter than `N`, or there is no memory for the queue.
    pub fn new(mut transport: T, memory: fn(PhysAddr) -> NonNull<u8>) -> Result<Self, Error> {
        const { assert!(N.is_power_of_two() && N >= 8 && N * HEADER <= PAGE_SIZE) };
        let features = transport.begin_init(Features::all());
        if !features.contains(Features::VERSION_1) {
            return Err(Error::Unsupported);
        }
        let capacity: [u32; 2] = transport.read_consistent(|| {
            let low = transport.read_config_space(CAPACITY)?;
            Ok([low, transport.read_config_space(CAPACITY + 4)?])
        })?;
        let read = |feature, at| match features.contains(feature) {
            true => transport.read_config_space::<u32>(at),
            false => Ok(u32::MAX),
        };
        let limits = Limits {
            pieces: (read(Features::SEG_MAX, SEG_MAX)?.max(1) as usize).min(Self::LARGEST - 2),
            piece_length: read(Features::SIZE_MAX, SIZE_MAX)?.max(PAGE_SIZE as u32),
        };
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false)?;
        let [(headers, headers_at), (statuses, statuses_at)] =
            [BufferDirection::DriverToDevice, BufferDirection::DeviceToDriver].map(|direction| {
                let (at, memory) = H::dma_alloc(1, direction);
                (memory, at)
            });
        if headers_at == 0 || statuses_at == 0 {
            return Err(Error::DmaError);
        }
        transport.finish_init();
        Ok(Self {
            transport,
            queue,
            memory,
            headers,
            statuses,
            requests: [None; N],
            jobs: [const { None }; N],
            free_jobs: (0..N as u16).collect(),
            lanes: [Lane::default(), Lane::default()],
            free_places: (0..N as u16).collect(),
            in_queue: 0,
            limits,
            sectors: u64::from(capacity[0]) | u64::from(capacity[1]) << 32,
            is_read_only: features.contains(Features::RO),
            dead: None,
            counts: BlockCounts::default(),
        })
    }

    /// How many sectors it has.
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it can only be read.
    pub const fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// What it has done so far.
    pub const fn counts(&self) -> BlockCounts {
        self.counts
    }

    /// How it ended, if it did.
    pub const fn death(&self) -> Option<DeathOf> {
        self.dead
    }

    /// Requests in the queue.
    pub const fn in_queue(&self) -> usize {
        self.in_queue
    }

    /// Queues a transfer, which [`Transfer::check`] has passed.
    pub fn push(&mut self, transfer: Transfer) {
        self.lanes[transfer.direction() as usize].waiting.push(transfer);
    }

    /// Makes requests of what waits, and tells the device. `now` is noted as the time at which they begin.
    pub fn fill(&mut self, now: u64) {
        let before = self.in_queue;
        if self.dead.is_none() {
            for direction in [Direction::Read, Direction::Write] {
                while self.send_one(direction, now) {}
            }
        }
        if self.in_queue > before {
            self.counts.most = self.counts.most.max(self.in_queue);
            if self.queue.should_notify() {
                self.counts.notifications += 1;
                self.transport.notify(QUEUE);
            }
        }
    }

    /// Takes a transfer that is over, and how it ended. To be called until there is none, then [`fill`](Self::fill).
    pub fn take(&mut self) -> Option<(Transfer, TransferResult)> {
        while self.dead.is_none()
            && let Some(token) = self.queue.peek_used()
        {
            match self.use_up(token) {
                Ok(Some(over)) => return Some(over),
                Ok(None) => {}
                Err(Broken) => self.end(DeathOf::Broken),
            }
        }
        self.dead.and_then(|death| self.take_from_dead(death))
    }

    /// The device is done with a request. Returns its transfer if that was the last of it.
    fn use_up(&mut self, token: u16) -> Result<Option<(Transfer, TransferResult)>, Broken> {
        let request = self
            .requests
            .get_mut(usize::from(token))
            .and_then(Option::take)
            .ok_or(Broken)?;
        let place = request.place;
        let job = self.jobs[usize::from(request.job)].as_ref().ok_or(Broken)?;
        let direction = job.transfer.direction();
        let segments = &job.transfer.segments()[usize::from(request.first)..][..usize::from(request.count)];
        let sector = segments.first().map_or(0, |segment| segment.sector);
        let (pieces, _) = cut(segments, self.limits);
        let asked: u32 = match direction {
            Direction::Read => pieces.iter().map(|piece| piece.length).sum(),
            Direction::Write => 0,
        };
        let mut buffers = self.buffers(direction, place, &pieces);
        let (mut inputs, mut outputs) = (NO_INPUTS, no_outputs());
        let [read, to_write] = buffers.split(&mut inputs, &mut outputs);
        // SAFETY: these are the token and the buffers of one `add`, and all of them are still valid.
        let used = unsafe { self.queue.pop_used(token, &inputs[..read], &mut outputs[..to_write]) };
        let written = used.map_err(|_| Broken)?;
        // SAFETY: the place belongs to the request; the device is done with it.
        let status = unsafe { self.status(place).read_volatile() };
        self.free_places.push(place);
        self.in_queue -= 1;
        let lane = &mut self.lanes[direction as usize];
        lane.descriptors -= usize::from(request.descriptors);
        let is_partial = lane.partial == Some(request.job);
        let job = &mut self.jobs[usize::from(request.job)];
        let Some(running) = job else { return Err(Broken) };
        running.requests -= 1;
        // The status byte comes after the data.
        if status != OK || written <= asked {
            running.result = running.result.and(Err(TransferError::Device { sector }));
        }
        if running.requests > 0 || is_partial {
            return Ok(None);
        }
        self.free_jobs.push(request.job);
        Ok(job.take().map(|job| (job.transfer, job.result)))
    }

    /// Since when the oldest transfer at the device has been there.
    pub fn oldest(&self) -> Option<u64> {
        self.jobs.iter().flatten().map(|job| job.since).min()
    }

    /// Serves the device's interrupt: it will not interrupt again for what has happened so far. Returns whether the
    /// interrupt was its own.
    pub fn acknowledge(&mut self) -> bool {
        !self.transport.ack_interrupt().is_empty()
    }

    /// Looks whether the device says that it needs a reset.
    pub fn check_status(&mut self) {
        if self.dead.is_none() && self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            self.end(DeathOf::Broken);
        }
    }

    /// Gives the device up because it does not answer.
    pub fn give_up(&mut self) {
        if self.dead.is_none() {
            self.end(DeathOf::Silent);
        }
    }

    /// Resets the device and waits until it is: from then on it touches no memory.
    fn end(&mut self, death: DeathOf) {
        self.transport.set_status(DeviceStatus::empty());
        while self.transport.get_status() != DeviceStatus::empty() {
            core::hint::spin_loop();
        }
        self.dead = Some(death);
        self.requests = [None; N];
        self.in_queue = 0;
        for lane in &mut self.lanes {
            lane.partial = None;
            lane.descriptors = 0;
        }
    }

    /// A transfer that was at a device that was given up, or comes too late.
    fn take_from_dead(&mut self, death: DeathOf) -> Option<(Transfer, TransferResult)> {
        let at_device = self.jobs.iter_mut().find_map(Option::take).map(|job| job.transfer);
        let [reads, writes] = &mut self.lanes;
        let transfer = at_device
            .or_else(|| reads.waiting.pop())
            .or_else(|| writes.waiting.pop())?;
        let sector = transfer.segments().first().map_or(0, |segment| segment.sector);
        let error = match death {
            DeathOf::Broken => TransferError::Device { sector },
            DeathOf::Silent => TransferError::Timeout,
        };
        Some((transfer, Err(error)))
    }
}

/// The device broke the rules.
struct Broken;
