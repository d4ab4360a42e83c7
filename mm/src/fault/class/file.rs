//! Faults on pages of files that lie in memory for ever.

use faultline_trace::{FaultClass, Kind};

use super::super::Ending;
use super::super::fill::{read_only, valid};
use super::super::service::Step;
use super::super::slot::{RequestRef, SlotToken};
use crate::Memory;
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::PageSource;
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::protection::Access;
use crate::space::{Guard, Inner};
use crate::tables::index;

impl<P: Platform> Memory<P> {
    /// A first access to a private file page: reads share the file's own frame if it is in memory; writes, and pages
    /// that are not in memory as a whole, get a frame of their own.
    #[allow(clippy::too_many_arguments, reason = "a part of one step, not an interface")]
    pub(super) fn serve_file(
        &'static self,
        token: SlotToken<P>,
        inner: Guard<'_, P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
        range: PageRange,
        file: &dyn PageSource,
        offset: u64,
    ) -> Step<P> {
        let at = offset + (request.page - range.start());
        if at >= file.len() {
            return self.complete(token, inner, Ending::BeyondEnd);
        }
        let resident = file.resident(at / PAGE_SIZE);
        if request.access != Access::Write
            && let Some(frame) = resident
        {
            let flags = read_only(request.flags) | Entry::BORROWED;
            self.publish::<true>(request, entry, Entry::present(Pfn::from(frame), flags));
            self.map_around(&inner, request, range, file, offset);
            return self.resolved::<true>(token, inner, FaultClass::File);
        }
        drop(inner);

        let Ok(frame) = self.frame_for_fault(self.platform.cpu()) else {
            return Step::NoMemory(token);
        };
        let address = frame.address();
        self.trace_request(Kind::FaultFrame, request, address.as_u64(), 0);
        if let Some(from) = resident {
            self.platform.copy_frame(from, frame.frame());
        } else {
            // SAFETY: 1. the platform's pointer is valid for the frame's 4096 bytes; 2. the frame is reserved by the
            // token in `frame`, so nobody else touches it.
            let page = unsafe { &mut *self.platform.phys_to_virt(address).cast::<[u8; 4096]>() };
            if file.fill(at / PAGE_SIZE, page).is_err() {
                drop(frame);
                let inner = request.space().lock();
                return self.complete(token, inner, Ending::ReadFailed);
            }
        }
        self.trace_request(Kind::FaultFill, request, address.as_u64(), 0);
        let (token, inner) = valid!(self.lock_valid(token, &request, entry));
        self.publish::<true>(request, entry, Entry::present(frame.map(), request.flags));
        self.resolved::<true>(token, inner, FaultClass::File)
    }

    /// Maps the neighbours of a file page that are in memory already, within an aligned window and the region.
    fn map_around(
        &self,
        inner: &Inner<P>,
        request: RequestRef<P>,
        range: PageRange,
        file: &dyn PageSource,
        offset: u64,
    ) {
        let window = self.config.fault_around * PAGE_SIZE;
        let start = request.page & !(window - 1);
        let window = PageRange::spanning(start, start + window);
        let Some(around) = window.intersection(range) else {
            return;
        };
        let Some(entry2) = inner.root.and_then(|root| self.level2(root, request.page)) else {
            return;
        };
        let table = entry2.get().frame();
        let flags = read_only(request.flags) & !Entry::ACCESSED | Entry::BORROWED;
        for page in around.iter() {
            // The window is aligned and at most 512 pages, so its entries are in the same table.
            let neighbour = self.entry(table, index(page, 1));
            if neighbour.get().is_empty()
                && let Some(frame) = file.resident((offset + (page - range.start())) / PAGE_SIZE)
            {
                neighbour.set(Entry::present(Pfn::from(frame), flags));
                self.counters.around.add(1);
            }
        }
    }
}
