//! `alarm`, `setitimer`, and timers as files.
//!
//! An alarm is a task that waits until its clock shows a time. It belongs to its process: setting it anew, and the end of
//! the process, cancel it.

use faultline_fallible::Arc;

use faultline_executor::{Class, JoinHandle};
use linux_raw_sys::general as linux;
use spin::Mutex;

use super::posix_timers::PosixTimers;
use super::time::{self as clocks, Clock};
use super::{Caller, Errno, has_headroom, user};
use crate::arch::clock;
use crate::fs::timer::{Setting, Timer};
use crate::fs::{FileKind, OpenFile};
use crate::machine::executor;
use crate::process::run_time::Part;
use crate::process::{ExitStatus, Process, Resource};
use crate::signal::{Signal, SignalInfo, raise};
use crate::time::{self, NANOSECONDS};

/// `TFD_TIMER_ABSTIME`.
const TFD_ABSOLUTE: u64 = 1;

/// The shortest time between two signals of an alarm, in nanoseconds.
pub(super) const SHORTEST: u64 = 50_000;

/// A setting, and the task that waits for it.
#[derive(Default)]
pub struct Alarm {
    pub(super) setting: Setting,
    pub(super) task: Option<JoinHandle<()>>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.cancel();
        }
    }
}

/// The timers of a process; they are not inherited, and end with it.
#[derive(Default)]
pub struct Timers {
    /// Those of `setitimer`.
    intervals: Mutex<[Alarm; 3]>,
    /// What holds `RLIMIT_CPU`.
    limit: Mutex<Alarm>,
    /// Those of `timer_create`.
    pub(super) posix: Mutex<PosixTimers>,
}

impl Timers {
    /// Cancels all, as the end of the process does.
    pub fn cancel(&self) {
        drop(core::mem::take(&mut *self.intervals.lock()));
        drop(core::mem::take(&mut *self.limit.lock()));
        self.forget_posix();
    }

    /// Forgets the timers of `timer_create`, as `execve` does.
    pub fn forget_posix(&self) {
        drop(core::mem::take(&mut *self.posix.lock()));
    }
}

/// A timer of `setitimer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interval {
    Real,
    Virtual,
    Prof,
}

impl Interval {
    fn new(which: u64) -> Result<Self, Errno> {
        match u32::try_from(which) {
            Ok(linux::ITIMER_REAL) => Ok(Self::Real),
            Ok(linux::ITIMER_VIRTUAL) => Ok(Self::Virtual),
            Ok(linux::ITIMER_PROF) => Ok(Self::Prof),
            _ => Err(Errno::EINVAL),
        }
    }

    fn clock(self, process: &Arc<Process>) -> Clock {
        match self {
            Self::Real => Clock::Monotonic,
            Self::Virtual => Clock::Process(process.clone(), Part::User),
            Self::Prof => Clock::Process(process.clone(), Part::All),
        }
    }

    const fn signal(self) -> Signal {
        match self {
            Self::Real => Signal::SIGALRM,
            Self::Virtual => Signal::SIGVTALRM,
            Self::Prof => Signal::SIGPROF,
        }
    }
}

/// Sets a timer to go off after `first`, or never if that is 0; returns what was set before, brought up to now, and the
/// time on its clock.
fn set(process: &Arc<Process>, interval: Interval, first: u64, again: u64) -> Result<(Setting, u64), Errno> {
    let clock = interval.clock(process);
    let now = clock.read();
    let setting = Setting {
        next: (first > 0).then(|| now.saturating_add(first)),
        interval: again,
    };
    let alarm = if first == 0 {
        Alarm::default()
    } else {
        has_headroom()?;
        let task = ring(process.clone(), clock, interval.signal(), setting);
        let task = executor()
            .spawn("alarm", Class::User, task)
            .map_err(|_| Errno::EAGAIN)?;
        Alarm {
            setting,
            task: Some(task),
        }
    };
    let before = core::mem::replace(&mut process.timers.intervals.lock()[interval as usize], alarm);
    let mut before_setting = before.setting;
    before_setting.advance(now);
    Ok((before_setting, now))
}

