//! Admission: the first look at a fault, under the space's lock.

use core::pin::Pin;
use core::task::Waker;
use faultline_fallible::Arc;

use faultline_trace::{FaultClass, Kind};

use super::slot::{NONE, Request, SlotToken};
use super::waiter::Waiter;
use super::{Ending, FaultOutcome, FaultResult};
use crate::address::{HUGE_PAGE_SIZE, USER_END};
use crate::entry::{Entry, EntryState};
use crate::error::FaultError;
use crate::frame::Pfn;
use crate::memory::EntryRef;
use crate::platform::Platform;
use crate::protection::{Access, FaultInfo};
use crate::region::Summary;
use crate::space::{Guard, Inner, Space};
use crate::sync::atomic::Ordering;
use crate::sync::mutant;
use crate::tables::{Leaf, index};

/// A fault whose region allows it.
#[derive(Clone, Copy)]
struct Arrival {
    page: u64,
    access: Access,
    fault: u64,
    class: FaultClass,
    flags: u64,
}

impl Arrival {
    /// A fault in the region that `found` sums up.
    #[inline(always)]
    fn new(page: u64, access: Access, fault: u64, found: &Summary) -> Self {
        Self {
            page,
            access,
            fault,
            class: found.class(access),
            flags: found.leaf,
        }
    }
}

/// What admission made of a fault.
pub(super) enum Admission<P: Platform> {
    /// It is over already.
    Ready(FaultResult),
    /// The waiter hangs in this slot, which somebody serves.
    Waiting(u16),
    /// The waiter hangs in this new slot, which the caller has to push or serve.
    Claimed(SlotToken<P>),
    /// No slot is free.
    NoSlot,
}

impl<P: Platform> Space<P> {
    /// Admits the faults that are by far the most: on an entry of a table that is there, empty, present without the right
    /// or swapped out, with no other fault on the page and a slot free. Claims the slot; `None`, with nothing done, for any other.
    #[inline(always)]
    pub(super) fn admit_usual(
        this: &Arc<Self>,
        info: FaultInfo,
        fault: u64,
        waiter: Pin<&Waiter>,
        waker: &Waker,
    ) -> Option<SlotToken<P>> {
        let page = info.page()?.as_u64();
        let mut inner = this.lock();
        // A fault of the side list may be on the same page, if it was there before the table.
        if inner.side != NONE || !inner.regions.has_summary(page) {
            return None;
        }
        let found = inner.regions.last();
        if !found.protection.allows(info.access) {
            return None;
        }
        let arrival = Arrival::new(page, info.access, fault, found);
        let entry = this.usual_leaf(&mut inner, page)?;
        let value = entry.get();
        if value.is_empty() {
            let token = this.claim(&mut inner)?;
            let class = small(arrival.class, info.access);
            Self::enter(
                this,
                &mut inner,
                &token,
                Arrival { class, ..arrival },
                Some(entry),
                Some(Entry::EMPTY),
                waiter,
                waker,
            );
            return Some(token);
        }
        if value.is_present() && !value.allows(info.access) {
            let token = this.claim(&mut inner)?;
            let class = FaultClass::CowCopy;
            Self::enter(
                this,
                &mut inner,
                &token,
                Arrival { class, ..arrival },
                Some(entry),
                None,
                waiter,
                waker,
            );
            return Some(token);
        }
        Self::admit_swapped(this, inner, arrival, (entry, value), waiter, waker)
    }

    /// The rest of [`admit_usual`](Self::admit_usual): the entry may name a swap slot.
    #[inline(never)]
    fn admit_swapped(
        this: &Arc<Self>,
        mut inner: Guard<'_, P>,
        arrival: Arrival,
        (entry, value): (EntryRef<'static>, Entry),
        waiter: Pin<&Waiter>,
        waker: &Waker,
    ) -> Option<SlotToken<P>> {
        value.swap_slot()?;
        let token = this.claim(&mut inner)?;
        let class = FaultClass::Swap;
        let arrival = Arrival { class, ..arrival };
        Self::enter(
            this,
            &mut inner,
            &token,
            arrival,
            Some(entry),
            Some(value),
            waiter,
            waker,
        );
        Some(token)
    }

    /// A slot for a new fault: the one that the space keeps, or one from the table.
    #[inline(always)]
    fn claim(&self, inner: &mut Inner<P>) -> Option<SlotToken<P>> {
        match inner.spare.take() {
            Some(token) => {
                token.slot().advance();
                Some(token)
            }
            None => self.memory.faults.claim(),
        }
    }

    /// The leaf of a page in a table of this space's own. The last table is remembered: the next fault is most often in
    /// the same one.
    #[inline(always)]
    fn usual_leaf(&self, inner: &mut Inner<P>, page: u64) -> Option<EntryRef<'static>> {
        let memory = self.memory;
        let span = page & !(HUGE_PAGE_SIZE - 1);
        if inner.leaf_span != span {
            let above = memory.level2(inner.root?, page)?.get();
            if !above.has(Entry::PRESENT) || above.has(Entry::HUGE) || above.has(Entry::SHARED) {
                return None;
            }
            inner.leaf_span = span;
            inner.leaf_table = above.frame();
        }
        let entry = memory.entry(inner.leaf_table, index(page, 1));
        debug_assert!(
            inner.root.is_some_and(
                |root| matches!(memory.leaf(root, page), Leaf::Own(found, _) if core::ptr::eq(found.0, entry.0))
            ),
            "the remembered table is not that of {page:#x}"
        );
        Some(entry)
    }

