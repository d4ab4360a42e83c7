//! Futures that end at a time.

use core::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::queue::NodeCell;
use crate::{Executor, Hooks};

/// The timers of an executor; from [`Executor::timers`].
pub struct Timers<H: Hooks> {
    executor: &'static Executor<H>,
}

impl<H: Hooks> Clone for Timers<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Hooks> Copy for Timers<H> {}

impl<H: Hooks> fmt::Debug for Timers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timers")
    }
}

impl<H: Hooks> Timers<H> {
    pub(crate) fn new(executor: &'static Executor<H>) -> Self {
        Self { executor }
    }

    /// The time, in nanoseconds.
    #[must_use]
    pub fn now(self) -> u64 {
        self.executor.hooks().now()
    }

    /// Ready when the clock has reached `deadline` (nanoseconds); at once if it has already. A deadline of `u64::MAX`
    /// is never reached. Allocates nothing: the timer lies in the future.
    pub fn sleep_until(self, deadline: u64) -> Sleep<H> {
        Sleep {
            executor: self.executor,
            deadline,
            cpu: None,
            node: NodeCell::new(deadline),
        }
    }

    /// Ready in `duration` nanoseconds from this call.
    pub fn sleep(self, duration: u64) -> Sleep<H> {
        self.sleep_until(self.now().saturating_add(duration))
    }

    /// Ready with the future's output, or with [`Elapsed`] at `deadline` if that is earlier. If both are ready in the
    /// same poll, the output wins. The future is dropped with the timeout, not when it elapses.
    pub fn timeout<F: Future>(self, deadline: u64, future: F) -> Timeout<F, H> {
        Timeout {
            future,
            sleep: self.sleep_until(deadline),
        }
    }
}

/// The future of [`Timers::sleep_until`].
#[must_use = "futures do nothing unless polled"]
pub struct Sleep<H: Hooks> {
    executor: &'static Executor<H>,
    deadline: u64,
    /// The CPU whose queue has the timer, once it was started.
    cpu: Option<usize>,
    node: NodeCell,
}

impl<H: Hooks> Sleep<H> {
    /// When it is due.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }
}

impl<H: Hooks> fmt::Debug for Sleep<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl<H: Hooks> Future for Sleep<H> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: nothing is moved out of the future.
        let this = unsafe { self.get_unchecked_mut() };
        let started = this.cpu.is_some();
        if !started && this.executor.hooks().now() >= this.deadline {
            return Poll::Ready(());
        }
        let cpu = *this.cpu.get_or_insert_with(|| this.executor.hooks().cpu());
        // SAFETY: the node is pinned with the future, is only ever given to the queue of this CPU, and `drop` cancels
        // it.
        let sleeping = unsafe {
            let node = Pin::new_unchecked(&mut this.node);
            this.executor.cpus[cpu].timers.start(node, started, cx.waker())
        };
        if !sleeping {
            return Poll::Ready(());
        }
        let hooks = this.executor.hooks();
        if !started && this.executor.cpus[cpu].timers.next_deadline() == Some(this.deadline) && cpu == hooks.cpu() {
            hooks.alarm(this.deadline);
        }
        Poll::Pending
    }
}

impl<H: Hooks> Drop for Sleep<H> {
    fn drop(&mut self) {
        if let Some(cpu) = self.cpu {
            // SAFETY: the node is pinned until the end of this drop, and was given to the queue of this CPU.
            unsafe {
                self.executor.cpus[cpu]
                    .timers
                    .cancel(Pin::new_unchecked(&mut self.node))
            }
        }
    }
}

/// The time was up; see [`Timers::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline has passed")
    }
}

impl core::error::Error for Elapsed {}

/// The future of [`Timers::timeout`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Timeout<F, H: Hooks> {
    future: F,
    sleep: Sleep<H>,
}

impl<F: Future, H: Hooks> Future for Timeout<F, H> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: both fields are pinned with the whole, which has no `Drop` of its own, and neither is moved out.
        let (future, sleep) = unsafe {
            let this = self.get_unchecked_mut();
            (
                Pin::new_unchecked(&mut this.future),
                Pin::new_unchecked(&mut this.sleep),
            )
        };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.poll(cx).map(|()| Err(Elapsed))
    }
}
