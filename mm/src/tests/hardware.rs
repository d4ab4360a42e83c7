//! A TLB that keeps every translation until a flush that covers it, on each CPU and under each PCID.
//!
//! It caches leaves and, as the paging-structure caches do, pointers to last-level tables. It never forgets on its own,
//! so a flush that is missing shows.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::machine::*;
use crate::frame::{FrameState, Pfn};
use crate::*;

/// A cached translation: where a page, or a 2 MiB page, is, and what may be done with it.
#[derive(Clone, Copy, Debug)]
struct Cached {
    entry: Entry,
    writable: bool,
}

/// One CPU's caches.
#[derive(Default)]
pub struct ModelledTlb {
    root: u64,
    pcid: u16,
    pages: BTreeMap<(u16, u64), Cached>,
    huge: BTreeMap<(u16, u64), Cached>,
    tables: BTreeMap<(u16, u64), Cached>,
}

const HUGE_MASK: u64 = !(HUGE_PAGE_SIZE - 1);

impl ModelledTlb {
    pub fn invalidate_page(&mut self, address: u64) {
        let pcid = self.pcid;
        self.pages.remove(&(pcid, address & !0xfff));
        self.huge.remove(&(pcid, address & HUGE_MASK));
        self.tables.retain(|key, _| key.0 != pcid);
    }

    pub fn load_root(&mut self, root: u64, pcid: u16, keep: bool) {
        (self.root, self.pcid) = (root, pcid);
        if !keep {
            for cache in [&mut self.pages, &mut self.huge, &mut self.tables] {
                cache.retain(|key, _| key.0 != pcid);
            }
        }
    }

    /// What the processor does for an access of user mode: the physical address, or `None` for a page fault.
    fn access(&mut self, memory: &Memory<Machine>, address: u64, access: Access) -> Option<u64> {
        let pcid = self.pcid;
        let (page, span) = ((pcid, address & !0xfff), (pcid, address & HUGE_MASK));
        if !self.pages.contains_key(&page) && !self.huge.contains_key(&span) {
            self.walk(memory, address)?;
        }
        let (cached, mask) = match self.pages.get(&page) {
            Some(cached) => (cached, 0xfff),
            None => (self.huge.get(&span)?, !HUGE_MASK),
        };
        let allowed = cached.entry.allows(access) && (access != Access::Write || cached.writable);
        if allowed && access == Access::Write && mask == 0xfff && !cached.entry.has(Entry::DIRTY) {
            return self.write_first(memory, address);
        }
        allowed.then(|| cached.entry.frame().address().as_u64() | address & mask)
    }

    /// A first write through a translation: the processor walks again, and sets the dirty bit where it finds the page
    /// (Intel SDM volume 3, section 4.8). If that has changed, the access faults.
    fn write_first(&mut self, memory: &Memory<Machine>, address: u64) -> Option<u64> {
        let page = (self.pcid, address & !0xfff);
        self.pages.remove(&page);
        self.walk(memory, address)?;
        let cached = self.pages.get_mut(&page)?;
        if !cached.entry.allows(Access::Write) || !cached.writable {
            return None;
        }
        cached.entry = cached.entry.with(Entry::ACCESSED | Entry::DIRTY);
        let table = self.tables[&(self.pcid, address & HUGE_MASK)].entry.frame();
        memory
            .entry(table, (address >> 12) as usize & 511)
            .or(Entry::ACCESSED | Entry::DIRTY);
        Some(cached.entry.frame().address().as_u64() | address & 0xfff)
    }

    /// Fills the caches for `address`; a table that is cached is not looked up again.
    fn walk(&mut self, memory: &Memory<Machine>, address: u64) -> Option<()> {
        let pcid = self.pcid;
        let index = |level: u32| (address >> (12 + 9 * (level - 1))) as usize & 511;
        let span = (pcid, address & HUGE_MASK);
        if !self.tables.contains_key(&span) {
            let mut table = Pfn::new((self.root / PAGE_SIZE) as u32);
            for level in [4, 3] {
                let entry = memory.entry(table, index(level)).get();
                table = entry.is_present().then(|| entry.frame())?;
            }
            let entry = memory.entry(table, index(2)).get();
            let writable = entry.has(Entry::WRITABLE);
            let cached = Cached { entry, writable };
            if !entry.is_present() {
                return None;
            }
            if entry.has(Entry::HUGE) {
                self.huge.insert(span, cached);
                return Some(());
            }
            self.tables.insert(span, cached);
        }
        let above = self.tables[&span];
        let entry = memory.entry(above.entry.frame(), index(1)).get();
        if !entry.is_present() {
            return None;
        }
        let writable = entry.has(Entry::WRITABLE) && above.writable;
        self.pages.insert((pcid, address & !0xfff), Cached { entry, writable });
        Some(())
    }
}

