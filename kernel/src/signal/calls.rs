//! The system calls about signals.

use faultline_executor::yield_now;
use linux_raw_sys::general as linux;

use super::action::{self, Action};
use super::{AlternateStack, Disposition, Signal, SignalInfo, SignalSet, pending, raise};
use crate::process::tree::{Kill, Walk};
use crate::process::waiting::event;
use crate::process::{Process, Thread, tree};
use crate::syscall::{Caller, Errno, user};

/// Size of a signal set, which every call passes and which has to be this.
pub(super) const SET_SIZE: u64 = 8;

/// Flag of an alternate stack that is disarmed while a handler runs on it.
const SS_AUTODISARM: u32 = 1 << 31;

/// `rt_sigaction`.
pub async fn rt_sigaction(caller: Caller, number: u64, new: u64, old: u64, size: u64) -> Result<u64, Errno> {
    let signal = u32::try_from(number).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?;
    if size != SET_SIZE || (new != 0 && SignalSet::UNBLOCKABLE.contains(signal)) {
        return Err(Errno::EINVAL);
    }
    let replacement = match new {
        0 => None,
        address => {
            let mut bytes = [0; action::SIZE];
            user::read(&caller.space, address, &mut bytes).await?;
            Some(Action::from_bytes(&bytes))
        }
    };
    let process = &caller.thread.process;
    let previous = {
        let mut actions = process.actions.lock();
        let previous = actions.get(signal);
        if let Some(action) = replacement {
            actions.set(signal, action)?;
            if actions.disposition(signal) == Disposition::Ignore {
                drop(actions);
                process.pending.lock().discard(signal.set());
                caller.thread.signals.lock().pending.discard(signal.set());
            }
        }
        previous
    };
    if old != 0 {
        user::write(&caller.space, old, &previous.to_bytes()).await?;
    }
    Ok(0)
}

/// `rt_sigprocmask`.
pub async fn rt_sigprocmask(caller: Caller, how: u64, new: u64, old: u64, size: u64) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = match new {
        0 => None,
        address => {
            let [word] = user::read_words(&caller.space, address).await?;
            Some(SignalSet(word).without(SignalSet::UNBLOCKABLE))
        }
    };
    let previous = caller.thread.signals.lock().blocked;
    if let Some(set) = set {
        let blocked = match how as u32 {
            linux::SIG_BLOCK => previous.union(set),
            linux::SIG_UNBLOCK => previous.without(set),
            linux::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        set_mask(&caller.thread, blocked);
    }
    if old != 0 {
        user::write_words(&caller.space, old, [previous.0]).await?;
    }
    Ok(0)
}

/// Sets the mask and looks at what it no longer blocks. A signal that would end the process does so now.
fn set_mask(thread: &Thread, blocked: SignalSet) {
    thread.signals.lock().blocked = blocked;
    pending::review(thread);
}

/// `rt_sigpending`.
pub async fn rt_sigpending(caller: Caller, address: u64, size: u64) -> Result<u64, Errno> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let waiting = {
        let own = caller.thread.signals.lock();
        let all = own.pending.set().union(caller.thread.process.pending.lock().set());
        all.0 & own.blocked.0
    };
    user::write(&caller.space, address, &waiting.to_le_bytes()[..size as usize]).await?;
    Ok(0)
}

/// `rt_sigsuspend`.
pub async fn rt_sigsuspend(caller: Caller, address: u64, size: u64) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let [word] = user::read_words(&caller.space, address).await?;
    {
        let mut own = caller.thread.signals.lock();
        own.restore = Some(own.blocked);
        own.blocked = SignalSet(word).without(SignalSet::UNBLOCKABLE);
    }
    pending::review(&caller.thread);
    pause(caller).await
}

/// `pause`.
pub async fn pause(caller: Caller) -> Result<u64, Errno> {
    let forever = core::future::pending::<()>();
    let _ = caller.thread.interruptible(event("signal"), forever).await;
    Err(Errno::ERESTARTNOHAND)
}

