//! `poll` and `ppoll`.

use core::future::poll_fn;
use core::task::{Context, Poll};

use linux_raw_sys::general as linux;

use super::{Caller, Errno, time as clocks, user};
use crate::fs::{FileKind, table};
use crate::signal::{SignalSet, pending};
use crate::time;

/// Size of `struct pollfd` in bytes.
const ENTRY: usize = 8;

/// `poll`.
pub async fn poll(caller: Caller, entries: u64, count: u64, timeout: u64) -> Result<u64, Errno> {
    let deadline = match timeout as i32 {
        milliseconds @ 0.. => Some(time::now().saturating_add(milliseconds as u64 * 1_000_000)),
        _ => None,
    };
    wait(&caller, entries, count, deadline).await
}

/// `ppoll`.
pub async fn ppoll(caller: Caller, entries: u64, count: u64, timeout: u64, mask: u64) -> Result<u64, Errno> {
    let deadline = match timeout {
        0 => None,
        pointer => {
            let duration = clocks::from_timespec(user::read_words(&caller.space, pointer).await?)?;
            Some(time::now().saturating_add(duration))
        }
    };
    if mask != 0 {
        let [word] = user::read_words(&caller.space, mask).await?;
        let mut own = caller.thread.signals.lock();
        own.restore = Some(own.blocked);
        own.blocked = SignalSet(word).without(SignalSet::UNBLOCKABLE);
        drop(own);
        // The mask goes back when the thread next looks at its signals.
        pending::review(&caller.thread);
        caller.thread.notice_signals();
    }
    wait(&caller, entries, count, deadline).await
}

async fn wait(caller: &Caller, address: u64, count: u64, deadline: Option<u64>) -> Result<u64, Errno> {
    if count > table::LIMIT as u64 {
        return Err(Errno::EINVAL);
    }
    let mut entries = user::buffer(count as usize * ENTRY)?;
    user::read(&caller.space, address, &mut entries).await?;
    let look = poll_fn(|context| match look(caller, &mut entries, context) {
        0 => Poll::Pending,
        ready => Poll::Ready(ready),
    });
    let found = match deadline {
        None => caller.thread.interruptible(look).await.map(Ok),
        Some(deadline) => caller.thread.interruptible(time::timeout(deadline, look)).await,
    };
    let ready = match found {
        Ok(ready) => ready.unwrap_or(0),
        Err(_) => return Err(Errno::ERESTARTNOHAND),
    };
    user::write(&caller.space, address, &entries).await?;
    Ok(ready)
}

/// Fills in what is ready now; says how many entries have something to say.
fn look(caller: &Caller, entries: &mut [u8], context: &mut Context<'_>) -> u64 {
    let mut ready = 0;
    for entry in entries.chunks_exact_mut(ENTRY) {
        let descriptor = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let wanted = u32::from(u16::from_le_bytes([entry[4], entry[5]]));
        let found = if descriptor < 0 {
            0
        } else {
            look_at(caller, descriptor as u64, wanted, context)
        };
        entry[6..8].copy_from_slice(&(found as u16).to_le_bytes());
        ready += u64::from(found != 0);
    }
    ready
}

fn look_at(caller: &Caller, descriptor: u64, wanted: u32, context: &mut Context<'_>) -> u32 {
    let Ok(file) = caller.thread.process.files().lock().get(descriptor) else {
        return linux::POLLNVAL;
    };
    let both = linux::POLLIN | linux::POLLRDNORM | linux::POLLOUT | linux::POLLWRNORM;
    let (input, output) = (linux::POLLIN | linux::POLLRDNORM, linux::POLLOUT | linux::POLLWRNORM);
    match &file.kind {
        FileKind::PipeReader(pipe) => {
            let state = pipe.readiness(Some(context));
            let hung_up = if state.hung_up { linux::POLLHUP } else { 0 };
            (if state.read && !(state.hung_up && state.is_empty) {
                wanted & input
            } else {
                0
            }) | hung_up
        }
        FileKind::PipeWriter(pipe) => {
            let state = pipe.readiness(Some(context));
            let broken = if state.hung_up { linux::POLLERR } else { 0 };
            (if state.write { wanted & output } else { 0 }) | broken
        }
        _ => wanted & both,
    }
}
