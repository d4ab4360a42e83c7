//! TLB generations: which CPU may still hold which translation, and when a frame may be used again.
//!
//! # Protocol
//!
//! Every space has an id that is never used again and a generation. `space.seen[cpu]` is the generation up to which
//! that CPU has dropped the space's old translations; it means something while the CPU's bit is set in `space.cpus`,
//! that is, while the CPU may hold any translation of the space at all.
//!
//! | who | does, in this order |
//! |---|---|
//! | [`switch_to`](crate::Memory::switch_to) on a CPU that may hold nothing of the space | (1) sets its bit in `cpus`, under the space's lock; (2) reads the generation; (3) flushes if it has not seen it; (4) writes `seen` |
//! | a change, under the space's lock | (1) changes entries, frees or quarantines what they held; (2) bumps the generation; (3) reads `cpus`; (4) asks those CPUs to flush |
//!
//! The lock orders the two: either the change sees the bit, for its choice between freeing and quarantine as well as for
//! its requests, or the switch reads the new generation and walks the changed tables. So no CPU runs on with a stale
//! translation unasked.
//!
//! A frame or a page-table page that leaves a space is quarantined with the generation of its removal unless this CPU
//! alone can hold translations of the space; then it is free as soon as this CPU has flushed. The kernel never
//! dereferences user addresses, so between the change and the flush nothing on this CPU can use a stale translation.
//! A reference that is not the last frees nothing, but the last one may be another space's: while other CPUs have not
//! flushed, the space has a hold on all frames that come free ([`FrameAllocator::hold`](crate::FrameAllocator::hold)).
//!
//! A page that the reclaimer has taken out is in no table, but may be in a TLB until its batch is flushed
//! ([`everywhere`]). Its entry looks like one that was never present, so while such a batch is under way, every change
//! counts as one of everything.
//!
//! New mappings (absent to present) neither bump nor flush: the processor caches no absent entry (Intel SDM volume 3,
//! section 4.10.2.3). A permission upgrade bumps and flushes here, and asks nobody: another CPU that still has the
//! narrower translation takes a spurious fault, whose handling invalidates the page.

mod change;
mod everywhere;
mod switch;

use core::fmt;
use core::future::Future;
use core::mem::replace;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use faultline_fallible::Arc;

use faultline_trace::Kind;
use x86_64::VirtAddr;

pub(crate) use change::Change;
pub(crate) use everywhere::FlushEverywhere;

use crate::Memory;
use crate::fault::ParkedFaults;
use crate::platform::{MAX_CPUS, Platform};
use crate::space::{Inner, NO_SPAN, Space, VirtualAddressSpace};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Mutex, mutant};

/// PCID slots that are used on each CPU at most.
const TAGS: usize = 8;

/// Changes of single pages that are remembered, so that a CPU that is one change behind can invalidate one page.
const LOG: usize = 8;

/// What one CPU has loaded and may still hold.
pub(crate) struct CpuTlb<P: Platform> {
    /// Id of the space whose root is loaded; 0 for the kernel's own root. Written by its CPU only.
    active: AtomicU64,
    slots: Mutex<Slots<P>>,
}

struct Slots<P: Platform> {
    /// The space whose root is loaded. The reference keeps the root's owner alive through kernel interludes.
    active: Option<Arc<Space<P>>>,
    /// The space of each PCID from 1 on.
    tags: [Option<Arc<Space<P>>>; TAGS],
    /// The tags from here on were never given to a space.
    used: usize,
    /// The tag that is given up next.
    victim: usize,
}

impl<P: Platform> Default for CpuTlb<P> {
    fn default() -> Self {
        let slots = Slots {
            active: None,
            tags: [const { None }; TAGS],
            used: 0,
            victim: 0,
        };
        Self {
            active: AtomicU64::new(0),
            slots: Mutex::new(slots),
        }
    }
}

/// The TLB side of a space.
pub(crate) struct SpaceTlb {
    /// Bit set of the CPUs that may hold translations of the space.
    pub(crate) cpus: AtomicU64,
    /// Generation up to which each CPU has flushed.
    seen: [AtomicU64; MAX_CPUS],
    /// The generation of the last change that took rights away or changed a page: what the CPUs are asked to flush for.
    narrowed: AtomicU64,
    /// Frames or futures wait for this space to be flushed; a look without the lock, written under it.
    pending: AtomicBool,
    /// `log[g % LOG]` is the page that change number `g` touched, or [`MANY`].
    log: [AtomicU64; LOG],
}

/// A change that touched more than one page.
const MANY: u64 = u64::MAX;

impl SpaceTlb {
    pub(crate) fn new() -> Self {
        Self {
            cpus: AtomicU64::new(0),
            seen: [const { AtomicU64::new(0) }; MAX_CPUS],
            narrowed: AtomicU64::new(0),
            pending: AtomicBool::new(false),
            log: [const { AtomicU64::new(MANY) }; LOG],
        }
    }
}

