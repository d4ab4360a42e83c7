//! Semaphores: `semget`, `semop`, `semtimedop`, `semctl`.
//!
//! The operations of one call are done all or none. Who can't do them waits in the queue of the set and tries again whenever
//! a value has changed.

mod undo;

use core::sync::atomic::Ordering;

use faultline_executor::WaitQueue;
use faultline_fallible::Vec;
use spin::Mutex;

use super::{Common, HEAD, NO_WAIT, RMID, SET, STAT, Table, Thing, command};
use crate::fs::tree::now;
use crate::process::waiting::event_of;
use crate::syscall::{Caller, Errno, time as clocks, user};
use crate::time;

use undo::Promise;
pub(super) use undo::undo;

const GET_PID: u32 = 11;
const GET_VALUE: u32 = 12;
const GET_ALL: u32 = 13;
const GET_WAITING: u32 = 14;
const GET_WAITING_FOR_ZERO: u32 = 15;
const SET_VALUE: u32 = 16;
const SET_ALL: u32 = 17;

/// Most semaphores of a set, operations of a call, and the highest value, as on Linux.
const MOST: u64 = 32_000;
const MOST_OPERATIONS: u64 = 500;
const HIGHEST: i32 = 32_767;

/// Bytes of `struct semid64_ds`.
const SIZE: usize = 104;

/// All sets.
pub(super) static SETS: Table<Set> = Table::new();

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who has changed it last.
    pid: u32,
    /// How many wait for it to grow, and to be 0.
    waiting: [u32; 2],
}

struct State {
    semaphores: Vec<Semaphore>,
    is_removed: bool,
    operated: u64,
}

/// A set of semaphores.
pub(super) struct Set {
    common: Common,
    count: usize,
    state: Mutex<State>,
    changed: WaitQueue,
}

impl Thing for Set {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// An operation of `semop`.
#[derive(Clone, Copy)]
struct Operation {
    index: u16,
    by: i16,
    flags: i16,
}

/// What a try of operations came to.
enum Tried {
    Done,
    /// This semaphore has to grow, or to be 0.
    Waits(usize, bool),
}

impl Set {
    fn attempt(&self, pid: u32, operations: &[Operation]) -> Result<Tried, Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(Errno::EIDRM);
        }
        let mut done = 0;
        let mut outcome = Ok(Tried::Done);
        for operation in operations {
            let index = usize::from(operation.index);
            let value = state.semaphores[index].value;
            let next = value + i32::from(operation.by);
            if operation.by == 0 && value != 0 {
                outcome = Ok(Tried::Waits(index, true));
                break;
            }
            if next < 0 {
                outcome = Ok(Tried::Waits(index, false));
                break;
            }
            if next > HIGHEST {
                outcome = Err(Errno::ERANGE);
                break;
            }
            state.semaphores[index].value = next;
            done += 1;
        }
        if !matches!(outcome, Ok(Tried::Done)) {
            for operation in &operations[..done] {
                state.semaphores[usize::from(operation.index)].value -= i32::from(operation.by);
            }
            return outcome;
        }
        for operation in operations {
            state.semaphores[usize::from(operation.index)].pid = pid;
        }
        state.operated = now();
        let changes = operations.iter().any(|operation| operation.by != 0);
        drop(state);
        if changes {
            self.changed.wake_all();
        }
        Ok(Tried::Done)
    }

    /// Sets values; what was promised for them is forgotten.
    fn set_values(&self, pid: u32, first: usize, values: &[u16]) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(Errno::EIDRM);
        }
        for (semaphore, &value) in state.semaphores[first..].iter_mut().zip(values) {
            (semaphore.value, semaphore.pid) = (i32::from(value), pid);
        }
        drop(state);
        let number = self.common.number;
        let range = first..first + values.len();
        undo::forget(number, |index| range.contains(&usize::from(index)));
        self.common.changed.store(now(), Ordering::Relaxed);
        self.changed.wake_all();
        Ok(())
    }
}

/// `semget`.
///
/// # Errors
/// `EINVAL` for a number of semaphores that can't be, or more than the set has; `ENOENT`, `EEXIST`, `ENOSPC`, `ENOMEM`.
pub fn semget(key: u64, count: u64, flags: u64) -> Result<u64, Errno> {
    let count = u64::from(count as u32);
    if count > MOST {
        return Err(Errno::EINVAL);
    }
    let check = |set: &Set| {
        if count as usize > set.count {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    };
    let make = |common| {
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Set {
            common,
            count: count as usize,
            state: Mutex::new(State {
                semaphores: Vec::try_of(Semaphore::default(), count as usize)?,
                is_removed: false,
                operated: 0,
            }),
            changed: WaitQueue::new(),
        })
    };
    SETS.get(key as i32, flags as u32, check, make)
}

/// Counts who waits for a semaphore, until it is dropped.
struct Waiting<'a> {
    set: &'a Set,
    at: Option<(usize, bool)>,
}

impl Waiting<'_> {
    fn change(&mut self, to: Option<(usize, bool)>) {
        if self.at == to {
            return;
        }
        let mut state = self.set.state.lock();
        if let Some((index, zero)) = self.at {
            state.semaphores[index].waiting[usize::from(zero)] -= 1;
        }
        if let Some((index, zero)) = to {
            state.semaphores[index].waiting[usize::from(zero)] += 1;
        }
        self.at = to;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.change(None);
    }
}

