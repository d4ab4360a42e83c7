//! Waiting for signals, and sending them with a value.

use core::future::poll_fn;
use core::task::Poll;

use linux_raw_sys::general as linux;

use super::calls::{SET_SIZE, wanted};
use super::info::{self, SignalInfo};
use super::{Detail, SignalSet, pending, raise};
use crate::process::waiting::event;
use crate::process::{Process, Thread, tree};
use crate::syscall::{Caller, Errno, time as clocks, user};
use crate::time;

/// Marks what a thread waits for, until it is dropped.
struct Awaiting<'a>(&'a Thread);

impl<'a> Awaiting<'a> {
    fn new(thread: &'a Thread, signals: SignalSet) -> Self {
        thread.signals.lock().awaited = signals;
        Self(thread)
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.signals.lock().awaited = SignalSet::EMPTY;
    }
}

/// `rt_sigtimedwait`: takes a signal of the set without a handler.
pub async fn rt_sigtimedwait(caller: Caller, set: u64, to: u64, timeout: u64, size: u64) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let [word] = user::read_words(&caller.space, set).await?;
    let wanted = SignalSet(word).without(SignalSet::UNBLOCKABLE);
    let deadline = match timeout {
        0 => None,
        pointer => {
            let length = clocks::from_timespec(user::read_words(&caller.space, pointer).await?)?;
            Some(time::now().saturating_add(length))
        }
    };
    let info = take(&caller.thread, wanted, deadline).await?;
    if to != 0 {
        user::write(&caller.space, to, &info.to_bytes()).await?;
    }
    Ok(u64::from(info.signal.number()))
}

async fn take(thread: &Thread, wanted: SignalSet, deadline: Option<u64>) -> Result<SignalInfo, Errno> {
    let _awaiting = Awaiting::new(thread, wanted);
    let look = poll_fn(|_| match pending::take(thread, wanted) {
        Some(info) => Poll::Ready(info),
        None => Poll::Pending,
    });
    match deadline {
        None => thread
            .interruptible(event("signal"), look)
            .await
            .map_err(|_| Errno::EINTR),
        Some(deadline) => match thread
            .interruptible(event("signal"), time::timeout(deadline, look))
            .await
        {
            Ok(taken) => taken.map_err(|_| Errno::EAGAIN),
            Err(_) => Err(Errno::EINTR),
        },
    }
}

/// Sends a signal to a process, with what is at `from`, or as `kill` does if that is 0; `is_there` if the process was not
/// waited for yet.
pub async fn send(caller: Caller, process: &Process, is_there: bool, number: u32, from: u64) -> Result<u64, Errno> {
    let signal = wanted(number)?;
    let info = match from {
        0 => signal.map(|signal| SignalInfo::sent_by(caller.thread.process.pid, signal)),
        address => {
            let [head, code, first, second] = user::read_words::<4>(&caller.space, address).await?;
            if head as u32 != number {
                return Err(Errno::EINVAL);
            }
            let code = code as i32;
            if (code >= 0 || code == linux::SI_TKILL) && process.pid != caller.thread.process.pid {
                return Err(Errno::EPERM);
            }
            signal.map(|signal| SignalInfo {
                signal,
                code,
                detail: Detail::Given([first, second]),
            })
        }
    };
    if !is_there {
        return Err(Errno::ESRCH);
    }
    info.map_or(Ok(()), |info| raise::queue_to_process(process, info))?;
    Ok(0)
}

/// `rt_sigqueueinfo`, and `rt_tgsigqueueinfo` for the thread `tid`.
pub async fn rt_sigqueueinfo(caller: Caller, pid: u64, tid: Option<u64>, number: u64, from: u64) -> Result<u64, Errno> {
    let mut bytes = [0; info::SIZE];
    user::read(&caller.space, from, &mut bytes).await?;
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8..16]);
    let code = u64::from_le_bytes(word) as i32;
    let detail = [16, 24].map(|at| {
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    });
    let (pid, tid) = (pid as u32, tid.map(|tid| tid as u32));
    if tid.is_some_and(|tid| tid as i32 <= 0 || pid as i32 <= 0) {
        return Err(Errno::EINVAL);
    }
    // Only to itself may a process pretend that the kernel, or `kill`, has sent the signal.
    let is_sender = tid.unwrap_or(pid) == caller.thread.tid();
    if (code >= 0 || code == linux::SI_TKILL) && !is_sender {
        return Err(Errno::EPERM);
    }
    let signal = wanted(number as u32)?;
    let info = signal.map(|signal| SignalInfo {
        signal,
        code,
        detail: Detail::Given(detail),
    });
    match tid {
        None => {
            let process = tree::find_process_of(pid).ok_or(Errno::ESRCH)?;
            info.map_or(Ok(()), |info| raise::queue_to_process(&process, info))?;
        }
        Some(tid) => {
            let thread = tree::find_thread(tid).filter(|thread| thread.process.pid == pid);
            let thread = thread.ok_or(Errno::ESRCH)?;
            info.map_or(Ok(()), |info| raise::queue_to_thread(&thread, info))?;
        }
    }
    Ok(0)
}
