//! The one who waits for a free frame.
//!
//! Nobody is missed. The waiter first raises the flag and then looks at every list, under its lock. Whoever frees a
//! frame puts it on a list, under its lock, and then reads the flag. Of the two sections under that list's lock one
//! comes first: if it is the waiter's, the flag is seen; if it is the other, the frame is. Frames also move from one
//! list to another: from the buddy lists to a cache, which is the order in which the waiter looks, or the other way,
//! after which the flag is read too.

use core::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;

use super::allocator::FrameAllocator;
use super::token::ReservedFrame;

use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(super) struct Waiter {
    waiting: AtomicBool,
    waker: AtomicWaker,
}

impl Waiter {
    pub const fn new() -> Self {
        Self {
            waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Wakes `waker` once, by [`notify`](Self::notify); replaces the waker set before.
    pub fn set(&self, waker: &Waker) {
        self.waker.register(waker);
        self.waiting.store(true, Ordering::Release);
    }

    /// Called after a frame was put on a list, with no lock held.
    #[inline]
    pub fn notify(&self) {
        if self.is_waiting() {
            self.wake();
        }
    }

    #[cold]
    #[inline(never)]
    fn wake(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl FrameAllocator {
    /// Takes one frame, or arranges for `cx` to be woken when a frame comes free.
    ///
    /// There is room for one waiter: the task that serves faults. A second one displaces it.
    pub fn poll_allocate(&self, cpu: usize, cx: &mut Context<'_>) -> Poll<ReservedFrame<'_>> {
        if let Ok(frame) = self.allocate(cpu) {
            return Poll::Ready(frame);
        }
        self.set_low_memory_waker(cx.waker());
        match self.allocate(cpu) {
            Ok(frame) => Poll::Ready(frame),
            Err(_) => Poll::Pending,
        }
    }

    /// Wakes `waker` once, when the next frame comes free. Replaces the waker set before. It is woken by whoever frees
    /// the frame, with none of the allocator's locks held, but perhaps some of the caller's: waking must not lock.
    ///
    /// A frame that came free before this call wakes nobody: try to allocate once more after it, as
    /// [`poll_allocate`](Self::poll_allocate) does.
    pub fn set_low_memory_waker(&self, waker: &Waker) {
        self.waiter.set(waker);
    }
}
