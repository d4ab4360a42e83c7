//! Huge-page faults: 2 MiB in one entry, zeroed in chunks.

use faultline_trace::{FaultClass, Kind};

use super::admit::small;
use super::service::Step;
use super::slot::{RequestRef, SlotToken};
use crate::Memory;
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE};
use crate::entry::Entry;
use crate::platform::Platform;

/// Order of a run of 512 frames.
pub(crate) const HUGE_ORDER: u8 = 9;

/// Frames that are zeroed in one step, after which timers and other faults have their turn: 128 of them are 512 KiB, some
/// 65,600 instructions, which is a fifteenth of the millisecond by which a timer may be late.
const CHUNK: u32 = 128;

impl<P: Platform> Memory<P> {
    /// A first access to a region that asks for huge pages, where no table exists yet. Falls back to a small page if no
    /// aligned run of frames is free.
    #[inline(never)]
    pub(super) fn serve_huge(&'static self, token: SlotToken<P>, request: RequestRef<P>) -> Step<P> {
        let slot = token.slot();
        let cpu = self.platform.cpu();
        // SAFETY: the token is held.
        let progress = unsafe { slot.progress() };
        let (run, done) = match progress.huge.take() {
            Some(progress) => progress,
            None => match self.frames.allocate_contiguous(HUGE_ORDER, cpu) {
                Ok(run) => {
                    let address = run.address().as_u64();
                    self.platform
                        .trace(Kind::FaultFrame, request.space().id, request.fault, address, 0);
                    (run, 0)
                }
                Err(_) => return self.fall_back(token, request),
            },
        };
        self.platform.zero_frames(run.pfn().offset(done).frame(), CHUNK);
        if done + CHUNK < 512 {
            progress.huge = Some((run, done + CHUNK));
            return Step::Again(token);
        }
        self.platform.trace(
            Kind::FaultFill,
            request.space().id,
            request.fault,
            run.address().as_u64(),
            0,
        );

        let inner = request.space().lock();
        // SAFETY: the space's lock is held.
        if unsafe { slot.shared() }.stale {
            return self.complete_stale(token, inner);
        }
        let root = inner.root.expect("destroying a space makes its faults stale");
        let Ok(entry) = self.make_level2(root, request.page) else {
            // To wait with so many frames in hand could be to wait for ever: they serve a small page first.
            drop(inner);
            drop(run);
            return self.fall_back(token, request);
        };
        if !entry.get().is_empty() {
            drop(inner);
            return self.fall_back(token, request);
        }
        let first = run.map();
        let value = Entry::present(first, request.flags | Entry::HUGE | Entry::DIRTY);
        entry.set(value);
        let start = request.page & !(HUGE_PAGE_SIZE - 1);
        self.platform.trace(
            Kind::FaultCommit,
            request.space().id,
            request.fault,
            start,
            value.bits(),
        );
        debug_assert_eq!(first.number() % (HUGE_PAGE_SIZE / PAGE_SIZE) as u32, 0);
        self.resolved::<true>(token, inner, FaultClass::Huge)
    }

    /// The fault is served by a small page.
    fn fall_back(&'static self, token: SlotToken<P>, request: RequestRef<P>) -> Step<P> {
        let _inner = request.space().lock();
        // SAFETY: the token and the space's lock are held; `request` is not used after this.
        let request = unsafe { token.slot().request_mut() };
        request.class = small(FaultClass::Huge, request.access);
        Step::Reclassified(token)
    }
}