impl<P: Platform> Space<P> {
    /// Whether the calling CPU alone can hold translations of this space, so that what leaves it needs no quarantine.
    #[inline]
    pub(crate) fn is_private_to(&self, cpu: usize) -> bool {
        self.tlb.cpus.load(Ordering::Acquire) & !(1 << cpu) == 0
    }

    /// Whether every CPU that may hold a translation of this space has flushed since `generation`.
    pub(crate) fn has_passed(&self, generation: u64) -> bool {
        self.behind(generation) == 0
    }

    /// Whether no CPU can hold a translation that a change of this space has taken away. Adding rights to a page counts for
    /// nothing: who still has fewer has a fault, and looks again.
    #[inline(always)]
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_private_to(self.memory.platform.cpu()) || self.has_passed(self.tlb.narrowed.load(Ordering::Acquire))
    }

    /// The CPUs that may hold a translation of this space from before `generation`.
    fn behind(&self, generation: u64) -> u64 {
        let mut cpus = self.tlb.cpus.load(Ordering::Acquire);
        let mut behind = 0;
        while cpus != 0 {
            let cpu = cpus.trailing_zeros();
            if self.tlb.seen[cpu as usize].load(Ordering::Acquire) < generation {
                behind |= 1 << cpu;
            }
            cpus &= cpus - 1;
        }
        behind
    }

    /// Ends an operation that changed present entries: bumps the generation once, flushes this CPU if the space is
    /// loaded, asks the others, and frees what has passed its quarantine. Returns the new generation.
    #[inline(always)]
    pub(crate) fn finish(&self, inner: &mut Inner<P>, change: Change) -> u64 {
        // By reference, so that the pages are not moved.
        self.finish_change(inner, &change)
    }

    #[inline(never)]
    fn finish_change(&self, inner: &mut Inner<P>, change: &Change) -> u64 {
        let everything;
        let mut change = change;
        if self.memory.reclaim.has_unflushed() && !mutant!(ChangeUnflushed) {
            // An entry that was not present here may be one that the reclaimer has taken out, and that a CPU still uses.
            everything = Change::everything();
            change = &everything;
        }
        if change.is_empty() {
            self.release_quarantine(inner);
            return self.tlb_generation.load(Ordering::Relaxed);
        }
        if !change.leaves_only {
            inner.leaf_span = NO_SPAN;
        }
        let memory = self.memory;
        if mutant!(AskBeforeBump) {
            memory.platform.shootdown(self.tlb.cpus.load(Ordering::Relaxed));
        }
        // Release: whoever reads the new generation sees the changed entries. The lock is held, so there is one writer.
        let generation = self.tlb_generation.load(Ordering::Relaxed) + 1;
        let logged = match change.singles() {
            Some(&[page]) => page,
            _ => MANY,
        };
        self.tlb.log[generation as usize % LOG].store(logged, Ordering::Release);
        self.tlb_generation.store(generation, Ordering::Release);
        if !change.upgrade {
            self.tlb.narrowed.store(generation, Ordering::Release);
        }
        memory.counters.tlb_bumps.add(1);
        memory
            .platform
            .trace(Kind::TlbBump, self.id, 0, generation, change.count());

        let cpu = memory.platform.cpu();
        if memory.tlb[cpu].active.load(Ordering::Relaxed) == self.id {
            // Only if nothing was left over from before: else the next switch has to flush more than this change.
            if self.tlb.seen[cpu].load(Ordering::Relaxed) + 1 == generation {
                match change.singles() {
                    Some(pages) => {
                        for &page in pages {
                            memory.platform.invalidate_page(VirtAddr::new_truncate(page));
                        }
                        memory.counters.tlb_pages.add(pages.len() as u64);
                        memory
                            .platform
                            .trace(Kind::TlbFlushPage, self.id, 0, pages[0], pages.len() as u64);
                    }
                    None => self.flush_all(memory, cpu, generation),
                }
            } else {
                self.flush_all(memory, cpu, generation);
            }
            self.tlb.seen[cpu].store(generation, Ordering::Release);
        } else if self.tlb.cpus.load(Ordering::Relaxed) & (1 << cpu) != 0 {
            // This CPU keeps the space under a PCID that is not loaded, and nobody will ask it to flush.
            memory.give_up_tag(cpu, self);
        }
        let others = self.tlb.cpus.load(Ordering::Relaxed) & !(1 << cpu);
        if others != 0 && !change.upgrade && !mutant!(AskNobody) && !mutant!(AskBeforeBump) {
            memory.platform.shootdown(others);
        }
        self.release_quarantine(inner);
        generation
    }

    fn flush_all(&self, memory: &Memory<P>, cpu: usize, generation: u64) {
        memory.counters.tlb_flushes.add(1);
        memory.counters.root_loads.add(1);
        let seen = self.tlb.seen[cpu].load(Ordering::Relaxed);
        memory.platform.trace(Kind::TlbFlushAll, self.id, 0, generation, seen);
        let root = self.root_frame().unwrap_or(memory.kernel_root);
        let pcid = memory.tlb[cpu].slots.lock().pcid_of(self.id);
        memory.platform.load_root(root, pcid, false);
    }

    /// Frees quarantined frames whose generation every CPU has passed, and wakes who waits for a flush.
    #[inline(always)]
    pub(crate) fn release_quarantine(&self, inner: &mut Inner<P>) {
        let waits = !inner.flush_waiters.is_empty() || !inner.parked.is_empty();
        if waits || !inner.quarantine.is_empty() || inner.holds_frames {
            self.release_passed(inner);
        }
    }

    #[inline(never)]
    fn release_passed(&self, inner: &mut Inner<P>) {
        self.tlb.pending.store(true, Ordering::Relaxed);
        // Pairs with the fence in `release_of`: either that CPU sees that something waits, or we see how far it has come.
        fence(Ordering::SeqCst);
        let generation = self.tlb_generation.load(Ordering::Relaxed);
        let mut passed = generation;
        let mut cpus = self.tlb.cpus.load(Ordering::Acquire);
        while cpus != 0 {
            let cpu = cpus.trailing_zeros() as usize;
            passed = passed.min(self.tlb.seen[cpu].load(Ordering::Acquire));
            cpus &= cpus - 1;
        }
        if mutant!(ReleaseUnflushed) {
            passed = generation;
        }
        let cpu = self.memory.platform.cpu();
        if inner.holds_frames && passed == generation {
            inner.holds_frames = false;
            self.memory.frames.unhold(cpu);
        }
        inner.quarantine.release_up_to(passed, cpu);
        inner.flush_waiters.retain(|(generation, _, waker)| {
            let waits = *generation > passed;
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
        if !inner.parked.is_empty() && passed >= self.tlb.narrowed.load(Ordering::Relaxed) {
            self.memory
                .queue_parked(replace(&mut inner.parked, ParkedFaults::NONE), |_| {});
        }
        let waits = !inner.flush_waiters.is_empty() || !inner.parked.is_empty();
        let pending = waits || !inner.quarantine.is_empty() || inner.holds_frames;
        self.tlb.pending.store(pending, Ordering::Relaxed);
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Waits until no CPU can hold a translation that was changed up to `generation`. Nobody spins: the CPU that flushes
    /// last wakes the waiter.
    pub fn flushed(&self, generation: u64) -> Flushed<'_, P> {
        Flushed {
            space: self.core(),
            generation,
            number: None,
        }
    }

    /// What a thread of this space has to wait for before it enters user mode, if anything: that every CPU has dropped what
    /// changes of the space have taken away until now. Then no access anywhere goes through a translation that a call which
    /// has returned, or a fault that is over, has removed.
    #[cold]
    pub fn unflushed(&self) -> Option<Flushed<'_, P>> {
        if self.core().is_flushed() {
            return None;
        }
        Some(self.flushed(self.core().tlb.narrowed.load(Ordering::Acquire)))
    }

    /// The same for a CPU that has just [switched to](crate::Memory::switch_to) the space: quickly, if no other has it.
    #[inline(always)]
    pub fn unflushed_elsewhere(&self) -> Option<Flushed<'_, P>> {
        let cpus = self.core().tlb.cpus.load(Ordering::Acquire);
        // This CPU's is the only bit.
        if cpus & cpus.wrapping_sub(1) == 0 {
            return None;
        }
        self.unflushed()
    }
}

