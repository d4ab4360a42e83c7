//! Faults on pages of memory objects.
//!
//! A page that is in memory is mapped under the locks of space and object. The reference that the entry gets is counted
//! before the object's lock is released, so the object cannot drop the page in between. A page that is on a disk is
//! [wished for](Memory::wish) with neither lock held, and the fault comes back when it is there.

use faultline_fallible::Arc;
use faultline_trace::{FaultClass, Kind};

use super::super::Ending;
use super::super::fill::read_only;
use super::super::service::Step;
use super::super::slot::{PageRead, RequestRef, SlotToken};
use crate::Memory;
use crate::address::{PAGE_SIZE, PageRange};
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::object::{MemoryObject, Pages, Sparse, Window, Wish};
use crate::platform::Platform;
use crate::protection::Access;
use crate::space::{Guard, Inner};
use crate::swap::{SlotState, SwapSlot};
use crate::sync::mutant;
use crate::tables::index;

/// An object where a region maps it.
pub(super) struct Mapping<'a> {
    pub object: &'a Arc<MemoryObject>,
    /// Addresses of the region.
    pub range: PageRange,
    /// Where the region starts in the object, in bytes.
    pub offset: u64,
}

impl Mapping<'_> {
    /// The page of the object that is at an address.
    const fn page_at(&self, address: u64) -> u64 {
        (self.offset + (address - self.range.start())) / PAGE_SIZE
    }
}

/// What the object had.
pub(super) enum Found {
    /// The page; it is mapped. If it is the marker of a stream, the next read begins at this page of the object.
    Mapped(Option<(Arc<MemoryObject>, u64)>),
    /// This page is on a disk, or on its way.
    Elsewhere(Arc<MemoryObject>, u64),
    /// It ends before the page.
    BeyondEnd,
    /// No frame is free.
    NoMemory,
}

/// The frame of a page, and whether its use begins a read; `None` if it is to be a new page of zeros.
///
/// # Errors
/// The object has neither: the page is elsewhere, or beyond the end.
#[inline(always)]
fn look(object: &Arc<MemoryObject>, pages: &mut Pages, page: u64) -> Result<Option<(Pfn, bool)>, Found> {
    let end = pages.end;
    match pages.tree.get_mut(page) {
        Some(state) => match state.resident_frame() {
            Some(frame) => Ok(Some((frame, state.note_use()))),
            None => Err(Found::Elsewhere(Arc::clone(object), page)),
        },
        None if page >= end => Err(Found::BeyondEnd),
        None if object.file().is_some() => Err(Found::Elsewhere(Arc::clone(object), page)),
        None => Ok(None),
    }
}

impl<P: Platform> Memory<P> {
    /// A first access to a page that all who map the object see.
    #[inline(always)]
    pub(super) fn map_shared(
        &'static self,
        inner: &Inner<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
        mapping: &Mapping<'_>,
    ) -> Found {
        let object = mapping.object;
        let page = mapping.page_at(request.page);
        let flags = request.flags | Entry::SHARED;
        let mut pages = object.pages.lock();
        let (frame, marked) = match look(object, &mut pages, page) {
            Ok(Some(resident)) => resident,
            Err(found) => return found,
            Ok(None) => {
                let Ok(frame) = self.zeroed_for::<true>(request) else {
                    return Found::NoMemory;
                };
                match object.insert(&mut pages, page, frame) {
                    Ok(frame) => (frame, false),
                    Err(_) => return Found::NoMemory,
                }
            }
        };
        if self.frames.add_mapping(frame).is_err() {
            return Found::BeyondEnd;
        }
        self.publish::<true>(request, entry, Entry::present(frame, flags));
        if object.file().is_some() {
            self.counters.object_hits.add(1);
            self.map_object_around(inner, request, mapping, &pages.tree, flags);
        }
        Found::Mapped(marked.then(|| (Arc::clone(object), page)))
    }

    /// A first access to a page that is the object's until it is written: reads map the object's frame, writes get a copy.
    #[inline(always)]
    pub(super) fn map_private(
        &'static self,
        inner: &Inner<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
        mapping: &Mapping<'_>,
    ) -> Found {
        let object = mapping.object;
        let page = mapping.page_at(request.page);
        let mut pages = object.pages.lock();
        let (frame, marked) = match look(object, &mut pages, page) {
            Ok(Some(resident)) => resident,
            Err(found) => return found,
            Ok(None) => {
                let Ok(frame) = self.zeroed_for::<true>(request) else {
                    return Found::NoMemory;
                };
                if request.access == Access::Write {
                    self.publish::<true>(request, entry, Entry::present(frame.map(), request.flags));
                    return Found::Mapped(None);
                }
                match object.insert(&mut pages, page, frame) {
                    Ok(frame) => (frame, false),
                    Err(_) => return Found::NoMemory,
                }
            }
        };
        if request.access == Access::Write {
            let own = match self.copy_for::<true>(request, frame, false) {
                Ok(copy) => copy.map(),
                // To wait for a second frame could be to wait until the page has been dropped, and so on.
                Err(_) if self.take_clean_page(&mut pages, page) => frame,
                Err(_) => return Found::NoMemory,
            };
            self.publish::<true>(request, entry, Entry::present(own, request.flags));
        } else {
            if !mutant!(BorrowObjectFrame) && self.frames.add_mapping(frame).is_err() {
                return Found::BeyondEnd;
            }
            let flags = read_only(request.flags);
            self.publish::<true>(request, entry, Entry::present(frame, flags));
            self.map_object_around(inner, request, mapping, &pages.tree, flags);
        }
        if object.file().is_some() {
            self.counters.object_hits.add(1);
        }
        Found::Mapped(marked.then(|| (Arc::clone(object), page)))
    }

