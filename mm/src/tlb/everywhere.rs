//! Flushing everything on every CPU: what ends a batch of pages that the reclaimer has taken out of tables.
//!
//! A last-level table can be shared by spaces that the reclaimer has never seen, so there is no list of generations to
//! bump. Instead, flushes of everything have numbers of their own:
//!
//! | who | does, in this order |
//! |---|---|
//! | [`flush_everywhere`](Memory::flush_everywhere), after entries were changed | (1) takes the next number; (2) reads which CPUs may hold translations; (3) flushes this CPU and asks the others |
//! | a CPU that is asked ([`acknowledge`](Memory::acknowledge)) | (1) reads the number; (2) leaves its space and gives up every PCID; (3) writes the number to `done` |
//! | a CPU that held nothing and is about to load a root | (1) marks itself as one that holds; (2) writes the number to `done` |
//!
//! Either the flush sees the mark, and asks; or the CPU reads the number afterwards, and whatever it caches from then on it
//! reads from the changed tables. Nothing is added to a switch to the space that is loaded already: its CPU holds
//! translations, so it has the mark.
//!
//! A CPU that gave up a PCID loads it with a flush before it uses it again, and kernel code uses no user translation; so a
//! CPU that has left its spaces uses no translation from before.

use core::future::poll_fn;
use core::task::{Poll, Waker};

use arrayvec::ArrayVec;

use super::{Slots, TAGS};
use crate::Memory;
use crate::platform::{MAX_CPUS, Platform};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Mutex, mutant};

/// Futures that can wait at once; one more asks again and again instead.
const WAITERS: usize = 16;

/// The flushes of everything.
#[derive(Default)]
pub(crate) struct FlushEverywhere {
    /// The number of the last one.
    wanted: AtomicU64,
    /// Up to which number each CPU has flushed; means something while it holds translations.
    done: [AtomicU64; MAX_CPUS],
    /// Whether each CPU may hold translations of user addresses.
    holds: [AtomicBool; MAX_CPUS],
    /// Somebody waits; read without the lock, written under it.
    waiting: AtomicBool,
    waiters: Mutex<ArrayVec<(u64, Waker), WAITERS>>,
}

impl<P: Platform> Memory<P> {
    /// Begins to drop every translation of user addresses on every CPU: on this one at once. Returns the number of the flush,
    /// for [`flushed_everywhere`](Self::flushed_everywhere). No lock may be held.
    pub fn flush_everywhere(&self) -> u64 {
        let flushes = &self.flushes;
        let number = flushes.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        // Pairs with the fence in `begin_to_hold`.
        fence(Ordering::SeqCst);
        self.flush_this_cpu(self.platform.cpu());
        let behind = self.behind_flush(number);
        if behind != 0 && !mutant!(FlushHereOnly) {
            self.platform.shootdown(behind);
        }
        number
    }

    /// Whether every CPU has flushed everything since [`flush_everywhere`](Self::flush_everywhere) gave this number.
    #[must_use]
    pub fn has_flushed_everywhere(&self, number: u64) -> bool {
        self.behind_flush(number) == 0
    }

    /// Waits until every CPU has flushed everything since [`flush_everywhere`](Self::flush_everywhere) gave this number.
    pub async fn flushed_everywhere(&self, number: u64) {
        poll_fn(|context| {
            if self.poll_flushed_everywhere(number, context.waker()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// As [`flushed_everywhere`](Self::flushed_everywhere): true, or `waker` is woken when it is worth asking again.
    pub(crate) fn poll_flushed_everywhere(&self, number: u64, waker: &Waker) -> bool {
        if self.has_flushed_everywhere(number) {
            return true;
        }
        let flushes = &self.flushes;
        let mut waiters = flushes.waiters.lock();
        if !waiters
            .iter()
            .any(|(known, current)| *known == number && current.will_wake(waker))
            && waiters.try_push((number, waker.clone())).is_err()
        {
            waker.wake_by_ref();
            return false;
        }
        // Register, then look again: pairs with the fence in `say_done`.
        flushes.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.has_flushed_everywhere(number)
    }

    /// The CPUs that may hold translations from before a flush.
    fn behind_flush(&self, number: u64) -> u64 {
        let flushes = &self.flushes;
        let mut behind = 0;
        for (cpu, (holds, done)) in flushes.holds.iter().zip(&flushes.done).enumerate() {
            if holds.load(Ordering::Acquire) && done.load(Ordering::Acquire) < number {
                behind |= 1 << cpu;
            }
        }
        behind
    }

    /// This CPU, which may have held nothing, is about to load a root.
    #[inline]
    pub(super) fn begin_to_hold(&self, cpu: usize) {
        if !self.flushes.holds[cpu].load(Ordering::Relaxed) {
            self.flushes.holds[cpu].store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let number = self.flushes.wanted.load(Ordering::Acquire);
            self.say_done(cpu, number);
        }
    }

    /// Drops what this CPU holds if a flush of everything was asked for.
    pub(super) fn catch_up_with_flushes(&self, cpu: usize) {
        if self.flushes.done[cpu].load(Ordering::Relaxed) < self.flushes.wanted.load(Ordering::Acquire) {
            self.flush_this_cpu(cpu);
        }
    }

    /// Drops every translation of user addresses on this CPU.
    fn flush_this_cpu(&self, cpu: usize) {
        let flushes = &self.flushes;
        let number = flushes.wanted.load(Ordering::Acquire);
        if flushes.holds[cpu].load(Ordering::Relaxed) {
            self.leave(cpu);
            for tag in 0..TAGS {
                let mut slots = self.tlb[cpu].slots.lock();
                let Slots { tags, used, .. } = &mut *slots;
                if tag >= *used {
                    break;
                }
                let space = tags[tag].take();
                drop(slots);
                if let Some(space) = space {
                    self.left(cpu, &space, true);
                }
            }
            flushes.holds[cpu].store(false, Ordering::Release);
        }
        self.say_done(cpu, number);
    }

    /// This CPU holds nothing from before a flush.
    fn say_done(&self, cpu: usize, number: u64) {
        self.flushes.done[cpu].store(number, Ordering::Release);
        // Pairs with the fence in `poll_flushed_everywhere`: either it sees the number, or we see that it waits.
        fence(Ordering::SeqCst);
        if self.flushes.waiting.load(Ordering::Relaxed) && !mutant!(FlushInSilence) {
            self.wake_flush_waiters();
        }
    }

    #[cold]
    fn wake_flush_waiters(&self) {
        let mut due = ArrayVec::<Waker, WAITERS>::new();
        let mut waiters = self.flushes.waiters.lock();
        let mut index = 0;
        while index < waiters.len() {
            if self.has_flushed_everywhere(waiters[index].0) {
                due.push(waiters.swap_remove(index).1);
            } else {
                index += 1;
            }
        }
        self.flushes.waiting.store(!waiters.is_empty(), Ordering::Relaxed);
        drop(waiters);
        due.into_iter().for_each(Waker::wake);
    }
}
