//! Futexes: waiting for a word of user memory to change.
//!
//! # Keys
//!
//! A futex is named by what the word *is*, not by its address alone: in shared memory by the object and the offset in
//! it, so that processes which map it at different addresses meet; anywhere else by the space and the address.
//!
//! # Protocol
//!
//! A waiter first puts itself into its bucket's queue, then reads the word, and takes itself out if it differs from what
//! was expected. A waker changes the word in user mode before it calls. So either the waiter's read sees the new word,
//! or the waker finds the waiter. A waiter is woken once: the waker takes it out of the queue, marks it and wakes its
//! task. A waiter whose future is dropped takes itself out.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Poll, Waker};
use faultline_fallible::{Arc, Vec};

use linux_raw_sys::general as linux;
use spin::Mutex;

use super::memory::shared_object;
use super::{Caller, Errno, time as clocks, user};
use crate::machine::Space;
use crate::process::waiting::event_of;
use crate::time;

/// Number of buckets; a power of two.
const BUCKETS: usize = 64;

/// What a futex word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Id of the space, or address of the shared object.
    holder: u64,
    /// Address in the space, or offset in the object.
    place: u64,
    shared: bool,
}

struct Waiter {
    key: Mutex<Key>,
    bucket: AtomicUsize,
    mask: u32,
    waker: Waker,
    woken: AtomicBool,
}

type Bucket = Mutex<Vec<Arc<Waiter>>>;

static TABLE: [Bucket; BUCKETS] = [const { Mutex::new(Vec::new()) }; BUCKETS];

impl Key {
    fn of(space: &Space, address: u64, private: bool) -> Self {
        if !private && let Some((object, offset)) = shared_object(space, address) {
            return Self {
                holder: object,
                place: offset,
                shared: true,
            };
        }
        Self {
            holder: space.id(),
            place: address,
            shared: false,
        }
    }

    fn bucket(&self) -> usize {
        let mixed = (self.place >> 2 ^ self.holder).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 58) as usize % BUCKETS
    }
}

/// A waiter that is, or was, in a queue; dropping it takes it out.
struct Queued(Arc<Waiter>);

impl Queued {
    fn new(key: Key, mask: u32, waker: Waker) -> Result<Self, Errno> {
        let bucket = key.bucket();
        let waiter = Waiter {
            key: Mutex::new(key),
            bucket: AtomicUsize::new(bucket),
            mask,
            waker,
            woken: AtomicBool::new(false),
        };
        let waiter = Arc::try_new(waiter)?;
        let mut queue = TABLE[bucket].lock();
        queue.try_push(waiter.clone())?;
        Ok(Self(waiter))
    }

    fn is_woken(&self) -> bool {
        self.0.woken.load(Ordering::Acquire)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        // A requeue moves the waiter under the locks of both buckets; look again if it did so meanwhile.
        while !self.is_woken() {
            let bucket = self.0.bucket.load(Ordering::Acquire);
            let mut queue = TABLE[bucket].lock();
            if self.0.bucket.load(Ordering::Acquire) == bucket {
                queue.retain(|other| !Arc::ptr_eq(other, &self.0));
                return;
            }
        }
    }
}

/// `futex` operations that only wake, which never wait; `None` for others.
#[must_use]
pub fn wake_now(space: &Space, address: u64, operation: u32, value: u32, mask: u32) -> Option<u64> {
    let private = operation & linux::FUTEX_PRIVATE_FLAG != 0;
    let mask = match operation & !linux::FUTEX_PRIVATE_FLAG {
        linux::FUTEX_WAKE => u32::MAX,
        linux::FUTEX_WAKE_BITSET if mask != 0 => mask,
        _ => return None,
    };
    if !address.is_multiple_of(4) || address >= crate::exec::elf::USER_END {
        return None;
    }
    Some(wake(Key::of(space, address, private), value, mask))
}

