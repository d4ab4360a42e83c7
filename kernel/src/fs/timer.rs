//! `timerfd`: a clock that counts its own expirations, to be read.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use crate::process::Thread;
use crate::process::waiting::event;
use crate::syscall::Errno;
use crate::time;

/// When a timer expires, in nanoseconds since the start of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// The next time; none while it is disarmed.
    pub next: Option<u64>,
    /// The time from one expiration to the next; 0 for one only.
    pub interval: u64,
}

impl Setting {
    /// Goes past `now`; says how often the timer has expired until then.
    pub fn advance(&mut self, now: u64) -> u64 {
        let Some(next) = self.next.filter(|&next| next <= now) else {
            return 0;
        };
        if self.interval == 0 {
            self.next = None;
            return 1;
        }
        let count = (now - next) / self.interval + 1;
        self.next = Some(next.saturating_add(count.saturating_mul(self.interval)));
        count
    }

    /// What is left until the next time, at least 1 if it is armed.
    #[must_use]
    pub fn left(&self, now: u64) -> u64 {
        self.next.map_or(0, |next| next.saturating_sub(now).max(1))
    }
}

/// A timer.
pub struct Timer {
    /// Whether its times are those of the wall clock.
    pub is_wall_clock: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    setting: Setting,
    expired: u64,
    waiting: Vec<Waker>,
}

impl Timer {
    /// A disarmed timer.
    #[must_use]
    pub fn new(is_wall_clock: bool) -> Self {
        Self {
            is_wall_clock,
            state: Mutex::default(),
        }
    }

    /// Sets it; returns what was set before, brought up to now.
    pub fn set(&self, setting: Setting) -> Setting {
        let mut state = self.state.lock();
        state.setting.advance(time::now());
        let before = core::mem::replace(&mut state.setting, setting);
        state.expired = 0;
        state.waiting.drain(..).for_each(Waker::wake);
        before
    }

    /// What is set, brought up to now.
    pub fn setting(&self) -> Setting {
        let mut state = self.state.lock();
        state.catch_up();
        state.setting
    }

    /// Whether it has expired since it was last read. The context is woken when it is set anew; when it next expires is
    /// told for the caller to wait for.
    pub fn is_expired(&self, context: &mut Context<'_>) -> (bool, Option<u64>) {
        let mut state = self.state.lock();
        state.catch_up();
        if state.expired == 0 {
            state.waiting.retain(|waker| !waker.will_wake(context.waker()));
            state.waiting.push(context.waker().clone());
        }
        (state.expired > 0, state.setting.next)
    }

    /// Takes the count of expirations; waits for one.
    ///
    /// # Errors
    /// `EAGAIN` if it must not wait, `ERESTARTSYS` if a signal came first.
    pub async fn expirations(&self, thread: &Thread, non_blocking: bool) -> Result<u64, Errno> {
        loop {
            let mut next = None;
            let look = poll_fn(|context| {
                let (expired, deadline) = self.is_expired(context);
                let changed = next.replace(deadline).is_some_and(|before| before != deadline);
                if expired || non_blocking || changed {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            let deadline = self.setting().next;
            let wait = async {
                match deadline {
                    Some(deadline) => drop(time::timeout(deadline, pin!(look)).await),
                    None => look.await,
                }
            };
            thread
                .interruptible(event("timer"), wait)
                .await
                .map_err(|_| Errno::ERESTARTSYS)?;
            let count = {
                let mut state = self.state.lock();
                state.catch_up();
                core::mem::take(&mut state.expired)
            };
            match count {
                0 if non_blocking => return Err(Errno::EAGAIN),
                0 => {}
                count => return Ok(count),
            }
        }
    }
}

impl State {
    fn catch_up(&mut self) {
        let count = self.setting.advance(time::now());
        self.expired = self.expired.saturating_add(count);
    }
}