    /// Looks at a fault: finishes it, joins it to one in flight, or claims a slot for it.
    #[inline(never)]
    pub(super) fn admit(
        this: &Arc<Self>,
        info: FaultInfo,
        fault: u64,
        waiter: Pin<&Waiter>,
        waker: &Waker,
    ) -> Admission<P> {
        let Some(page) = info.page() else {
            return this.denied(fault, outside(info));
        };
        let page = page.as_u64();
        let mut inner = this.lock();
        let found = match Self::find_region(&mut inner, page, info) {
            Ok(found) => found,
            Err(error) => return this.denied(fault, error),
        };
        let arrival = Arrival::new(page, info.access, fault, found);
        let Some(root) = inner.root else {
            return this.denied(fault, FaultError::SpaceGone { address: info.address });
        };
        Self::admit_at(this, inner, root, arrival, waiter, waker)
    }

    /// Admits a fault that its region allows, by what is in the page tables.
    fn admit_at(
        this: &Arc<Self>,
        mut inner: Guard<'_, P>,
        root: Pfn,
        arrival: Arrival,
        waiter: Pin<&Waiter>,
        waker: &Waker,
    ) -> Admission<P> {
        let memory = this.memory;
        let Arrival {
            page, access, fault, ..
        } = arrival;
        let leaf = memory.leaf(root, page);
        match leaf {
            Leaf::Own(_, value) | Leaf::Huge(value) if value.allows(access) => return this.spurious(fault, page),
            Leaf::Shared(value) if value.allows(access) && access != Access::Write => {
                return this.spurious(fault, page);
            }
            Leaf::Own(_, value) if let Some(marker) = value.marker() => {
                debug_assert_eq!(memory.faults.slot(marker.slot).marker(), marker);
                return this.join(marker.slot, fault, page, waiter, waker);
            }
            _ => {}
        }
        if let Some(index) = this.find_side(&inner, page) {
            return this.join(index, fault, page, waiter, waker);
        }
        let (class, entry, mark) = match leaf {
            Leaf::Own(entry, value) => match value.state() {
                EntryState::Empty => (small(arrival.class, access), Some(entry), Some(value)),
                EntryState::Swapped { .. } => (FaultClass::Swap, Some(entry), Some(value)),
                EntryState::Present { .. } => (FaultClass::CowCopy, Some(entry), None),
                EntryState::InFlight(_) => unreachable!("the fault has joined the one in flight"),
            },
            Leaf::Shared(_) | Leaf::Huge(_) | Leaf::None => (class_without_table(&mut inner, arrival), None, None),
        };
        let Some(token) = this.claim(&mut inner) else {
            return Admission::NoSlot;
        };
        let arrival = Arrival { class, ..arrival };
        Self::enter(this, &mut inner, &token, arrival, entry, mark, waiter, waker);
        Admission::Claimed(token)
    }

