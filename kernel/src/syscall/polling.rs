//! `poll`, `select` and their relatives.
//!
//! # Protocol
//!
//! The call has an [`Entry`] for each descriptor. A pass over them puts a waiter of each in the queue of its file and looks at
//! the file then, until something is found; after that it only looks. If nothing is found the thread waits: a wake of any of
//! the queues rings the call's [`Bell`], and the next pass looks at those entries again whose waiters were woken. Passes
//! yield every few hundred entries; a wake that comes meanwhile is remembered by the bell.

use core::future::poll_fn;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use faultline_fallible::Arc;

use faultline_executor::{HoldsQueue, WaitQueue, WaitQueued, yield_now};
use faultline_fallible as fallible;
use linux_raw_sys::general as linux;

use super::timers::from_timeval;
use super::{Caller, Errno, time as clocks, user};
use crate::fs::{OpenFile, table};
use crate::process::waiting::event;
use crate::signal::{SignalSet, deliver, pending};
use crate::time;
use crate::waker::{self, Ring};

/// Size of `struct pollfd` in bytes.
const ENTRY: usize = 8;

/// Entries that are allocated, read and written together.
const BLOCK: usize = 64;

/// Blocks between two yields.
const BLOCKS: usize = 4;

/// What is found whether or not it is wanted.
const ALWAYS: u32 = linux::POLLERR | linux::POLLHUP | linux::POLLNVAL;

/// What is asked of a descriptor, and what was found.
struct Entry {
    descriptor: i32,
    wanted: u16,
    found: u16,
    /// The waiter, while nothing was found.
    watch: Option<WaitQueued<Watch>>,
}

/// An open file whose events are waited for.
struct Watch {
    file: Arc<OpenFile>,
    wanted: u32,
}

impl Watch {
    /// The queue, if the file has one.
    fn find(&self) -> Option<&WaitQueue> {
        self.file.kind.as_file()?.queue(self.wanted)
    }
}

/// A queue that nobody wakes, for files that are always ready.
static NEVER: WaitQueue = WaitQueue::new();

// SAFETY: 1. `File::queue` returns the same queue each time, and the kind of an open file never changes; 2. the queue lies in
// what the file keeps alive or is static, and does not move.
unsafe impl HoldsQueue for Watch {
    fn queue(&self) -> &WaitQueue {
        self.find().unwrap_or(&NEVER)
    }
}

/// What the queues wake: the task of the call, which then knows that a pass is worth it.
struct Bell {
    task: Waker,
    has_rung: AtomicBool,
}

impl Ring for Bell {
    fn ring(&self) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// The entries of a call. Blocks stay in place.
struct Entries(fallible::Vec<fallible::Box<[Entry]>>);

impl Entries {
    fn new() -> Self {
        Self(fallible::Vec::new())
    }

    /// Adds a block.
    fn add(&mut self, block: impl ExactSizeIterator<Item = (i32, u16)>) -> Result<(), Errno> {
        let entries = block.map(|(descriptor, wanted)| Entry {
            descriptor,
            wanted,
            found: 0,
            watch: None,
        });
        Ok(self.0.try_push(fallible::Box::try_from_iter(entries)?)?)
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flat_map(|block| block.iter())
    }

