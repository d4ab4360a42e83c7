//! What programs set and ask about scheduling. There is one policy, `SCHED_OTHER`, which shares each CPU by time; nice values
//! are kept and told, and change nothing.

use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use faultline_executor::yield_now;
use linux_raw_sys::general as linux;

use super::{Caller, Errno, user};
use crate::arch::smp;
use crate::process::tree::Walk;
use crate::process::{Process, Thread, tree};
use crate::time::NANOSECONDS;

const PRIO_PROCESS: u64 = 0;
const PRIO_PGRP: u64 = 1;
const PRIO_USER: u64 = 2;

/// The time slice that `sched_rr_get_interval` tells, in nanoseconds.
const SLICE: u64 = NANOSECONDS / 250;

/// The thread of that number; 0 is the caller.
fn named(thread: &Arc<Thread>, tid: u64) -> Result<Arc<Thread>, Errno> {
    match tid as i32 {
        0 => Ok(thread.clone()),
        1.. => tree::find_thread(tid as u32).ok_or(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_getaffinity`: of the CPUs that there are, those that the thread may run on.
pub async fn sched_getaffinity(caller: Caller, tid: u64, size: u64, address: u64) -> Result<u64, Errno> {
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let thread = named(&caller.thread, tid).map_err(|_| Errno::ESRCH)?;
    user::write_words(&caller.space, address, [thread.affinity() & smp::all()]).await?;
    Ok(8)
}

/// `sched_setaffinity`: one of the CPUs that there are has to be in the set. The thread leaves a CPU that is not before it
/// enters user mode again.
pub async fn sched_setaffinity(caller: Caller, tid: u64, size: u64, address: u64) -> Result<u64, Errno> {
    let mut first = [0; 8];
    let length = first.len().min(size as usize);
    user::read(&caller.space, address, &mut first[..length]).await?;
    let thread = named(&caller.thread, tid).map_err(|_| Errno::ESRCH)?;
    let cpus = u64::from_le_bytes(first) & smp::all();
    if cpus == 0 {
        return Err(Errno::EINVAL);
    }
    thread.set_affinity(cpus);
    Ok(0)
}

/// `sched_getscheduler`.
///
/// # Errors
/// `ESRCH`, `EINVAL`.
pub fn sched_getscheduler(thread: &Arc<Thread>, tid: u64) -> Result<u64, Errno> {
    named(thread, tid).map(|_| u64::from(linux::SCHED_NORMAL))
}

/// `sched_setscheduler`: other policies than `SCHED_OTHER` are refused as to a user without rights.
pub async fn sched_setscheduler(caller: Caller, tid: u64, policy: u64, parameters: u64) -> Result<u64, Errno> {
    if parameters == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = user::read_u32(&caller.space, parameters).await?;
    named(&caller.thread, tid)?;
    match policy as u32 & !linux::SCHED_RESET_ON_FORK {
        linux::SCHED_NORMAL | linux::SCHED_BATCH | linux::SCHED_IDLE if priority == 0 => Ok(0),
        linux::SCHED_FIFO | linux::SCHED_RR if (1..=99).contains(&priority) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_getparam`.
pub async fn sched_getparam(caller: Caller, tid: u64, parameters: u64) -> Result<u64, Errno> {
    if parameters == 0 {
        return Err(Errno::EINVAL);
    }
    named(&caller.thread, tid)?;
    user::write_u32(&caller.space, parameters, 0).await?;
    Ok(0)
}

/// `sched_setparam`.
pub async fn sched_setparam(caller: Caller, tid: u64, parameters: u64) -> Result<u64, Errno> {
    sched_setscheduler(caller, tid, u64::from(linux::SCHED_NORMAL), parameters).await
}

/// `sched_get_priority_max`, or the lowest priority.
///
/// # Errors
/// `EINVAL` for a policy that there is not.
pub fn sched_get_priority(policy: u64, highest: bool) -> Result<u64, Errno> {
    match u32::try_from(policy) {
        Ok(linux::SCHED_FIFO | linux::SCHED_RR) => Ok(if highest { 99 } else { 1 }),
        Ok(linux::SCHED_NORMAL | linux::SCHED_BATCH | linux::SCHED_IDLE | linux::SCHED_DEADLINE) => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_rr_get_interval`.
pub async fn sched_rr_get_interval(caller: Caller, tid: u64, to: u64) -> Result<u64, Errno> {
    named(&caller.thread, tid)?;
    user::write_words(&caller.space, to, [0, SLICE]).await?;
    Ok(0)
}

/// Which processes `getpriority` and `setpriority` are about.
enum Whose {
    Thread(Arc<Thread>),
    Several(Walk),
}

fn whose(thread: &Arc<Thread>, which: u64, who: u64) -> Result<Whose, Errno> {
    Ok(match which {
        PRIO_PROCESS => Whose::Thread(named(thread, who).map_err(|_| Errno::ESRCH)?),
        PRIO_PGRP if who as i32 == 0 => Whose::Several(Walk::group(thread.process.group())),
        PRIO_PGRP => Whose::Several(Walk::group(who as u32)),
        // There is one user.
        PRIO_USER if who as i32 == 0 => Whose::Several(Walk::all()),
        PRIO_USER => return Err(Errno::ESRCH),
        _ => return Err(Errno::EINVAL),
    })
}

/// `getpriority`: 20 less the nice value, of several processes the highest.
pub async fn getpriority(caller: Caller, which: u64, who: u64) -> Result<u64, Errno> {
    let told = |nice: i32| (20 - nice) as u64;
    match whose(&caller.thread, which, who)? {
        Whose::Thread(thread) => Ok(told(thread.nice.load(Ordering::Relaxed))),
        Whose::Several(walk) => {
            let mut highest = None;
            let lowest_nice =
                |least: &mut i32, thread: &Thread| *least = (*least).min(thread.nice.load(Ordering::Relaxed));
            for (count, process) in walk.enumerate() {
                if process.root == caller.thread.process.root && process.thread_count() > 0 {
                    let mut nice = i32::MAX;
                    process.fold_threads(&mut nice, lowest_nice);
                    highest = highest.max(Some(told(nice.min(19))));
                }
                pause(count).await;
            }
            highest.ok_or(Errno::ESRCH)
        }
    }
}

/// `setpriority`.
pub async fn setpriority(caller: Caller, which: u64, who: u64, nice: u64) -> Result<u64, Errno> {
    let nice = (nice as i32).clamp(-20, 19);
    match whose(&caller.thread, which, who)? {
        Whose::Thread(thread) => thread.nice.store(nice, Ordering::Relaxed),
        Whose::Several(walk) => {
            let mut any = false;
            for (count, process) in walk.enumerate() {
                if process.root == caller.thread.process.root && process.thread_count() > 0 {
                    any = true;
                    set_nice(&process, nice);
                }
                pause(count).await;
            }
            if !any {
                return Err(Errno::ESRCH);
            }
        }
    }
    Ok(0)
}

fn set_nice(process: &Process, nice: i32) {
    process.for_each_thread(|thread| thread.nice.store(nice, Ordering::Relaxed));
}

/// Lets others run after a piece of a walk.
async fn pause(count: usize) {
    if count % tree::PIECE == tree::PIECE - 1 {
        yield_now().await;
    }
}
