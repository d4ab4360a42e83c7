//! Clocks and sleeps.
//!
//! The clocks of time count from the start of the kernel; the wall clock adds what the real-time clock said then. Each
//! process and thread has a clock of its CPU time besides.

use faultline_fallible::Arc;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, user};
use crate::arch::clock;
use crate::machine::Space;
use crate::process::run_time::{self, Part};
use crate::process::waiting::event;
use crate::process::{Process, Thread, tree};
use crate::time::{self, NANOSECONDS};

/// `TIMER_ABSTIME`.
const ABSOLUTE: u64 = 1;

/// A clock that a program can name.
pub enum Clock {
    /// Since the start of the kernel.
    Monotonic,
    /// Since 1970.
    Wall,
    /// The CPU time of a process.
    Process(Arc<Process>, Part),
    /// The CPU time of a thread.
    Thread(Arc<Thread>, Part),
}

impl Clock {
    /// The clock of that number, as `thread` names it. A negative number names the CPU clock of a process, or of a thread
    /// of the caller's: the number of that, inverted, above three bits that say what it counts.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn new(number: u64, thread: &Arc<Thread>) -> Result<Self, Errno> {
        let number = number as i32;
        if number >= 0 {
            return Ok(match number as u32 {
                linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_COARSE | linux::CLOCK_TAI => Self::Wall,
                linux::CLOCK_MONOTONIC
                | linux::CLOCK_MONOTONIC_RAW
                | linux::CLOCK_MONOTONIC_COARSE
                | linux::CLOCK_BOOTTIME => Self::Monotonic,
                linux::CLOCK_PROCESS_CPUTIME_ID => Self::Process(thread.process.clone(), Part::All),
                linux::CLOCK_THREAD_CPUTIME_ID => Self::Thread(thread.clone(), Part::All),
                _ => return Err(Errno::EINVAL),
            });
        }
        // 0 and 2: all of the time; 1: user time; 3 is for clocks that are files.
        let part = match number & 3 {
            0 | 2 => Part::All,
            1 => Part::User,
            _ => return Err(Errno::EINVAL),
        };
        let whose = !(number >> 3) as u32;
        if number & 4 == 0 {
            let process = match whose {
                0 => Some(thread.process.clone()),
                pid => tree::find_process(pid),
            };
            return process.map(|process| Self::Process(process, part)).ok_or(Errno::EINVAL);
        }
        let found = match whose {
            0 => Some(thread.clone()),
            tid => tree::find_thread(tid).filter(|found| Arc::ptr_eq(&found.process, &thread.process)),
        };
        found.map(|found| Self::Thread(found, part)).ok_or(Errno::EINVAL)
    }

    /// What it shows, in nanoseconds.
    pub fn read(&self) -> u64 {
        match self {
            Self::Monotonic => time::now(),
            Self::Wall => clock::wall_clock(),
            Self::Process(process, part) => {
                run_time::bring_up_to_date();
                process.clock.read(*part)
            }
            Self::Thread(thread, part) => {
                run_time::bring_up_to_date();
                thread.clock.read(*part)
            }
        }
    }

    /// Waits until it shows `target`.
    pub async fn reach(&self, target: u64) {
        match self {
            Self::Monotonic => time::sleep_until(target).await,
            Self::Wall => {
                // The wall clock and the kernel's own run at the same rate.
                let ahead = clock::wall_clock().saturating_sub(time::now());
                time::sleep_until(target.saturating_sub(ahead)).await;
            }
            Self::Process(process, part) => process.clock.reach(*part, target).await,
            Self::Thread(thread, part) => thread.clock.reach(*part, target).await,
        }
    }
}

/// The wall clock, in nanoseconds since 1970.
#[must_use]
pub fn wall_clock() -> u64 {
    clock::wall_clock()
}

/// A `timespec`.
pub fn to_timespec(time: u64) -> [u64; 2] {
    [time / NANOSECONDS, time % NANOSECONDS]
}