/// `futex`.
pub async fn futex(
    caller: Caller,
    address: u64,
    operation: u32,
    value: u32,
    timeout: u64,
    second: u64,
    third: u32,
) -> Result<u64, Errno> {
    let private = operation & linux::FUTEX_PRIVATE_FLAG != 0;
    let command = operation & !(linux::FUTEX_PRIVATE_FLAG | linux::FUTEX_CLOCK_REALTIME);
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if address >= crate::exec::elf::USER_END {
        return Err(Errno::EFAULT);
    }
    let key = |address| Key::of(&caller.space, address, private);
    match command {
        linux::FUTEX_WAIT | linux::FUTEX_WAIT_BITSET => {
            let mask = if command == linux::FUTEX_WAIT { u32::MAX } else { third };
            if mask == 0 {
                return Err(Errno::EINVAL);
            }
            let deadline = match timeout {
                0 => None,
                pointer => {
                    let time = clocks::from_timespec(user::read_words(&caller.space, pointer).await?)?;
                    let now = time::now();
                    Some(match command {
                        linux::FUTEX_WAIT => now.saturating_add(time),
                        _ if operation & linux::FUTEX_CLOCK_REALTIME != 0 => {
                            now.saturating_add(time.saturating_sub(clocks::wall_clock()))
                        }
                        _ => time,
                    })
                }
            };
            let deadline = caller.thread.take_deadline().or(deadline);
            wait(&caller, address, private, value, mask, deadline).await
        }
        linux::FUTEX_WAKE | linux::FUTEX_WAKE_BITSET => {
            wake_now(&caller.space, address, operation, value, third).ok_or(Errno::EINVAL)
        }
        linux::FUTEX_REQUEUE | linux::FUTEX_CMP_REQUEUE => {
            if !second.is_multiple_of(4) {
                return Err(Errno::EINVAL);
            }
            if command == linux::FUTEX_CMP_REQUEUE && user::read_u32(&caller.space, address).await? != third {
                return Err(Errno::EAGAIN);
            }
            let (woken, moved) = requeue(key(address), key(second), value, timeout as u32)?;
            Ok(if command == linux::FUTEX_REQUEUE {
                woken
            } else {
                woken + moved
            })
        }
        linux::FUTEX_WAKE_OP => wake_op(&caller, key(address), key(second), second, value, timeout as u32, third).await,
        _ => Err(Errno::ENOSYS),
    }
}

