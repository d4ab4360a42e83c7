//! Faults on pages that come from somewhere: objects, files that lie in memory, devices.

mod file;
mod object;

use faultline_trace::FaultClass;

use super::fill::valid;
use super::service::Step;
use super::slot::{RequestRef, SlotToken};
use crate::Memory;
use crate::backing::Backing;
use crate::entry::Entry;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use object::Mapping;

impl<P: Platform> Memory<P> {
    /// A first access to a page that its region has from somewhere.
    #[inline(never)]
    pub(super) fn serve_backed(
        &'static self,
        token: SlotToken<P>,
        request: RequestRef<P>,
        entry: EntryRef<'_>,
    ) -> Step<P> {
        let (token, inner) = valid!(self.lock_valid(token, &request, entry));
        let Some((range, region)) = inner.regions.find_summed(request.page) else {
            return self.complete_stale(token, inner);
        };
        match &region.backing {
            Backing::Shared { object, offset } => {
                let mapping = Mapping {
                    object,
                    range,
                    offset: *offset,
                };
                let found = self.map_shared(&inner, request, entry, &mapping);
                self.end_of_object(token, inner, request, FaultClass::Shared, found)
            }
            Backing::Private { object, offset } => {
                let mapping = Mapping {
                    object,
                    range,
                    offset: *offset,
                };
                let found = self.map_private(&inner, request, entry, &mapping);
                self.end_of_object(token, inner, request, FaultClass::File, found)
            }
            Backing::File { file, offset } => {
                let (file, offset) = (file.clone(), *offset);
                self.serve_file(token, inner, request, entry, range, &*file, offset)
            }
            Backing::Physical { base, cache } => {
                let flags = request.flags | Entry::SHARED | Entry::BORROWED | Entry::NO_EXECUTE;
                let frame = Pfn::containing(*base + (request.page - range.start()));
                self.publish::<true>(
                    request,
                    entry,
                    Entry::present(frame, flags | Entry::cache_flags(*cache)),
                );
                self.resolved::<true>(token, inner, FaultClass::Shared)
            }
            Backing::Anonymous => self.complete_stale(token, inner),
        }
    }
}
