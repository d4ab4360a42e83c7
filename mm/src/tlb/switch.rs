//! The side of the CPUs: which space each has loaded, under which PCID, and what it drops when it loads another.

use faultline_fallible::Arc;

use faultline_trace::Kind;
use x86_64::VirtAddr;

use super::{LOG, MANY, Slots, TAGS};
use crate::Memory;
use crate::platform::{Pcid, Platform};
use crate::space::{Space, VirtualAddressSpace};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::mutant;

impl<P: Platform> Slots<P> {
    pub(super) fn pcid_of(&self, id: u64) -> Pcid {
        let mut tags = self.tags[..self.used].iter();
        let tag = tags.position(|tag| tag.as_ref().is_some_and(|space| space.id == id));
        Pcid(tag.map_or(0, |index| index as u16 + 1))
    }
}

impl<P: Platform> Memory<P> {
    /// Makes `space` the one whose translations this CPU uses, before a user thread is entered.
    ///
    /// Does nothing but compare two numbers if the space is loaded and unchanged. If exactly one page has changed since
    /// this CPU looked, invalidates it; if more has, drops the whole slot. Another space's root is loaded, and what is
    /// cached under its PCID is kept if and only if its generation has been seen here.
    #[inline]
    pub fn switch_to(&self, space: &VirtualAddressSpace<P>) {
        let cpu = self.platform.cpu();
        let space = space.core();
        if self.tlb[cpu].active.load(Ordering::Relaxed) == space.id
            && space.tlb.seen[cpu].load(Ordering::Relaxed) == space.tlb_generation.load(Ordering::Acquire)
        {
            self.counters.tlb_skips.add(1);
            let generation = space.tlb_generation.load(Ordering::Relaxed);
            self.platform.trace(Kind::TlbSkip, space.id, 0, generation, 0);
            return;
        }
        self.switch_slowly(cpu, space);
    }

    #[cold]
    #[inline(never)]
    fn switch_slowly(&self, cpu: usize, space: &Arc<Space<P>>) {
        if self.tlb[cpu].active.load(Ordering::Relaxed) == space.id {
            self.catch_up(cpu, space);
            return;
        }
        let old_root = if mutant!(OldRoot) { space.root_frame() } else { None };
        self.begin_to_hold(cpu);
        let mut slots = self.tlb[cpu].slots.lock();
        let (pcid, known, evicted) = self.assign_tag(&mut slots, space);
        if space.tlb.cpus.load(Ordering::Relaxed) & (1 << cpu) == 0 {
            // A change that is under way ends before: it has freed what it found in no other TLB.
            let _inner = space.lock();
            space.tlb.cpus.fetch_or(1 << cpu, Ordering::Relaxed);
        }
        let generation = space.tlb_generation.load(Ordering::Acquire);
        // After the generation: who sees that of the space's end sees that there is no root any more, and who does not
        // will be asked to leave it.
        let root = if mutant!(OldRoot) { old_root } else { space.root_frame() };
        let Some(root) = root else {
            drop(slots);
            self.leave(cpu);
            self.give_up_tag(cpu, space);
            self.left(cpu, space, true);
            if let Some(evicted) = evicted {
                self.left(cpu, &evicted, true);
            }
            return;
        };
        let seen = space.tlb.seen[cpu].load(Ordering::Relaxed);
        let keep = known && (seen == generation || mutant!(KeepUnseen));
        self.platform.load_root(root, pcid, keep);
        self.counters.root_loads.add(1);
        if keep {
            self.counters.tlb_skips.add(1);
            self.platform.trace(Kind::TlbSkip, space.id, 0, generation, 0);
        } else {
            self.counters.tlb_flushes.add(1);
            self.platform.trace(Kind::TlbFlushAll, space.id, 0, generation, seen);
        }
        space.tlb.seen[cpu].store(generation, Ordering::Release);
        self.tlb[cpu].active.store(space.id, Ordering::Relaxed);
        let previous = slots.active.replace(Arc::clone(space));
        drop(slots);
        if let Some(previous) = previous {
            self.left(cpu, &previous, pcid.0 == 0);
        }
        if let Some(evicted) = evicted {
            // Its translations went with the load of the root that took over the PCID, and not before: until then the
            // processor may have walked its tables.
            self.left(cpu, &evicted, true);
        }
        self.release_of(space);
    }

