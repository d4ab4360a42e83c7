//! What the CPUs have cached: flushes, loads of roots, and what must not be reached any more.

use faultline_mm::{Entry, PAGE_SIZE};

use crate::machine::View;
use crate::random::Random;
use crate::tlb::{Tlb, Translation};
use crate::world::{World, fail, page_index};

impl World {
    /// The model's content numbers of a space that user mode runs in, or none.
    fn content_of(&self, space: Option<usize>, address: u64) -> u32 {
        match (space, page_index(address)) {
            (Some(space), Some(page)) => self.model.borrow().content(space, page),
            _ => crate::model::NO_CONTENT,
        }
    }

    /// Runs `f` on the current CPU's TLB with a view of the tables.
    pub fn with_tlb<R>(&self, f: impl FnOnce(&mut Tlb, &View<'_>, &mut Random) -> R) -> R {
        let cpu = self.current.get();
        let space = self.cpus[cpu].space.get();
        let content = |address| self.content_of(space, address);
        let view = View {
            physical: &self.physical,
            content: &content,
        };
        f(&mut self.tlbs.borrow_mut()[cpu], &view, &mut self.random.borrow_mut())
    }

    pub fn invalidate(&self, address: u64) {
        self.note(|| format!("invlpg {address:#x}"));
        self.count_flush(Some(address));
        self.tlbs.borrow_mut()[self.current.get()].invalidate(address);
    }

    pub fn load_root(&self, root: u32, pcid: u16, keep: bool) {
        self.note(|| format!("load root {root} pcid {pcid}{}", if keep { " keep" } else { "" }));
        let cpu = self.current.get();
        let same = self.tlbs.borrow()[cpu].root == root;
        if same && !keep {
            self.count_flush(None);
        }
        self.tlbs.borrow_mut()[cpu].load(root, pcid, keep);
        let spaces = self.spaces.borrow();
        let space = spaces
            .iter()
            .position(|space| space.vas.is_some() && space.root == root);
        self.cpus[cpu].space.set(space);
    }

    /// Counts a flush of the loaded space, and whether anything had to go.
    fn count_flush(&self, address: Option<u64>) {
        let tlbs = self.tlbs.borrow();
        let tlb = &tlbs[self.current.get()];
        let stale = tlb
            .followed()
            .any(|pointer| self.physical.epoch(pointer.table) != pointer.epoch)
            || tlb
                .usable()
                .filter(|kept| address.is_none_or(|address| address.wrapping_sub(kept.page) < kept.size))
                .any(|kept| {
                    self.physical
                        .leaf(tlb.root, kept.page)
                        .is_none_or(|(entry, physical, writable)| {
                            (physical, writable) != (kept.physical(kept.page), kept.writable)
                                || entry.without(Entry::ACCESSED | Entry::DIRTY) != kept.entry
                        })
                });
        drop(tlbs);
        self.count(|counts| {
            counts.flushes += 1;
            counts.superfluous += u64::from(!stale);
        });
    }

    /// A frame has come free: nobody may reach it now, nor walk through it.
    pub fn check_unreachable(&self, frame: u32) {
        let Ok(tlbs) = self.tlbs.try_borrow() else { return };
        for (cpu, tlb) in tlbs.iter().enumerate() {
            let of_frame = |first: u32, size: u64| frame.wrapping_sub(first) < (size / PAGE_SIZE) as u32;
            let epoch = self.physical.epoch(frame);
            if tlb.root == frame {
                fail(format!(
                    "frame {frame} is free, and it is the root that CPU {cpu} has loaded"
                ));
            }
            // The count was raised by this very change.
            if tlb
                .followed()
                .any(|pointer| pointer.table == frame && pointer.epoch + 1 == epoch)
            {
                fail(format!("frame {frame} is free, and CPU {cpu} may walk it as a table"));
            }
            let reached = tlb
                .usable()
                .find(|kept| of_frame(kept.entry.frame().number(), kept.size));
            if let Some(kept) = reached
                && self.cpus[cpu].user.get()
                && self.is_current(kept, frame, epoch)
            {
                fail(format!(
                    "frame {frame} is free, and user mode on CPU {cpu} reaches it at {:#x}",
                    kept.page
                ));
            }
        }
    }

    /// Whether a translation was cached after the last time but one that its frame came free.
    fn is_current(&self, kept: &Translation, frame: u32, epoch: u32) -> bool {
        kept.size != PAGE_SIZE || kept.entry.frame().number() != frame || kept.epoch + 1 == epoch
    }

    /// User mode is about to be entered: what the TLB has must lead to nothing that was freed since.
    pub fn check_reachable(&self) {
        let tlbs = self.tlbs.borrow();
        let cpu = self.current.get();
        for kept in tlbs[cpu].usable() {
            let frame = kept.entry.frame().number();
            if self.physical.epoch(frame) != kept.epoch {
                fail(format!(
                    "CPU {cpu} enters user mode with a translation of {:#x} to frame {frame}, which was freed since",
                    kept.page
                ));
            }
        }
    }
}