    /// Maps the neighbours of a page that are in memory already, within an aligned window and the region. Pages whose use
    /// begins a read are left out.
    fn map_object_around(
        &self,
        inner: &Inner<P>,
        request: RequestRef<P>,
        mapping: &Mapping<'_>,
        tree: &Sparse,
        flags: u64,
    ) {
        let window = self.config.fault_around * PAGE_SIZE;
        let start = request.page & !(window - 1);
        let Some(around) = PageRange::spanning(start, start + window).intersection(mapping.range) else {
            return;
        };
        if around.size() <= PAGE_SIZE {
            return;
        }
        let Some(entry2) = inner.root.and_then(|root| self.level2(root, request.page)) else {
            return;
        };
        let table = entry2.get().frame();
        let flags = flags & !Entry::ACCESSED;
        let mut mapped = 0;
        let mut leaf = None;
        for address in around.iter() {
            let page = mapping.page_at(address);
            if leaf.is_none() || page.is_multiple_of(Sparse::LEAF) {
                leaf = Some(tree.leaf(page));
            }
            // The window is aligned and at most 512 pages, so its entries are in the same table.
            let neighbour = self.entry(table, index(address, 1));
            if let Some(Some(states)) = leaf
                && let Some(frame) = states[(page % Sparse::LEAF) as usize].unmarked_frame()
                && neighbour.get().is_empty()
                && self.frames.add_mapping(frame).is_ok()
            {
                neighbour.set(Entry::present(frame, flags));
                mapped += 1;
            }
        }
        self.counters.around.add(mapped);
    }

    /// Ends the fault as the object has found the page.
    #[inline(always)]
    pub(super) fn end_of_object(
        &'static self,
        token: SlotToken<P>,
        inner: Guard<'_, P>,
        request: RequestRef<P>,
        class: FaultClass,
        found: Found,
    ) -> Step<P> {
        match found {
            Found::Mapped(None) => self.resolved_or_read(token, inner, class),
            Found::Mapped(Some((object, page))) => {
                let step = self.resolved_or_read(token, inner, class);
                self.read_ahead(&object, page);
                step
            }
            Found::Elsewhere(object, page) => {
                let random = inner.regions.is_random(request.page);
                drop(inner);
                self.wait_for_page(token, request, &object, page, random)
            }
            Found::BeyondEnd => self.complete(token, inner, Ending::BeyondEnd),
            Found::NoMemory => Step::NoMemory(token),
        }
    }

    /// The page is on a disk, or on its way: lets the fault wait for it.
    #[cold]
    fn wait_for_page(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        object: &MemoryObject,
        page: u64,
        random: bool,
    ) -> Step<P> {
        let window = match token.take_page_read() {
            PageRead::Failed => return self.complete(token, request.space().lock(), Ending::ReadFailed),
            PageRead::Alone => Window::Alone,
            PageRead::Fresh if random => Window::Alone,
            PageRead::Fresh => Window::Stream,
        };
        let mut left = Some(token);
        let wish = self.wish(object, page, window, |waiting| {
            let list = waiting.faults;
            let parked = left.take().map(|token| {
                self.park(token, list, |list| {
                    waiting.faults = list;
                    true
                })
            });
            debug_assert!(matches!(parked, Some(Ok(()))));
        });
        let Some(token) = left else { return Step::Parked };
        match wish {
            Wish::Waits { .. } | Wish::Ready => Step::Reclassified(token),
            Wish::BeyondEnd => self.complete(token, request.space().lock(), Ending::BeyondEnd),
            Wish::Failed => self.complete(token, request.space().lock(), Ending::ReadFailed),
            Wish::NoFrame => Step::NoMemory(token),
            Wish::ReadAhead { slot } => self.wait_for_slot(token, slot),
            Wish::NoRecord => {
                self.counters.device_waits.add(1);
                self.trace_page(Kind::FaultWait, request, 0);
                self.faults.park_for_transfer(token);
                // A read that ended before the fault was in the list has queued nobody.
                if self.reads.free() > 0 {
                    self.faults.retry_for_transfer(usize::MAX);
                }
                Step::Parked
            }
        }
    }

    /// The swap slot of the page is being read, with others: lets the fault wait for that.
    fn wait_for_slot(&'static self, token: SlotToken<P>, slot: SwapSlot) -> Step<P> {
        let word = self.frames.swap.load(slot);
        let SlotState::Reading { waiting } = word.state else {
            return Step::Reclassified(token);
        };
        let to = |list| word.with(SlotState::Reading { waiting: list });
        match self.park(token, waiting, |list| self.frames.swap.exchange(slot, word, to(list))) {
            Ok(()) => Step::Parked,
            Err(token) => Step::Reclassified(token),
        }
    }
}
