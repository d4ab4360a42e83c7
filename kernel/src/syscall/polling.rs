//! `poll`, `select` and their relatives.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};

use linux_raw_sys::general as linux;

use super::timers::from_timeval;
use super::{Caller, Errno, time as clocks, user};
use crate::fs::file::{INPUT, OUTPUT, Ready};
use crate::fs::{FileKind, table};
use crate::process::waiting::event;
use crate::signal::{SignalSet, pending};
use crate::time;

/// Size of `struct pollfd` in bytes.
const ENTRY: usize = 8;

/// What is asked of a descriptor, and what was found.
#[derive(Clone, Copy)]
struct Question {
    descriptor: i32,
    wanted: u32,
    found: u32,
}

/// `poll`.
pub async fn poll(caller: Caller, entries: u64, count: u64, timeout: u64) -> Result<u64, Errno> {
    let deadline = match timeout as i32 {
        milliseconds @ 0.. => Some(time::now().saturating_add(milliseconds as u64 * 1_000_000)),
        _ => None,
    };
    poll_until(&caller, entries, count, deadline).await
}

/// `ppoll`.
pub async fn ppoll(caller: Caller, entries: u64, count: u64, timeout: u64, mask: u64) -> Result<u64, Errno> {
    let deadline = deadline_of(&caller, timeout).await?;
    wait_with_mask(&caller, mask).await?;
    poll_until(&caller, entries, count, deadline).await
}

/// The time at which a `timespec` from now on is over; none for no pointer.
async fn deadline_of(caller: &Caller, timeout: u64) -> Result<Option<u64>, Errno> {
    if timeout == 0 {
        return Ok(None);
    }
    let duration = clocks::from_timespec(user::read_words(&caller.space, timeout).await?)?;
    Ok(Some(time::now().saturating_add(duration)))
}

/// Sets the mask of signals for the time of the call.
async fn wait_with_mask(caller: &Caller, mask: u64) -> Result<(), Errno> {
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
    Ok(())
}

async fn poll_until(caller: &Caller, address: u64, count: u64, deadline: Option<u64>) -> Result<u64, Errno> {
    let deadline = caller.thread.take_deadline().or(deadline);
    let count = count as u32;
    if count > table::LIMIT as u32 {
        return Err(Errno::EINVAL);
    }
    let mut entries = user::buffer(count as usize * ENTRY)?;
    user::read(&caller.space, address, &mut entries).await?;
    let mut questions = Vec::new();
    questions.try_reserve_exact(count as usize)?;
    questions.extend(entries.chunks_exact(ENTRY).map(|entry| Question {
        descriptor: i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]),
        wanted: u32::from(u16::from_le_bytes([entry[4], entry[5]])),
        found: 0,
    }));
    let ready = wait(caller, &mut questions, deadline).await?;
    for (entry, question) in entries.chunks_exact_mut(ENTRY).zip(&questions) {
        entry[6..8].copy_from_slice(&(question.found as u16).to_le_bytes());
    }
    user::write(&caller.space, address, &entries).await?;
    Ok(ready)
}

/// `select`.
pub async fn select(caller: Caller, count: u64, sets: [u64; 3], timeout: u64) -> Result<u64, Errno> {
    let deadline = match timeout {
        0 => None,
        pointer => {
            let duration = from_timeval(user::read_words(&caller.space, pointer).await?)?;
            Some(time::now().saturating_add(duration))
        }
    };
    select_until(&caller, count, sets, deadline).await
}

/// `pselect6`: the mask is behind a pointer to a pointer and its size.
pub async fn pselect6(caller: Caller, count: u64, sets: [u64; 3], timeout: u64, mask: u64) -> Result<u64, Errno> {
    let deadline = deadline_of(&caller, timeout).await?;
    let mask = match mask {
        0 => 0,
        pointer => user::read_words::<2>(&caller.space, pointer).await?[0],
    };
    wait_with_mask(&caller, mask).await?;
    select_until(&caller, count, sets, deadline).await
}

