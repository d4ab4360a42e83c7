//! Pipes: a bounded buffer of bytes between open files.
//!
//! # The buffer
//!
//! It is a queue of pages, as on Linux: a page is taken when something is written and returned when all of it was read, so
//! an empty pipe has none. A write begins in the last page if the part of it that does not fill pages fits in there;
//! the rest goes to new pages. The capacity is a number of pages. When frames are short a pipe that has a page gets no
//! more of them and counts as full; its writers go on when something was read.
//!
//! # Protocol
//!
//! [`Pipe::put`] and [`Pipe::take`] move bytes between the pages and user memory under the pipe's lock, without waiting and
//! without a copy in between. A page fault ends them; the caller resolves it without the lock and comes again. A page's
//! part is taken, and a new page counts, when the whole copy of it was made: so a bad buffer loses no byte, and a write of
//! at most a page is all or nothing.
//!
//! A reader waits in `readers` while the buffer is empty and a writer is left; a writer waits in `writers` while it is full
//! and a reader is left. Who makes the buffer not empty wakes one reader, and a reader that leaves something wakes the
//! next; in the same way for room and writers. Who polls waits in a queue of its own, all of which is woken. The end of the
//! last file on one side wakes everybody on the other; other ends wake nobody.

mod ends;
pub mod named;
mod parts;

use core::sync::atomic::{AtomicU64, Ordering};

use faultline_executor::WaitQueue;
use faultline_fallible::VecDeque;
use spin::Mutex;

use super::page::Page;
use crate::syscall::Errno;

pub use ends::{ReadEnd, WriteEnd};
pub use parts::{Part, Pop};

/// Bytes of a page.
const PAGE: usize = 4096;

/// Pages of a new pipe.
const USUAL: usize = 16;

/// Pages of the largest pipe.
const MOST: usize = 256;

/// Bytes that one `take` or `put` moves at most.
const AT_ONCE: usize = 64 * 1024;

/// The number of the last pipe.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    /// Threads that wait for something to read.
    pub readers: WaitQueue,
    /// Threads that wait for room.
    pub writers: WaitQueue,
    /// Who polls the reading end.
    read_polls: WaitQueue,
    /// Who polls the writing end.
    write_polls: WaitQueue,
    /// Who opens one end of a named pipe and waits for the other.
    openers: WaitQueue,
    number: u64,
}

struct State {
    parts: VecDeque<Part>,
    /// Bytes in all.
    bytes: usize,
    /// Most pages.
    capacity: usize,
    /// A writer was refused a page because frames are short.
    is_starved: bool,
    readers: u32,
    writers: u32,
    /// How many readers and writers there ever were.
    opened: [u64; 2],
}

/// What a [`Pipe::put`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// So many bytes, at least one, were written.
    Done(usize),
    /// There is no room.
    Full,
    /// No reader is left.
    Broken,
    /// A fault has to be resolved at this address; nothing was written.
    Fault(u64),
    /// There is no frame, or no kernel memory.
    NoMemory,
}

/// What a [`Pipe::take`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// So many bytes, at least one, were read.
    Done(usize),
    /// So many bytes were read, and that is all for one read.
    Packet(usize),
    /// There is nothing.
    Empty,
    /// There is nothing, and no writer is left.
    End,
    /// A fault has to be resolved at this address; nothing was read.
    Fault(u64),
}

impl Pipe {
    /// An empty pipe with one reader and one writer.
    #[must_use]
    pub fn new() -> Self {
        Self::with_ends(1)
    }

