//! From transfers that wait to requests in the queue.

use faultline_mm::Direction;
use virtio_drivers::transport::Transport;
use virtio_drivers::{Error, Hal};

use super::buffers::{Buffers, NO_INPUTS, no_outputs};
use super::request::{Piece, cut};
use super::{HEADER, Header, IN, Job, OUT, Request, UNWRITTEN, VirtioBlock};

impl<H: Hal, T: Transport, const N: usize> VirtioBlock<H, T, N> {
    /// Puts one more request of this direction into the queue. Returns whether there was one, and room for it.
    pub(super) fn send_one(&mut self, direction: Direction, now: u64) -> bool {
        let lane = direction as usize;
        let Some(job) = self.lanes[lane].partial.or_else(|| self.begin(lane, now)) else {
            return false;
        };
        self.lanes[lane].partial = Some(job);
        let Some(Job { transfer, sent, .. }) = self.jobs[usize::from(job)].as_ref() else {
            return false;
        };
        let first = *sent;
        let segments = &transfer.segments()[first..];
        let (pieces, count) = cut(segments, self.limits);
        let sector = segments.first().map_or(0, |segment| segment.sector);
        let is_last = count == segments.len();
        let descriptors = pieces.len() + 2;
        let allowed = N - Self::LEFT[lane];
        if self.lanes[lane].descriptors + descriptors > allowed || self.queue.available_desc() < descriptors {
            return false;
        }
        let Some(place) = self.free_places.pop() else {
            return false;
        };
        let token = match self.add(direction, place, sector, &pieces) {
            Ok(token) => token,
            Err(_) => {
                self.free_places.push(place);
                return false;
            }
        };
        self.requests[usize::from(token)] = Some(Request {
            job,
            place,
            first: first as u8,
            count: count as u8,
            descriptors: descriptors as u8,
        });
        self.in_queue += 1;
        self.counts.requests += 1;
        self.lanes[lane].descriptors += descriptors;
        if is_last {
            self.lanes[lane].partial = None;
        }
        if let Some(job) = &mut self.jobs[usize::from(job)] {
            job.sent += count;
            job.requests += 1;
        }
        true
    }

    /// Makes a job of the next transfer that waits.
    fn begin(&mut self, lane: usize, now: u64) -> Option<u16> {
        if self.free_jobs.is_empty() {
            return None;
        }
        let transfer = self.lanes[lane].waiting.pop()?;
        let job = self.free_jobs.pop()?;
        self.jobs[usize::from(job)] = Some(Job {
            transfer,
            sent: 0,
            requests: 0,
            result: Ok(()),
            since: now,
        });
        Some(job)
    }

    /// Puts a request into the queue.
    fn add(&mut self, direction: Direction, place: u16, sector: u64, pieces: &[Piece]) -> Result<u16, Error> {
        let kind = if direction == Direction::Read { IN } else { OUT };
        // SAFETY: both pages have room for `N` requests, and this place belongs to no request in the queue.
        unsafe {
            self.header(place).write(Header {
                kind,
                reserved: 0,
                sector,
            });
            self.status(place).write_volatile(UNWRITTEN);
        }
        let mut buffers = self.buffers(direction, place, pieces);
        let (mut inputs, mut outputs) = (NO_INPUTS, no_outputs());
        let [read, written] = buffers.split(&mut inputs, &mut outputs);
        // SAFETY: 1. header and status stay where they are and are left alone until the request is used; 2. the frames
        // belong to the transfer, which the driver has until then or until the device is reset.
        unsafe { self.queue.add(&inputs[..read], &mut outputs[..written]) }
    }

    fn header(&self, place: u16) -> *mut Header {
        self.headers.as_ptr().cast::<Header>().wrapping_add(usize::from(place))
    }

    pub(super) fn status(&self, place: u16) -> *mut u8 {
        self.statuses.as_ptr().wrapping_add(usize::from(place))
    }

    /// What the queue is told of a request: when it is added and, in the same way, when it is used.
    pub(super) fn buffers(&self, direction: Direction, place: u16, pieces: &[Piece]) -> Buffers {
        let header = (self.header(place).cast(), HEADER);
        Buffers::new(direction, header, self.status(place), pieces, self.memory)
    }
}