async fn select_until(caller: &Caller, count: u64, sets: [u64; 3], deadline: Option<u64>) -> Result<u64, Errno> {
    let deadline = caller.thread.take_deadline().or(deadline);
    const WANTED: [u32; 3] = [linux::POLLIN, linux::POLLOUT, linux::POLLPRI];
    const WORDS: usize = table::LIMIT / 64;
    // The call takes an `int`: the upper half of the register says nothing.
    let count = count as u32 as usize;
    if count > table::LIMIT {
        return Err(Errno::EINVAL);
    }
    let words = count.div_ceil(64);
    let mut bits = [[0_u64; WORDS]; 3];
    for (set, address) in bits.iter_mut().zip(sets) {
        if address != 0 {
            let mut bytes = [[0; 8]; WORDS];
            user::read(&caller.space, address, bytes[..words].as_flattened_mut()).await?;
            *set = bytes.map(u64::from_le_bytes);
        }
    }
    let mut questions = Vec::new();
    for descriptor in 0..count {
        let asked = |set: &[u64; WORDS]| set[descriptor / 64] & 1 << (descriptor % 64) != 0;
        let wanted = bits.iter().zip(WANTED).filter(|(set, _)| asked(set));
        let wanted = wanted.fold(0, |sum, (_, wanted)| sum | wanted);
        if wanted != 0 {
            caller.thread.process.files().lock().entry(descriptor as u64)?;
            questions.try_reserve(1)?;
            questions.push(Question {
                descriptor: descriptor as i32,
                wanted,
                found: 0,
            });
        }
    }
    wait(caller, &mut questions, deadline).await?;
    // The end of a pipe counts as input, its breaking as output.
    const MEANS: [u32; 3] = [
        linux::POLLIN | linux::POLLHUP | linux::POLLERR,
        linux::POLLOUT | linux::POLLERR,
        linux::POLLPRI,
    ];
    let mut ready = 0;
    for ((set, address), (wanted, means)) in bits.iter_mut().zip(sets).zip(WANTED.into_iter().zip(MEANS)) {
        *set = [0; WORDS];
        for question in &questions {
            if question.wanted & wanted != 0 && question.found & means != 0 {
                let descriptor = question.descriptor as usize;
                set[descriptor / 64] |= 1 << (descriptor % 64);
                ready += 1;
            }
        }
        if address != 0 {
            let bytes = set.map(u64::to_le_bytes);
            user::write(&caller.space, address, bytes[..words].as_flattened()).await?;
        }
    }
    Ok(ready)
}

/// Waits until there is something to say about a descriptor, or until the deadline; says about how many.
async fn wait(caller: &Caller, questions: &mut [Question], deadline: Option<u64>) -> Result<u64, Errno> {
    loop {
        // A timer among the files can be due before the deadline.
        let mut due = None;
        let first = poll_fn(|context| Poll::Ready(look(caller, questions, context, &mut due))).await;
        if first > 0 {
            return Ok(first);
        }
        let until = deadline.into_iter().chain(due).min();
        let again = poll_fn(|context| match look(caller, questions, context, &mut None) {
            0 => Poll::Pending,
            ready => Poll::Ready(ready),
        });
        let found = match until {
            None => caller.thread.interruptible(event("files"), again).await.map(Ok),
            Some(until) => {
                caller
                    .thread
                    .interruptible(event("files"), time::timeout(until, again))
                    .await
            }
        };
        match found {
            Ok(Ok(ready)) => return Ok(ready),
            Ok(Err(_)) if deadline.is_some_and(|deadline| deadline <= time::now()) => return Ok(0),
            Ok(Err(_)) => {}
            Err(_) => {
                return Err(match deadline {
                    Some(deadline) => {
                        caller.thread.keep_deadline(deadline);
                        Errno::ERESTARTBLOCK
                    }
                    None => Errno::ERESTARTNOHAND,
                });
            }
        }
    }
}

/// Fills in what is ready now; says how many descriptors have something to say, and when the first timer is due.
fn look(caller: &Caller, questions: &mut [Question], context: &mut Context<'_>, due: &mut Option<u64>) -> u64 {
    let mut ready = 0;
    for question in questions {
        question.found = if question.descriptor < 0 {
            0
        } else {
            look_at(caller, question.descriptor as u64, question.wanted, context, due)
        };
        ready += u64::from(question.found != 0);
    }
    ready
}

fn look_at(caller: &Caller, descriptor: u64, wanted: u32, context: &mut Context<'_>, due: &mut Option<u64>) -> u32 {
    let Ok(file) = caller.thread.process.files().lock().get(descriptor) else {
        return linux::POLLNVAL;
    };
    match &file.kind {
        FileKind::PipeReader(pipe) => {
            let state = pipe.readiness(Some(context));
            let hung_up = if state.hung_up { linux::POLLHUP } else { 0 };
            (if state.read && !(state.hung_up && state.is_empty) {
                wanted & INPUT
            } else {
                0
            }) | hung_up
        }
        FileKind::PipeWriter(pipe) => {
            let state = pipe.readiness(Some(context));
            let broken = if state.hung_up { linux::POLLERR } else { 0 };
            (if state.write { wanted & OUTPUT } else { 0 }) | broken
        }
        FileKind::Timer(timer) => {
            let (expired, next) = timer.is_expired(context);
            *due = due.iter().copied().chain(next).min();
            if expired { wanted & INPUT } else { 0 }
        }
        kind => {
            let ready = kind
                .as_file()
                .map_or(Ready::ALWAYS, |file| file.poll_ready(Some(context)));
            *due = due.iter().copied().chain(ready.deadline).min();
            wanted & ready.events
        }
    }
}
