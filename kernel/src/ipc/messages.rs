//! Queues of messages: `msgget`, `msgsnd`, `msgrcv`, `msgctl`.

use core::sync::atomic::Ordering;

use faultline_executor::WaitQueue;
use faultline_fallible::{Vec, VecDeque};
use spin::Mutex;

use super::{Common, HEAD, NO_WAIT, RMID, SET, STAT, Table, Thing, command};
use crate::fs::tree::now;
use crate::process::waiting::event_of;
use crate::syscall::{Caller, Errno, user};

const CUT: u32 = 0o10000;
const EXCEPT: u32 = 0o20000;
const COPY: u32 = 0o40000;

/// Most bytes of a message and of a queue, as on Linux.
const MOST: u64 = 8192;
const MOST_OF_QUEUE: u64 = 16_384;

/// Bytes of `struct msqid64_ds`.
const SIZE: usize = 120;

/// All queues.
pub(super) static QUEUES: Table<Queue> = Table::new();

struct Message {
    kind: i64,
    bytes: Vec<u8>,
}

struct State {
    messages: VecDeque<Message>,
    bytes: u64,
    most: u64,
    is_removed: bool,
    /// When something was sent and received last, and by whom.
    times: [u64; 2],
    pids: [u32; 2],
}

/// A queue of messages.
pub(super) struct Queue {
    common: Common,
    state: Mutex<State>,
    /// Who waits for a message, and for room.
    receivers: WaitQueue,
    senders: WaitQueue,
}

impl Thing for Queue {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Which message is wanted.
#[derive(Clone, Copy)]
enum Wanted {
    First,
    OfKind(i64),
    OfAnother(i64),
    /// The lowest up to this.
    UpTo(i64),
}

impl Wanted {
    fn new(kind: i64, flags: u32) -> Self {
        match kind {
            0 => Self::First,
            1.. if flags & EXCEPT != 0 => Self::OfAnother(kind),
            1.. => Self::OfKind(kind),
            _ => Self::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        }
    }

    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Self::First => (!messages.is_empty()).then_some(0),
            Self::OfKind(kind) => messages.iter().position(|message| message.kind == kind),
            Self::OfAnother(kind) => messages.iter().position(|message| message.kind != kind),
            Self::UpTo(most) => {
                let all = messages.iter().enumerate().filter(|(_, message)| message.kind <= most);
                all.min_by_key(|(_, message)| message.kind).map(|(index, _)| index)
            }
        }
    }
}

impl Queue {
    /// Adds a message; gives it back without room.
    fn put(&self, message: Message, pid: u32) -> Result<Option<Message>, Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(Errno::EIDRM);
        }
        let length = message.bytes.len() as u64;
        if state.bytes + length > state.most || state.messages.len() as u64 + 1 > state.most {
            return Ok(Some(message));
        }
        state.messages.try_push_back(message)?;
        state.bytes += length;
        (state.times[0], state.pids[0]) = (now(), pid);
        drop(state);
        // Each receiver wants another kind.
        self.receivers.wake_all();
        Ok(None)
    }

    /// Takes a message of at most `room` bytes; a longer one is cut off if that is wished.
    fn take(&self, wanted: Wanted, room: u64, cuts: bool, pid: u32) -> Result<Option<Message>, Errno> {
        let mut state = self.state.lock();
        if state.is_removed {
            return Err(Errno::EIDRM);
        }
        let Some(index) = wanted.find(&state.messages) else {
            return Ok(None);
        };
        if !cuts && state.messages[index].bytes.len() as u64 > room {
            return Err(Errno::E2BIG);
        }
        let message = state.messages.remove(index);
        state.bytes -= message.as_ref().map_or(0, |message| message.bytes.len()) as u64;
        (state.times[1], state.pids[1]) = (now(), pid);
        drop(state);
        self.senders.wake_all();
        Ok(message)
    }
}

/// `msgget`.
///
/// # Errors
/// `ENOENT`, `EEXIST`, `ENOSPC`, `ENOMEM`.
pub fn msgget(key: u64, flags: u64) -> Result<u64, Errno> {
    let make = |common| {
        Ok(Queue {
            common,
            state: Mutex::new(State {
                messages: VecDeque::new(),
                bytes: 0,
                most: MOST_OF_QUEUE,
                is_removed: false,
                times: [0; 2],
                pids: [0; 2],
            }),
            receivers: WaitQueue::new(),
            senders: WaitQueue::new(),
        })
    };
    QUEUES.get(key as i32, flags as u32, |_| Ok(()), make)
}