    /// The PCID of `space` on this CPU, whether it has had it since it last flushed, and the space that loses it.
    fn assign_tag(&self, slots: &mut Slots<P>, space: &Arc<Space<P>>) -> (Pcid, bool, Option<Arc<Space<P>>>) {
        let tags = usize::from(self.platform.pcids()).min(TAGS);
        if tags == 0 {
            return (Pcid(0), false, None);
        }
        let Pcid(pcid) = slots.pcid_of(space.id);
        if pcid != 0 {
            return (Pcid(pcid), true, None);
        }
        let index = match slots.tags[..tags].iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                slots.victim = (slots.victim + 1) % tags;
                slots.victim
            }
        };
        slots.used = slots.used.max(index + 1);
        let evicted = slots.tags[index].replace(Arc::clone(space));
        if let Some(evicted) = &evicted
            && mutant!(LeaveBeforeLoad)
        {
            let bit = 1 << self.platform.cpu();
            evicted.tlb.cpus.fetch_and(!bit, Ordering::Release);
        }
        (Pcid(index as u16 + 1), false, evicted)
    }

    /// `space` is no longer loaded here; without PCIDs the load has dropped all its translations.
    pub(super) fn left(&self, cpu: usize, space: &Arc<Space<P>>, untagged: bool) {
        if untagged {
            space.tlb.cpus.fetch_and(!(1 << cpu), Ordering::Release);
        }
        self.release_of(space);
    }

    /// This CPU has flushed `space`, or left it: frees what waited for that.
    fn release_of(&self, space: &Arc<Space<P>>) {
        fence(Ordering::SeqCst);
        if space.tlb.pending.load(Ordering::Relaxed) {
            let mut inner = space.lock();
            space.release_quarantine(&mut inner);
        }
    }

    /// The loaded space has changed: drops what is stale.
    fn catch_up(&self, cpu: usize, space: &Arc<Space<P>>) {
        if space.root_frame().is_none() {
            self.leave(cpu);
            return;
        }
        let generation = space.tlb_generation.load(Ordering::Acquire);
        let seen = space.tlb.seen[cpu].load(Ordering::Relaxed);
        let page = space.tlb.log[generation as usize % LOG].load(Ordering::Acquire);
        // The place in the log is used again after a few changes: it is this one's only if there were none meanwhile.
        let current = space.tlb_generation.load(Ordering::Relaxed) == generation;
        if (seen + 1 == generation || mutant!(CatchUpOnePage)) && page != MANY && current {
            self.platform.invalidate_page(VirtAddr::new_truncate(page));
            self.counters.tlb_pages.add(1);
            self.platform.trace(Kind::TlbFlushPage, space.id, 0, page, 1);
        } else {
            space.flush_all(self, cpu, generation);
        }
        space.tlb.seen[cpu].store(generation, Ordering::Release);
        self.release_of(space);
    }

    /// Loads the kernel's own root on this CPU, so that no space is loaded; drops every translation of the one that
    /// was.
    pub fn leave_spaces(&self) {
        self.leave(self.platform.cpu());
    }

    pub(crate) fn leave(&self, cpu: usize) {
        let previous = {
            let mut slots = self.tlb[cpu].slots.lock();
            self.tlb[cpu].active.store(0, Ordering::Relaxed);
            slots.active.take()
        };
        if let Some(previous) = previous {
            self.platform.load_root(self.kernel_root, Pcid(0), false);
            self.counters.root_loads.add(1);
            self.left(cpu, &previous, self.platform.pcids() == 0);
        }
    }

    /// Forgets a space that was destroyed: leaves its root if it is loaded here and gives up its PCID.
    pub(crate) fn forget(&self, space: &Arc<Space<P>>) {
        let cpu = self.platform.cpu();
        if self.tlb[cpu].active.load(Ordering::Relaxed) == space.id {
            self.leave(cpu);
        }
        self.give_up_tag(cpu, space);
    }

    /// Takes the space's PCID on this CPU away from it. The next owner loads it with a flush, because it is not known to
    /// have had it.
    pub(super) fn give_up_tag(&self, cpu: usize, space: &Space<P>) {
        let mut slots = self.tlb[cpu].slots.lock();
        let Pcid(pcid) = slots.pcid_of(space.id);
        if pcid != 0 {
            slots.tags[usize::from(pcid) - 1] = None;
            space.tlb.cpus.fetch_and(!(1 << cpu), Ordering::Release);
        }
    }

    /// What a CPU does when another one asked it to flush: catches up with the loaded space, or leaves it if it is gone or
    /// everything was to be flushed. Called from the interrupt that [`Platform::shootdown`] sends;
    /// [`switch_to`](Self::switch_to) comes before user mode is entered again.
    pub fn acknowledge(&self) {
        let cpu = self.platform.cpu();
        self.catch_up_with_flushes(cpu);
        let active = self.tlb[cpu].slots.lock().active.clone();
        if let Some(space) = active
            && space.tlb.seen[cpu].load(Ordering::Relaxed) != space.tlb_generation.load(Ordering::Acquire)
        {
            self.catch_up(cpu, &space);
        }
        // Spaces that are not loaded but keep a PCID: the tag is given up, so that its next use flushes.
        let mut slots = self.tlb[cpu].slots.lock();
        let Slots { active, tags, .. } = &mut *slots;
        for tag in tags {
            let stale = tag.as_ref().is_some_and(|space| {
                active.as_ref().is_none_or(|active| active.id != space.id)
                    && space.tlb.seen[cpu].load(Ordering::Relaxed) != space.tlb_generation.load(Ordering::Acquire)
            });
            if stale
                && !mutant!(KeepStaleTag)
                && let Some(space) = tag.take()
            {
                space.tlb.cpus.fetch_and(!(1 << cpu), Ordering::Release);
                self.release_of(&space);
            }
        }
    }

    /// Id of the space that is loaded on a CPU, for diagnostics; `None` for the kernel's own root.
    #[must_use]
    pub fn active_space(&self, cpu: usize) -> Option<u64> {
        match self.tlb[cpu].active.load(Ordering::Relaxed) {
            0 => None,
            id => Some(id),
        }
    }
}
