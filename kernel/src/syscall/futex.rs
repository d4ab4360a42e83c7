//! Futexes: waiting for a word of user memory to change.
//!
//! # Keys
//!
//! A futex is named by what the word *is*, not by its address alone: in shared memory by the object and the offset in
//! it, so that processes which map it at different addresses meet; anywhere else by the space and the address. Numbers of
//! objects and spaces are never used again, so a wake can't reach who waits for a word of memory that is gone.
//!
//! # Protocol
//!
//! A waiter first puts itself into its queue, then reads the word, and takes itself out if it differs from what was
//! expected. A waker changes the word in user mode before it calls. So either the waiter's read sees the new word, or the
//! waker finds the waiter. A waiter is woken once, and a waiter whose future is dropped takes itself out.
//! `FUTEX_CMP_REQUEUE` reads the word under the locks of both queues. The queues are the executor's
//! ([`KeyedQueues`]): a wake takes steps for those that it wakes, of whom there are at most as many as threads.

use core::future::poll_fn;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;

use faultline_executor::KeyedQueues;
use faultline_mm::Access;
use linux_raw_sys::general as linux;

use super::memory::shared_object;
use super::{Caller, Errno, information, time as clocks, user};
use crate::exec::elf::USER_END;
use crate::machine::Space;
use crate::process::waiting::event_of;
use crate::time;

/// Number of buckets.
const BUCKETS: usize = 512;

/// What a futex word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Number of the space, or of the shared object.
    holder: u64,
    /// Address in the space, or offset in the object.
    place: u64,
    shared: bool,
}

static QUEUES: KeyedQueues<Key, BUCKETS> = KeyedQueues::new();

/// What a program does not know of the places of keys; 0 until there is a key.
static SECRET: AtomicU64 = AtomicU64::new(0);

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

    /// The key of a word that is there: only then does a shared mapping have its object.
    async fn resolved(space: &Space, address: u64, private: bool) -> Result<Self, Errno> {
        if !private {
            user::read_u32(space, address).await?;
        }
        Ok(Self::of(space, address, private))
    }
}

impl faultline_executor::Key for Key {
    fn hash(&self) -> u64 {
        let mut secret = SECRET.load(Ordering::Relaxed);
        if secret == 0 {
            let mut bytes = [0; 8];
            information::fill_random(&mut bytes);
            secret = u64::from_le_bytes(bytes) | 1;
            // Whoever is first says what it is.
            if let Err(other) = SECRET.compare_exchange(0, secret, Ordering::Relaxed, Ordering::Relaxed) {
                secret = other;
            }
        }
        let mix = |word: u64| {
            let product = u128::from(word ^ secret).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            (product >> 64) as u64 ^ product as u64
        };
        mix(mix(self.place).wrapping_add(self.holder << 1 | u64::from(self.shared)))
    }
}

/// How many a wake is for: at least one, as on Linux, and never less than nobody.
fn count(value: u32) -> u32 {
    (value as i32).max(1) as u32
}

