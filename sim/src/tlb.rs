//! The adversarial TLB of one virtual CPU.
//!
//! It keeps every translation and every pointer to a table that it was ever entitled to cache, under each PCID, until a
//! flush that covers it; it walks the tables on its own whenever the simulation lets it; and it answers an access from
//! any of what it has, preferably from what is worst. So a flush that is missing shows. (Intel SDM volume 3, section
//! 4.10, says what a processor may cache and what each flush covers.)

use faultline_mm::{Access, Entry};

use crate::random::Random;

/// One cached translation of a page of 4 KiB or 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub pcid: u16,
    /// First address.
    pub page: u64,
    /// 4 KiB or 2 MiB.
    pub size: u64,
    /// The leaf, as it was.
    pub entry: Entry,
    /// Whether every level allowed writes.
    pub writable: bool,
    /// The processor knows that the leaf says dirty: it does not look again before it writes.
    pub dirty: bool,
    /// How often the first frame had been freed when it was cached.
    pub epoch: u32,
    /// The content that the model had for the page; see [`crate::model`].
    pub content: u32,
}

impl Translation {
    pub fn allows(&self, access: Access) -> bool {
        self.entry.allows(access) && (access != Access::Write || self.writable)
    }

    /// The physical address behind an address of the page.
    pub fn physical(&self, address: u64) -> u64 {
        self.entry.frame().address().as_u64() + (address & (self.size - 1))
    }
}

/// One cached pointer to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub pcid: u16,
    /// Level of the table that is pointed to: 3, 2 or 1.
    pub level: u32,
    /// First address that is translated through it.
    pub start: u64,
    /// The table's frame number.
    pub table: u32,
    pub writable: bool,
    /// How often the table's frame had been freed when the pointer was cached.
    pub epoch: u32,
}

/// How the TLB sees physical memory.
pub(crate) trait Tables {
    /// An entry of a table; marks it as accessed if it is present.
    fn entry(&self, table: u32, index: usize) -> Entry;
    /// Marks a present entry of a table as dirty.
    fn mark_dirty(&self, table: u32, index: usize);
    /// How often a frame was freed.
    fn epoch(&self, frame: u32) -> u32;
    /// The model's content of a page.
    fn content(&self, page: u64) -> u32;
}

/// Bytes below one entry of a table.
const fn span(level: u32) -> u64 {
    4096 << (9 * (level - 1))
}

#[derive(Debug, Default)]
pub(crate) struct Tlb {
    /// Frame number of the loaded root, and its PCID.
    pub root: u32,
    pub pcid: u16,
    pub translations: Vec<Translation>,
    pub pointers: Vec<Pointer>,
}

impl Tlb {
    /// Drops what `invlpg` drops: the page's translations and every pointer of the PCID.
    pub fn invalidate(&mut self, address: u64) {
        let pcid = self.pcid;
        self.translations
            .retain(|kept| kept.pcid != pcid || address.wrapping_sub(kept.page) >= kept.size);
        self.pointers.retain(|kept| kept.pcid != pcid);
    }

    /// Drops what a write of CR3 drops.
    pub fn load(&mut self, root: u32, pcid: u16, keep: bool) {
        (self.root, self.pcid) = (root, pcid);
        if !keep {
            self.translations.retain(|kept| kept.pcid != pcid);
            self.pointers.retain(|kept| kept.pcid != pcid);
        }
    }

    /// The translations that can be used now.
    pub fn usable(&self) -> impl Iterator<Item = &Translation> {
        self.translations.iter().filter(|kept| kept.pcid == self.pcid)
    }

    /// The pointers that can be followed now.
    pub fn followed(&self) -> impl Iterator<Item = &Pointer> {
        self.pointers.iter().filter(|kept| kept.pcid == self.pcid)
    }

