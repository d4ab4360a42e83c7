//! `alarm`, `setitimer` and timers as files.
//!
//! The alarm of a process is a task that sleeps until it is due. It belongs to the process: setting the alarm anew, and
//! the end of the process, cancel it.

use faultline_fallible::Arc;

use faultline_executor::{Class, JoinHandle};
use linux_raw_sys::general as linux;

use super::{Caller, Errno, has_headroom, time as clocks, user};
use crate::arch::clock;
use crate::fs::timer::{Setting, Timer};
use crate::fs::{FileKind, OpenFile};
use crate::machine::executor;
use crate::process::{Pid, Process, tree};
use crate::signal::{Signal, SignalInfo, raise};
use crate::time::{self, NANOSECONDS};

/// `TFD_TIMER_ABSTIME`.
const TFD_ABSOLUTE: u64 = 1;

/// The shortest time between two signals of an alarm, in nanoseconds.
const SHORTEST: u64 = 50_000;

/// The alarm of a process.
#[derive(Default)]
pub struct Alarm {
    setting: Setting,
    task: Option<JoinHandle<()>>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.cancel();
        }
    }
}

/// Sets the alarm; returns what was set before, brought up to now.
fn set_alarm(process: &Process, setting: Setting) -> Result<Setting, Errno> {
    let alarm = match setting.next {
        None => Alarm::default(),
        Some(_) => {
            has_headroom()?;
            let task = executor().spawn("alarm", Class::User, ring(process.pid, setting));
            Alarm {
                setting,
                task: Some(task.map_err(|_| Errno::EAGAIN)?),
            }
        }
    };
    let mut before = core::mem::replace(&mut *process.alarm.lock(), alarm);
    before.setting.advance(time::now());
    Ok(before.setting)
}

/// The task: raises the signal when it is due.
async fn ring(pid: Pid, mut setting: Setting) {
    while let Some(next) = setting.next {
        // However short the interval, others run in between; what is missed meanwhile is one signal, as always.
        time::sleep_until(next.max(time::now() + SHORTEST)).await;
        if setting.advance(time::now()) == 0 {
            continue;
        }
        let Some(process) = tree::find_process(pid) else { return };
        raise::to_process(&process, SignalInfo::kernel(Signal::SIGALRM));
    }
}

/// `alarm`.
///
/// # Errors
/// `EAGAIN`, `ENOMEM` without a task for it.
pub fn alarm(process: &Process, seconds: u64) -> Result<u64, Errno> {
    let seconds = u64::from(seconds as u32);
    let now = time::now();
    let before = set_alarm(
        process,
        Setting {
            next: (seconds > 0).then(|| now + seconds * NANOSECONDS),
            interval: 0,
        },
    )?;
    Ok(before.left(now).div_ceil(NANOSECONDS))
}

/// Nanoseconds of a `timeval`.
///
/// # Errors
/// `EINVAL` for a negative time or a fraction of a second or more.
pub fn from_timeval([seconds, microseconds]: [u64; 2]) -> Result<u64, Errno> {
    if seconds > i64::MAX as u64 || microseconds >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(NANOSECONDS).saturating_add(microseconds * 1000))
}

/// A setting in the form of `struct itimerval`.
fn to_timevals(setting: Setting) -> [u64; 4] {
    let words = |time: u64| [time / NANOSECONDS, time % NANOSECONDS / 1000];
    let ([a, b], [c, d]) = (words(setting.interval), words(setting.left(time::now())));
    [a, b, c, d]
}

/// `setitimer`, of the real-time clock.
pub async fn setitimer(caller: Caller, which: u64, new: u64, old: u64) -> Result<u64, Errno> {
    if which != u64::from(linux::ITIMER_REAL) {
        return Err(Errno::EINVAL);
    }
    let [a, b, c, d] = match new {
        0 => [0; 4],
        address => user::read_words(&caller.space, address).await?,
    };
    let (interval, first) = (from_timeval([a, b])?, from_timeval([c, d])?);
    let setting = Setting {
        next: (first > 0).then(|| time::now().saturating_add(first)),
        interval,
    };
    let before = set_alarm(&caller.thread.process, setting)?;
    if old != 0 {
        user::write_words(&caller.space, old, to_timevals(before)).await?;
    }
    Ok(0)
}

/// `getitimer`, of the real-time clock.
pub async fn getitimer(caller: Caller, which: u64, to: u64) -> Result<u64, Errno> {
    if which != u64::from(linux::ITIMER_REAL) {
        return Err(Errno::EINVAL);
    }
    let mut setting = caller.thread.process.alarm.lock().setting;
    setting.advance(time::now());
    user::write_words(&caller.space, to, to_timevals(setting)).await?;
    Ok(0)
}

/// `timerfd_create`.
pub async fn timerfd_create(caller: Caller, clock: u64, flags: u64) -> Result<u64, Errno> {
    let is_wall_clock = match clock as u32 {
        linux::CLOCK_REALTIME => true,
        linux::CLOCK_MONOTONIC | linux::CLOCK_BOOTTIME => false,
        _ => return Err(Errno::EINVAL),
    };
    let flags = flags as u32;
    if flags & !(linux::O_NONBLOCK | linux::O_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    let timer = FileKind::Timer(Timer::new(is_wall_clock)?);
    let file = Arc::try_new(OpenFile::new(timer, None, linux::O_RDONLY | flags & linux::O_NONBLOCK))?;
    let files = caller.thread.process.files();
    files.lock().add(file, flags & linux::O_CLOEXEC != 0, 0)
}

/// The timer behind a descriptor.
fn timer(caller: &Caller, descriptor: u64) -> Result<faultline_fallible::Arc<Timer>, Errno> {
    let file = caller.thread.process.files().lock().get(descriptor)?;
    match &file.kind {
        FileKind::Timer(timer) => Ok(timer.clone()),
        _ => Err(Errno::EINVAL),
    }
}

/// A setting in the form of `struct itimerspec`.
fn to_timespecs(setting: Setting) -> [u64; 4] {
    let left = setting.left(time::now());
    let interval = setting.interval;
    [
        interval / NANOSECONDS,
        interval % NANOSECONDS,
        left / NANOSECONDS,
        left % NANOSECONDS,
    ]
}

/// `timerfd_settime`.
pub async fn timerfd_settime(caller: Caller, descriptor: u64, flags: u64, new: u64, old: u64) -> Result<u64, Errno> {
    if flags & !TFD_ABSOLUTE != 0 {
        return Err(Errno::EINVAL);
    }
    let [a, b, c, d] = user::read_words(&caller.space, new).await?;
    let (interval, first) = (clocks::from_timespec([a, b])?, clocks::from_timespec([c, d])?);
    let timer = timer(&caller, descriptor)?;
    let next = if flags & TFD_ABSOLUTE == 0 {
        time::now().saturating_add(first)
    } else if timer.is_wall_clock {
        // The wall clock and the kernel's own run at the same rate.
        first.saturating_sub(clock::wall_clock() - time::now())
    } else {
        first
    };
    let before = timer.set(Setting {
        next: (first > 0).then_some(next),
        interval,
    });
    if old != 0 {
        user::write_words(&caller.space, old, to_timespecs(before)).await?;
    }
    Ok(0)
}

/// `timerfd_gettime`.
pub async fn timerfd_gettime(caller: Caller, descriptor: u64, to: u64) -> Result<u64, Errno> {
    let setting = timer(&caller, descriptor)?.setting();
    user::write_words(&caller.space, to, to_timespecs(setting)).await?;
    Ok(0)
}
