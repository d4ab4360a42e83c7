//! Fault slots: preallocated room for every fault in flight.
//!
//! ```text
//!         (1) claim             (2) push             (3) take
//!  Free ────────────► Claimed ───────────► Queued ───────────► Serving
//!    ▲                                       ▲                  │  │
//!    │                                       │ (5) frame free,  │  │ (4) no frame,
//!    │                                       │     page read    │  │     page is read
//!    │                                       └──── Parked ◄─────┘  │
//!    └─────────────────────────────────────────────────────────────┘
//!                                (6) complete
//! ```
//!
//! 1. Admission takes a free slot, under the space's lock, and writes the request. A space keeps the first slot that it
//!    was given for its later faults, as long as fewer than half of all slots are kept.
//! 2. It pushes the slot on the fault queue and wakes the service. The queue is a list through the slots, so it cannot
//!    overflow.
//! 3. The service takes everything that is queued in one go.
//! 4. With no frame free the slot waits in the order of arrival; with its page being read it is in the list of those who
//!    wait for the page.
//! 5. A frame that comes free, or the end of the read, queues it again.
//! 6. Every waiter has its result; the slot is free, for its space if that keeps it, else for all. The next use has
//!    another sequence number, so that a marker of this one is never taken for one of that.
//!
//! # Who may touch what
//!
//! A [`SlotToken`] stands for one slot between claim and completion and exists once. Its holder owns `request` until it
//! is pushed, and `progress` always. `shared` belongs to the lock of the space that the slot serves. After the push,
//! `request` is read-only until completion: for the token's holder at any time, for others under the space's lock while
//! the slot is linked to the space by a marker or by the side list.

use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ptr;
use faultline_fallible::Arc;

use faultline_trace::FaultClass;

use super::waiter::WaitList;
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::entry::{Entry, Marker};
use crate::frame::{ReservedFrame, ReservedRun};
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::protection::Access;
use crate::space::Space;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// No slot, in the links.
pub(crate) const NONE: u16 = u16::MAX;

/// What a slot is asked to do; written once, at admission.
pub(crate) struct Request<P: Platform> {
    /// The space, from admission to completion; in a slot that a space keeps, for as long as it does.
    pub(super) owner: Option<Arc<Space<P>>>,
    /// First address of the page.
    pub(crate) page: u64,
    pub(crate) access: Access,
    /// Correlation id.
    pub(crate) fault: u64,
    /// How it looked at admission; a fault without an entry of its own is looked at again by the service.
    pub(crate) class: FaultClass,
    /// The entry that carries the marker or the busy bit; `None` while the slot is found through the side list alone.
    pub(crate) entry: Option<EntryRef<'static>>,
    /// What the marker looks like.
    pub(crate) marker: Entry,
    /// What the marker stands for: [`Entry::EMPTY`], or the entry of a page in a swap slot, to which the marker holds the
    /// entry's reference.
    pub(crate) before: Entry,
    /// Leaf flags that the region gives to a page of its own.
    pub(crate) flags: u64,
}

/// How far the service has come.
#[derive(Default)]
pub(crate) struct Progress {
    /// A frame that is being filled by a device.
    pub(crate) frame: Option<ReservedFrame<'static>>,
    /// A huge page that is being zeroed, and how many of its frames are.
    pub(crate) huge: Option<(ReservedRun<'static>, u32)>,
    /// What the read of the page has come to, in the use of the slot with this sequence number.
    read: (u64, PageRead),
    /// The use of the slot in which the fault waited for a device last: its sequence number plus 1.
    waited: u64,
}

/// What a fault knows of the last read of its page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PageRead {
    /// Nothing that matters.
    #[default]
    Fresh,
    /// The read of this page together with others has failed: it is to be read alone.
    Alone,
    /// The page can't be read.
    Failed,
}

impl Progress {
    /// Gives back what is left.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        if self.frame.is_some() || self.huge.is_some() {
            self.give_back();
        }
    }

    #[cold]
    fn give_back(&mut self) {
        *self = Progress::default();
    }
}