/// `sigaltstack`.
pub async fn sigaltstack(caller: Caller, new: u64, old: u64, pointer: u64) -> Result<u64, Errno> {
    let current = caller.thread.signals.lock().alternate;
    let on_it = current.contains(pointer);
    if new != 0 {
        let [base, flags, size] = user::read_words(&caller.space, new).await?;
        let flags = flags as u32;
        if on_it {
            return Err(Errno::EPERM);
        }
        let stack = match flags & !SS_AUTODISARM {
            linux::SS_DISABLE => AlternateStack::NONE,
            0 | linux::SS_ONSTACK => {
                if size < u64::from(linux::MINSIGSTKSZ) {
                    return Err(Errno::ENOMEM);
                }
                if base
                    .checked_add(size)
                    .is_none_or(|end| end > crate::exec::elf::USER_END)
                {
                    return Err(Errno::EINVAL);
                }
                AlternateStack {
                    base,
                    size,
                    flags: flags & SS_AUTODISARM,
                }
            }
            _ => return Err(Errno::EINVAL),
        };
        caller.thread.signals.lock().alternate = stack;
    }
    if old != 0 {
        let flags = current.flags | if on_it { linux::SS_ONSTACK } else { 0 };
        user::write_words(&caller.space, old, [current.base, u64::from(flags), current.size]).await?;
    }
    Ok(0)
}

/// `kill` of one process, which the number of any of its threads names.
///
/// # Errors
/// `EINVAL` for a number that is no signal, `ESRCH` if there is no such process.
pub fn kill_one(sender: &Process, target: u32, number: u32) -> Result<u64, Errno> {
    let signal = wanted(number)?;
    let process = tree::find_process_of(target).ok_or(Errno::ESRCH)?;
    if let Some(signal) = signal {
        raise::to_process(&process, SignalInfo::sent_by(sender.pid, signal));
    }
    Ok(0)
}

/// `kill` of a process group, 0 for the caller's, or of everything but the caller, -1.
///
/// # Errors
/// `EINVAL` for a number that is no signal, `ESRCH` if no process matches.
pub async fn kill_many(caller: Caller, target: i32, number: u32) -> Result<u64, Errno> {
    let signal = wanted(number)?;
    let sender = &caller.thread.process;
    let (walk, is_all) = match target {
        -1 => (Walk::all(), true),
        0 => (Walk::group(sender.group()), false),
        _ => (Walk::group(target.unsigned_abs()), false),
    };
    // Dropped when all have been told.
    let _kill = match target {
        _ if signal != Some(Signal::SIGKILL) => None,
        -1 => Kill::of_descendants(sender.root),
        0 => Kill::of_group(sender.group()),
        _ => Kill::of_group(target.unsigned_abs()),
    };
    let mut found = false;
    for (count, process) in walk.enumerate() {
        if !is_all || process.pid != sender.pid && process.root == sender.root && process.pid != process.root {
            found = true;
            if let Some(signal) = signal {
                raise::to_process(&process, SignalInfo::sent_by(sender.pid, signal));
            }
        }
        if count % tree::PIECE == tree::PIECE - 1 {
            yield_now().await;
        }
    }
    if found { Ok(0) } else { Err(Errno::ESRCH) }
}

/// `tgkill`; `tkill` without a group.
///
/// # Errors
/// `EINVAL` for a number that is no signal, `ESRCH` if there is no such thread in the group, `EAGAIN` for a real-time signal
/// that finds no room.
pub fn tgkill(sender: &Process, group: Option<u32>, tid: u32, number: u32) -> Result<u64, Errno> {
    let signal = wanted(number)?;
    if tid as i32 <= 0 || group.is_some_and(|group| group as i32 <= 0) {
        return Err(Errno::EINVAL);
    }
    let thread = tree::find_thread(tid).ok_or(Errno::ESRCH)?;
    if group.is_some_and(|group| group != thread.process.pid) {
        return Err(Errno::ESRCH);
    }
    if let Some(signal) = signal {
        let info = SignalInfo {
            code: linux::SI_TKILL,
            ..SignalInfo::sent_by(sender.pid, signal)
        };
        raise::queue_to_thread(&thread, info)?;
    }
    Ok(0)
}

/// The signal of that number; 0 only asks whether the target is there.
pub(super) fn wanted(number: u32) -> Result<Option<Signal>, Errno> {
    match number {
        0 => Ok(None),
        _ => Signal::new(number).map(Some).ok_or(Errno::EINVAL),
    }
}