/// The future of [`VirtualAddressSpace::flushed`].
#[must_use = "futures do nothing unless polled"]
pub struct Flushed<'a, P: Platform> {
    space: &'a Space<P>,
    generation: u64,
    /// Names its waker in the space's list.
    number: Option<u64>,
}

impl<P: Platform> fmt::Debug for Flushed<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flushed")
            .field("space", &self.space.id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Future for Flushed<'_, P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.wait(context.waker())
    }
}

impl<P: Platform> Flushed<'_, P> {
    fn wait(&mut self, waker: &Waker) -> Poll<()> {
        let generation = self.generation;
        let mut inner = self.space.lock();
        if self.space.has_passed(generation) {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            inner.next_number += 1;
            inner.next_number
        });
        match inner.flush_waiters.iter_mut().find(|waiter| waiter.1 == number) {
            Some((_, _, current)) => current.clone_from(waker),
            None => {
                if inner
                    .flush_waiters
                    .try_push((generation, number, waker.clone()))
                    .is_err()
                {
                    // There is no memory to be remembered: the future asks again.
                    waker.wake_by_ref();
                    return Poll::Pending;
                }
                // An upgrade of rights has asked nobody, and a CPU that is idle would never look.
                if !mutant!(WaitWithoutAsking) {
                    self.space.memory.platform.shootdown(self.space.behind(generation));
                }
            }
        }
        // Register, then look again, as in `release_quarantine`.
        self.space.tlb.pending.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.space.has_passed(generation) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<P: Platform> Drop for Flushed<'_, P> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.space.lock().flush_waiters.retain(|waiter| waiter.1 != number);
        }
    }
}