/// `futex` operations that only wake, if they need not wait; `None` for others.
#[must_use]
pub fn wake_now(space: &Space, address: u64, operation: u32, value: u32, mask: u32) -> Option<u64> {
    let private = operation & linux::FUTEX_PRIVATE_FLAG != 0;
    let mask = match operation & !linux::FUTEX_PRIVATE_FLAG {
        linux::FUTEX_WAKE => u32::MAX,
        linux::FUTEX_WAKE_BITSET if mask != 0 => mask,
        _ => return None,
    };
    if !address.is_multiple_of(4) || address >= USER_END {
        return None;
    }
    // A word that processes share has to be there.
    if !private && !space.try_read_user(address, &mut [0; 4]) {
        return None;
    }
    Some(wake(&Key::of(space, address, private), count(value), mask))
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
    let check = |address: u64| {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if address >= USER_END {
            Err(Errno::EFAULT)
        } else {
            Ok(())
        }
    };
    let space = &caller.space;
    match command {
        linux::FUTEX_WAIT | linux::FUTEX_WAIT_BITSET => {
            let kept = caller.thread.take_deadline();
            let deadline = match timeout {
                0 => None,
                pointer => {
                    let time = clocks::from_timespec(user::read_words(space, pointer).await?)?;
                    let now = time::now();
                    kept.or(Some(match command {
                        linux::FUTEX_WAIT => now.saturating_add(time),
                        _ if operation & linux::FUTEX_CLOCK_REALTIME != 0 => {
                            now.saturating_add(time.saturating_sub(clocks::wall_clock()))
                        }
                        _ => time,
                    }))
                }
            };
            let mask = if command == linux::FUTEX_WAIT { u32::MAX } else { third };
            if mask == 0 {
                return Err(Errno::EINVAL);
            }
            check(address)?;
            wait(&caller, address, private, value, mask, deadline).await
        }
        linux::FUTEX_WAKE | linux::FUTEX_WAKE_BITSET => {
            let mask = if command == linux::FUTEX_WAKE { u32::MAX } else { third };
            if mask == 0 {
                return Err(Errno::EINVAL);
            }
            check(address)?;
            let key = Key::resolved(space, address, private).await?;
            Ok(wake(&key, count(value), mask))
        }
        linux::FUTEX_REQUEUE | linux::FUTEX_CMP_REQUEUE => {
            let most_moved = timeout as u32;
            if (value as i32) < 0 || (most_moved as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            check(address)?;
            check(second)?;
            let expected = (command == linux::FUTEX_CMP_REQUEUE).then_some(third);
            requeue(space, [address, second], private, [value, most_moved], expected).await
        }
        linux::FUTEX_WAKE_OP => {
            check(address)?;
            check(second)?;
            let keys = [
                Key::resolved(space, address, private).await?,
                Key::resolved(space, second, private).await?,
            ];
            let most = [count(value), count(timeout as u32)];
            wake_op(space, keys, second, most, third).await
        }
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
    let key = Key::resolved(&caller.space, address, private).await?;
    let mut wait = pin!(QUEUES.wait(key, mask));
    poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_ready())).await;
    if user::read_u32(&caller.space, address).await? != expected {
        return if wait.is_woken() { Ok(0) } else { Err(Errno::EAGAIN) };
    }
    let (thread, event) = (&caller.thread, event_of("futex", address));
    let result = match deadline {
        None => thread.interruptible(event, wait.as_mut()).await.map(Ok),
        Some(deadline) => {
            let wait = time::timeout(deadline, wait.as_mut());
            thread.interruptible(event, wait).await
        }
    };
    match (result, deadline) {
        (Ok(Ok(())), _) => Ok(0),
        _ if wait.is_woken() => Ok(0),
        (Ok(Err(_)), _) => Err(Errno::ETIMEDOUT),
        (Err(_), None) => Err(Errno::ERESTARTSYS),
        (Err(_), Some(deadline)) => {
            thread.keep_deadline(deadline);
            Err(Errno::ERESTARTBLOCK)
        }
    }
}

/// Wakes up to `most` waiters of a key whose mask meets `mask`; says how many.
fn wake(key: &Key, most: u32, mask: u32) -> u64 {
    u64::from(QUEUES.wake(key, most, mask))
}

/// Why a requeue did nothing.
enum Refused {
    /// The word is another.
    Changed,
    /// The word is not there.
    Absent,
}

/// Wakes waiters of the first word and moves others to the second, at most so many of each, if the first word is as
/// expected.
async fn requeue(
    space: &Space,
    words: [u64; 2],
    private: bool,
    most: [u32; 2],
    expected: Option<u32>,
) -> Result<u64, Errno> {
    loop {
        let from = Key::resolved(space, words[0], private).await?;
        let to = Key::resolved(space, words[1], private).await?;
        let done = QUEUES.requeue(&from, &to, most[0], most[1], || {
            let Some(expected) = expected else { return Ok(()) };
            let mut word = [0; 4];
            if !space.try_read_user(words[0], &mut word) {
                return Err(Refused::Absent);
            }
            if u32::from_le_bytes(word) == expected {
                Ok(())
            } else {
                Err(Refused::Changed)
            }
        });
        match done {
            Ok(done) => return Ok(u64::from(done.woken) + u64::from(done.moved)),
            Err(Refused::Changed) => return Err(Errno::EAGAIN),
            Err(Refused::Absent) => user::resolve(space, words[0], Access::Read).await?,
        }
    }
}

/// `FUTEX_WAKE_OP`: changes the second word and wakes waiters of both.
async fn wake_op(space: &Space, keys: [Key; 2], address: u64, most: [u32; 2], encoded: u32) -> Result<u64, Errno> {
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
    let old = user::update_u32(space, address, change).await?;
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
    let [first, second] = keys;
    let woken = wake(&first, most[0], u32::MAX);
    Ok(woken + if also { wake(&second, most[1], u32::MAX) } else { 0 })
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
    wake(&Key::of(space, address, false), 1, u32::MAX);
    wake(&Key::of(space, address, true), 1, u32::MAX);
}
