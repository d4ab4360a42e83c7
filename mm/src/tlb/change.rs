//! What one operation has changed, and so what has to be flushed after it.

use arrayvec::ArrayVec;

/// Pages that are invalidated one by one; beyond it a whole flush is cheaper (32 `invlpg` cost more than a flush).
const SINGLE_PAGES: usize = 8;

/// The pages that one operation has changed, gathered so that it bumps and flushes once.
#[must_use = "changed translations must be flushed with `Space::finish`"]
pub(crate) struct Change {
    pages: ArrayVec<u64, SINGLE_PAGES>,
    /// More pages than that, or all.
    everything: bool,
    /// Rights were only added.
    pub(super) upgrade: bool,
    /// Only leaves were changed: every table is where it was.
    pub(super) leaves_only: bool,
}

impl Change {
    pub(crate) fn new() -> Self {
        Self {
            pages: ArrayVec::new_const(),
            everything: false,
            upgrade: false,
            leaves_only: false,
        }
    }

    /// A change of the leaf of one page.
    pub(crate) fn leaf(page: u64) -> Self {
        let mut change = Self::new();
        change.page(page);
        change.leaves_only = true;
        change
    }

    /// A change after which everything has to go.
    pub(super) fn everything() -> Self {
        let mut change = Self::new();
        change.all();
        change
    }

    /// A change that only adds rights to one page.
    pub(crate) fn upgrade(page: u64) -> Self {
        let mut change = Self::leaf(page);
        change.upgrade = true;
        change
    }

    /// A present entry for this page was changed.
    #[inline(always)]
    pub(crate) fn page(&mut self, page: u64) {
        if self.pages.try_push(page).is_err() {
            self.everything = true;
        }
    }

    /// So much was changed that everything has to go.
    #[inline(always)]
    pub(crate) fn all(&mut self) {
        self.everything = true;
    }

    /// Whether everything has to go already.
    #[inline(always)]
    pub(crate) fn is_everything(&self) -> bool {
        self.everything
    }

    /// How many pages were changed; one more than are counted if everything has to go.
    pub(super) fn count(&self) -> u64 {
        if self.everything {
            SINGLE_PAGES as u64 + 1
        } else {
            self.pages.len() as u64
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.everything && self.pages.is_empty()
    }

    /// The pages to invalidate one by one, unless everything has to go.
    pub(super) fn singles(&self) -> Option<&[u64]> {
        (!self.everything).then_some(&self.pages)
    }
}
