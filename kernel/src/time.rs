//! Time as the executor keeps it.

use core::future::Future;

use faultline_executor::{Sleep, Timeout};

use crate::arch::clock;
use crate::machine::{Machine, executor};

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Nanoseconds since the start of the kernel.
#[inline]
#[must_use]
pub fn now() -> u64 {
    clock::now()
}

/// Ready when the clock has reached `deadline`.
pub fn sleep_until(deadline: u64) -> Sleep<Machine> {
    executor().timers().sleep_until(deadline)
}

/// Ready with the future's output, or with [`Elapsed`](faultline_executor::Elapsed) at `deadline`.
pub fn timeout<F: Future>(deadline: u64, future: F) -> Timeout<F, Machine> {
    executor().timers().timeout(deadline, future)
}
