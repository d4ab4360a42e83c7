//! Locks on files: those of processes (`F_SETLK`), of open files (`F_OFD_SETLK`) and of `flock`.
//!
//! A lock is on a range of a file and has an owner. Locks of processes and of open files are in each other's way; those
//! of `flock` are on whole files and in the way of one another only. A file's locks are kept here, by the number of the
//! file, for as long as there are any; who waits for one waits in the file's queue and looks again when a lock goes.
//!
//! A process loses its locks on a file when it closes any descriptor of it; an open file loses its own with its last
//! descriptor. A process that would wait for a lock whose owner waits, through others, for a lock of its own is told so
//! (`EDEADLK`), as POSIX says.

use core::sync::atomic::{AtomicUsize, Ordering};

use faultline_executor::WaitQueue;
use faultline_fallible::{Arc, OrderedMap, Vec};
use linux_raw_sys::general as linux;
use spin::Mutex;

use super::{FileKind, OpenFile};
use crate::process::waiting::event;
use crate::process::{Pid, Thread};
use crate::syscall::Errno;

/// Most locks on one file.
const MOST: usize = 16 * 1024;

/// How many owners are looked at for a deadlock, as on Linux.
const CHAIN: usize = 10;

/// Who has a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A process, by its table of files.
    Process(u64),
    /// An open file.
    File(usize),
    /// An open file, by `flock`.
    Whole(usize),
}