    fn with_ends(ends: u32) -> Self {
        Self {
            state: Mutex::new(State {
                parts: VecDeque::new(),
                bytes: 0,
                capacity: USUAL,
                is_starved: false,
                readers: ends,
                writers: ends,
                opened: [u64::from(ends); 2],
            }),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
            read_polls: WaitQueue::new(),
            write_polls: WaitQueue::new(),
            openers: WaitQueue::new(),
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// The queue of those who poll one of its ends.
    pub fn polls(&self, writes: bool) -> &WaitQueue {
        if writes { &self.write_polls } else { &self.read_polls }
    }

    /// Its number, which no other pipe has.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Bytes in it.
    pub fn length(&self) -> usize {
        self.state.lock().bytes
    }

    /// Whether a read would not wait.
    pub fn is_readable(&self) -> bool {
        let state = self.state.lock();
        state.bytes > 0 || state.writers == 0
    }

    /// Whether a write would not wait.
    pub fn is_writable(&self) -> bool {
        let state = self.state.lock();
        state.has_room() || state.readers == 0
    }

    /// Takes up to `most` bytes: `copy` gets them part by part and says that it has them, or where it met a fault.
    pub fn take(&self, most: usize, mut copy: impl FnMut(&[u8]) -> Result<(), u64>) -> Take {
        let mut state = self.state.lock();
        let had_room = state.has_room();
        let (mut taken, mut fault, mut ended_packet) = (0, None, false);
        while taken < most.min(AT_ONCE) && !ended_packet {
            let Some(part) = state.parts.front_mut() else { break };
            let (start, end) = (usize::from(part.start), usize::from(part.end));
            let length = (end - start).min(most - taken);
            if let Err(address) = copy(&part.page.bytes()[start..start + length]) {
                fault = Some(address);
                break;
            }
            part.start += length as u16;
            taken += length;
            ended_packet = part.is_packet;
            if part.start == part.end || ended_packet {
                let dropped = end - start - length;
                state.bytes -= dropped;
                state.pop();
            }
        }
        state.bytes -= taken;
        let result = match (taken, fault) {
            (0, Some(address)) => Take::Fault(address),
            (0, None) if state.writers > 0 => Take::Empty,
            (0, None) => Take::End,
            _ if ended_packet => Take::Packet(taken),
            _ => Take::Done(taken),
        };
        let (made_room, is_left) = (!had_room && state.has_room(), state.bytes > 0);
        drop(state);
        if made_room {
            self.writers.wake_one();
            self.write_polls.wake_all();
        }
        if taken > 0 && is_left {
            self.readers.wake_one();
        }
        result
    }

    /// Adds up to `length` bytes, as many as there is room for, at most a bounded number: `copy` fills in part by part and
    /// says that it did, or where it met a fault. `is_first` for the first bytes of a write, which may begin in a page that
    /// is there; an `is_packet` keeps to itself.
    pub fn put(
        &self,
        length: usize,
        is_first: bool,
        is_packet: bool,
        mut copy: impl FnMut(&mut [u8]) -> Result<(), u64>,
    ) -> Put {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Put::Broken;
        }
        let was_empty = state.bytes == 0;
        let (mut put, mut obstacle) = (0, Put::Full);
        let tail = length % PAGE;
        if is_first
            && tail != 0
            && let Some(last) = state.parts.back_mut()
            && !last.is_packet
            && usize::from(last.end) + tail <= PAGE
        {
            let end = usize::from(last.end);
            match copy(&mut last.page.bytes_mut()[end..end + tail]) {
                Ok(()) => {
                    last.end += tail as u16;
                    put = tail;
                }
                Err(address) => return Put::Fault(address),
            }
        }
        while put < length.min(AT_ONCE + PAGE) && state.parts.len() < state.capacity {
            let mut page = match state.new_page() {
                Ok(page) => page,
                Err(reason) => {
                    obstacle = reason;
                    break;
                }
            };
            let size = (length - put).min(PAGE);
            if let Err(address) = copy(&mut page.bytes_mut()[..size]) {
                obstacle = Put::Fault(address);
                break;
            }
            let part = Part {
                page,
                start: 0,
                end: size as u16,
                is_packet,
            };
            if state.parts.try_push_back(part).is_err() {
                // `new_page` has made room.
                obstacle = Put::NoMemory;
                break;
            }
            put += size;
        }
        state.bytes += put;
        let has_room = state.has_room();
        drop(state);
        if put == 0 {
            return obstacle;
        }
        if was_empty {
            self.readers.wake_one();
        }
        self.read_polls.wake_all();
        if has_room {
            self.writers.wake_one();
        }
        Put::Done(put)
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity * PAGE
    }

    /// Makes it hold at least so many bytes; returns how many.
    ///
    /// # Errors
    /// `EINVAL` for more than a pipe can have, `EPERM` for more than one without privileges can have, `EBUSY` if more is in
    /// it.
    pub fn set_capacity(&self, bytes: u32) -> Result<usize, Errno> {
        if bytes > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let pages = (bytes as usize).max(PAGE).next_power_of_two() / PAGE;
        let mut state = self.state.lock();
        if pages > state.capacity && pages > MOST {
            return Err(Errno::EPERM);
        }
        if state.parts.len() > pages {
            return Err(Errno::EBUSY);
        }
        let had_room = state.has_room();
        state.capacity = pages;
        let made_room = !had_room && state.has_room();
        drop(state);
        if made_room {
            self.writers.wake_one();
            self.write_polls.wake_all();
        }
        Ok(pages * PAGE)
    }

    /// A reading end is closed.
    pub fn close_reader(&self) {
        let mut state = self.state.lock();
        state.readers -= 1;
        let was_last = state.readers == 0;
        drop(state);
        if was_last {
            self.writers.wake_all();
            self.write_polls.wake_all();
        }
    }

    /// A writing end is closed.
    pub fn close_writer(&self) {
        let mut state = self.state.lock();
        state.writers -= 1;
        let was_last = state.writers == 0;
        drop(state);
        if was_last {
            self.readers.wake_all();
            self.read_polls.wake_all();
        }
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.parts.len() < self.capacity && !self.is_starved
    }

    /// A page, and room for it in the queue.
    fn new_page(&mut self) -> Result<Page, Put> {
        let is_first = self.parts.is_empty();
        if self.is_starved && !is_first {
            return Err(Put::Full);
        }
        let page = Page::new(is_first).map_err(|_| is_first);
        match page.and_then(|page| self.parts.try_reserve(1).map(|()| page).map_err(|_| is_first)) {
            Ok(page) => Ok(page),
            Err(true) => Err(Put::NoMemory),
            Err(false) => {
                self.is_starved = true;
                Err(Put::Full)
            }
        }
    }

    /// Drops the first page.
    fn pop(&mut self) {
        self.parts.pop_front();
        self.is_starved = false;
        if self.parts.is_empty() && self.parts.capacity() > USUAL {
            self.parts = VecDeque::new();
        }
    }
}
