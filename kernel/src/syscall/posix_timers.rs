//! POSIX timers: `timer_create` and its like.
//!
//! A timer that is set is a task, as an [alarm](super::timers) is. Its signal waits at most once: as long as it does,
//! further expirations are counted in the signal's `si_overrun`.

use faultline_fallible::{Arc, Vec};

use faultline_executor::Class;
use linux_raw_sys::general as linux;

use super::time::{self as clocks, Clock};
use super::timers::{Alarm, SHORTEST};
use super::{Caller, Errno, has_headroom, user};
use crate::fs::timer::Setting;
use crate::machine::executor;
use crate::process::{Process, Resource, Thread, tree};
use crate::signal::{Detail, Signal, SignalInfo, raise};
use crate::time::NANOSECONDS;

/// `TIMER_ABSTIME`.
const ABSOLUTE: u64 = 1;

/// Most overruns that are told.
const MOST_OVERRUNS: u64 = i32::MAX as u64;

/// The timers of a process by number. No more than `RLIMIT_SIGPENDING` allows, for each may have a signal that waits.
#[derive(Default)]
pub struct PosixTimers(Vec<Option<PosixTimer>>);

/// What happens when a timer expires.
#[derive(Clone)]
enum Notice {
    Nothing,
    Process(SignalInfo),
    Thread(Arc<Thread>, SignalInfo),
}

impl Notice {
    /// Takes back a signal that waits: the timer is set anew, or gone.
    fn withdraw(&self, process: &Process) {
        match self {
            Self::Nothing => {}
            Self::Process(info) => process.pending.lock().withdraw(info),
            Self::Thread(thread, info) => thread.signals.lock().pending.withdraw(info),
        }
    }
}

struct PosixTimer {
    /// The number of its clock.
    clock: u64,
    notice: Notice,
    alarm: Alarm,
    overruns: u64,
}

impl PosixTimers {
    fn get(&mut self, number: u64) -> Result<&mut PosixTimer, Errno> {
        let place = usize::try_from(number as u32)
            .ok()
            .and_then(|index| self.0.get_mut(index));
        place.and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }

    /// The lowest number that is free, below `most`.
    fn free(&mut self, most: u64) -> Result<usize, Errno> {
        let free = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        if free as u64 >= most {
            return Err(Errno::EAGAIN);
        }
        if free == self.0.len() {
            self.0.try_push(None)?;
        }
        Ok(free)
    }
}

/// `timer_create`.
pub async fn timer_create(caller: Caller, clock: u64, event: u64, to: u64) -> Result<u64, Errno> {
    let (thread, process) = (&caller.thread, &caller.thread.process);
    match Clock::new(clock, thread)? {
        _ if clock == u64::from(linux::CLOCK_MONOTONIC_RAW) => return Err(Errno::EOPNOTSUPP),
        Clock::Monotonic | Clock::Wall | Clock::Process(..) | Clock::Thread(..) => {}
    }
    let event = match event {
        0 => None,
        address => Some(user::read_words::<3>(&caller.space, address).await?),
    };
    has_headroom()?;
    let most = process.limits.current(Resource::SIGPENDING);
    let number = {
        let mut timers = process.timers.posix.lock();
        let number = timers.free(most)?;
        let notice = notice(thread, event, number as u64)?;
        timers.0[number] = Some(PosixTimer {
            clock,
            notice,
            alarm: Alarm::default(),
            overruns: 0,
        });
        number
    };
    if let Err(error) = user::write_u32(&caller.space, to, number as u32).await {
        process.timers.posix.lock().0[number] = None;
        return Err(error);
    }
    Ok(0)
}