    /// Walks for an address from the root, or from a cached pointer, and caches what it finds.
    pub fn walk(&mut self, tables: &impl Tables, address: u64, random: &mut Random) {
        let start = |level: u32| address & !(span(level + 1) - 1);
        let (mut level, mut table, mut writable) = (4, self.root, true);
        let known = self
            .followed()
            .filter(|pointer| pointer.start == start(pointer.level))
            .count();
        if known > 0 && !random.chance(1, 4) {
            let pick = random.index(known);
            let pointer = self
                .followed()
                .filter(|pointer| pointer.start == start(pointer.level))
                .nth(pick);
            if let Some(pointer) = pointer {
                (level, table, writable) = (pointer.level, pointer.table, pointer.writable);
            }
        }
        loop {
            let entry = tables.entry(table, (address / span(level)) as usize & 511);
            if !entry.is_present() {
                return;
            }
            writable &= entry.has(Entry::WRITABLE);
            let frame = entry.frame().number();
            let epoch = tables.epoch(frame);
            let pcid = self.pcid;
            if level == 1 || entry.has(Entry::HUGE) {
                let page = address & !(span(level) - 1);
                let found = Translation {
                    pcid,
                    page,
                    size: span(level),
                    // The bits that the processor sets do not make another translation of it.
                    entry: entry.without(Entry::ACCESSED | Entry::DIRTY),
                    writable,
                    dirty: entry.has(Entry::DIRTY),
                    epoch,
                    content: tables.content(address & !0xfff),
                };
                match self.translations.iter_mut().find(|kept| {
                    (kept.pcid, kept.page, kept.entry, kept.writable) == (pcid, page, found.entry, writable)
                }) {
                    // As if it had been dropped and cached again, unless its frame was another's meanwhile.
                    Some(kept) if kept.epoch == epoch => {
                        kept.content = found.content;
                        kept.dirty |= found.dirty;
                    }
                    _ => self.translations.push(found),
                }
                return;
            }
            level -= 1;
            let pointer = Pointer {
                pcid,
                level,
                start: start(level),
                table: frame,
                writable,
                epoch,
            };
            if !self.pointers.contains(&pointer) {
                self.pointers.push(pointer);
            }
            table = frame;
        }
    }

    /// What the processor uses for an access: one of all the translations that it has, or `None` for a page fault.
    pub fn access(
        &mut self,
        tables: &impl Tables,
        address: u64,
        access: Access,
        random: &mut Random,
    ) -> Option<Translation> {
        let covers = |kept: &&Translation| address.wrapping_sub(kept.page) < kept.size;
        if !self.usable().any(|kept| covers(&kept)) || random.chance(1, 4) {
            self.walk(tables, address, random);
        }
        let count = self.usable().filter(covers).count();
        if count == 0 {
            return None;
        }
        // The oldest is the one that should have been flushed, if any should.
        let pick = if random.chance(1, 4) { random.index(count) } else { 0 };
        let chosen = *self.usable().filter(covers).nth(pick)?;
        if access == Access::Write && chosen.allows(access) && !chosen.dirty && !self.make_dirty(tables, &chosen) {
            // As for a page fault, after which it is not there any more.
            self.translations.retain(|kept| *kept != chosen);
            return None;
        }
        chosen.allows(access).then_some(chosen)
    }

    /// The first write through a translation: the processor looks at the tables again, and sets the leaf's dirty bit if they
    /// still say the same. (Intel SDM volume 3, section 4.8.)
    fn make_dirty(&mut self, tables: &impl Tables, chosen: &Translation) -> bool {
        let (mut level, mut table) = (4, self.root);
        loop {
            let index = (chosen.page / span(level)) as usize & 511;
            let entry = tables.entry(table, index);
            if !entry.has(Entry::PRESENT | Entry::WRITABLE) {
                return false;
            }
            if level == 1 || entry.has(Entry::HUGE) {
                if entry.frame() != chosen.entry.frame() || span(level) != chosen.size {
                    return false;
                }
                tables.mark_dirty(table, index);
                break;
            }
            (level, table) = (level - 1, entry.frame().number());
        }
        for kept in &mut self.translations {
            kept.dirty |= kept == chosen;
        }
        true
    }
}
