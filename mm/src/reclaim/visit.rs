//! What the reclaimer does with the pages of a range: ages them, or makes them leave.

use super::batch::Batch;
use super::leave::ages;
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::entry::Entry;
use crate::error::VasError;
use crate::frame::{Pfn, TableLock};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::region::{Region, RegionFlags};
use crate::space::{Inner, Space};
use crate::tables::{index, span};
use crate::tlb::Change;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A round of the hand, with its number: pages get older, and leave at this age; at age 0 whether they were accessed or
    /// not.
    Round { number: u16, old: u64 },
    /// Every page leaves.
    PageOut,
    /// Every page becomes as old as it can be.
    Cold,
    /// Every page of private anonymous memory may be dropped instead of being written, unless it is written to again.
    Free,
    /// Every page that is an object's leaves the tables, locked or not: the object gives it up.
    Unmap,
}

/// What looking at a table, at an entry that leads to none, and at a page that leaves count in the bound of a step.
const TABLE: u32 = 8;
pub(super) const NO_TABLE: u32 = 1;

/// A walk over pages, in steps.
pub(super) struct Visit {
    pub(super) purpose: Purpose,
    /// How much this step may still do.
    left: u32,
    /// The table that the walk is in.
    table: Option<Pfn>,
    /// Pages that were looked at.
    pub(super) scanned: u64,
    /// The first address of the range that is in no region.
    hole: Option<u64>,
}

/// Tables that one step looks at.
const TABLES: u32 = 8;

impl Visit {
    pub(super) const fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            left: TABLES * TABLE,
            table: None,
            scanned: 0,
            hole: None,
        }
    }

    /// Begins the next step.
    pub(super) const fn next_step(&mut self) {
        self.left = TABLES * TABLE;
    }

    /// Whether the step has done enough.
    pub(super) const fn is_over(&self) -> bool {
        self.left == 0
    }

    /// The step has done so much.
    pub(super) const fn spend(&mut self, amount: u32) {
        self.left = self.left.saturating_sub(amount);
    }

    /// The walk goes on in another space.
    pub(super) const fn leave_table(&mut self) {
        self.table = None;
    }

    /// Pages that were looked at since the last call.
    pub(super) const fn take_scanned(&mut self) -> u64 {
        core::mem::replace(&mut self.scanned, 0)
    }

    /// Whether all of the range was mapped.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole.
    pub(super) fn result(&self) -> Result<(), VasError> {
        match self.hole {
            Some(address) => Err(VasError::NotMapped { address }),
            None => Ok(()),
        }
    }
}

/// What can become of the pages of a region.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Private anonymous memory, or copies of an object's pages.
    pub(super) private: bool,
    /// An object's pages may be taken out of the tables: the object can give them up.
    pub(super) object: bool,
}

impl Kind {
    /// `None` if all of them stay.
    fn of(region: &Region, purpose: Purpose) -> Option<Self> {
        if purpose == Purpose::Unmap {
            return Some(Self {
                private: false,
                object: true,
            });
        }
        if region.flags.contains(RegionFlags::LOCKED) {
            return None;
        }
        let object = match &region.backing {
            Backing::Physical { .. } => return None,
            Backing::Anonymous | Backing::File { .. } => false,
            Backing::Shared { object, .. } | Backing::Private { object, .. } => object.can_give_up_pages(),
        };
        let private = !matches!(region.backing, Backing::Shared { .. });
        (private || object).then_some(Self { private, object })
    }
}

impl<P: Platform> Space<P> {
    /// Visits the pages of a range, a step. Returns where the next step goes on: the batch is full, or the step has done
    /// enough. The caller holds the space's lock.
    pub(super) fn visit(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        visit: &mut Visit,
        batch: &mut Batch,
    ) -> Option<u64> {
        let root = inner.root?;
        let memory = self.memory;
        let mut at = range.start();
        while at < range.end() {
            if visit.is_over() {
                return Some(at);
            }
            let rest = PageRange::new_unchecked(at, range.end());
            let found = inner.regions.first_above(at);
            let part = found.and_then(|(found, region)| Some((found.intersection(rest)?, region)));
            if part.is_none_or(|(part, _)| part.start() > at) {
                visit.hole.get_or_insert(at);
            }
            let (part, region) = part?;
            at = part.end();
            let Some(kind) = Kind::of(region, visit.purpose) else {
                visit.spend(NO_TABLE);
                continue;
            };
            let mut page = part.start();
            while page < part.end() {
                if visit.is_over() || batch.is_full() {
                    return Some(page);
                }
                let table_end = (page | (HUGE_PAGE_SIZE - 1)) + 1;
                let end = table_end.min(part.end());
                let Some(entry2) = memory.level2(root, page) else {
                    visit.spend(NO_TABLE);
                    page = (page | (span(3) - 1)) + 1;
                    continue;
                };
                let above = entry2.get();
                if !above.is_present() {
                    visit.spend(NO_TABLE);
                    page = end;
                    continue;
                }
                if above.has(Entry::HUGE) {
                    visit.spend(TABLE);
                    if kind.private && self.visit_huge(inner, entry2, above, page, visit) {
                        // It is a table now.
                        return Some(page);
                    }
                    page = end;
                    continue;
                }
                let table = above.frame();
                let shared = above.has(Entry::SHARED);
                if visit.table != Some(table) {
                    visit.spend(TABLE);
                    if shared && !memory.is_to_be_visited(table, visit.purpose) {
                        // All of the table, whatever regions are in it.
                        page = table_end;
                        at = at.max(table_end);
                        continue;
                    }
                    visit.table = Some(table);
                }
                let lock = if shared {
                    memory.frames.lock_table(table)
                } else {
                    TableLock::NONE
                };
                let first = index(page, 1);
                let indices = first..first + ((end - page) / PAGE_SIZE) as usize;
                let next = memory.visit_table(table, indices, kind, visit, batch);
                drop(lock);
                if let Some(next) = next {
                    return Some(page + (next - first) as u64 * PAGE_SIZE);
                }
                page = end;
            }
        }
        None
    }

    /// Ages a huge page, or splits it so that its pages can leave: true if it was split.
    fn visit_huge(
        &self,
        inner: &mut Inner<P>,
        entry2: EntryRef<'_>,
        above: Entry,
        page: u64,
        visit: &mut Visit,
    ) -> bool {
        visit.scanned += 1;
        if visit.purpose == Purpose::Free
            || above.has(Entry::BORROWED)
            || above.has(Entry::BUSY)
            || !ages(entry2, above, visit.purpose)
        {
            return false;
        }
        let mut change = Change::new();
        let split = self.split(entry2, above, page, &mut change);
        self.finish(inner, change);
        split.is_ok()
    }
}