    /// Waits until there is something to say about a descriptor, or until the deadline; says about how many.
    async fn wait(&mut self, caller: &Caller, deadline: Option<u64>) -> Result<u64, Errno> {
        let task = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let bell = fallible::Arc::try_new(Bell {
            task,
            has_rung: AtomicBool::new(false),
        })?;
        let waker = waker::waker(fallible::Arc::clone(&bell));
        // Who does not wait needs no waiters.
        let waits = deadline.is_none_or(|deadline| deadline > time::now());
        let mut found = self.pass(caller, &waker, waits, true).await;
        if found > 0 || !waits {
            return Ok(found);
        }
        let look = async {
            loop {
                poll_fn(|_| {
                    if bell.has_rung.swap(false, Ordering::AcqRel) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
                found = self.pass(caller, &waker, true, false).await;
                if found > 0 {
                    return found;
                }
            }
        };
        let thread = &caller.thread;
        let result = match deadline {
            None => thread.interruptible(event("files"), look).await.map(Ok),
            Some(deadline) => {
                thread
                    .interruptible(event("files"), time::timeout(deadline, look))
                    .await
            }
        };
        match (result, deadline) {
            (Ok(result), _) => Ok(result.unwrap_or(0)),
            (Err(_), None) => Err(Errno::ERESTARTNOHAND),
            (Err(_), Some(deadline)) => {
                thread.keep_deadline(deadline);
                Err(Errno::ERESTARTBLOCK)
            }
        }
    }

    /// Looks at the entries, in the first pass at all of them and later at those whose waiters were woken; says about how many
    /// there is something to say. Until something was found an entry has a waiter, if it `waits`.
    async fn pass(&mut self, caller: &Caller, waker: &Waker, waits: bool, is_first: bool) -> u64 {
        let mut found = 0;
        for (index, block) in self.0.iter_mut().enumerate() {
            if index > 0 && index % BLOCKS == 0 {
                yield_now().await;
            }
            for entry in block.iter_mut() {
                let context = &mut Context::from_waker(waker);
                let is_due = is_first
                    || entry.watch.as_mut().is_some_and(|watch| {
                        // SAFETY: the entry lies in a block, which stays in place until it is dropped with the waiter.
                        unsafe { Pin::new_unchecked(watch) }.rearm(context)
                    });
                if is_due {
                    entry.look(caller, context, waits && found == 0);
                    found += u64::from(entry.found != 0);
                }
            }
        }
        found
    }
}

impl Entry {
    /// Looks at the file; if it `waits`, the entry has a waiter from then on.
    fn look(&mut self, caller: &Caller, context: &mut Context<'_>, waits: bool) {
        if self.descriptor < 0 {
            return;
        }
        let Some(watch) = &self.watch else {
            let Ok(file) = caller.thread.process.files().lock().get(self.descriptor as u64) else {
                self.found = linux::POLLNVAL as u16;
                return;
            };
            let wanted = u32::from(self.wanted) | ALWAYS;
            if !waits {
                self.found = (file.events() & wanted) as u16;
                return;
            }
            let watch = self.watch.insert(WaitQueued::on(Watch { file, wanted }));
            if watch.holder().find().is_some() {
                // SAFETY: as in `pass`.
                unsafe { Pin::new_unchecked(&mut *watch) }.rearm(context);
            }
            self.found = (watch.holder().file.events() & wanted) as u16;
            return;
        };
        let watch = watch.holder();
        self.found = (watch.file.events() & watch.wanted) as u16;
    }
}

/// Milliseconds from now on; none if negative.
pub(super) fn deadline_in(milliseconds: i32) -> Option<u64> {
    let milliseconds = u64::try_from(milliseconds).ok()?;
    Some(time::now().saturating_add(milliseconds * 1_000_000))
}

/// `poll`.
pub async fn poll(caller: Caller, entries: u64, count: u64, timeout: u64) -> Result<u64, Errno> {
    let deadline = caller.thread.take_deadline().or_else(|| deadline_in(timeout as i32));
    poll_until(&caller, entries, count, deadline).await
}

/// `ppoll`.
pub async fn ppoll(caller: Caller, entries: u64, count: u64, timeout: u64, mask: u64) -> Result<u64, Errno> {
    let deadline = deadline_of(&caller, timeout).await?;
    with_mask(&caller, mask, poll_until(&caller, entries, count, deadline)).await
}

/// The time at which a `timespec` from now on is over, or that of the call that is made again; none for no pointer.
async fn deadline_of(caller: &Caller, timeout: u64) -> Result<Option<u64>, Errno> {
    let kept = caller.thread.take_deadline();
    if timeout == 0 {
        return Ok(None);
    }
    let duration = clocks::from_timespec(user::read_words(&caller.space, timeout).await?)?;
    Ok(kept.or_else(|| Some(time::now().saturating_add(duration))))
}

/// Waits with the mask of signals at `mask`, if that is not 0. The mask goes back at the end; if a signal has cut the wait
/// short, it goes back after the handler.
pub(super) async fn with_mask(
    caller: &Caller,
    mask: u64,
    wait: impl Future<Output = Result<u64, Errno>>,
) -> Result<u64, Errno> {
    if mask == 0 {
        return wait.await;
    }
    let [word] = user::read_words(&caller.space, mask).await?;
    let thread = &caller.thread;
    {
        let mut own = thread.signals.lock();
        own.restore = Some(own.blocked);
        own.blocked = SignalSet(word).without(SignalSet::UNBLOCKABLE);
    }
    pending::review(thread);
    let result = wait.await;
    if matches!(result, Err(Errno::ERESTARTNOHAND | Errno::ERESTARTBLOCK | Errno::EINTR)) {
        // The thread looks at its signals, and then at its mask, also when only a stop has cut the wait short.
        thread.notice_signals();
    } else {
        deliver::restore_mask(thread);
    }
    result
}

async fn poll_until(caller: &Caller, address: u64, count: u64, deadline: Option<u64>) -> Result<u64, Errno> {
    let count = count as u32 as usize;
    if count > table::LIMIT {
        return Err(Errno::EINVAL);
    }
    let mut bytes = user::buffer(count.min(BLOCK) * ENTRY)?;
    let mut entries = Entries::new();
    let blocks = || (0..count).step_by(BLOCK).map(|start| (start, BLOCK.min(count - start)));
    for (start, length) in blocks() {
        let bytes = &mut bytes[..length * ENTRY];
        user::read(&caller.space, address.wrapping_add((start * ENTRY) as u64), bytes).await?;
        entries.add(bytes.as_chunks::<ENTRY>().0.iter().map(|entry| {
            let [a, b, c, d, wanted, high, ..] = *entry;
            (i32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([wanted, high]))
        }))?;
    }
    let ready = entries.wait(caller, deadline).await?;
    for ((start, length), block) in blocks().zip(entries.0.iter()) {
        let bytes = &mut bytes[..length * ENTRY];
        for (bytes, entry) in bytes.chunks_exact_mut(ENTRY).zip(block.iter()) {
            bytes[..4].copy_from_slice(&entry.descriptor.to_le_bytes());
            bytes[4..6].copy_from_slice(&entry.wanted.to_le_bytes());
            bytes[6..8].copy_from_slice(&entry.found.to_le_bytes());
        }
        user::write(&caller.space, address.wrapping_add((start * ENTRY) as u64), bytes).await?;
    }
    Ok(ready)
}

/// `select`.
pub async fn select(caller: Caller, count: u64, sets: [u64; 3], timeout: u64) -> Result<u64, Errno> {
    let kept = caller.thread.take_deadline();
    let deadline = match timeout {
        0 => None,
        pointer => {
            let duration = from_timeval(user::read_words(&caller.space, pointer).await?)?;
            kept.or_else(|| Some(time::now().saturating_add(duration)))
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
    with_mask(&caller, mask, select_until(&caller, count, sets, deadline)).await
}

/// What the three sets of `select` ask for.
const WANTED: [u32; 3] = [linux::POLLIN, linux::POLLOUT, linux::POLLPRI];

/// What is an answer to each: the end of a pipe counts as input, its breaking as output.
const MEANS: [u32; 3] = [
    linux::POLLIN | linux::POLLHUP | linux::POLLERR,
    linux::POLLOUT | linux::POLLERR,
    linux::POLLPRI,
];

async fn select_until(caller: &Caller, count: u64, sets: [u64; 3], deadline: Option<u64>) -> Result<u64, Errno> {
    // The call takes an `int`: the upper half of the register says nothing.
    let count = usize::try_from(count as i32)
        .map_err(|_| Errno::EINVAL)?
        .min(table::LIMIT);
    let words = count.div_ceil(64);
    // The sets behind one another, a word at a time in the byte order of the machine.
    let mut bits = user::buffer(3 * words * 8)?;
    for (index, address) in sets.into_iter().enumerate() {
        if address != 0 {
            let set = &mut bits[index * words * 8..][..words * 8];
            user::read(&caller.space, address, set).await?;
        }
    }
    let mut entries = Entries::new();
    let mut block = [(0, 0); BLOCK];
    for word in 0..words {
        let mut length = 0;
        for descriptor in word * 64..count.min(word * 64 + 64) {
            let is_in = |set: usize| bits[set * words * 8 + descriptor / 8] & 1 << (descriptor % 8) != 0;
            let asked = (0..3).filter(|&set| is_in(set));
            let wanted = asked.fold(0, |sum, set| sum | WANTED[set]);
            if wanted != 0 {
                caller.thread.process.files().lock().entry(descriptor as u64)?;
                block[length] = (descriptor as i32, wanted as u16);
                length += 1;
            }
        }
        if length > 0 {
            entries.add(block[..length].iter().copied())?;
        }
        if word % BLOCKS == BLOCKS - 1 {
            yield_now().await;
        }
    }
    entries.wait(caller, deadline).await?;
    bits.fill(0);
    let mut ready = 0;
    for entry in entries.iter() {
        for set in 0..3 {
            if u32::from(entry.wanted) & WANTED[set] != 0 && u32::from(entry.found) & MEANS[set] != 0 {
                let descriptor = entry.descriptor as usize;
                bits[set * words * 8 + descriptor / 8] |= 1 << (descriptor % 8);
                ready += 1;
            }
        }
    }
    for (index, address) in sets.into_iter().enumerate() {
        if address != 0 {
            let set = &bits[index * words * 8..][..words * 8];
            user::write(&caller.space, address, set).await?;
        }
    }
    Ok(ready)
}
