//! What processes have promised to undo at their ends (`SEM_UNDO`).

use faultline_fallible::OrderedMap;
use spin::Mutex;

use super::{HIGHEST, Operation, SETS, Set};
use crate::syscall::Errno;

const UNDO: i16 = 0x1000;

/// Most promises to undo in the machine, so that none of them takes long to forget.
const MOST_UNDOS: usize = 4096;

/// The promises, by process, set and semaphore.
static UNDOS: Mutex<OrderedMap<(u32, u32, u16), i32>> = Mutex::new(OrderedMap::new());

/// Forgets what is promised for semaphores of a set.
pub(super) fn forget(set: u32, which: impl Fn(u16) -> bool) {
    UNDOS
        .lock()
        .retain(|&(_, other, index), _| other != set || !which(index));
}

/// What the operations of a call promise to undo. The places for that are made before the operations are done, and go with
/// this if nothing is promised after all.
pub(super) struct Promise<'a> {
    pid: u32,
    set: &'a Set,
    operations: &'a [Operation],
}

impl<'a> Promise<'a> {
    /// # Errors
    /// `ENOSPC` if there are too many promises, `ENOMEM`.
    pub(super) fn new(pid: u32, set: &'a Set, operations: &'a [Operation]) -> Result<Self, Errno> {
        let promise = Self { pid, set, operations };
        let mut undos = UNDOS.lock();
        for operation in promise.promised() {
            let key = promise.key(operation);
            let is_new = !undos.contains_key(&key);
            let added = match is_new {
                true if undos.len() >= MOST_UNDOS => Err(Errno::ENOSPC),
                true => undos.try_insert(key, 0).map(drop).map_err(Errno::from),
                false => Ok(()),
            };
            if let Err(errno) = added {
                // The lock is taken again when the promise is dropped.
                drop(undos);
                return Err(errno);
            }
        }
        drop(undos);
        Ok(promise)
    }

    fn promised(&self) -> impl Iterator<Item = &'a Operation> + use<'a> {
        self.operations.iter().filter(|operation| operation.flags & UNDO != 0)
    }

    fn key(&self, operation: &Operation) -> (u32, u32, u16) {
        (self.pid, self.set.common.number, operation.index)
    }

    /// The operations are done.
    pub(super) fn keep(&self) {
        let mut undos = UNDOS.lock();
        for operation in self.promised() {
            if let Some(sum) = undos.get_mut(&self.key(operation)) {
                *sum -= i32::from(operation.by);
            }
        }
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if self.promised().next().is_none() {
            return;
        }
        let mut undos = UNDOS.lock();
        for operation in self.promised() {
            let key = self.key(operation);
            if undos.get(&key) == Some(&0) {
                undos.remove(&key);
            }
        }
    }
}

/// Undoes what a process has promised.
pub fn undo(pid: u32) {
    loop {
        let first = {
            let mut undos = UNDOS.lock();
            let key = undos
                .range((pid, 0, 0)..=(pid, u32::MAX, u16::MAX))
                .next()
                .map(|(&key, _)| key);
            key.and_then(|key| undos.remove_entry(&key))
        };
        let Some(((_, number, index), sum)) = first else { return };
        let Ok(set) = SETS.find(u64::from(number)) else {
            continue;
        };
        let mut state = set.state.lock();
        if let Some(semaphore) = state.semaphores.get_mut(usize::from(index))
            && sum != 0
        {
            semaphore.value = (semaphore.value + sum).clamp(0, HIGHEST);
            semaphore.pid = pid;
        }
        drop(state);
        set.changed.wake_all();
    }
}