/// `semop`; `semtimedop` with a `timespec`.
///
/// # Errors
/// `EINVAL`, `E2BIG`, `EFBIG` for a semaphore that is not there, `EAGAIN`, `ERANGE`, `EIDRM`, `EINTR`, `EFAULT`, `ENOMEM`.
pub async fn semtimedop(caller: Caller, number: u64, address: u64, count: u64, timeout: u64) -> Result<u64, Errno> {
    if count == 0 || number as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    if count > MOST_OPERATIONS {
        return Err(Errno::E2BIG);
    }
    let mut bytes = user::buffer(count as usize * 6)?;
    user::read(&caller.space, address, &mut bytes).await?;
    let deadline = match timeout {
        0 => None,
        pointer => {
            let duration = clocks::from_timespec(user::read_words(&caller.space, pointer).await?)?;
            Some(time::now().saturating_add(duration))
        }
    };
    let operations = bytes.as_chunks::<6>().0.iter().map(|&[a, b, c, d, e, f]| Operation {
        index: u16::from_le_bytes([a, b]),
        by: i16::from_le_bytes([c, d]),
        flags: i16::from_le_bytes([e, f]),
    });
    let operations = Vec::try_from_iter(operations)?;
    let set = SETS.find(number)?;
    if operations
        .iter()
        .any(|operation| usize::from(operation.index) >= set.count)
    {
        return Err(Errno::EFBIG);
    }
    let pid = caller.thread.process.pid;
    let promise = Promise::new(pid, &set, &operations)?;
    let mut waiting = Waiting { set: &set, at: None };
    let mut look = || match set.attempt(pid, &operations) {
        Ok(Tried::Done) => Some(Ok(())),
        Ok(Tried::Waits(index, zero)) => {
            let refuses = |operation: &Operation| {
                usize::from(operation.index) == index && i32::from(operation.flags) & NO_WAIT as i32 != 0
            };
            if operations.iter().any(refuses) {
                return Some(Err(Errno::EAGAIN));
            }
            waiting.change(Some((index, zero)));
            None
        }
        Err(errno) => Some(Err(errno)),
    };
    let done = match look() {
        Some(done) => done,
        None => {
            let event = event_of("semaphore", number);
            let wait = set.changed.wait_until(&mut look);
            match deadline {
                None => caller
                    .thread
                    .interruptible(event, wait)
                    .await
                    .unwrap_or(Err(Errno::EINTR)),
                Some(deadline) => {
                    let wait = time::timeout(deadline, wait);
                    match caller.thread.interruptible(event, wait).await {
                        Ok(done) => done.unwrap_or(Err(Errno::EAGAIN)),
                        Err(_) => Err(Errno::EINTR),
                    }
                }
            }
        }
    };
    drop(waiting);
    done?;
    promise.keep();
    Ok(0)
}

/// `semctl`.
///
/// # Errors
/// `EINVAL`, `ERANGE`, `EIDRM`, `EFAULT`, `ENOMEM`.
pub async fn semctl(caller: Caller, number: u64, index: u64, operation: u64, argument: u64) -> Result<u64, Errno> {
    let operation = command(operation);
    let set = SETS.find(number)?;
    let pid = caller.thread.process.pid;
    let space = &caller.space;
    match operation {
        GET_PID | GET_VALUE | GET_WAITING | GET_WAITING_FOR_ZERO => {
            let state = set.state.lock();
            let semaphore = state.semaphores.get(index as u32 as usize).ok_or(Errno::EINVAL)?;
            Ok(match operation {
                GET_PID => u64::from(semaphore.pid),
                GET_VALUE => semaphore.value as u64,
                GET_WAITING => u64::from(semaphore.waiting[0]),
                _ => u64::from(semaphore.waiting[1]),
            })
        }
        SET_VALUE => {
            let index = index as u32 as usize;
            if index >= set.count {
                return Err(Errno::EINVAL);
            }
            let value = argument as i32;
            if !(0..=HIGHEST).contains(&value) {
                return Err(Errno::ERANGE);
            }
            set.set_values(pid, index, &[value as u16])?;
            Ok(0)
        }
        GET_ALL => {
            let mut bytes = user::buffer(set.count * 2)?;
            {
                let state = set.state.lock();
                for (to, semaphore) in bytes.chunks_exact_mut(2).zip(state.semaphores.iter()) {
                    to.copy_from_slice(&(semaphore.value as u16).to_le_bytes());
                }
            }
            user::write(space, argument, &bytes).await?;
            Ok(0)
        }
        SET_ALL => {
            let mut bytes = user::buffer(set.count * 2)?;
            user::read(space, argument, &mut bytes).await?;
            let values = bytes.as_chunks::<2>().0.iter().map(|&value| u16::from_le_bytes(value));
            let values = Vec::try_from_iter(values)?;
            if values.iter().any(|&value| i32::from(value) > HIGHEST) {
                return Err(Errno::ERANGE);
            }
            set.set_values(pid, 0, &values)?;
            Ok(0)
        }
        STAT => {
            let mut bytes = [0; SIZE];
            set.common.write(&mut bytes[..HEAD]);
            let operated = set.state.lock().operated;
            let changed = set.common.changed.load(Ordering::Relaxed);
            for (to, word) in bytes[HEAD..]
                .chunks_exact_mut(8)
                .zip([operated, 0, changed, 0, set.count as u64])
            {
                to.copy_from_slice(&word.to_le_bytes());
            }
            user::write(space, argument, &bytes).await?;
            Ok(0)
        }
        SET => {
            let mut bytes = [0; HEAD];
            user::read(space, argument, &mut bytes).await?;
            set.common.set(&bytes);
            Ok(0)
        }
        RMID => {
            drop(SETS.remove(&set));
            set.state.lock().is_removed = true;
            let number = set.common.number;
            undo::forget(number, |_| true);
            set.changed.wake_all();
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `semop`.
///
/// # Errors
/// Those of [`semtimedop`].
pub async fn semop(caller: Caller, number: u64, address: u64, count: u64) -> Result<u64, Errno> {
    semtimedop(caller, number, address, count, 0).await
}
