//! Walks page tables as they stand in memory, and compares them with every count that the kernel keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::machine::*;
use crate::frame::Pfn;
use crate::*;

/// One translation of a space.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    pub page: u64,
    pub entry: Entry,
    /// Whether a table on the way is shared copy-on-write, so that writes fault.
    pub shared_table: bool,
}

/// What the tables of some spaces hold.
#[derive(Default)]
pub struct Walk {
    /// Tables, and how many entries of upper tables point to each; a root counts one.
    pub tables: BTreeMap<Pfn, u32>,
    /// Frames, and how many entries refer to each; an entry of a shared table counts once.
    pub frames: BTreeMap<Pfn, u32>,
    /// Markers of faults in flight.
    pub markers: usize,
    /// Swap slots, and how many entries name each; an entry of a shared table counts once.
    pub slots: BTreeMap<SwapSlot, u32>,
}

impl Walk {
    pub fn of<'a>(world: &World, spaces: impl IntoIterator<Item = &'a Vas>) -> Self {
        let mut walk = Self::default();
        for space in spaces {
            if let Ok(root) = space.get_page_table() {
                walk.add(world, Pfn::from(root), 4);
            }
        }
        walk
    }

    fn add(&mut self, world: &World, table: Pfn, level: u32) {
        let parents = self.tables.entry(table).or_default();
        *parents += 1;
        if *parents > 1 {
            return;
        }
        for slot in 0..if level == 4 { 256 } else { 512 } {
            let entry = world.memory.entry(table, slot).get();
            match entry.state() {
                EntryState::Present { .. } => {}
                EntryState::Empty => continue,
                EntryState::InFlight(_) => {
                    self.markers += 1;
                    continue;
                }
                EntryState::Swapped { slot } => {
                    *self.slots.entry(slot).or_default() += 1;
                    continue;
                }
            }
            let huge = level == 2 && entry.has(Entry::HUGE);
            if level > 1 && !huge {
                self.add(world, entry.frame(), level - 1);
            } else if !entry.has(Entry::BORROWED) {
                for page in 0..if huge { 512 } else { 1 } {
                    *self.frames.entry(entry.frame().offset(page)).or_default() += 1;
                }
            }
        }
    }

    /// Compares with the counts of the frames. `objects` are the shared objects that hold references too.
    pub fn check_counts(mut self, world: &World, objects: &[faultline_fallible::Arc<MemoryObject>]) {
        let frames = world.memory.frames();
        for object in objects {
            for page in 0..object.size() / PAGE_SIZE {
                if let Some(frame) = object.frame_of(page) {
                    *self.frames.entry(frame).or_default() += 1;
                }
                if let Some(slot) = object.slot_of(page) {
                    *self.slots.entry(slot).or_default() += 1;
                }
            }
        }
        for number in 0..frames.swap.slots() {
            let slot = SwapSlot::new(number);
            let word = frames.swap.load(slot);
            assert_eq!(
                word.count,
                self.slots.remove(&slot).unwrap_or(0),
                "entries and pages that name {slot:?}"
            );
            if let Some(frame) = word.frame().filter(|_| word.holds_frame()) {
                *self.frames.entry(frame).or_default() += 1;
            }
            if let Some(frame) = word.frame() {
                assert_eq!(frames.named_swap_slot(frame), Some(slot), "the slot of frame {frame}");
            }
        }
        assert!(
            self.slots.is_empty(),
            "entries name slots that are not there: {:?}",
            self.slots
        );
        for (&table, &parents) in &self.tables {
            assert_eq!(frames.table_ref_count(table), parents, "parents of table {table}");
        }
        for (&frame, &entries) in &self.frames {
            assert_eq!(frames.mapping_count(frame), entries, "references to frame {frame}");
        }
        let account = world.account();
        assert_eq!(account.page_tables, self.tables.len() as u64, "page tables");
        assert_eq!(account.mapped, self.frames.len() as u64, "mapped frames");
        assert_eq!(account.reserved, 0, "reserved frames");
        assert_eq!(self.markers, 0, "a marker is left");
    }
}

/// Every translation of a space, in order; a huge page is one.
pub fn translations(world: &World, space: &Vas) -> Vec<Mapped> {
    let mut found = Vec::new();
    let Ok(root) = space.get_page_table() else {
        return found;
    };
    let entry = |table, slot| world.memory.entry(table, slot).get();
    for top in 0..256u64 {
        let level4 = entry(Pfn::from(root), top as usize);
        for third in (0..512u64).filter(|_| level4.is_present()) {
            let level3 = entry(level4.frame(), third as usize);
            for second in (0..512u64).filter(|_| level3.is_present()) {
                let level2 = entry(level3.frame(), second as usize);
                let base = top << 39 | third << 30 | second << 21;
                if level2.has(Entry::PRESENT | Entry::HUGE) {
                    found.push(Mapped {
                        page: base,
                        entry: level2,
                        shared_table: false,
                    });
                    continue;
                }
                for last in (0..512u64).filter(|_| level2.is_present()) {
                    let leaf = entry(level2.frame(), last as usize);
                    if leaf.is_present() {
                        found.push(Mapped {
                            page: base | last << 12,
                            entry: leaf,
                            shared_table: level2.has(Entry::SHARED),
                        });
                    }
                }
            }
        }
    }
    found
}

/// The kernel half of a space's root is the template's, to the bit, and user mode has no way into it.
pub fn check_kernel_half(world: &World, space: &Vas) {
    let root = Pfn::from(space.get_page_table().unwrap());
    let template = Pfn::from(world.memory.kernel_root);
    for slot in 256..512 {
        let entry = world.memory.entry(root, slot).get();
        assert_eq!(entry, world.memory.entry(template, slot).get());
        assert!(!entry.has(Entry::USER));
    }
}

/// The frames that the private pages of a space are mapped to.
pub fn frames_of(world: &World, space: &Vas) -> BTreeSet<Pfn> {
    translations(world, space)
        .iter()
        .filter(|mapped| !mapped.entry.has(Entry::BORROWED))
        .map(|mapped| mapped.entry.frame())
        .collect()
}

/// The first eight bytes of a frame.
pub fn word(world: &World, frame: Pfn) -> u64 {
    let pointer = world.memory.platform().phys_to_virt(frame.address()).cast::<u64>();
    // SAFETY: the frame is in the machine's buffer, aligned, and nothing else runs.
    unsafe { pointer.read() }
}
