//! What a page table's frame says of a last-level table that spaces share: its lock, and two remarks of the reclaimer.
//!
//! The small counter of a page table's word is idle. It holds, from the top:
//!
//! | bits | meaning |
//! |---|---|
//! | 1 | the lock: whoever has it changes or copies the entries of a shared table |
//! | 1 | a space that shares the table has locked pages in it: they stay, whichever space the reclaimer comes through |
//! | 14 | the round in which the reclaimer visited the table last |
//!
//! A table of one space alone is changed under the lock of that space, and its lock here is not used. The lock of a table is
//! taken under a space's lock, one at a time, and nothing but frames and swap slots is locked inside it.

use super::allocator::FrameAllocator;
use super::meta::{FrameMeta, Word};
use super::pfn::Pfn;
use crate::sync::spin_loop;

/// The small counter's bit of the lock.
const LOCKED: u16 = 1 << 15;

/// The small counter's bit for locked pages.
const KEEPS_PAGES: u16 = 1 << 14;

/// The bits of the round.
const ROUND: u16 = KEEPS_PAGES - 1;

/// So many rounds can be told apart.
pub(crate) const TABLE_ROUNDS: u16 = ROUND + 1;

/// The lock of a shared table, held.
#[must_use = "the table is locked for as long as this is kept"]
pub(crate) struct TableLock<'a>(Option<&'a FrameMeta>);

impl TableLock<'_> {
    /// No table is locked.
    pub(crate) const NONE: Self = Self(None);
}

impl Drop for TableLock<'_> {
    fn drop(&mut self) {
        if let Some(meta) = self.0 {
            change(meta, |aux| aux & !LOCKED);
        }
    }
}

/// Changes the small counter of a frame that stays what it is meanwhile. Returns it as it was.
fn change(meta: &FrameMeta, to: impl Fn(u16) -> u16) -> u16 {
    let mut word = meta.load();
    loop {
        match meta.exchange(word, word.with_aux(to(word.aux()))) {
            Ok(()) => return word.aux(),
            Err(found) => word = found,
        }
    }
}

impl FrameAllocator {
    /// Locks a shared table, to which the caller's space refers and whose lock the caller holds.
    pub(crate) fn lock_table(&self, table: Pfn) -> TableLock<'_> {
        let meta = self.table_meta(table);
        while change(meta, |aux| aux | LOCKED) & LOCKED != 0 {
            while meta.load().aux() & LOCKED != 0 {
                spin_loop();
            }
        }
        TableLock(Some(meta))
    }

    /// Notes that a table is visited in this round; false if it was visited already.
    pub(crate) fn visit_table(&self, table: Pfn, round: u16) -> bool {
        let round = round & ROUND;
        let before = change(self.table_meta(table), |aux| aux & !ROUND | round);
        before & ROUND != round
    }

    /// Says whether a space that shares the table has locked pages in it. Once said it stays, until the table belongs to one
    /// space again: others may have said it too.
    pub(crate) fn set_keeps_pages(&self, table: Pfn, keeps: bool) {
        let bit = if keeps { KEEPS_PAGES } else { 0 };
        change(self.table_meta(table), |aux| aux & !KEEPS_PAGES | bit);
    }

    /// Whether a space that shares the table has locked pages in it.
    pub(crate) fn keeps_pages(&self, table: Pfn) -> bool {
        self.table_meta(table).load().aux() & KEEPS_PAGES != 0
    }

    fn table_meta(&self, table: Pfn) -> &FrameMeta {
        debug_assert!(self.table_ref_count(table) > 0, "frame {table} is no page table");
        &self.metadata[table.index()]
    }
}

const _: () = assert!(Word::TABLE_ONCE.aux() == 0);
