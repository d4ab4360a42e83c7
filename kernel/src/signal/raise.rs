//! Raising signals.
//!
//! A signal that ends the process, and is not blocked, starts the end of the process at once: every thread gets its kill
//! bit and is woken, whatever it waits for. Only a signal with a handler, or a blocked one, becomes pending.

use faultline_trace::Kind;

use super::{Disposition, Signal, SignalInfo};
use crate::process::{ExitStatus, Process, Thread};
use crate::tracing;

/// Raises a signal for one thread, as `tgkill` does.
pub fn to_thread(thread: &Thread, info: SignalInfo) {
    tracing::record_for(
        thread.tid,
        Kind::SignalRaise,
        u64::from(info.signal.number()),
        info.word(),
    );
    if info.signal == Signal::SIGKILL {
        thread.process.begin_exit(ExitStatus::Killed(info.signal));
        return;
    }
    let disposition = thread.process.actions.lock().disposition(info.signal);
    let mut own = thread.signals.lock();
    let blocked = own.blocked.contains(info.signal);
    match disposition {
        _ if blocked => own.pending.add(info),
        Disposition::Ignore => {}
        Disposition::Terminate => {
            drop(own);
            thread.process.begin_exit(ExitStatus::Killed(info.signal));
        }
        Disposition::Handle(_) => {
            own.pending.add(info);
            drop(own);
            thread.notice_signals();
            thread.wake();
        }
    }
}

/// Raises a signal for a process, as `kill` does: any thread that does not block it may take it.
pub fn to_process(process: &Process, info: SignalInfo) {
    tracing::record_for(
        process.pid,
        Kind::SignalRaise,
        u64::from(info.signal.number()),
        info.word(),
    );
    if info.signal == Signal::SIGKILL {
        process.begin_exit(ExitStatus::Killed(info.signal));
        return;
    }
    let disposition = process.actions.lock().disposition(info.signal);
    let taker = process.find_thread(|thread| !thread.signals.lock().blocked.contains(info.signal));
    match (disposition, taker) {
        (_, None) => process.pending.lock().add(info),
        (Disposition::Ignore, _) => {}
        (Disposition::Terminate, _) => process.begin_exit(ExitStatus::Killed(info.signal)),
        (Disposition::Handle(_), Some(thread)) => {
            process.pending.lock().add(info);
            thread.notice_signals();
            thread.wake();
        }
    }
}

/// Raises a signal that the thread's own instruction caused: it can't be put off. A blocked or ignored one ends the
/// process.
pub fn force(thread: &Thread, info: SignalInfo) {
    tracing::record_for(
        thread.tid,
        Kind::SignalRaise,
        u64::from(info.signal.number()),
        info.word(),
    );
    let disposition = thread.process.actions.lock().disposition(info.signal);
    let mut own = thread.signals.lock();
    if own.blocked.contains(info.signal) || !matches!(disposition, Disposition::Handle(_)) {
        drop(own);
        thread.process.begin_exit(ExitStatus::Killed(info.signal));
        return;
    }
    own.pending.add(info);
    drop(own);
    thread.notice_signals();
}