/// What the space's lock guards.
pub(crate) struct Shared {
    pub(crate) waiters: WaitList,
    /// The space has changed what it says about the page since admission; the marker is gone.
    pub(crate) stale: bool,
    /// In the side list of the space.
    pub(crate) side: bool,
    /// Next in the side list.
    pub(crate) side_next: u16,
}

/// One slot.
pub(crate) struct Slot<P: Platform> {
    request: UnsafeCell<Request<P>>,
    progress: UnsafeCell<Progress>,
    shared: UnsafeCell<Shared>,
    /// Use number; changed by the token's holder only.
    sequence: AtomicU64,
    /// Next in the list that the slot is in; guarded by the lock of the lists. In a list of parked faults it is the list's.
    pub(super) next: AtomicPtr<Slot<P>>,
    /// The first waiting slot of the next space, while this one is the first of its space that waits for a frame.
    pub(super) next_space: AtomicPtr<Slot<P>>,
    /// Nobody waits any more. A hint for the service: the waiters' list under the lock decides.
    pub(crate) abandoned: AtomicBool,
    /// Where it stands in the table.
    pub(super) index: u16,
}

// SAFETY: every cell has one owner at a time, as the module's documentation says: the token, or the lock of the space.
unsafe impl<P: Platform> Sync for Slot<P> {}
// SAFETY: the content is `Send`: spaces, frames and wakers may go to another CPU.
unsafe impl<P: Platform> Send for Slot<P> {}

impl<P: Platform> Slot<P> {
    pub(super) fn new(index: u16) -> Self {
        Self {
            request: UnsafeCell::new(Request::none()),
            next: AtomicPtr::new(ptr::null_mut()),
            next_space: AtomicPtr::new(ptr::null_mut()),
            progress: UnsafeCell::new(Progress::default()),
            shared: UnsafeCell::new(Shared {
                waiters: WaitList::new(),
                stale: false,
                side: false,
                side_next: NONE,
            }),
            sequence: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            index,
        }
    }

    /// The request of a slot in use.
    ///
    /// # Safety
    /// For as long as the result is used, the caller holds the slot's token, or the lock of a space that the slot is
    /// linked to.
    #[inline]
    pub(crate) unsafe fn request(&self) -> RequestRef<P> {
        RequestRef(self.request.get())
    }

    /// The request, to be changed by the service when it finds out more.
    ///
    /// # Safety
    /// The caller holds the token and the space's lock, and no other reference to the request.
    #[allow(clippy::mut_from_ref, reason = "the token and the lock are the proof of uniqueness")]
    pub(super) unsafe fn request_mut(&self) -> &mut Request<P> {
        // SAFETY: others read the request under the lock only, which the caller holds.
        unsafe { &mut *self.request.get() }
    }

    /// The request, to be written for a new use, or ended.
    ///
    /// # Safety
    /// The caller holds the token of a slot that no space links to, and no other reference to the request.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the token is the proof of uniqueness")]
    pub(super) unsafe fn request_unlinked(&self) -> &mut Request<P> {
        // SAFETY: nobody else reads it (the caller's promise).
        unsafe { &mut *self.request.get() }
    }

    /// # Safety
    /// The caller holds the slot's token, and no other reference to the progress.
    #[allow(clippy::mut_from_ref, reason = "the token is the proof of uniqueness")]
    pub(crate) unsafe fn progress(&self) -> &mut Progress {
        // SAFETY: the token exists once (the caller's promise).
        unsafe { &mut *self.progress.get() }
    }

    /// # Safety
    /// The caller holds the lock of the space that the slot serves, and no other reference to this slot's shared part.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the space's lock is the proof of uniqueness")]
    pub(crate) unsafe fn shared(&self) -> &mut Shared {
        // SAFETY: the lock makes the access unique (the caller's promise).
        unsafe { &mut *self.shared.get() }
    }

    /// The marker of the current use.
    #[inline]
    pub(crate) fn marker(&self) -> Marker {
        let mask = (1 << Marker::SEQUENCE_BITS) - 1;
        Marker {
            slot: self.index,
            sequence: self.sequence.load(Ordering::Relaxed) & mask,
        }
    }

