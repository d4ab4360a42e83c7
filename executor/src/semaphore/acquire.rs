//! Waiting for permits.

use core::{
    fmt,
    future::Future,
    marker::PhantomPinned,
    pin::Pin,
    task::{Context, Poll},
};

use super::{AcquireError, Permit, Share, ring::Request};
use crate::{sync::UnsafeCell, waiters::State};

/// The future of [`Share::acquire`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire {
    share: Share,
    count: usize,
    /// The request may be in the queue, or granted: it is touched under the lock only.
    started: bool,
    request: UnsafeCell<Request>,
    _pinned: PhantomPinned,
}

// SAFETY: the request is touched under the lock of the semaphore, and holds a waker, which is `Send`.
unsafe impl Send for Acquire {}
// SAFETY: a shared `Acquire` gives access to nothing.
unsafe impl Sync for Acquire {}

impl Acquire {
    pub(super) fn new(share: Share, count: usize) -> Self {
        let request = UnsafeCell::new(Request::new(count));
        Self {
            share,
            count,
            started: false,
            request,
            _pinned: PhantomPinned,
        }
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Future for Acquire {
    type Output = Result<Permit, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: nothing is moved out of the future.
        let this = unsafe { self.get_unchecked_mut() };
        if let Err(error) = this.share.check(this.count) {
            return Poll::Ready(Err(error));
        }
        let owner = &*this.share.owner;
        let mut state = this.share.semaphore.0.lock();
        if !this.started && state.take_now(owner, this.count) {
            drop(state);
            return Poll::Ready(Ok(this.share.permit(this.count)));
        }
        // SAFETY: the request is ours under the lock. It is pinned with the future, and `drop` takes it out of the queue.
        let granted = this.request.with_mut(|request| unsafe {
            let before = (*request).state;
            if before == State::Woken {
                (*request).state = State::Out;
                return true;
            }
            owner
                .queue
                .with_mut(|queue| (&mut *queue).requests.wait(request, cx.waker()));
            if before == State::Out {
                state.ring.update(owner);
            }
            false
        });
        drop(state);
        this.started = !granted;
        if granted {
            Poll::Ready(Ok(this.share.permit(this.count)))
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        let owner = &*self.share.owner;
        self.share.semaphore.change(|state| {
            // SAFETY: the request and the queue are ours under the lock, and it was only ever in this queue.
            self.request.with_mut(|request| unsafe {
                owner.queue.with_mut(|queue| {
                    let queue = &mut *queue;
                    if (*request).state == State::Woken {
                        // Granted, but nobody is there any more: on to the next.
                        state.available += self.count;
                        queue.held -= self.count;
                    }
                    queue.requests.leave(request);
                });
            });
            state.ring.update(owner);
        });
    }
}
