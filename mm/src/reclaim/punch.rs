//! Pages that an object gives up, taken out of the tables of every space: holes, and what is cut off.

use core::ops::Range;

use super::advice::leave_in_steps;
use super::batch::Batch;
use super::visit::{NO_TABLE, Purpose, Visit};
use crate::Memory;
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::object::MemoryObject;
use crate::platform::Platform;
use crate::space::{Inner, Space, pause};

/// Walks over all spaces that one hole may take before it is made although somebody has mapped a page of it again.
const WALKS: usize = 4;

impl<P: Platform> Memory<P> {
    /// Takes the pages of an object in `pages` away: they read as zeros then, or as they are on its disk, in every space that
    /// maps the object. Private copies stay. Returns when no CPU knows the pages any more. In steps; where nobody has mapped
    /// any of the pages, no space is looked at.
    ///
    /// Whoever touches a page again and again meanwhile may find it as it was to the end, and keeps seeing it if it is mapped
    /// privately.
    pub async fn punch_object(&'static self, object: &MemoryObject, pages: Range<u64>) {
        let mut walks = 0;
        let mut at = pages.start;
        while at < pages.end {
            match object.punch_next(at..pages.end, walks == WALKS) {
                Some(next) => at = next,
                None => {
                    walks += 1;
                    self.unmap_object(object, at..pages.end).await;
                }
            }
            pause().await;
        }
        if walks == WALKS {
            self.unmap_object(object, pages).await;
        }
    }

    /// Takes the pages of an object in `pages` out of the tables of every space, and waits until no CPU knows them any more.
    /// Private copies stay, and so does what a private mapping has of a page that the object has lost.
    pub async fn unmap_object(&'static self, object: &MemoryObject, pages: Range<u64>) {
        let mut visit = Visit::new(Purpose::Unmap);
        let (mut space, mut at) = (self.spaces.next(None), 0);
        leave_in_steps(self, |owner| {
            let Some(current) = space.take() else { return false };
            visit.next_step();
            let next = {
                let mut inner = current.lock();
                current.unmap_object_part(&mut inner, object, &pages, at, &mut visit, &mut owner.lock())
            };
            space = match next {
                Some(next) => {
                    at = next;
                    Some(current)
                }
                None => {
                    at = 0;
                    visit.leave_table();
                    self.spaces.next(Some(&current))
                }
            };
            space.is_some()
        })
        .await;
    }
}

impl<P: Platform> Space<P> {
    /// Takes pages of an object out of the tables, from address `at` on, a step; says where the next one goes on.
    fn unmap_object_part(
        &self,
        inner: &mut Inner<P>,
        object: &MemoryObject,
        pages: &Range<u64>,
        mut at: u64,
        visit: &mut Visit,
        batch: &mut Batch,
    ) -> Option<u64> {
        while let Some((found, region)) = inner.regions.first_above(at) {
            if visit.is_over() {
                return Some(at);
            }
            visit.spend(NO_TABLE);
            let from = found.start().max(at);
            at = found.end();
            let (Backing::Shared { object: mapped, offset } | Backing::Private { object: mapped, offset }) =
                &region.backing
            else {
                continue;
            };
            if mapped.id() != object.id() {
                continue;
            }
            // Where in the region a page of the object is; the hole may begin before it or end behind it.
            let place = |page: u64| {
                let bytes = page.saturating_mul(PAGE_SIZE).saturating_sub(*offset);
                found.start() + bytes.min(found.size())
            };
            let (start, end) = (place(pages.start).max(from), place(pages.end));
            if start < end
                && let Some(next) = self.visit(inner, PageRange::new_unchecked(start, end), visit, batch)
            {
                return Some(next);
            }
        }
        None
    }
}
