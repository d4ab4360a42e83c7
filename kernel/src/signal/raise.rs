//! Raising signals.
//!
//! A signal that ends the process, and is not blocked, starts the end of the process at once: every thread gets its kill
//! bit and is woken, whatever it waits for. A signal that stops the process, and is not blocked, stops it at once. Only a
//! signal with a handler, a blocked one, and any but `SIGKILL` to a stopped process becomes pending.

use faultline_trace::Kind;

use super::{Disposition, QueueFull, Signal, SignalInfo, SignalSet};
use crate::fs::signal_file;
use crate::process::tree::Walk;
use crate::process::{ExitStatus, Pid, Process, Resource, Thread, jobs, tree};
use crate::syscall::Errno;
use crate::tracing;

/// Raises a signal for one thread. A real-time signal that finds no room is lost.
pub fn to_thread(thread: &Thread, info: SignalInfo) {
    let _ = queue_to_thread(thread, info);
}

/// Raises a signal for one thread, as `tgkill` does.
///
/// # Errors
/// [`QueueFull`] for a real-time signal.
pub fn queue_to_thread(thread: &Thread, info: SignalInfo) -> Result<(), QueueFull> {
    trace(thread.tid(), &info);
    let process = &thread.process;
    prepare(process, info.signal);
    if info.signal == Signal::SIGKILL {
        process.begin_exit(ExitStatus::Killed(info.signal));
        return Ok(());
    }
    let disposition = process.actions.lock().disposition(info.signal);
    let stopped = process.job.is_stopped();
    let mut own = thread.signals.lock();
    let blocked = own.blocked.contains(info.signal);
    match disposition {
        Disposition::Ignore if !blocked => Ok(()),
        Disposition::Terminate if !blocked && !stopped => {
            drop(own);
            process.begin_exit(ExitStatus::Killed(info.signal));
            Ok(())
        }
        Disposition::Stop if !blocked && !stopped => {
            drop(own);
            jobs::stop(process, info.signal);
            Ok(())
        }
        _ => {
            own.pending.add(info, process.limits.current(Resource::SIGPENDING))?;
            let awaited = own.awaited.contains(info.signal);
            drop(own);
            signal_file::announce(process);
            if !blocked {
                thread.notice_signals();
            }
            if !blocked || awaited {
                thread.wake();
            }
            Ok(())
        }
    }
}

/// Raises a signal for a process: any thread that does not block it may take it. A real-time signal that finds no room is
/// lost.
pub fn to_process(process: &Process, info: SignalInfo) {
    let _ = queue_to_process(process, info);
}

/// Raises a signal for a process, as `kill` and `rt_sigqueueinfo` do.
///
/// # Errors
/// [`QueueFull`] for a real-time signal.
pub fn queue_to_process(process: &Process, info: SignalInfo) -> Result<(), QueueFull> {
    trace(process.pid, &info);
    prepare(process, info.signal);
    if info.signal == Signal::SIGKILL {
        process.begin_exit(ExitStatus::Killed(info.signal));
        return Ok(());
    }
    let disposition = process.actions.lock().disposition(info.signal);
    let stopped = process.job.is_stopped();
    let taker = process.find_thread(|thread| !thread.signals.lock().blocked.contains(info.signal));
    match (disposition, taker) {
        (Disposition::Ignore, Some(_)) => {}
        (Disposition::Terminate, Some(_)) if !stopped => process.begin_exit(ExitStatus::Killed(info.signal)),
        (Disposition::Stop, Some(_)) if !stopped => jobs::stop(process, info.signal),
        (_, taker) => {
            let most = process.limits.current(Resource::SIGPENDING);
            process.pending.lock().add(info, most)?;
            signal_file::announce(process);
            if let Some(thread) = taker {
                thread.notice_signals();
                thread.wake();
            }
            if let Some(thread) = process.find_thread(|thread| thread.signals.lock().awaited.contains(info.signal)) {
                thread.wake();
            }
        }
    }
    Ok(())
}

/// Raises a signal that the thread's own instruction caused: it can't be put off. A blocked or ignored one ends the
/// process.
pub fn force(thread: &Thread, info: SignalInfo) {
    trace(thread.tid(), &info);
    let disposition = thread.process.actions.lock().disposition(info.signal);
    let mut own = thread.signals.lock();
    // The signals that instructions cause are standard signals, for which there is always room.
    if own.blocked.contains(info.signal)
        || !matches!(disposition, Disposition::Handle(_))
        || own.pending.add(info, u64::MAX).is_err()
    {
        drop(own);
        thread.process.begin_exit(ExitStatus::Killed(info.signal));
        return;
    }
    drop(own);
    thread.notice_signals();
}

/// What a thread that uses the terminal from the background gets: `signal` for its whole process group. The call is made
/// again when the group continues, and fails where nobody could continue it, or where the thread does not want the signal.
pub fn for_background(thread: &Thread, signal: Signal) -> Errno {
    let process = &thread.process;
    let ignored = process.actions.lock().disposition(signal) == Disposition::Ignore;
    let group = process.group();
    if ignored || thread.signals.lock().blocked.contains(signal) || tree::is_orphaned(group) {
        return Errno::EIO;
    }
    to_group(group, SignalInfo::kernel(signal));
    Errno::ERESTARTSYS
}

/// Raises a signal for every process of a group; 0 is none.
pub fn to_group(group: Pid, info: SignalInfo) {
    for process in Walk::group(group) {
        to_process(&process, info);
    }
}

/// A signal that stops takes back a `SIGCONT` that waits. `SIGCONT` takes back those that stop, and lets the process go on
/// whether it is blocked, ignored or neither.
fn prepare(process: &Process, signal: Signal) {
    let taken_back = if SignalSet::STOPPING.contains(signal) {
        Signal::SIGCONT.set()
    } else if signal == Signal::SIGCONT {
        SignalSet::STOPPING
    } else {
        return;
    };
    process.pending.lock().discard(taken_back);
    process.for_each_thread(|thread| thread.signals.lock().pending.discard(taken_back));
    if signal == Signal::SIGCONT {
        jobs::resume(process);
    }
}

/// Traces that a signal is raised.
pub(super) fn trace(target: u32, info: &SignalInfo) {
    tracing::record_for(target, Kind::SignalRaise, u64::from(info.signal.number()), info.word());
}