impl World {
    /// An access of user mode in `space` on this CPU: the physical address.
    fn user(&self, space: &Vas, address: u64, access: Access) -> Result<u64, FaultError> {
        let cpu = self.memory.platform().cpu();
        for _ in 0..8 {
            self.memory.switch_to(space);
            let found = self.memory.platform().tlbs.lock().unwrap()[cpu].access(self.memory, address, access);
            match found {
                Some(physical) => return Ok(physical),
                None => self.fault(space, address, access)?,
            };
        }
        panic!("{access} of {address:#x} faults for ever on CPU {cpu}");
    }

    pub fn load(&self, space: &Vas, address: u64) -> Result<u64, FaultError> {
        let physical = self.user(space, address, Access::Read)?;
        let word = self.memory.platform().phys_to_virt(x86_64::PhysAddr::new(physical));
        // SAFETY: the address is in the machine's buffer, aligned, and nothing else runs.
        Ok(unsafe { word.cast::<u64>().read() })
    }

    pub fn store(&self, space: &Vas, address: u64, value: u64) -> Result<(), FaultError> {
        let physical = self.user(space, address, Access::Write)?;
        let word = self.memory.platform().phys_to_virt(x86_64::PhysAddr::new(physical));
        // SAFETY: as in `load`.
        unsafe { word.cast::<u64>().write(value) };
        Ok(())
    }

    /// Whether a store on this CPU would go through without the kernel.
    pub fn would_store(&self, address: u64) -> bool {
        self.stored_at(address).is_some()
    }

    /// A store on this CPU by a thread that has been in user mode for long. False if it does not go through.
    pub fn store_on(&self, address: u64, value: u64) -> bool {
        let Some(physical) = self.stored_at(address) else {
            return false;
        };
        let word = self.memory.platform().phys_to_virt(x86_64::PhysAddr::new(physical));
        // SAFETY: as in `load`.
        unsafe { word.cast::<u64>().write(value) };
        true
    }

    /// The physical address that a store on this CPU would go to without the kernel.
    fn stored_at(&self, address: u64) -> Option<u64> {
        let cpu = self.memory.platform().cpu();
        let mut tlbs = self.memory.platform().tlbs.lock().unwrap();
        tlbs[cpu].access(self.memory, address, Access::Write)
    }

    /// This CPU takes the interrupt of a shootdown, if one was sent.
    pub fn deliver(&self) {
        let bit = 1 << self.memory.platform().cpu();
        if self
            .memory
            .platform()
            .interrupts
            .fetch_and(!bit, core::sync::atomic::Ordering::Relaxed)
            & bit
            != 0
        {
            self.memory.acknowledge();
        }
    }

    /// Every CPU takes its interrupts.
    pub fn deliver_all(&self) {
        let cpu = self.memory.platform().cpu();
        for other in 0..MAX_CPUS {
            self.on_cpu(other);
            self.deliver();
        }
        self.on_cpu(cpu);
    }

    /// A user thread that runs on may use what its CPU has cached: none of it may lead to a frame that is free.
    pub fn check_no_translation_of_a_free_frame(&self) {
        for (cpu, tlb) in self.memory.platform().tlbs.lock().unwrap().iter().enumerate() {
            let pcid = tlb.pcid;
            let cached = |cache: &BTreeMap<(u16, u64), Cached>| -> Vec<_> {
                cache
                    .range((pcid, 0)..=(pcid, u64::MAX))
                    .map(|(key, cached)| (key.1, cached.entry))
                    .collect()
            };
            for (page, entry) in cached(&tlb.pages).into_iter().chain(cached(&tlb.huge)) {
                let state = self.memory.frames().state(entry.frame());
                assert!(
                    matches!(state, FrameState::Mapped | FrameState::Pinned | FrameState::Quarantined),
                    "CPU {cpu} can reach frame {} at {page:#x}, which is {state}",
                    entry.frame()
                );
            }
            for (span, entry) in cached(&tlb.tables) {
                let state = self.memory.frames().state(entry.frame());
                assert!(
                    matches!(state, FrameState::PageTable | FrameState::Quarantined),
                    "CPU {cpu} can walk table {} at {span:#x}, which is {state}",
                    entry.frame()
                );
            }
        }
    }
}
