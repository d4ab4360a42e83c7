//! All fault slots of a machine, and the lists that they are in.

use core::ptr::{self, NonNull};
use core::task::Waker;
use faultline_fallible::Box;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use super::permits::WaitingSlots;
use super::slot::{Slot, SlotToken};
use super::waiter::{WaitList, complete_first};
use super::{Ending, FaultOutcome};
use crate::platform::{MAX_CPUS, Platform};
use crate::sync::mutant;

/// A first-in, first-out list through the slots' links.
struct Fifo<P: Platform> {
    head: *mut Slot<P>,
    tail: *mut Slot<P>,
}

impl<P: Platform> Fifo<P> {
    const EMPTY: Self = Self {
        head: ptr::null_mut(),
        tail: ptr::null_mut(),
    };

    #[inline(always)]
    fn push(&mut self, slot: &'static Slot<P>) {
        let this = ptr::from_ref(slot).cast_mut();
        slot.next.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: the pointers in a list are slots of the table, which live as long as it.
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.next.store(this, Ordering::Relaxed),
            None => self.head = this,
        }
        self.tail = this;
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<&'static Slot<P>> {
        // SAFETY: as in `push`; the table's memory is `'static` wherever its slots are served.
        let slot: &'static Slot<P> = unsafe { self.head.as_ref()? };
        self.head = slot.next.load(Ordering::Relaxed);
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        Some(slot)
    }
}

/// What the lock of the table guards. The lock is the innermost: it is taken under a space's lock, never around one.
struct Lists<P: Platform> {
    free: Fifo<P>,
    queue: Fifo<P>,
    /// Slots that wait for a free frame.
    memory: WaitingSlots<P>,
    /// Slots that wait until a transfer of an object's pages is free, in order.
    transfer: Fifo<P>,
    /// Futures that wait for a slot.
    slot_waiters: WaitList,
    /// How to wake the service.
    service: Option<Waker>,
    /// The service has found the queue empty and sleeps.
    service_sleeps: bool,
    /// Slots that spaces keep.
    kept: usize,
}

impl<P: Platform> Lists<P> {
    /// Wakes the service if it sleeps: a slot was queued.
    #[inline(always)]
    fn wake_service(&mut self) {
        if self.service_sleeps {
            self.service_sleeps = false;
            // Wakers neither poll nor call back (the contract of the executor), so the lock may be held.
            if let Some(waker) = &self.service {
                waker.wake_by_ref();
            }
        }
    }
}

// SAFETY: the pointers are to slots, which may be reached from every CPU; the lists themselves are behind a lock.
unsafe impl<P: Platform> Send for Lists<P> {}

/// What one CPU has of its own; written by that CPU alone.
#[repr(align(64))]
pub(super) struct Own<P: Platform> {
    /// Slots that it has claimed, less those whose use it has ended.
    in_use: AtomicUsize,
    /// The slot that the poll in progress has left with the CPU, to be served when the poll is over.
    left: AtomicPtr<Slot<P>>,
    /// The fault that it serves may take a frame although others wait for one.
    pub(super) permit: AtomicBool,
}

/// All fault slots of a machine.
pub(crate) struct FaultTable<P: Platform> {
    /// Made from a box and given back in `drop`; the lists point into it.
    slots: NonNull<[Slot<P>]>,
    lists: Mutex<Lists<P>>,
    own: [Own<P>; MAX_CPUS],
    /// How many slots `Lists::memory` has, to be looked at without the lock; written under it.
    waiting_for_memory: AtomicUsize,
}

// SAFETY: the table owns its slots, which are `Send` and `Sync`, through the pointer.
unsafe impl<P: Platform> Send for FaultTable<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for FaultTable<P> {}

