//! Clocks and sleeps.
//!
//! Every clock counts from the start of the kernel; the wall clock adds what the real-time clock said then.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, user};
use crate::arch::clock;
use crate::machine::Space;
use crate::process::Usage;
use crate::process::waiting::event;
use crate::time::{self, NANOSECONDS};

/// `TIMER_ABSTIME`.
const ABSOLUTE: u64 = 1;

/// The time on a clock, in nanoseconds.
fn read_clock(clock: u64, usage: &Usage) -> Result<u64, Errno> {
    let now = time::now();
    match u32::try_from(clock).map_err(|_| Errno::EINVAL)? {
        linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_COARSE | linux::CLOCK_TAI => Ok(clock::wall_clock()),
        linux::CLOCK_MONOTONIC | linux::CLOCK_MONOTONIC_RAW | linux::CLOCK_MONOTONIC_COARSE | linux::CLOCK_BOOTTIME => {
            Ok(now)
        }
        linux::CLOCK_PROCESS_CPUTIME_ID | linux::CLOCK_THREAD_CPUTIME_ID => {
            Ok(usage.ticks.load(Ordering::Relaxed) * time::TICK)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The wall clock, in nanoseconds since 1970.
#[must_use]
pub fn wall_clock() -> u64 {
    clock::wall_clock()
}

fn to_timespec(time: u64) -> [u64; 2] {
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
pub fn clock_gettime_now(space: &Space, usage: &Usage, clock: u64, address: u64) -> Option<u64> {
    let words = to_timespec(read_clock(clock, usage).ok()?);
    user::write_now(space, address, words.map(u64::to_le_bytes).as_flattened())?;
    Some(0)
}

/// `clock_gettime`.
pub async fn clock_gettime(caller: Caller, clock: u64, address: u64) -> Result<u64, Errno> {
    let time = read_clock(clock, &caller.thread.process.usage)?;
    user::write_words(&caller.space, address, to_timespec(time)).await?;
    Ok(0)
}

/// `clock_getres`.
pub async fn clock_getres(caller: Caller, clock: u64, address: u64) -> Result<u64, Errno> {
    read_clock(clock, &caller.thread.process.usage)?;
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

/// `times`, in hundredths of a second.
pub async fn times(caller: Caller, address: u64) -> Result<u64, Errno> {
    const HUNDREDTH: u64 = NANOSECONDS / 100;
    let process = &caller.thread.process;
    let spent = |usage: &Usage| usage.ticks.load(Ordering::Relaxed) * time::TICK / HUNDREDTH;
    if address != 0 {
        let words = [spent(&process.usage), 0, spent(&process.child_usage), 0];
        user::write_words(&caller.space, address, words).await?;
    }
    Ok(crate::time::now() / HUNDREDTH)
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
    if clock == u64::from(linux::CLOCK_THREAD_CPUTIME_ID) {
        return Err(Errno::EINVAL);
    }
    let now = read_clock(clock, &caller.thread.process.usage)?;
    let wanted = from_timespec(user::read_words(&caller.space, request).await?)?;
    let duration = if flags & ABSOLUTE != 0 {
        wanted.saturating_sub(now)
    } else {
        wanted
    };
    let thread = &caller.thread;
    let deadline = thread.take_deadline();
    let deadline = deadline.unwrap_or_else(|| time::now().saturating_add(duration));
    let sleep = thread.interruptible(event("sleep"), time::sleep_until(deadline));
    if sleep.await.is_ok() {
        return Ok(0);
    }
    if flags & ABSOLUTE != 0 {
        return Err(Errno::ERESTARTNOHAND);
    }
    if remaining != 0 {
        let left = deadline.saturating_sub(time::now());
        user::write_words(&caller.space, remaining, to_timespec(left)).await?;
    }
    thread.keep_deadline(deadline);
    Err(Errno::ERESTARTBLOCK)
}
