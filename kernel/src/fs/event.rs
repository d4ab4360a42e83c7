//! `eventfd`: a counter that can be waited for.
//!
//! A reader waits while the count is 0, a writer while its value does not fit; each wakes one of the other side, and a reader
//! that leaves something wakes the next. Who polls waits in a queue of its own.

use core::task::{Context, Poll};

use faultline_executor::WaitQueue;
use faultline_fallible::Arc;
use spin::Mutex;

use super::file::{File, INPUT, OUTPUT, Transfer, Written};
use crate::syscall::Errno;

/// The count that is never reached.
const FULL: u64 = u64::MAX;

/// A counter.
pub struct Event {
    count: Mutex<u64>,
    /// A read takes one, not all.
    is_semaphore: bool,
    /// Threads that wait for a count.
    pub readers: WaitQueue,
    /// Threads that wait for room.
    pub writers: WaitQueue,
    polls: WaitQueue,
}

impl Event {
    /// A counter that begins with `count`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(count: u32, is_semaphore: bool) -> Result<Arc<Self>, Errno> {
        Ok(Arc::try_new(Self {
            count: Mutex::new(u64::from(count)),
            is_semaphore,
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
            polls: WaitQueue::new(),
        })?)
    }

    /// The queue of those who poll.
    pub fn polls(&self) -> &WaitQueue {
        &self.polls
    }

    /// Takes the count, or one of it; none if there is none.
    pub fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        let taken = if self.is_semaphore { (*count).min(1) } else { *count };
        if taken == 0 {
            return None;
        }
        *count -= taken;
        let is_left = *count > 0;
        drop(count);
        self.writers.wake_one();
        self.polls.wake_all();
        if is_left {
            self.readers.wake_one();
        }
        Some(taken)
    }

    /// Adds to the count; none if there is no room.
    ///
    /// # Errors
    /// `EINVAL` for a value that never fits.
    pub fn add(&self, value: u64) -> Result<Option<()>, Errno> {
        if value == FULL {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if FULL - *count <= value {
            return Ok(None);
        }
        *count += value;
        let (is_readable, has_room) = (*count > 0, *count < FULL - 1);
        drop(count);
        if is_readable {
            self.readers.wake_one();
            self.polls.wake_all();
        }
        if has_room {
            self.writers.wake_one();
        }
        Ok(Some(()))
    }
}

impl File for Event {
    fn poll_read(&self, _: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let Some(to) = to.first_chunk_mut() else {
            return Poll::Ready(Err(Errno::EINVAL));
        };
        match self.take() {
            None => Poll::Pending,
            Some(count) => {
                *to = count.to_le_bytes();
                Poll::Ready(Ok(to.len()))
            }
        }
    }

    fn poll_write(&self, _: Transfer<'_>, from: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        let Some(value) = from.first_chunk() else {
            return Poll::Ready(Err(Errno::EINVAL));
        };
        match self.add(u64::from_le_bytes(*value)) {
            Err(errno) => Poll::Ready(Err(errno)),
            Ok(None) => Poll::Pending,
            Ok(Some(())) => Poll::Ready(Ok(Written { length: 8, end: 0 })),
        }
    }

    fn events(&self) -> u32 {
        let count = *self.count.lock();
        let input = if count > 0 { INPUT } else { 0 };
        let output = if count < FULL - 1 { OUTPUT } else { 0 };
        input | output
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(&self.polls)
    }

    fn has_offsets(&self) -> bool {
        false
    }
}