async fn wait(
    caller: &Caller,
    address: u64,
    private: bool,
    expected: u32,
    mask: u32,
    deadline: Option<u64>,
) -> Result<u64, Errno> {
    // The word's page is made present first: only then does a shared mapping have its object.
    user::read_u32(&caller.space, address).await?;
    let waker = core::future::poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let queued = Queued::new(Key::of(&caller.space, address, private), mask, waker)?;
    if user::read_u32(&caller.space, address).await? != expected {
        return if queued.is_woken() { Ok(0) } else { Err(Errno::EAGAIN) };
    }
    let woken = core::future::poll_fn(|_| {
        if queued.is_woken() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let result = match deadline {
        None => caller
            .thread
            .interruptible(event_of("futex", address), woken)
            .await
            .map(Ok),
        Some(deadline) => {
            caller
                .thread
                .interruptible(event_of("futex", address), time::timeout(deadline, woken))
                .await
        }
    };
    match result {
        Ok(Ok(())) => Ok(0),
        _ if queued.is_woken() => Ok(0),
        Ok(Err(_)) => Err(Errno::ETIMEDOUT),
        Err(_) if let Some(deadline) = deadline => {
            caller.thread.keep_deadline(deadline);
            Err(Errno::ERESTARTBLOCK)
        }
        Err(_) => Err(Errno::ERESTARTSYS),
    }
}

/// Wakes up to `most` waiters of a key whose mask meets `mask`; says how many.
fn wake(key: Key, most: u32, mask: u32) -> u64 {
    let mut woken = 0;
    TABLE[key.bucket()].lock().retain(|waiter| {
        let taken = woken < most.max(1) && waiter.mask & mask != 0 && *waiter.key.lock() == key;
        if taken {
            waiter.woken.store(true, Ordering::Release);
            waiter.waker.wake_by_ref();
            woken += 1;
        }
        !taken
    });
    u64::from(woken)
}

/// Wakes up to `most` waiters of `from` and moves up to `moved_most` others to `to`.
fn requeue(from: Key, to: Key, most: u32, moved_most: u32) -> Result<(u64, u64), Errno> {
    let woken = if most == 0 { 0 } else { wake(from, most, u32::MAX) };
    let mut moved = 0;
    let (source, target) = (from.bucket(), to.bucket());
    let mut take = |waiter: &Arc<Waiter>| {
        let mut key = waiter.key.lock();
        let taken = moved < moved_most && *key == from;
        if taken {
            *key = to;
            waiter.bucket.store(target, Ordering::Release);
            moved += 1;
        }
        taken
    };
    if source == target {
        TABLE[source].lock().iter().for_each(|waiter| {
            take(waiter);
        });
        return Ok((woken, u64::from(moved)));
    }
    // Whoever holds two buckets took the lower one first.
    let mut lower = TABLE[source.min(target)].lock();
    let mut upper = TABLE[source.max(target)].lock();
    let (old, new) = if source < target {
        (&mut *lower, &mut *upper)
    } else {
        (&mut *upper, &mut *lower)
    };
    new.try_reserve(old.len().min(moved_most as usize))?;
    // There is room for all that move, so none is lost.
    let mut room = Ok(());
    old.retain(|waiter| {
        let taken = take(waiter);
        if taken && room.is_ok() {
            room = new.try_push(waiter.clone());
        }
        !taken
    });
    room?;
    Ok((woken, u64::from(moved)))
}

/// `FUTEX_WAKE_OP`: changes the second word and wakes waiters of both.
async fn wake_op(
    caller: &Caller,
    first: Key,
    second: Key,
    address: u64,
    most: u32,
    second_most: u32,
    encoded: u32,
) -> Result<u64, Errno> {
    let operand = |shift: u32| ((encoded << (20 - shift)) as i32 >> 20) as u32;
    let (mut argument, compared) = (operand(12), operand(0));
    if encoded >> 28 & linux::FUTEX_OP_OPARG_SHIFT != 0 {
        argument = 1 << (argument & 31);
    }
    let change = |old: u32| match encoded >> 28 & 7 {
        linux::FUTEX_OP_SET => Some(argument),
        linux::FUTEX_OP_ADD => Some(old.wrapping_add(argument)),
        linux::FUTEX_OP_OR => Some(old | argument),
        linux::FUTEX_OP_ANDN => Some(old & !argument),
        linux::FUTEX_OP_XOR => Some(old ^ argument),
        _ => None,
    };
    change(0).ok_or(Errno::ENOSYS)?;
    let old = user::update_u32(&caller.space, address, change).await?;
    let (signed, limit) = (old as i32, compared as i32);
    let also = match encoded >> 24 & 15 {
        linux::FUTEX_OP_CMP_EQ => signed == limit,
        linux::FUTEX_OP_CMP_NE => signed != limit,
        linux::FUTEX_OP_CMP_LT => signed < limit,
        linux::FUTEX_OP_CMP_LE => signed <= limit,
        linux::FUTEX_OP_CMP_GT => signed > limit,
        linux::FUTEX_OP_CMP_GE => signed >= limit,
        _ => return Err(Errno::ENOSYS),
    };
    let woken = wake(first, most, u32::MAX);
    Ok(woken + if also { wake(second, second_most, u32::MAX) } else { 0 })
}

/// Stores 0 at `address` and wakes one waiter: the end of a thread that asked for it.
pub async fn clear_and_wake(space: &Space, address: u64) {
    if user::write_u32(space, address, 0).await.is_ok() {
        wake_any(space, address);
    }
}

/// As [`clear_and_wake`], if it can be done without waiting; says whether it was.
pub fn clear_and_wake_now(space: &Space, address: u64) -> bool {
    let cleared = user::write_now(space, address, &0_u32.to_le_bytes()).is_some();
    if cleared {
        wake_any(space, address);
    }
    cleared
}

/// Marks the futex at `address` as orphaned if the thread `tid`, which ends, holds it, and wakes one waiter. The thread
/// may have been `taking` it or giving it up: if nobody holds it, a waiter is woken that may have been missed.
///
/// # Errors
/// `EFAULT`, `EINVAL` for an address that can't be a futex.
pub async fn orphan(space: &Space, address: u64, tid: u32, taking: bool) -> Result<(), Errno> {
    let word = user::read_u32(space, address).await?;
    if taking && word & linux::FUTEX_TID_MASK == 0 {
        wake_any(space, address);
        return Ok(());
    }
    let is_held = |word: u32| word & linux::FUTEX_TID_MASK == tid;
    if !is_held(word) {
        return Ok(());
    }
    let mark = |word: u32| is_held(word).then_some(word & linux::FUTEX_WAITERS | linux::FUTEX_OWNER_DIED);
    let word = user::update_u32(space, address, mark).await?;
    if is_held(word) && word & linux::FUTEX_WAITERS != 0 {
        wake_any(space, address);
    }
    Ok(())
}

/// Wakes a waiter of a word, whether it waits for it as private or as shared.
fn wake_any(space: &Space, address: u64) {
    wake(Key::of(space, address, false), 1, u32::MAX);
    wake(Key::of(space, address, true), 1, u32::MAX);
}