    /// Begins a use: the markers of earlier ones are void.
    pub(super) fn advance(&self) {
        self.sequence
            .store(self.sequence.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.abandoned.store(false, Ordering::Relaxed);
    }
}

/// The right to serve one slot; exists once between claim and completion.
#[must_use = "a slot that is dropped without completion leaves its waiters asleep"]
pub(crate) struct SlotToken<P: Platform>(pub(super) &'static Slot<P>);

impl<P: Platform> SlotToken<P> {
    /// The slot.
    #[inline(always)]
    pub(crate) fn slot(&self) -> &'static Slot<P> {
        self.0
    }

    /// Index of the slot.
    #[inline(always)]
    pub(crate) fn index(&self) -> u16 {
        self.0.index
    }

    /// Remembers what the read that the fault waited for has come to.
    pub(crate) fn note_page_read(&self, read: PageRead) {
        if read != PageRead::Fresh {
            let sequence = self.0.sequence.load(Ordering::Relaxed);
            // SAFETY: the token is held.
            unsafe { self.0.progress() }.read = (sequence, read);
        }
    }

    /// What was remembered last in this use of the slot.
    pub(crate) fn take_page_read(&self) -> PageRead {
        // SAFETY: the token is held.
        let (sequence, read) = core::mem::take(&mut unsafe { self.0.progress() }.read);
        if sequence == self.0.sequence.load(Ordering::Relaxed) {
            read
        } else {
            PageRead::Fresh
        }
    }

    /// Remembers that the fault waits for a device.
    pub(crate) fn note_device_wait(&self) {
        let sequence = self.0.sequence.load(Ordering::Relaxed);
        // SAFETY: the token is held.
        unsafe { self.0.progress() }.waited = sequence + 1;
    }

    /// Whether the fault has waited for a device.
    pub(crate) fn has_waited_for_device(&self) -> bool {
        // SAFETY: the token is held.
        let waited = unsafe { self.0.progress() }.waited;
        waited == self.0.sequence.load(Ordering::Relaxed) + 1
    }

    /// What the slot is asked to do. Must not be used after the token was given to completion.
    #[inline(always)]
    pub(crate) fn request(&self) -> RequestRef<P> {
        // SAFETY: the token is held.
        unsafe { self.0.request() }
    }
}

/// A request that may be read. It is a pointer, not a reference, because the step that reads it also ends it.
pub(crate) struct RequestRef<P: Platform>(*const Request<P>);

impl<P: Platform> Clone for RequestRef<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for RequestRef<P> {}

impl<P: Platform> Deref for RequestRef<P> {
    type Target = Request<P>;

    #[inline]
    fn deref(&self) -> &Request<P> {
        // SAFETY: `Slot::request`'s caller keeps the slot in use and unchanged while it uses this.
        unsafe { &*self.0 }
    }
}

impl<P: Platform> Request<P> {
    /// No request.
    fn none() -> Self {
        Self {
            owner: None,
            page: 0,
            access: Access::Read,
            fault: 0,
            class: FaultClass::DemandZero,
            entry: None,
            marker: Entry::EMPTY,
            before: Entry::EMPTY,
            flags: 0,
        }
    }

    /// The space that the fault is in.
    #[inline(always)]
    pub(crate) fn space(&self) -> &Arc<Space<P>> {
        debug_assert!(self.owner.is_some(), "the slot is free");
        // SAFETY: a request can only be reached while its slot is in use, and it has its owner from admission to
        // completion.
        unsafe { self.owner.as_ref().unwrap_unchecked() }
    }

    /// The pages that this fault will map.
    pub(crate) fn range(&self) -> PageRange {
        if self.class == FaultClass::Huge {
            let first = self.page & !(HUGE_PAGE_SIZE - 1);
            PageRange::new_unchecked(first, first + HUGE_PAGE_SIZE)
        } else {
            PageRange::new_unchecked(self.page, self.page + PAGE_SIZE)
        }
    }

    /// Whether the fault will map `page`.
    pub(crate) fn covers(&self, page: u64) -> bool {
        let range = self.range();
        range.start() <= page && page < range.end()
    }
}