/// Reads a `struct sigevent`: a value, a signal, how to notify, a thread.
fn notice(thread: &Arc<Thread>, event: Option<[u64; 3]>, number: u64) -> Result<Notice, Errno> {
    let [value, signal_and_way, tid] = event.unwrap_or([number, u64::from(Signal::SIGALRM.number()), 0]);
    let (signal, way, tid) = (signal_and_way as u32, (signal_and_way >> 32) as u32, tid as u32);
    if way == linux::SIGEV_NONE {
        return Ok(Notice::Nothing);
    }
    let info = SignalInfo {
        signal: Signal::new(signal).ok_or(Errno::EINVAL)?,
        code: linux::SI_TIMER,
        detail: Detail::Given([number, value]),
    };
    match way {
        linux::SIGEV_SIGNAL | linux::SIGEV_THREAD => Ok(Notice::Process(info)),
        linux::SIGEV_THREAD_ID => {
            let target = tree::find_thread(tid).filter(|found| Arc::ptr_eq(&found.process, &thread.process));
            target.map(|target| Notice::Thread(target, info)).ok_or(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `timer_settime`.
pub async fn timer_settime(caller: Caller, number: u64, flags: u64, new: u64, old: u64) -> Result<u64, Errno> {
    let (thread, process) = (&caller.thread, &caller.thread.process);
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    let [a, b, c, d] = user::read_words(&caller.space, new).await?;
    let (interval, first) = (clocks::from_timespec([a, b])?, clocks::from_timespec([c, d])?);
    let (before, now) = {
        let mut timers = process.timers.posix.lock();
        let timer = timers.get(number)?;
        let clock = Clock::new(timer.clock, thread)?;
        let now = clock.read();
        let next = if flags & ABSOLUTE == 0 {
            now.saturating_add(first)
        } else {
            first
        };
        let setting = Setting {
            next: (first > 0).then_some(next),
            interval,
        };
        let mut alarm = Alarm { setting, task: None };
        if first > 0 {
            has_headroom()?;
            let task = expire(process.clone(), number, clock, timer.notice.clone(), setting);
            let task = executor().spawn("timer", Class::User, task);
            alarm.task = Some(task.map_err(|_| Errno::EAGAIN)?);
        }
        let mut before = core::mem::replace(&mut timer.alarm, alarm);
        timer.notice.withdraw(process);
        before.setting.advance(now);
        (before.setting, now)
    };
    if old != 0 {
        user::write_words(&caller.space, old, to_timespecs(before, now)).await?;
    }
    Ok(0)
}

/// The task: gives notice whenever the timer expires.
async fn expire(process: Arc<Process>, number: u64, clock: Clock, notice: Notice, mut setting: Setting) {
    while let Some(next) = setting.next {
        // However short the interval, others run in between; what is missed meanwhile is an overrun.
        clock.reach(next.max(clock.read().saturating_add(SHORTEST))).await;
        let count = setting.advance(clock.read());
        if count == 0 {
            continue;
        }
        let overruns = match &notice {
            Notice::Nothing => 0,
            Notice::Process(info) => {
                let waits = process.pending.lock().overrun(info, count);
                waits.unwrap_or_else(|| {
                    raise::to_process(&process, with_overruns(info, count - 1));
                    count - 1
                })
            }
            Notice::Thread(thread, info) => {
                let waits = thread.signals.lock().pending.overrun(info, count);
                waits.unwrap_or_else(|| {
                    raise::to_thread(thread, with_overruns(info, count - 1));
                    count - 1
                })
            }
        };
        if let Ok(timer) = process.timers.posix.lock().get(number) {
            timer.overruns = overruns;
        }
    }
}

/// The signal of a timer with its count of overruns, which lies above the number of the timer.
fn with_overruns(info: &SignalInfo, count: u64) -> SignalInfo {
    let mut info = *info;
    if let Detail::Given([timer, _]) = &mut info.detail {
        *timer |= count.min(MOST_OVERRUNS) << 32;
    }
    info
}

/// A setting in the form of `struct itimerspec`, at a time of its clock.
fn to_timespecs(setting: Setting, now: u64) -> [u64; 4] {
    let (interval, left) = (setting.interval, setting.left(now));
    [
        interval / NANOSECONDS,
        interval % NANOSECONDS,
        left / NANOSECONDS,
        left % NANOSECONDS,
    ]
}

/// `timer_gettime`.
pub async fn timer_gettime(caller: Caller, number: u64, to: u64) -> Result<u64, Errno> {
    let words = {
        let mut timers = caller.thread.process.timers.posix.lock();
        let timer = timers.get(number)?;
        let now = Clock::new(timer.clock, &caller.thread)?.read();
        let mut setting = timer.alarm.setting;
        setting.advance(now);
        to_timespecs(setting, now)
    };
    user::write_words(&caller.space, to, words).await?;
    Ok(0)
}

/// `timer_getoverrun`.
///
/// # Errors
/// `EINVAL` if there is no such timer.
pub fn timer_getoverrun(process: &Process, number: u64) -> Result<u64, Errno> {
    let mut timers = process.timers.posix.lock();
    Ok(timers.get(number)?.overruns.min(MOST_OVERRUNS))
}

/// `timer_delete`.
///
/// # Errors
/// `EINVAL` if there is no such timer.
pub fn timer_delete(process: &Process, number: u64) -> Result<u64, Errno> {
    let deleted = {
        let mut timers = process.timers.posix.lock();
        timers.get(number)?;
        timers.0[number as usize].take()
    };
    if let Some(timer) = &deleted {
        timer.notice.withdraw(process);
    }
    Ok(0)
}