/// The task: raises the signal when it is due.
async fn ring(process: Arc<Process>, clock: Clock, signal: Signal, mut setting: Setting) {
    while let Some(next) = setting.next {
        // However short the interval, others run in between; what is missed meanwhile is one signal, as always.
        clock.reach(next.max(clock.read().saturating_add(SHORTEST))).await;
        if setting.advance(clock.read()) > 0 {
            raise::to_process(&process, SignalInfo::kernel(signal));
        }
    }
}

/// `alarm`.
///
/// # Errors
/// `EAGAIN`, `ENOMEM` without a task for it.
pub fn alarm(process: &Arc<Process>, seconds: u64) -> Result<u64, Errno> {
    let seconds = u64::from(seconds as u32);
    let (before, now) = set(process, Interval::Real, seconds * NANOSECONDS, 0)?;
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

/// A setting in the form of `struct itimerval`, at a time of its clock.
fn to_timevals(setting: Setting, now: u64) -> [u64; 4] {
    let words = |time: u64| [time / NANOSECONDS, time % NANOSECONDS / 1000];
    let ([a, b], [c, d]) = (words(setting.interval), words(setting.left(now)));
    [a, b, c, d]
}

/// `setitimer`.
pub async fn setitimer(caller: Caller, which: u64, new: u64, old: u64) -> Result<u64, Errno> {
    let interval = Interval::new(which)?;
    let [a, b, c, d] = match new {
        0 => [0; 4],
        address => user::read_words(&caller.space, address).await?,
    };
    let (again, first) = (from_timeval([a, b])?, from_timeval([c, d])?);
    let (before, now) = set(&caller.thread.process, interval, first, again)?;
    if old != 0 {
        user::write_words(&caller.space, old, to_timevals(before, now)).await?;
    }
    Ok(0)
}

/// `getitimer`.
pub async fn getitimer(caller: Caller, which: u64, to: u64) -> Result<u64, Errno> {
    let (interval, process) = (Interval::new(which)?, &caller.thread.process);
    let now = interval.clock(process).read();
    let mut setting = process.timers.intervals.lock()[interval as usize].setting;
    setting.advance(now);
    user::write_words(&caller.space, to, to_timevals(setting, now)).await?;
    Ok(0)
}

/// Holds `RLIMIT_CPU` from now on, as its values are now.
///
/// # Errors
/// `EAGAIN`, `ENOMEM` without a task for it.
pub fn hold_cpu_limit(process: &Arc<Process>) -> Result<(), Errno> {
    let alarm = if process.limits.get(Resource::CPU).current == u64::MAX {
        Alarm::default()
    } else {
        has_headroom()?;
        let task = executor().spawn("CPU limit", Class::User, watch(process.clone()));
        Alarm {
            setting: Setting::default(),
            task: Some(task.map_err(|_| Errno::EAGAIN)?),
        }
    };
    let before = core::mem::replace(&mut *process.timers.limit.lock(), alarm);
    drop(before);
    if process.is_gone() {
        process.timers.cancel();
    }
    Ok(())
}

/// The task: `SIGXCPU` at the limit and each second after it, `SIGKILL` at the upper one.
async fn watch(process: Arc<Process>) {
    let clock = Clock::Process(process.clone(), Part::All);
    let mut due = 0;
    loop {
        let limit = process.limits.get(Resource::CPU);
        // A limit of 0 is one of 1 second, as on Linux.
        let next = limit.current.max(due).max(1).min(limit.most.max(1));
        clock.reach(next.saturating_mul(NANOSECONDS)).await;
        if next >= limit.most {
            process.begin_exit(ExitStatus::Killed(Signal::SIGKILL));
            return;
        }
        raise::to_process(&process, SignalInfo::kernel(Signal::SIGXCPU));
        due = next + 1;
    }
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