    /// Writes the request of a new slot, links the slot to the space by a marker, which stands for `mark`, or without one by
    /// the side list and the busy bit, and hangs the first waiter in it.
    #[inline(always)]
    #[allow(
        clippy::too_many_arguments,
        reason = "one step of admission in two places, not an interface"
    )]
    fn enter(
        this: &Arc<Self>,
        inner: &mut Inner<P>,
        token: &SlotToken<P>,
        arrival: Arrival,
        entry: Option<EntryRef<'static>>,
        mark: Option<Entry>,
        waiter: Pin<&Waiter>,
        waker: &Waker,
    ) {
        let slot = token.slot();
        let marker = Entry::in_flight(slot.marker());
        let Arrival {
            page,
            access,
            fault,
            class,
            flags,
        } = arrival;
        // SAFETY: the slot was just claimed, so no space links to it yet.
        let request = unsafe { slot.request_unlinked() };
        // A slot that the space keeps has it already.
        let owner = request.owner.take().unwrap_or_else(|| Arc::clone(this));
        *request = Request {
            owner: Some(owner),
            page,
            access,
            fault,
            class,
            entry,
            marker,
            before: mark.unwrap_or(Entry::EMPTY),
            flags,
        };
        // SAFETY: the space's lock is held, and this is the only reference to the new slot's shared part.
        let shared = unsafe { slot.shared() };
        shared.stale &= mutant!(KeepStale);
        shared.side = mark.is_none();
        match entry {
            Some(entry) if mark.is_some() => entry.set(marker),
            // The processor may be setting the accessed bit of this present entry.
            Some(entry) => entry.or(Entry::BUSY),
            None => {}
        }
        if mark.is_none() {
            shared.side_next = core::mem::replace(&mut inner.side, token.index());
        }
        inner.in_flight += 1;
        this.memory.faults.count_claim(this.memory.platform.cpu());
        // SAFETY: 1. the waiter was in no list; 2. the space's lock, which owns the slot's list, is held.
        unsafe { waiter.enqueue(&mut shared.waiters, waker) };
        this.memory
            .platform
            .trace(Kind::FaultQueue, this.id, fault, page, token.index().into());
    }

    /// The region of a page, if it allows the access; grows a stack that the access is just below.
    fn find_region(inner: &mut Inner<P>, page: u64, info: FaultInfo) -> Result<&Summary, FaultError> {
        if !inner.regions.has_summary(page) {
            inner.find_or_grow(page, info)?;
        }
        let FaultInfo { address, access, .. } = info;
        let found = inner.regions.last();
        if !found.protection.allows(access) {
            return Err(FaultError::Protection {
                address,
                access,
                protection: found.protection,
            });
        }
        Ok(found)
    }

    /// Whether the space now lets this access through, for a fault that found the space changed.
    pub(super) fn verdict(&self, inner: &Inner<P>, page: u64, access: Access) -> Ending {
        if inner.root.is_none() {
            return Ending::SpaceGone;
        }
        match inner.regions.find(page) {
            None => Ending::NoRegion,
            Some((_, region)) if !region.protection.allows(access) => Ending::Protection(region.protection),
            Some(_) => Ending::Done(FaultOutcome::Retry),
        }
    }

    #[cold]
    fn denied(&self, fault: u64, error: FaultError) -> Admission<P> {
        self.memory.counters.denied.add(1);
        self.memory
            .platform
            .trace(Kind::FaultDenied, self.id, fault, error.address(), error.reason());
        Admission::Ready(Err(error))
    }

    /// The entry allows the access: the processor used an older translation, or somebody else was faster.
    #[cold]
    fn spurious(&self, fault: u64, page: u64) -> Admission<P> {
        self.memory.counters.spurious.add(1);
        self.memory.platform.trace(Kind::FaultSpurious, self.id, fault, page, 0);
        self.memory
            .platform
            .invalidate_page(x86_64::VirtAddr::new_truncate(page));
        Admission::Ready(Ok(FaultOutcome::Spurious))
    }

    /// Hangs the waiter in the slot of a fault on the same page.
    fn join(&self, index: u16, fault: u64, page: u64, waiter: Pin<&Waiter>, waker: &Waker) -> Admission<P> {
        let slot = self.memory.faults.slot(index);
        // SAFETY: the caller holds the lock of this space, to which the slot is linked by a marker or the side list.
        let shared = unsafe { slot.shared() };
        // SAFETY: 1. the waiter was in no list; 2. the lock that owns the slot's list is held.
        unsafe { waiter.enqueue(&mut shared.waiters, waker) };
        // The last waiter may have gone, but the service has not yet looked.
        slot.abandoned.store(false, Ordering::Relaxed);
        self.memory.counters.coalesced.add(1);
        self.memory
            .platform
            .trace(Kind::FaultJoin, self.id, fault, page, index.into());
        Admission::Waiting(index)
    }
}

/// The class of a fault that is served by a 4 KiB page although its region asks for huge ones.
#[inline(always)]
pub(super) const fn small(class: FaultClass, access: Access) -> FaultClass {
    match (class, access) {
        (FaultClass::Huge, Access::Write) => FaultClass::DemandZero,
        (FaultClass::Huge, Access::Read | Access::Execute) => FaultClass::ZeroPage,
        (class, _) => class,
    }
}

/// The class of a fault whose last-level table does not exist or is not the space's own: huge only if the whole 2 MiB
/// are in the region.
fn class_without_table<P: Platform>(inner: &mut Inner<P>, arrival: Arrival) -> FaultClass {
    let found = inner.regions.last();
    let into = (arrival.page & !(HUGE_PAGE_SIZE - 1)).wrapping_sub(found.start);
    if into.saturating_add(HUGE_PAGE_SIZE) > found.size {
        small(arrival.class, arrival.access)
    } else {
        arrival.class
    }
}

impl<P: Platform> Inner<P> {
    /// Finds the region of a page, or grows a stack down to it, and remembers it.
    #[inline(never)]
    fn find_or_grow(&mut self, page: u64, info: FaultInfo) -> Result<(), FaultError> {
        if !self.regions.look_up(page) {
            self.grow_stack(page, info)?;
            self.regions.look_up(page);
        }
        Ok(())
    }
}

/// The error for an address outside the user half.
fn outside(FaultInfo { address, access, .. }: FaultInfo) -> FaultError {
    const CANONICAL_HIGH: u64 = 0xffff_8000_0000_0000;
    const LOW_END: u64 = 0x8000_0000_0000;
    match address {
        USER_END..LOW_END => FaultError::NoRegion { address, access },
        LOW_END..CANONICAL_HIGH => FaultError::NonCanonical { address, access },
        _ => FaultError::KernelAddress { address, access },
    }
}
