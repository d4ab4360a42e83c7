//! The future with which the kernel waits for a page of an object.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use faultline_fallible::Arc;

use super::contents::PageError;
use super::memory_object::MemoryObject;
use super::read_in::{Window, Wish};
use crate::fault::Ending;
use crate::fault::waiter::Waiter;
use crate::memory::Memory;
use crate::platform::Platform;
use crate::sync::atomic::Ordering;

/// Brings a page of an object into memory. Ready when it is worth looking again; the page may be gone by then, dropped because memory
/// was needed.
///
/// Dropping it withdraws the waiter; the read goes on, and the page stays in memory.
#[must_use = "a page is waited for only when the future is awaited"]
pub struct PageIn<'a, P: Platform> {
    memory: &'static Memory<P>,
    object: &'a Arc<MemoryObject>,
    page: u64,
    stage: Stage,
    window: Window,
    waiter: Waiter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The page is to be looked at.
    Look,
    /// The waiter hangs in this record, or was completed by it.
    Waiting(u16),
    /// The waiter hangs in the list of those that found no record, or no frame.
    Starving,
    /// The result was returned.
    Done,
}

impl<P: Platform> Memory<P> {
    /// Brings a page of an object into memory, as a fault would.
    ///
    /// # Errors
    /// [`PageError::ReadFailed`]: the device or the file system could not deliver the page. Shortage of memory is no
    /// error: the future waits.
    pub fn page_in<'a>(&'static self, object: &'a Arc<MemoryObject>, page: u64) -> PageIn<'a, P> {
        PageIn {
            memory: self,
            object,
            page,
            stage: Stage::Look,
            window: Window::Stream,
            waiter: Waiter::new(),
        }
    }

    /// Futures that wait for a page and have found no frame, or no record for its read.
    #[must_use]
    pub fn page_ins_waiting(&self) -> usize {
        self.reads.starving.load(Ordering::Relaxed)
    }

    /// Begins to read those pages of `first..end` that an object has on a device, as many as one read may have. Says where
    /// to go on; `None` if there is nothing left, or no room for pages that nobody waits for.
    pub fn will_need(&'static self, object: &MemoryObject, first: u64, end: u64) -> Option<u64> {
        const LOOKED: usize = 512;
        let pages = object.pages.lock();
        let end = end.min(pages.end);
        let page = match object.file() {
            Some(_) => Some(pages.tree.next_hole(first)),
            None => {
                // Pages that were never touched are zeros.
                let mut at = first;
                let mut swapped = (0..LOOKED).map_while(|_| {
                    let page = pages.tree.next_page(at)?;
                    at = page + 1;
                    Some(page)
                });
                swapped.find(|&page| !pages.tree.get(page).is_here_or_in_flight())
            }
        };
        drop(pages);
        let page = page.filter(|&page| page < end)?;
        match self.wish(object, page, Window::Pages(end - page), |_| {}) {
            Wish::Waits { .. } | Wish::Ready | Wish::ReadAhead { .. } => Some(page + 1),
            Wish::BeyondEnd | Wish::Failed | Wish::NoFrame | Wish::NoRecord => None,
        }
    }

    /// Lets futures look again that found no frame, if there is one now; the next frame that comes free wakes `waker`.
    #[inline(always)]
    pub(crate) fn feed_hungry(&self, waker: &Waker) {
        if self.reads.starving.load(Ordering::Relaxed) > 0 {
            self.feed_some_hungry(waker);
        }
    }

    #[cold]
    fn feed_some_hungry(&self, waker: &Waker) {
        // Register, then look: a frame that came free in between would wake nobody.
        self.frames.set_low_memory_waker(waker);
        if self.frames.available_for_faults() > 0 {
            self.feed_futures(usize::MAX);
        }
    }
}

