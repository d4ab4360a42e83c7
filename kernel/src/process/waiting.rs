//! Waits of user threads.
//!
//! Whatever a call waits for lies in a [`WaitQueue`](faultline_executor::WaitQueue) or a timer; the thread waits for it
//! through [`Thread::interruptible`], which ends the wait when a signal has to be handled or the process is stopped, as
//! Linux does: who is stopped must not take what others wait for. The call is then made again when the process continues,
//! unless a handler runs that ends it; one with a relative timeout keeps its deadline for that
//! ([`Thread::keep_deadline`]).
//!
//! Each wait is an edge of the executor's wait-for graph, with the number of the thread and one of the events below;
//! [`Waits`] prints them with the names of the threads.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use faultline_executor::{Event, Wait};

use super::thread::{SIGNALLED, STOPPED};
use super::{Thread, tree};
use crate::machine::executor;

/// A wait ended because a signal has to be handled or the process is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// An event without a number.
#[must_use]
pub const fn event(kind: &'static str) -> Event {
    Event { kind, number: None }
}

/// An event of a certain thing: a pipe by its number, a futex by its address.
#[must_use]
pub const fn event_of(kind: &'static str, number: u64) -> Event {
    Event {
        kind,
        number: Some(number),
    }
}

/// The future of [`Thread::interruptible`].
#[must_use = "futures do nothing unless polled"]
pub struct Interruptible<'a, F> {
    thread: &'a Thread,
    future: F,
}

impl<'a, F> Interruptible<'a, F> {
    pub(super) const fn new(thread: &'a Thread, future: F) -> Self {
        Self { thread, future }
    }
}

impl<F: Future> Future for Interruptible<'_, F> {
    type Output = Result<F::Output, Interrupted>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: 1. the inner future is pinned with the outer one, which has no `Drop` of its own; 2. nothing is moved out.
        let (thread, future) = unsafe {
            let this = self.get_unchecked_mut();
            (this.thread, Pin::new_unchecked(&mut this.future))
        };
        // Who is stopped does not even look: what has come since is for others.
        if thread.attention() & STOPPED != 0 {
            return Poll::Ready(Err(Interrupted));
        }
        match future.poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if thread.attention() & SIGNALLED != 0 => Poll::Ready(Err(Interrupted)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Who waits for what since when: a line for each wait, one for each cycle.
#[derive(Clone, Copy, Debug)]
pub struct Waits;

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        let seen = executor().waits().for_each(|wait| {
            if result.is_ok() {
                result = write_wait(f, &wait);
            }
        });
        if !seen {
            return writeln!(f, "the wait-for graph is being changed");
        }
        executor().waits().for_each_cycle(|cycle| {
            if result.is_ok() {
                result = f.write_str("cycle:");
            }
            for task in cycle {
                if result.is_ok() {
                    result = write!(f, " {task} ->");
                }
            }
            if result.is_ok() {
                result = writeln!(f, " {}", cycle[0]);
            }
        });
        result
    }
}

/// A line for a wait: a user thread has its number and its name before the task.
fn write_wait(f: &mut fmt::Formatter<'_>, wait: &Wait) -> fmt::Result {
    if wait.label != 0 {
        write!(f, "thread {}", wait.label)?;
        if let Some(thread) = tree::find_thread(wait.label) {
            let name = thread.name();
            let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            write!(f, " `{}`", name[..length].escape_ascii())?;
        }
        f.write_str(": ")?;
    }
    writeln!(f, "{wait}")
}
