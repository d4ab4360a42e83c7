//! `timerfd`: a clock that counts its own expirations, to be read.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use faultline_executor::{Sleep, WaitQueue};
use faultline_fallible::Arc;
use spin::Mutex;

use super::file::{File, INPUT, Transfer, Written};
use crate::machine::Machine;
use crate::process::Thread;
use crate::process::waiting::event;
use crate::syscall::Errno;
use crate::time;
use crate::waker::{self, Ring};

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
///
/// While somebody waits for it, it sleeps in the executor's timer queue; when it is due it rings its bell, which wakes who
/// waits. Then it rests until somebody looks at it again, so a timer that is always due costs nothing by itself.
pub struct Timer {
    /// Whether its times are those of the wall clock.
    pub is_wall_clock: bool,
    state: Mutex<State>,
    bell: Arc<Bell>,
    waker: Waker,
}

struct State {
    setting: Setting,
    expired: u64,
    /// Until when it sleeps, while it does.
    until: Option<u64>,
    /// Pinned with the timer, which nobody moves out of its `Arc`: it is replaced in place only.
    sleep: Option<Sleep<Machine>>,
}

/// Who waits for a timer.
struct Bell {
    /// Threads that read.
    readers: WaitQueue,
    /// Who polls.
    polls: WaitQueue,
}

impl Ring for Bell {
    fn ring(&self) {
        self.readers.wake_one();
        self.polls.wake_all();
    }
}

impl Timer {
    /// A disarmed timer.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(is_wall_clock: bool) -> Result<Arc<Self>, Errno> {
        let bell = Arc::try_new(Bell {
            readers: WaitQueue::new(),
            polls: WaitQueue::new(),
        })?;
        Ok(Arc::try_new(Self {
            is_wall_clock,
            state: Mutex::new(State {
                setting: Setting::default(),
                expired: 0,
                until: None,
                sleep: None,
            }),
            waker: waker::waker(Arc::clone(&bell)),
            bell,
        })?)
    }

    /// Sets it; returns what was set before, brought up to now.
    pub fn set(&self, setting: Setting) -> Setting {
        let mut state = self.state.lock();
        state.setting.advance(time::now());
        let before = core::mem::replace(&mut state.setting, setting);
        state.expired = 0;
        state.until = None;
        let rings = self.sleep(&mut state);
        drop(state);
        if rings {
            self.bell.ring();
        }
        before
    }

    /// What is set, brought up to now.
    pub fn setting(&self) -> Setting {
        let mut state = self.state.lock();
        state.catch_up();
        state.setting
    }

    /// The queue of those who poll.
    pub fn polls(&self) -> &WaitQueue {
        &self.bell.polls
    }

    /// Has the bell ring at the next expiration, which is to come as of now. Returns whether it has come meanwhile.
    fn sleep(&self, state: &mut State) -> bool {
        if state.until.is_some() && state.until == state.setting.next {
            return false;
        }
        state.until = state.setting.next;
        state.sleep = state.until.map(time::sleep_until);
        let Some(sleep) = &mut state.sleep else { return false };
        // SAFETY: 1. the sleep lies in a timer in an `Arc`, of which `new` gives out no other; 2. it is dropped in place, by
        // an assignment here or with the timer.
        let sleep = unsafe { Pin::new_unchecked(sleep) };
        let is_due = sleep.poll(&mut Context::from_waker(&self.waker)).is_ready();
        if is_due {
            state.until = None;
        }
        is_due
    }

    /// How often it has expired since it was last read; 0 if it has not. In that case, and when the count was taken, the
    /// bell rings at the next expiration.
    fn look(&self, take: bool) -> u64 {
        let mut state = self.state.lock();
        loop {
            state.catch_up();
            let count = state.expired;
            if count > 0 && !take {
                return count;
            }
            state.expired = 0;
            let is_due = self.sleep(&mut state);
            if count == 0 && is_due {
                continue;
            }
            drop(state);
            if is_due {
                self.bell.ring();
            }
            return count;
        }
    }

    /// Takes the count of expirations; waits for one.
    ///
    /// # Errors
    /// `EAGAIN` if it must not wait, `ERESTARTSYS` if a signal came first.
    pub async fn expirations(&self, thread: &Thread, non_blocking: bool) -> Result<u64, Errno> {
        match self.look(true) {
            0 if non_blocking => return Err(Errno::EAGAIN),
            0 => {}
            count => return Ok(count),
        }
        let look = || Some(self.look(true)).filter(|&count| count > 0);
        let wait = self.bell.readers.wait_until(look);
        let count = thread.interruptible(event("timer"), wait).await;
        count.map_err(|_| Errno::ERESTARTSYS)
    }
}

impl File for Timer {
    fn poll_read(&self, _: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let Some(to) = to.first_chunk_mut() else {
            return Poll::Ready(Err(Errno::EINVAL));
        };
        match self.look(true) {
            0 => Poll::Pending,
            count => {
                *to = count.to_le_bytes();
                Poll::Ready(Ok(to.len()))
            }
        }
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn events(&self) -> u32 {
        if self.look(false) > 0 { INPUT } else { 0 }
    }

    fn queue(&self, wanted: u32) -> Option<&WaitQueue> {
        (wanted & INPUT != 0).then_some(&self.bell.polls)
    }

    fn has_offsets(&self) -> bool {
        false
    }
}

impl State {
    fn catch_up(&mut self) {
        let count = self.setting.advance(time::now());
        self.expired = self.expired.saturating_add(count);
    }
}