impl<P: Platform> FaultTable<P> {
    pub(crate) fn new(count: usize) -> Self {
        // Made once, at the start of the machine.
        let slots = Box::try_from_iter((0..count as u16).map(Slot::new)).expect("there is memory for the fault slots");
        // SAFETY: the pointer comes from a box.
        let slots = unsafe { NonNull::new_unchecked(Box::into_raw(slots)) };
        let mut free = Fifo::EMPTY;
        // SAFETY: the slots live until the table is dropped, and with it every list and token.
        for slot in unsafe { &*slots.as_ptr() } {
            free.push(slot);
        }
        let lists = Lists {
            free,
            queue: Fifo::EMPTY,
            memory: WaitingSlots::EMPTY,
            transfer: Fifo::EMPTY,
            slot_waiters: WaitList::new(),
            service: None,
            service_sleeps: false,
            kept: 0,
        };
        Self {
            slots,
            lists: Mutex::new(lists),
            own: core::array::from_fn(|_| Own {
                in_use: AtomicUsize::new(0),
                left: AtomicPtr::new(ptr::null_mut()),
                permit: AtomicBool::new(false),
            }),
            waiting_for_memory: AtomicUsize::new(0),
        }
    }

    /// The slot that a marker or a side list names.
    #[inline]
    pub(crate) fn slot(&self, index: u16) -> &Slot<P> {
        // SAFETY: the pointer is valid until `drop`.
        unsafe { &self.slots.as_ref()[usize::from(index)] }
    }

    /// Slots in use.
    pub(crate) fn in_use(&self) -> usize {
        let counts = self.own.iter().map(|own| own.in_use.load(Ordering::Relaxed));
        counts.fold(0, usize::wrapping_add)
    }