/// `msgsnd`.
///
/// # Errors
/// `EINVAL`, `EAGAIN`, `EIDRM`, `EINTR`, `EFAULT`, `ENOMEM`.
pub async fn msgsnd(caller: Caller, number: u64, address: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let [kind] = user::read_words(&caller.space, address).await?;
    if (kind as i64) < 1 || length > MOST || (number as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = Vec::try_of(0, length as usize)?;
    user::read(&caller.space, address.wrapping_add(8), &mut bytes).await?;
    let queue = QUEUES.find(number)?;
    let pid = caller.thread.process.pid;
    let mut message = Some(Message {
        kind: kind as i64,
        bytes,
    });
    let mut look = || match queue.put(message.take()?, pid) {
        Ok(None) => Some(Ok(())),
        Ok(Some(_)) if flags as u32 & NO_WAIT != 0 => Some(Err(Errno::EAGAIN)),
        Ok(Some(again)) => {
            message = Some(again);
            None
        }
        Err(errno) => Some(Err(errno)),
    };
    let sent = match look() {
        Some(sent) => sent,
        None => {
            let wait = queue.senders.wait_until(look);
            let wait = caller.thread.interruptible(event_of("message queue", number), wait);
            wait.await.unwrap_or(Err(Errno::EINTR))
        }
    };
    sent.map(|()| 0)
}

/// `msgrcv`.
///
/// # Errors
/// `EINVAL`, `ENOMSG`, `E2BIG`, `EIDRM`, `EINTR`, `EFAULT`; `ENOSYS` for `MSG_COPY`.
pub async fn msgrcv(caller: Caller, [number, address, room, kind, flags]: [u64; 5]) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & COPY != 0 {
        return Err(Errno::ENOSYS);
    }
    if (room as i64) < 0 || (number as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let queue = QUEUES.find(number)?;
    let wanted = Wanted::new(kind as i64, flags);
    let pid = caller.thread.process.pid;
    let look = || match queue.take(wanted, room, flags & CUT != 0, pid) {
        Ok(Some(message)) => Some(Ok(message)),
        Ok(None) if flags & NO_WAIT != 0 => Some(Err(Errno::ENOMSG)),
        Ok(None) => None,
        Err(errno) => Some(Err(errno)),
    };
    let message = match look() {
        Some(message) => message?,
        None => {
            let wait = queue.receivers.wait_until(look);
            let wait = caller.thread.interruptible(event_of("message queue", number), wait);
            wait.await.unwrap_or(Err(Errno::EINTR))?
        }
    };
    let length = message.bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    user::write_words(&caller.space, address, [message.kind as u64]).await?;
    user::write(&caller.space, address.wrapping_add(8), &message.bytes[..length]).await?;
    Ok(length as u64)
}

/// `msgctl`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub async fn msgctl(caller: Caller, number: u64, operation: u64, address: u64) -> Result<u64, Errno> {
    let operation = command(operation);
    if !matches!(operation, RMID | SET | STAT) {
        return Err(Errno::EINVAL);
    }
    let queue = QUEUES.find(number)?;
    match operation {
        STAT => {
            let mut bytes = [0; SIZE];
            queue.common.write(&mut bytes[..HEAD]);
            let words = {
                let state = queue.state.lock();
                [
                    state.times[0],
                    state.times[1],
                    queue.common.changed.load(Ordering::Relaxed),
                    state.bytes,
                    state.messages.len() as u64,
                    state.most,
                    u64::from(state.pids[1]) << 32 | u64::from(state.pids[0]),
                ]
            };
            for (to, word) in bytes[HEAD..].chunks_exact_mut(8).zip(words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            user::write(&caller.space, address, &bytes).await?;
        }
        SET => {
            let mut bytes = [0; SIZE];
            user::read(&caller.space, address, &mut bytes).await?;
            queue.common.set(&bytes);
            let [most] = [88].map(|at| {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[at..at + 8]);
                u64::from_le_bytes(word)
            });
            // Who may change a queue may not make it larger than this, whatever rights it has: its bytes are the kernel's.
            if most > MOST_OF_QUEUE {
                return Err(Errno::EPERM);
            }
            queue.state.lock().most = most;
            queue.senders.wake_all();
        }
        _ => {
            drop(QUEUES.remove(&queue));
            let messages = {
                let mut state = queue.state.lock();
                state.is_removed = true;
                core::mem::take(&mut state.messages)
            };
            drop(messages);
            queue.senders.wake_all();
            queue.receivers.wake_all();
        }
    }
    Ok(0)
}
