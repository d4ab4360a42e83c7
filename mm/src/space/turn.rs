//! Turns: calls that change a space in several steps, one after the other.
//!
//! A call on gigabytes, or on tens of thousands of regions, would hold the space's lock for too long if it did everything
//! at once. Such a call takes the space's *turn* first, in the order of arrival, and then works in steps: each takes the
//! lock, does a bounded part, and lets go of it; between two steps others run. What lies behind a step is done, and whole:
//! regions, entries and counts agree after each.
//!
//! While somebody has the turn, nobody else changes the regions: a call that does everything in one step looks whether
//! the turn is taken, under the lock that it needs anyway, and is [`Busy`](VasError::Busy) then; its caller waits for the
//! turn and makes the call with it. Faults need no turn: they add pages to what is mapped, and a stack may grow.
//!
//! Dropping a [`Turn`], or the future that waits for one, passes the turn on.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use faultline_fallible::VecDeque;

use super::{Guard, Inner, Space, VirtualAddressSpace};
use crate::error::VasError;
use crate::platform::Platform;

/// Who has the turn, and who waits for it.
#[derive(Default)]
pub(crate) struct Turns {
    /// The number of the turn that somebody has; 0 for nobody.
    current: u64,
    /// Somebody has the turn and is in the middle of a change.
    closed: bool,
    /// The number given last.
    last: u64,
    waiting: VecDeque<(u64, Waker)>,
}

impl Turns {
    fn new_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Gives the turn to who waits longest; returns how to wake it.
    #[must_use]
    fn pass_on(&mut self) -> Option<Waker> {
        let next = self.waiting.pop_front();
        self.current = next.as_ref().map_or(0, |&(number, _)| number);
        self.closed = next.is_some();
        next.map(|(_, waker)| waker)
    }

    /// Takes a number back that was given to somebody.
    fn give_up(&mut self, number: u64) -> Option<Waker> {
        if self.current == number {
            return self.pass_on();
        }
        let place = self.waiting.iter().position(|&(waiting, _)| waiting == number)?;
        self.waiting.remove(place);
        None
    }
}

/// The right to change a space in several steps.
#[must_use = "the turn is passed on when this is dropped"]
pub struct Turn<'a, P: Platform> {
    space: &'a Space<P>,
    number: u64,
}

impl<P: Platform> Drop for Turn<'_, P> {
    fn drop(&mut self) {
        let next = self.space.lock().turns.give_up(self.number);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// Waits for a turn.
struct Waiting<'a, P: Platform> {
    space: &'a Space<P>,
    /// Its number, once it has one.
    number: u64,
}

impl<'a, P: Platform> Future for Waiting<'a, P> {
    type Output = Result<Turn<'a, P>, VasError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let space = self.space;
        let mut inner = space.lock();
        let turns = &mut inner.turns;
        if self.number == 0 {
            self.number = turns.new_number();
            if turns.current != 0 {
                let waiting = (self.number, context.waker().clone());
                return match turns.waiting.try_push_back(waiting) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error.into())),
                };
            }
            turns.current = self.number;
            turns.closed = true;
        }
        if turns.current == self.number {
            let number = core::mem::take(&mut self.number);
            return Poll::Ready(Ok(Turn { space, number }));
        }
        if let Some((_, waker)) = turns.waiting.iter_mut().find(|(number, _)| *number == self.number) {
            waker.clone_from(context.waker());
        }
        Poll::Pending
    }
}

impl<P: Platform> Drop for Waiting<'_, P> {
    fn drop(&mut self) {
        if self.number == 0 {
            return;
        }
        let next = self.space.lock().turns.give_up(self.number);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Waits until nobody else changes the space in several steps, in the order of arrival.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`] if there is no memory to wait.
    pub async fn turn(&self) -> Result<Turn<'_, P>, VasError> {
        let space: &Space<P> = self.core();
        Waiting { space, number: 0 }.await
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Waits for the turn and makes a call in one step with it: what to do when a call was [`Busy`](VasError::Busy).
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub async fn in_turn<T>(&self, call: impl FnOnce(&Self) -> T) -> Result<T, VasError> {
        let turn = self.turn().await?;
        Ok(turn.with_space(|| call(self)))
    }
}

impl<P: Platform> Turn<'_, P> {
    /// Makes a call of the space in one step, between two of its own, and ends the turn.
    pub(super) fn with_space<T>(self, call: impl FnOnce() -> T) -> T {
        self.lock().turns.closed = false;
        call()
    }

    /// The lock, for one step.
    pub(super) fn lock(&self) -> Guard<'_, P> {
        self.space.lock()
    }
}

impl<P: Platform> Space<P> {
    /// The lock, for a call that changes the regions in one step.
    ///
    /// # Errors
    /// [`VasError::Busy`] while somebody has the turn.
    #[inline(always)]
    pub(super) fn lock_to_change(&self) -> Result<Guard<'_, P>, VasError> {
        let inner = self.lock();
        if inner.turns.closed {
            return Err(VasError::Busy);
        }
        Ok(inner)
    }
}

impl<P: Platform> Inner<P> {
    /// Whether somebody changes the space in several steps.
    #[inline(always)]
    pub(super) fn is_being_changed(&self) -> bool {
        self.turns.closed
    }
}

/// Lets others run: between two steps.
pub(crate) async fn pause() {
    let mut polled = false;
    poll_fn(|context| {
        if polled {
            return Poll::Ready(());
        }
        polled = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
