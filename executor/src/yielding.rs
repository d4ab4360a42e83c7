//! Giving the CPU to the next task.

use core::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Lets others run that are to run before this one: due timers, higher classes, and every other runnable task of the same
/// class once. In the user class, others of the class run only if this task's turn is over, by its time or because it has
/// yielded often: a long piece of work can yield as often as it likes, and loses nothing beside short pieces.
#[inline]
pub fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
