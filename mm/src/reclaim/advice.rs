//! `madvise` on what may leave: `PAGEOUT`, `COLD`, `FREE`, `WILLNEED`.

use core::future::poll_fn;
use core::ops::Range;
use core::task::Poll;

use arrayvec::ArrayVec;

use super::batch::{BATCH, Batch, Item, Owner};
use super::visit::{Purpose, Visit};
use crate::Memory;
use crate::address::{PAGE_SIZE, PageRange};
use crate::error::VasError;
use crate::object::MemoryObject;
use crate::platform::Platform;
use crate::space::{Inner, VirtualAddressSpace, pause};
use crate::tables::Leaf;
use crate::tlb::Change;

/// Pages that one step of `WILLNEED` looks at.
const LOOK: u64 = 256;

/// Batches that a call has under way at once: filling four of 64 pages takes longer than most disks take for one.
const UNDER_WAY: usize = 5;

/// Runs of neighbouring slots that it reads.
const RUNS: usize = 16;

impl<P: Platform> VirtualAddressSpace<P> {
    /// Makes every page of a range leave that may, whether it was accessed lately or not, and waits until all are written
    /// (`MADV_PAGEOUT`). Pages for which there is no swap slot stay. In steps; no turn is needed, because no region changes.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole, when the rest is done.
    pub async fn page_out(&self, range: PageRange) -> Result<(), VasError> {
        let memory = self.memory();
        let mut visit = Visit::new(Purpose::PageOut);
        let mut at = range.start();
        leave_in_steps(memory, |batch| {
            let mut inner = self.lock();
            visit.next_step();
            let left = PageRange::new_unchecked(at, range.end());
            let next = self.visit(&mut inner, left, &mut visit, &mut batch.lock());
            at = next.unwrap_or(at);
            next.is_some()
        })
        .await;
        memory.counters.pages_scanned.add(visit.take_scanned());
        visit.result()
    }

    /// Makes every page of a range as old as it can be, so that it leaves first unless it is accessed again (`MADV_COLD`).
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole, when the rest is done.
    pub async fn cold(&self, range: PageRange) -> Result<(), VasError> {
        self.visit_in_steps(range, Purpose::Cold, |_| {}).await
    }

    /// Lets the private anonymous pages of a range be dropped instead of written when they leave, unless they are written to
    /// again; until then they keep their content (`MADV_FREE`). Pages in tables that other spaces share, and parts of huge
    /// pages, keep it in any case.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole, when the rest is done.
    pub async fn free_lazily(&self, range: PageRange) -> Result<(), VasError> {
        let mut generation = 0;
        let result = self
            .visit_in_steps(range, Purpose::Free, |inner| {
                // A CPU that has cached a translation as dirty would not say that the page is written to again.
                let mut change = Change::new();
                change.all();
                generation = self.finish(inner, change);
            })
            .await;
        self.flushed(generation).await;
        result
    }

    /// Visits a range for a purpose with which no page leaves; `after` is called after each step, under the lock.
    async fn visit_in_steps(
        &self,
        range: PageRange,
        purpose: Purpose,
        mut after: impl FnMut(&mut Inner<P>),
    ) -> Result<(), VasError> {
        let mut visit = Visit::new(purpose);
        let mut left = Some(range);
        while let Some(range) = left {
            {
                let mut inner = self.lock();
                visit.next_step();
                let next = self.visit(&mut inner, range, &mut visit, &mut Batch::new());
                left = next.map(|at| PageRange::new_unchecked(at, range.end()));
                after(&mut inner);
            }
            if left.is_some() {
                pause().await;
            }
        }
        visit.result()
    }

    /// Begins to read those pages of a range that are in swap slots, as far as there is memory for them, and waits for
    /// nothing (`MADV_WILLNEED`).
    pub async fn will_need(&self, range: PageRange) {
        let mut at = range.start();
        while at < range.end() {
            let end = range.end().min(at + LOOK * PAGE_SIZE);
            let (runs, next) = self.swapped_runs(PageRange::new_unchecked(at, end));
            let leave = u64::from(self.memory().frames.watermarks().low);
            for run in runs {
                // Without a transfer the pages are read when they are touched.
                self.memory().read_swap_ahead(run, leave);
            }
            at = next;
            pause().await;
        }
    }

    /// The swap slots of pages of a range, as runs of neighbours, and where to go on.
    fn swapped_runs(&self, range: PageRange) -> (ArrayVec<Range<u32>, RUNS>, u64) {
        let mut runs = ArrayVec::<Range<u32>, RUNS>::new();
        let inner = self.lock();
        let Some(root) = inner.root else {
            return (runs, range.end());
        };
        for page in range.iter() {
            let (Leaf::Own(_, value) | Leaf::Shared(value)) = self.memory().leaf(root, page) else {
                continue;
            };
            let Some(slot) = value.swap_slot() else { continue };
            let number = slot.number();
            if let Some(run) = runs.last_mut()
                && run.end == number
            {
                run.end += 1;
            } else if runs.try_push(number..number + 1).is_err() {
                return (runs, page);
            }
        }
        (runs, range.end())
    }
}

impl<P: Platform> Memory<P> {
    /// Makes every page of an object in `pages` leave that nothing maps, whether it was used lately or not, and waits until all
    /// are written: to the swap area, or, if the object's disk has the page, nowhere (`MADV_PAGEOUT`, after the space's own
    /// [`page_out`](VirtualAddressSpace::page_out)).
    pub async fn page_out_object(&'static self, object: &MemoryObject, pages: Range<u64>) {
        let mut at = pages.start;
        leave_in_steps(self, |owner| {
            let mut batch = owner.lock();
            batch.hold(self);
            let mut leaving = self.frames.leave();
            let push = |slot, frame| {
                batch.push(self, Item::Write(slot, frame));
                !batch.is_full()
            };
            let (next, dropped) = self.let_pages_go(object, at..pages.end, BATCH, &mut leaving, push);
            drop(leaving);
            drop(batch);
            self.note_freed(dropped);
            at = next.unwrap_or(at);
            next.is_some()
        })
        .await;
    }
}

/// Calls `step` with a batch to put pages in that leave, until it says that there are no more, and waits until all are written.
pub(super) async fn leave_in_steps<P: Platform>(memory: &'static Memory<P>, mut step: impl FnMut(&Owner<P>) -> bool) {
    let mut under_way = ArrayVec::<Owner<P>, UNDER_WAY>::new();
    let mut filling = None;
    let mut more = true;
    while more {
        if under_way.is_full() {
            over(&under_way.remove(0)).await;
        }
        let owner = match filling.take() {
            Some(owner) => owner,
            None => batch(memory).await,
        };
        more = step(&owner);
        let full = owner.lock().is_full();
        if full || !more {
            owner.end();
            under_way.push(owner);
        } else if owner.flush() {
            under_way.push(owner);
        } else {
            filling = Some(owner);
        }
        if more {
            pause().await;
        }
    }
    for owner in under_way {
        over(&owner).await;
    }
}

/// A batch to be filled.
async fn batch<P: Platform>(memory: &'static Memory<P>) -> Owner<P> {
    poll_fn(|context| match memory.take_batch(context.waker()) {
        Some(owner) => Poll::Ready(owner),
        None => Poll::Pending,
    })
    .await
}

/// Waits until a batch is over.
async fn over<P: Platform>(owner: &Owner<P>) {
    poll_fn(|context| {
        if owner.poll_over(context.waker()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