impl<P: Platform> PageIn<'_, P> {
    /// Looks at the page, and hangs the waiter where it is to be waited for.
    fn look(&mut self, waker: &Waker) -> Option<Result<(), PageError>> {
        let memory = self.memory;
        // SAFETY: the waiter is a field of a pinned future, from which nothing is moved.
        let waiter = unsafe { Pin::new_unchecked(&self.waiter) };
        let wish = memory.wish(self.object, self.page, self.window, |waiting| {
            // SAFETY: 1. the waiter is in no list; 2. the record's lock, which is the list's, is held.
            unsafe { waiter.enqueue(&mut waiting.futures, waker) };
        });
        match wish {
            Wish::Waits { read } => self.stage = Stage::Waiting(read),
            Wish::Ready | Wish::BeyondEnd => return Some(Ok(())),
            Wish::Failed => return Some(Err(PageError::ReadFailed { page: self.page })),
            // Only faults can wait in the word of a slot. It is rare, so look again when others have run.
            Wish::ReadAhead { .. } => waker.wake_by_ref(),
            Wish::NoFrame | Wish::NoRecord => {
                {
                    let mut starved = memory.reads.starved.lock();
                    // SAFETY: 1. the waiter is in no list: the wish did not hang it; 2. the list's lock is held.
                    unsafe { waiter.enqueue(&mut starved, waker) };
                    memory.reads.starving.fetch_add(1, Ordering::Relaxed);
                }
                self.stage = Stage::Starving;
                // What came free before the waiter was in the list has woken nobody.
                if wish == Wish::NoFrame {
                    memory.feed_hungry(&memory.service_waker_or(waker));
                } else if memory.reads.free() > 0 {
                    memory.feed_futures(usize::MAX);
                }
            }
        }
        None
    }

    /// Takes the waiter out of the list that it is in, if it is in one.
    fn unlink(&mut self) {
        let reads = &self.memory.reads;
        // SAFETY: the future is pinned (it was polled) and is not moved before its drop ends.
        let waiter = unsafe { Pin::new_unchecked(&self.waiter) };
        match self.stage {
            Stage::Waiting(index) => {
                let mut read = reads.record(index).lock();
                if !self.waiter.is_done() {
                    // SAFETY: 1. the record's lock is held; 2. the waiter is not done, so it is still in the list.
                    unsafe { waiter.unlink(&mut read.waiting.futures) };
                }
            }
            Stage::Starving => {
                let mut starved = reads.starved.lock();
                if !self.waiter.is_done() {
                    // SAFETY: 1. the list's lock is held; 2. the waiter is not done, so it is still in the list.
                    unsafe { waiter.unlink(&mut starved) };
                    reads.starving.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Stage::Look | Stage::Done => {}
        }
    }
}

impl<P: Platform> Future for PageIn<'_, P> {
    type Output = Result<(), PageError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: nothing is moved out: `waiter` stays where it is.
        let this = unsafe { self.get_unchecked_mut() };
        loop {
            match this.stage {
                Stage::Done => return Poll::Ready(Ok(())),
                Stage::Look => {
                    if let Some(result) = this.look(context.waker()) {
                        this.stage = Stage::Done;
                        return Poll::Ready(result);
                    }
                    if this.stage == Stage::Look || !this.waiter.is_done() {
                        return Poll::Pending;
                    }
                }
                Stage::Waiting(index) => {
                    let record = this.memory.reads.record(index).lock();
                    if !this.waiter.is_done() {
                        // SAFETY: the lock of the list that the node is in is held.
                        unsafe { this.waiter.update(context.waker()) };
                        return Poll::Pending;
                    }
                    drop(record);
                    // SAFETY: the waiter was completed, so it is in no list.
                    if unsafe { this.waiter.ending() } == Ending::ReadFailed {
                        this.stage = Stage::Done;
                        return Poll::Ready(Err(PageError::ReadFailed { page: this.page }));
                    }
                    this.stage = Stage::Look;
                    // If the page is not there now, it is not to depend on others again.
                    this.window = Window::Alone;
                }
                Stage::Starving => {
                    this.unlink();
                    this.stage = Stage::Look;
                }
            }
        }
    }
}

impl<P: Platform> Drop for PageIn<'_, P> {
    fn drop(&mut self) {
        self.unlink();
    }
}