    /// One more slot is in use.
    #[inline(always)]
    pub(super) fn count_claim(&self, cpu: usize) {
        let count = &self.own[cpu].in_use;
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// A use has ended.
    #[inline(always)]
    pub(super) fn count_end(&self, cpu: usize) {
        let count = &self.own[cpu].in_use;
        count.store(count.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn waiting_for_memory(&self) -> usize {
        self.waiting_for_memory.load(Ordering::Relaxed)
    }

    /// Takes a free slot for a new use.
    #[inline(always)]
    pub(super) fn claim(&self) -> Option<SlotToken<P>> {
        let mut lists = self.lists.lock();
        let slot = lists.free.pop()?;
        drop(lists);
        slot.advance();
        Some(SlotToken(slot))
    }

    /// Whether a space may keep a slot; then it counts as kept until [`unkeep`](Self::unkeep). Half of all are for
    /// everybody.
    pub(super) fn keep(&self) -> bool {
        let mut lists = self.lists.lock();
        let may = lists.kept < self.slots.len() / 2 && lists.slot_waiters.is_empty();
        lists.kept += usize::from(may);
        may
    }

    /// A space keeps its slot no more.
    pub(super) fn unkeep(&self) {
        self.lists.lock().kept -= 1;
    }

    /// Queues a slot and wakes the service if it sleeps.
    #[inline(always)]
    pub(super) fn push(&self, token: SlotToken<P>) {
        let mut lists = self.lists.lock();
        lists.queue.push(token.slot());
        lists.wake_service();
    }

    /// Leaves a slot with the CPU until the poll in progress is over. A poll can leave one: of several, which are of a task
    /// that waits for many things at once, all are queued.
    #[inline(always)]
    pub(super) fn leave(&self, token: SlotToken<P>, cpu: usize) {
        let left = &self.own[cpu].left;
        if left.load(Ordering::Relaxed).is_null() {
            left.store(ptr::from_ref(token.slot()).cast_mut(), Ordering::Relaxed);
        } else {
            self.queue_both(token, cpu);
        }
    }

    #[cold]
    #[inline(never)]
    fn queue_both(&self, token: SlotToken<P>, cpu: usize) {
        if let Some(first) = self.take_left(cpu) {
            self.push(first);
        }
        self.push(token);
    }

    /// Whether a slot was left with the CPU.
    #[inline(always)]
    pub(super) fn has_left(&self, cpu: usize) -> bool {
        !self.own[cpu].left.load(Ordering::Relaxed).is_null()
    }

    /// Takes the slot that was left with the CPU.
    #[inline(always)]
    pub(super) fn take_left(&self, cpu: usize) -> Option<SlotToken<P>> {
        let left = &self.own[cpu].left;
        // SAFETY: the cell holds a slot of the table, as the lists do, or null.
        let slot: &'static Slot<P> = unsafe { left.load(Ordering::Relaxed).as_ref()? };
        left.store(ptr::null_mut(), Ordering::Relaxed);
        Some(SlotToken(slot))
    }

    /// Takes the oldest queued slot, and says whether it was the last: then, as with none, the service counts as asleep
    /// from now on, and the next push wakes it.
    #[inline(always)]
    pub(super) fn take(&self, waker: &Waker) -> (Option<SlotToken<P>>, bool) {
        let mut lists = self.lists.lock();
        let slot = lists.queue.pop();
        let last = lists.queue.head.is_null();
        if last {
            if !lists.service.as_ref().is_some_and(|current| current.will_wake(waker)) {
                lists.service = Some(waker.clone());
            }
            lists.service_sleeps = true;
        }
        (slot.map(SlotToken), last)
    }

    /// How to wake the service, once it has slept.
    pub(super) fn service_waker(&self) -> Option<Waker> {
        self.lists.lock().service.clone()
    }

    /// Whether the service has slept, so that it can be woken for faults that have to wait.
    #[inline(always)]
    pub(super) fn has_service(&self) -> bool {
        self.lists.lock().service.is_some()
    }

    /// Puts a slot at the end of those of its space that wait for a frame.
    pub(super) fn park_for_memory(&self, token: SlotToken<P>) {
        let mut lists = self.lists.lock();
        lists.memory.push(token);
        self.waiting_for_memory.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the slot whose turn it is to get a frame.
    pub(super) fn take_waiting(&self) -> Option<SlotToken<P>> {
        let mut lists = self.lists.lock();
        let token = lists.memory.pop()?;
        self.waiting_for_memory.fetch_sub(1, Ordering::Relaxed);
        Some(token)
    }

    /// What a CPU has of its own.
    #[inline(always)]
    pub(super) fn own(&self, cpu: usize) -> &Own<P> {
        &self.own[cpu]
    }

    /// Puts a slot at the end of those that wait for a transfer.
    pub(crate) fn park_for_transfer(&self, token: SlotToken<P>) {
        self.lists.lock().transfer.push(token.slot());
    }

    /// Queues up to `count` of the slots that wait for a transfer, oldest first.
    pub(crate) fn retry_for_transfer(&self, count: usize) {
        let mut lists = self.lists.lock();
        for _ in 0..count {
            let Some(slot) = lists.transfer.pop() else { return };
            lists.queue.push(slot);
            lists.wake_service();
        }
    }

    /// Ends a use: the slot is free for all, and a future that waits for one is woken.
    pub(super) fn release(&self, token: SlotToken<P>) {
        let mut lists = self.lists.lock();
        lists.free.push(token.slot());
        if !lists.slot_waiters.is_empty() && !mutant!(ForgetSlotWaiter) {
            drop(lists);
            self.pass_slot_on();
        }
    }

    /// Wakes the first future that waits for a slot, if there is one of each.
    #[cold]
    pub(super) fn pass_slot_on(&self) {
        let mut lists = self.lists.lock();
        if lists.free.head.is_null() {
            return;
        }
        // SAFETY: the lock of the list is held, and futures unlink their nodes before they go.
        let waker = unsafe { complete_first(&mut lists.slot_waiters, Ending::Done(FaultOutcome::Retry)) };
        drop(lists);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Runs `f` on the list of futures that wait for a slot; tells it whether one is free.
    pub(super) fn with_slot_waiters<R>(&self, f: impl FnOnce(&mut WaitList, bool) -> R) -> R {
        let mut lists = self.lists.lock();
        let free = !lists.free.head.is_null();
        f(&mut lists.slot_waiters, free)
    }
}

impl<P: Platform> Drop for FaultTable<P> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box in `new`; nobody serves a slot of a machine that is being dropped.
        drop(unsafe { Box::from_raw(self.slots.as_ptr()) });
    }
}