/// Nanoseconds of a `timespec`.
///
/// # Errors
/// `EINVAL` for a negative time or a fraction of a second or more.
pub fn from_timespec([seconds, nanoseconds]: [u64; 2]) -> Result<u64, Errno> {
    if seconds > i64::MAX as u64 || nanoseconds >= NANOSECONDS {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds))
}

/// `clock_gettime` without waiting; `None` if it would have to, or fails.
#[must_use]
pub fn clock_gettime_now(space: &Space, thread: &Arc<Thread>, clock: u64, address: u64) -> Option<u64> {
    let words = to_timespec(Clock::new(clock, thread).ok()?.read());
    user::write_now(space, address, words.map(u64::to_le_bytes).as_flattened())?;
    Some(0)
}

/// `clock_gettime`.
pub async fn clock_gettime(caller: Caller, clock: u64, address: u64) -> Result<u64, Errno> {
    let time = Clock::new(clock, &caller.thread)?.read();
    user::write_words(&caller.space, address, to_timespec(time)).await?;
    Ok(0)
}

/// `clock_getres`.
pub async fn clock_getres(caller: Caller, clock: u64, address: u64) -> Result<u64, Errno> {
    Clock::new(clock, &caller.thread)?;
    if address != 0 {
        user::write_words(&caller.space, address, [0, 1]).await?;
    }
    Ok(0)
}

/// `gettimeofday`.
pub async fn gettimeofday(caller: Caller, address: u64, zone: u64) -> Result<u64, Errno> {
    let [seconds, nanoseconds] = to_timespec(wall_clock());
    if address != 0 {
        user::write_words(&caller.space, address, [seconds, nanoseconds / 1000]).await?;
    }
    if zone != 0 {
        user::write_words(&caller.space, zone, [0]).await?;
    }
    Ok(0)
}

/// `time`.
pub async fn time(caller: Caller, address: u64) -> Result<u64, Errno> {
    let seconds = wall_clock() / NANOSECONDS;
    if address != 0 {
        user::write_words(&caller.space, address, [seconds]).await?;
    }
    Ok(seconds)
}

/// `nanosleep`.
pub async fn nanosleep(caller: Caller, request: u64, remaining: u64) -> Result<u64, Errno> {
    clock_nanosleep(caller, u64::from(linux::CLOCK_MONOTONIC), 0, request, remaining).await
}

/// `clock_nanosleep`.
pub async fn clock_nanosleep(
    caller: Caller,
    clock: u64,
    flags: u64,
    request: u64,
    remaining: u64,
) -> Result<u64, Errno> {
    // Clocks on which nobody can sleep.
    if let Ok(
        linux::CLOCK_THREAD_CPUTIME_ID
        | linux::CLOCK_MONOTONIC_RAW
        | linux::CLOCK_MONOTONIC_COARSE
        | linux::CLOCK_REALTIME_COARSE,
    ) = u32::try_from(clock)
    {
        return Err(Errno::EOPNOTSUPP);
    }
    let thread = &caller.thread;
    let clock = Clock::new(clock, thread)?;
    // A thread does not see its own CPU time pass while it waits.
    if matches!(&clock, Clock::Thread(other, _) if Arc::ptr_eq(other, thread)) {
        return Err(Errno::EINVAL);
    }
    let wanted = from_timespec(user::read_words(&caller.space, request).await?)?;
    let deadline = thread.take_deadline();
    let deadline = deadline.unwrap_or_else(|| match flags & ABSOLUTE {
        0 => clock.read().saturating_add(wanted),
        _ => wanted,
    });
    let sleep = thread.interruptible(event("sleep"), clock.reach(deadline));
    if sleep.await.is_ok() {
        return Ok(0);
    }
    if flags & ABSOLUTE != 0 {
        return Err(Errno::ERESTARTNOHAND);
    }
    if remaining != 0 {
        let left = deadline.saturating_sub(clock.read());
        user::write_words(&caller.space, remaining, to_timespec(left)).await?;
    }
    thread.keep_deadline(deadline);
    Err(Errno::ERESTARTBLOCK)
}