impl Owner {
    const fn is_whole(self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// A lock on the bytes from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who has it.
    pub owner: Owner,
    /// The process that is named to others.
    pub pid: Pid,
    /// Whether nobody else may have one there; others may share.
    pub exclusive: bool,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

impl Lock {
    const fn meets(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.owner.is_whole() == other.owner.is_whole()
            && (self.exclusive || other.exclusive)
            && self.meets(other)
    }
}

/// The locks on a file.
struct FileLocks {
    locks: Mutex<Vec<Lock>>,
    changed: WaitQueue,
}

static FILES: Mutex<OrderedMap<u64, Arc<FileLocks>>> = Mutex::new(OrderedMap::new());

/// Locks that there are; while there is none, closing a file asks nobody.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Which process's owner waits for which.
static WAITS: Mutex<OrderedMap<(u64, u32), u64>> = Mutex::new(OrderedMap::new());

/// The number by which a file's locks are kept.
fn key(file: &OpenFile) -> Result<u64, Errno> {
    const NAMELESS: u64 = 1 << 63;
    const MOUNTED: u64 = 1 << 62;
    match (&file.kind, &file.node) {
        (FileKind::Path, _) => Err(Errno::EBADF),
        (_, Some(node)) if node.mounted().is_some() => Ok(MOUNTED | node.inode),
        (_, Some(node)) => Ok(node.inode),
        (FileKind::Memory(memory), None) => Ok(NAMELESS | Arc::as_ptr(memory) as u64),
        _ => Err(Errno::EINVAL),
    }
}

fn locks_of(key: u64) -> Option<Arc<FileLocks>> {
    FILES.lock().get(&key).cloned()
}

/// The owner that an open file is, for locks of its own.
#[must_use]
pub fn owner(file: &Arc<OpenFile>, whole: bool) -> Owner {
    let number = Arc::as_ptr(file) as usize;
    if whole {
        Owner::Whole(number)
    } else {
        Owner::File(number)
    }
}

/// The lock that would be in the way of one: of the first owner who has such, the one that begins first, as on Linux.
///
/// # Errors
/// `EBADF`, `EINVAL` for what can't be locked.
pub fn find(file: &OpenFile, wanted: &Lock) -> Result<Option<Lock>, Errno> {
    let Some(locks) = locks_of(key(file)?) else {
        return Ok(None);
    };
    let locks = locks.locks.lock();
    let in_the_way = || locks.iter().filter(|lock| lock.conflicts(wanted));
    let Some(owner) = in_the_way().next().map(|lock| lock.owner) else {
        return Ok(None);
    };
    let of_owner = in_the_way().filter(|lock| lock.owner == owner);
    Ok(of_owner.min_by_key(|lock| lock.start).copied())
}

/// Takes a lock, in place of what its owner has in its range.
///
/// # Errors
/// `EAGAIN` if another's is in the way and `waits` is false; `EDEADLK`; `ENOLCK` without memory or with too many locks;
/// `ERESTARTSYS` if a signal came first.
pub async fn take(thread: &Thread, file: &OpenFile, wanted: Lock, waits: bool) -> Result<(), Errno> {
    let key = key(file)?;
    let locks = {
        let mut files = FILES.lock();
        match files.get(&key) {
            Some(locks) => locks.clone(),
            None => {
                let new = Arc::try_new(FileLocks {
                    locks: Mutex::new(Vec::new()),
                    changed: WaitQueue::new(),
                })
                .map_err(|_| Errno::ENOLCK)?;
                files.try_insert(key, new.clone()).map_err(|_| Errno::ENOLCK)?;
                new
            }
        }
    };
    let held = Hold { key, locks };
    let mut waiting = Waiting(None);
    let attempt = || match held.try_take(&wanted) {
        Ok(()) => Some(Ok(())),
        Err(Refusal::Error(errno)) => Some(Err(errno)),
        Err(Refusal::Taken(_)) if !waits => Some(Err(Errno::EAGAIN)),
        Err(Refusal::Taken(by)) => waiting.note(wanted.owner, by, thread).err().map(Err),
    };
    let wait = held.locks.changed.wait_until(attempt);
    let taken = thread.interruptible(event("file lock"), wait).await;
    taken.unwrap_or(Err(Errno::ERESTARTSYS))
}

/// Gives up what an owner has in a range.
///
/// # Errors
/// `ENOLCK` without memory to keep what is left on both sides; `EBADF`, `EINVAL`.
pub fn release(file: &OpenFile, range: Lock) -> Result<(), Errno> {
    let key = key(file)?;
    let Some(locks) = locks_of(key) else { return Ok(()) };
    let held = Hold { key, locks };
    let replaced = replace(&mut held.locks.locks.lock(), &range, false);
    held.locks.changed.wake_all();
    replaced
}

/// A process closes a file: all its locks on it go.
pub fn release_of_process(file: &OpenFile, owner: u64) {
    release_all(file, |lock| lock.owner == Owner::Process(owner));
}

/// An open file is gone: its locks go.
pub fn release_of_file(file: &OpenFile) {
    let number = core::ptr::from_ref(file) as usize;
    release_all(file, |lock| {
        lock.owner == Owner::File(number) || lock.owner == Owner::Whole(number)
    });
}

fn release_all(file: &OpenFile, which: impl Fn(&Lock) -> bool) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Ok(key) = key(file) else { return };
    let Some(locks) = locks_of(key) else { return };
    let held = Hold { key, locks };
    let gone = {
        let mut locks = held.locks.locks.lock();
        let before = locks.len();
        locks.retain(|lock| !which(lock));
        before - locks.len()
    };
    if gone > 0 {
        COUNT.fetch_sub(gone, Ordering::Relaxed);
        held.locks.changed.wake_all();
    }
}

/// A hold on the locks of a file. With the last hold on an empty list the list goes.
struct Hold {
    key: u64,
    locks: Arc<FileLocks>,
}

/// Why a lock was not taken.
enum Refusal {
    Taken(Owner),
    Error(Errno),
}

impl Hold {
    fn try_take(&self, wanted: &Lock) -> Result<(), Refusal> {
        let mut locks = self.locks.locks.lock();
        if let Some(lock) = locks.iter().find(|lock| lock.conflicts(wanted)) {
            return Err(Refusal::Taken(lock.owner));
        }
        replace(&mut locks, wanted, true).map_err(Refusal::Error)?;
        drop(locks);
        // A lock that was exclusive may be shared now.
        self.locks.changed.wake_all();
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut files = FILES.lock();
        // This hold and the one in the map.
        let last = Arc::strong_count(&self.locks) <= 2;
        let removed = (last && self.locks.locks.lock().is_empty())
            .then(|| files.remove(&self.key))
            .flatten();
        drop(files);
        drop(removed);
    }
}

/// Replaces what an owner has in a range: by a lock, or by nothing. Neighbours of the same kind become one.
fn replace(locks: &mut Vec<Lock>, wanted: &Lock, keep: bool) -> Result<(), Errno> {
    // A lock that is cut in two is two, and the new one is a third.
    if keep && locks.len() + 2 > MOST {
        return Err(Errno::ENOLCK);
    }
    locks.try_reserve(2).map_err(|_| Errno::ENOLCK)?;
    let before = locks.len();
    let mut new = *wanted;
    let mut rest = [None; 2];
    locks.retain(|lock| {
        if lock.owner != wanted.owner {
            return true;
        }
        let joins = keep
            && lock.exclusive == new.exclusive
            && lock.start <= new.end.saturating_add(1)
            && new.start <= lock.end.saturating_add(1);
        if joins {
            new.start = new.start.min(lock.start);
            new.end = new.end.max(lock.end);
            return false;
        }
        if !lock.meets(wanted) {
            return true;
        }
        if lock.start < wanted.start {
            rest[0] = Some(Lock {
                end: wanted.start - 1,
                ..*lock
            });
        }
        if lock.end > wanted.end {
            rest[1] = Some(Lock {
                start: wanted.end + 1,
                ..*lock
            });
        }
        false
    });
    let added = rest.into_iter().chain([keep.then_some(new)]).flatten();
    for lock in added {
        // The lock that was cut has left its place, so that there is room for three.
        locks.try_push(lock).map_err(|_| Errno::ENOLCK)?;
    }
    COUNT.fetch_add(locks.len(), Ordering::Relaxed);
    COUNT.fetch_sub(before, Ordering::Relaxed);
    Ok(())
}

/// What a process waits for, as long as it waits.
struct Waiting(Option<(u64, u32)>);

impl Waiting {
    /// Notes that a process waits for a lock of another; says if that would never end.
    fn note(&mut self, own: Owner, other: Owner, thread: &Thread) -> Result<(), Errno> {
        let (Owner::Process(own), Owner::Process(mut other)) = (own, other) else {
            return Ok(());
        };
        let mut waits = WAITS.lock();
        let first = other;
        for _ in 0..CHAIN {
            if other == own {
                return Err(Errno::EDEADLK);
            }
            match waits.range((other, 0)..=(other, u32::MAX)).next() {
                Some((_, &next)) => other = next,
                None => break,
            }
        }
        let key = (own, thread.tid());
        waits.try_insert(key, first).map_err(|_| Errno::ENOLCK)?;
        self.0 = Some(key);
        Ok(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            WAITS.lock().remove(&key);
        }
    }
}

/// The operation of `flock`.
///
/// # Errors
/// `EINVAL` for an unknown operation; those of [`take`], with `EAGAIN` for what would wait.
pub async fn flock(thread: &Thread, file: &Arc<OpenFile>, operation: u32) -> Result<(), Errno> {
    let wanted = Lock {
        owner: owner(file, true),
        pid: thread.process.pid,
        exclusive: operation & linux::LOCK_EX != 0,
        start: 0,
        end: u64::MAX,
    };
    match operation & !linux::LOCK_NB {
        linux::LOCK_UN => release(file, wanted),
        linux::LOCK_SH | linux::LOCK_EX => take(thread, file, wanted, operation & linux::LOCK_NB == 0).await,
        _ => Err(Errno::EINVAL),
    }
}
