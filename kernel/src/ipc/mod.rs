//! What System V calls interprocess communication: shared memory, semaphores and queues of messages, found by keys.
//!
//! A thing lives in a [`Table`] from `*get` to `IPC_RMID`, whoever made it; the end of a run clears what is left. Calls hold
//! the lock of the table for a look-up only, and that of the thing for one step.

pub mod messages;
pub mod semaphores;
pub mod shared;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use faultline_fallible::{Arc, OrderedMap};
use spin::Mutex;

use crate::fs::tree::now;
use crate::syscall::{Errno, has_headroom};

/// The commands that all kinds have.
pub const RMID: u32 = 0;
pub const SET: u32 = 1;
pub const STAT: u32 = 2;

/// Flags of `*get` and of operations.
pub const CREATE: u32 = 0o1000;
pub const EXCLUSIVE: u32 = 0o2000;
pub const NO_WAIT: u32 = 0o4000;

/// Most things of a kind.
const MOST: usize = 4096;

/// Bytes of `struct ipc64_perm`.
const HEAD: usize = 48;

/// What every thing has.
pub struct Common {
    key: i32,
    number: u32,
    mode: AtomicU32,
    changed: AtomicU64,
}

impl Common {
    /// Changes what `IPC_SET` changes; `bytes` begin with a `struct ipc64_perm`.
    fn set(&self, bytes: &[u8]) {
        if let Some(mode) = bytes.get(20..24).and_then(|mode| mode.first_chunk()) {
            let mode = u32::from_le_bytes(*mode) & 0o777;
            let kept = self.mode.load(Ordering::Relaxed) & !0o777;
            self.mode.store(kept | mode, Ordering::Relaxed);
        }
        self.changed.store(now(), Ordering::Relaxed);
    }

    /// Writes a `struct ipc64_perm`. There is one user, whose number is 0.
    fn write(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&self.key.to_le_bytes());
        to[20..24].copy_from_slice(&self.mode.load(Ordering::Relaxed).to_le_bytes());
        to[24..26].copy_from_slice(&((self.number >> 15) as u16).to_le_bytes());
    }
}

/// What tables have.
pub trait Thing {
    /// What every thing has.
    fn common(&self) -> &Common;
}

struct Entries<T> {
    things: OrderedMap<u32, Arc<T>>,
    numbers: OrderedMap<i32, u32>,
    last: u32,
}

/// The things of a kind, by their numbers and by their keys.
pub struct Table<T>(Mutex<Entries<T>>);

impl<T: Thing + 'static> Table<T> {
    const fn new() -> Self {
        Self(Mutex::new(Entries {
            things: OrderedMap::new(),
            numbers: OrderedMap::new(),
            last: 0,
        }))
    }

    /// The thing of a number.
    fn find(&self, number: u64) -> Result<Arc<T>, Errno> {
        let found = self.0.lock().things.get(&(number as u32)).cloned();
        found.ok_or(Errno::EINVAL)
    }

    /// `*get`: the number of the thing of a key, which `check` agrees to, or of a new one.
    fn get(
        &self,
        key: i32,
        flags: u32,
        check: impl FnOnce(&T) -> Result<(), Errno>,
        make: impl FnOnce(Common) -> Result<T, Errno>,
    ) -> Result<u64, Errno> {
        has_headroom()?;
        let existing = |entries: &Entries<T>| {
            let number = entries.numbers.get(&key).filter(|_| key != 0)?;
            entries.things.get(number).cloned()
        };
        let number = {
            let mut entries = self.0.lock();
            if let Some(thing) = existing(&entries) {
                drop(entries);
                return Self::take_existing(&thing, flags, check);
            }
            if key != 0 && flags & CREATE == 0 {
                return Err(Errno::ENOENT);
            }
            if entries.things.len() >= MOST {
                return Err(Errno::ENOSPC);
            }
            // Numbers are not negative, and rarely come again.
            entries.last = (entries.last + 1) & 0x7fff_ffff;
            entries.last
        };
        let thing = Arc::try_new(make(Common {
            key,
            number,
            mode: AtomicU32::new(flags & 0o777),
            changed: AtomicU64::new(now()),
        })?)?;
        let mut entries = self.0.lock();
        if let Some(other) = existing(&entries) {
            // Somebody else was faster.
            drop(entries);
            return Self::take_existing(&other, flags, check);
        }
        if key != 0 {
            entries.numbers.try_insert(key, number)?;
        }
        if entries.things.try_insert(number, thing).is_err() {
            entries.numbers.remove(&key);
            return Err(Errno::ENOMEM);
        }
        Ok(u64::from(number))
    }

    fn take_existing(thing: &T, flags: u32, check: impl FnOnce(&T) -> Result<(), Errno>) -> Result<u64, Errno> {
        if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE {
            return Err(Errno::EEXIST);
        }
        check(thing)?;
        Ok(u64::from(thing.common().number))
    }

    /// Takes a thing out: no key leads to it any more.
    fn remove(&self, thing: &T) -> Option<Arc<T>> {
        let common = thing.common();
        let mut entries = self.0.lock();
        if common.key != 0 && entries.numbers.get(&common.key) == Some(&common.number) {
            entries.numbers.remove(&common.key);
        }
        entries.things.remove(&common.number)
    }

    /// Lets no key lead to a thing, which keeps its number.
    fn forget_key(&self, thing: &T) {
        let common = thing.common();
        let mut entries = self.0.lock();
        if common.key != 0 && entries.numbers.get(&common.key) == Some(&common.number) {
            entries.numbers.remove(&common.key);
        }
    }

    fn first(&self) -> Option<Arc<T>> {
        self.0.lock().things.first().map(|(_, thing)| thing.clone())
    }
}

/// The command of a `*ctl`, without the bit of its version.
const fn command(command: u64) -> u32 {
    command as u32 & !0x100
}

/// A process ends: what it has promised to undo is undone.
pub fn process_ends(pid: u32) {
    semaphores::undo(pid);
}

/// At the end of a run: what nobody has removed goes.
pub fn clear() {
    while let Some(segment) = shared::SEGMENTS.first() {
        drop(shared::SEGMENTS.remove(&segment));
    }
    while let Some(set) = semaphores::SETS.first() {
        drop(semaphores::SETS.remove(&set));
    }
    while let Some(queue) = messages::QUEUES.first() {
        drop(messages::QUEUES.remove(&queue));
    }
}
