//! `madvise` on what may leave: `PAGEOUT`, `COLD`, `FREE`, `WILLNEED`.

use core::future::poll_fn;
use core::ops::Range;
use core::task::Poll;

use arrayvec::ArrayVec;

use super::batch::{Batch, OWN, Owner};
use super::visit::{Purpose, Visit};
use crate::address::{PAGE_SIZE, PageRange};
use crate::error::VasError;
use crate::platform::Platform;
use crate::space::{Inner, VirtualAddressSpace, pause};
use crate::tables::Leaf;
use crate::tlb::Change;

/// Pages that one step of `WILLNEED` looks at.
const LOOK: u64 = 256;

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
        let mut under_way = ArrayVec::<Owner<P>, OWN>::new();
        let mut filling = None;
        let mut left = Some(range);
        while let Some(range) = left {
            if under_way.is_full() {
                over(&under_way.remove(0)).await;
            }
            if filling.is_none() {
                filling = Some(batch(self).await);
            }
            let Some(owner) = filling.take() else { continue };
            let (next, full) = {
                let mut inner = self.lock();
                let mut batch = owner.lock();
                visit.next_step();
                let next = self.visit(&mut inner, range, &mut visit, &mut batch);
                (next, batch.is_full())
            };
            left = next.map(|at| PageRange::new_unchecked(at, range.end()));
            if full || left.is_none() {
                owner.end();
                under_way.push(owner);
            } else if owner.flush() {
                under_way.push(owner);
            } else {
                filling = Some(owner);
            }
            if left.is_some() {
                pause().await;
            }
        }
        memory.counters.pages_scanned.add(visit.take_scanned());
        for owner in under_way {
            over(&owner).await;
        }
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

/// A batch to be filled.
async fn batch<P: Platform>(space: &VirtualAddressSpace<P>) -> Owner<P> {
    let memory = space.memory();
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
