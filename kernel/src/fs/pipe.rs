//! Pipes: a bounded buffer of bytes between open files.
//!
//! A reader waits while the buffer is empty and a writer is left; a writer waits while it is full and a reader is left.
//! Whoever changes the buffer, and whoever closes the last end on a side, wakes all who wait.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use crate::syscall::Errno;

/// Bytes that a pipe can hold.
pub const CAPACITY: usize = 64 * 1024;

/// Wakers that are kept at most.
const MOST_WAITERS: usize = 256;

/// A pipe.
#[derive(Debug)]
pub struct Pipe(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    readers: usize,
    writers: usize,
    waiting: Vec<Waker>,
}

/// What can be done without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, or the end, can be read.
    pub read: bool,
    /// Bytes can be written.
    pub write: bool,
    /// The other side is gone.
    pub hung_up: bool,
    /// No byte is in it.
    pub is_empty: bool,
}

impl Pipe {
    /// An empty pipe with one reader and one writer.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let mut bytes = VecDeque::new();
        bytes.try_reserve_exact(CAPACITY)?;
        Ok(Self(Mutex::new(State {
            bytes,
            readers: 1,
            writers: 1,
            waiting: Vec::new(),
        })))
    }

    /// Takes up to `buffer.len()` bytes; 0 means that no writer is left.
    ///
    /// # Errors
    /// `ENOMEM` if the waiter can't be recorded.
    pub fn poll_read(&self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let mut state = self.0.lock();
        let length = buffer.len().min(state.bytes.len());
        if length == 0 && state.writers > 0 && !buffer.is_empty() {
            return state.wait(cx);
        }
        for (slot, byte) in buffer.iter_mut().zip(state.bytes.drain(..length)) {
            *slot = byte;
        }
        state.wake();
        Poll::Ready(Ok(length))
    }

    /// Adds as many of `bytes` as fit, at least one; all or nothing up to 4096 bytes.
    ///
    /// # Errors
    /// `EPIPE` if no reader is left, `ENOMEM` if the waiter can't be recorded.
    pub fn poll_write(&self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let mut state = self.0.lock();
        if state.readers == 0 {
            return Poll::Ready(Err(Errno::EPIPE));
        }
        let room = CAPACITY - state.bytes.len();
        if room == 0 || (bytes.len() <= 4096 && room < bytes.len()) {
            return state.wait(cx);
        }
        let length = room.min(bytes.len());
        state.bytes.extend(&bytes[..length]);
        state.wake();
        Poll::Ready(Ok(length))
    }

    /// What could be done now; `cx` is woken when that may have changed.
    pub fn readiness(&self, cx: Option<&mut Context<'_>>) -> Readiness {
        let mut state = self.0.lock();
        if let Some(cx) = cx {
            let _ = state.wait(cx);
        }
        Readiness {
            read: !state.bytes.is_empty() || state.writers == 0,
            write: state.bytes.len() + 4096 <= CAPACITY || state.readers == 0,
            hung_up: state.writers == 0 || state.readers == 0,
            is_empty: state.bytes.is_empty(),
        }
    }

    /// A reading end is closed.
    pub fn close_reader(&self) {
        let mut state = self.0.lock();
        state.readers -= 1;
        state.wake();
    }

    /// A writing end is closed.
    pub fn close_writer(&self) {
        let mut state = self.0.lock();
        state.writers -= 1;
        state.wake();
    }
}

impl State {
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        if self.waiting.len() >= MOST_WAITERS {
            // Some of them may be gone; those that are not look again and come back.
            self.wake();
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            if let Err(error) = self.waiting.try_reserve(1) {
                return Poll::Ready(Err(error.into()));
            }
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
