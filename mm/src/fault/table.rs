//! All fault slots of a machine, and the lists that they are in.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU16, Ordering};
use core::task::Waker;

use spin::Mutex;

use super::FaultOutcome;
use super::slot::{NONE, Request, Slot, SlotToken};
use super::waiter::{WaitList, complete_first};
use crate::platform::Platform;

/// A first-in, first-out list through the slots' links.
struct Fifo {
    head: u16,
    tail: u16,
    len: usize,
}

impl Fifo {
    const EMPTY: Fifo = Fifo {
        head: NONE,
        tail: NONE,
        len: 0,
    };

    #[inline]
    fn push(&mut self, links: &[AtomicU16], index: u16) {
        links[usize::from(index)].store(NONE, Ordering::Relaxed);
        match self.tail {
            NONE => self.head = index,
            tail => links[usize::from(tail)].store(index, Ordering::Relaxed),
        }
        self.tail = index;
        self.len += 1;
    }

    #[inline]
    fn pop(&mut self, links: &[AtomicU16]) -> Option<u16> {
        let index = self.head;
        if index == NONE {
            return None;
        }
        self.head = links[usize::from(index)].load(Ordering::Relaxed);
        if self.head == NONE {
            self.tail = NONE;
        }
        self.len -= 1;
        Some(index)
    }
}

/// What the lock of the table guards. The lock is the innermost: it is taken under a space's lock, never around one.
struct Lists {
    free: Fifo,
    queue: Fifo,
    /// Slots that wait for a free frame, in the order in which they found none.
    memory: Fifo,
    /// Futures that wait for a slot.
    slot_waiters: WaitList,
    /// How to wake the service.
    service: Option<Waker>,
    /// The service has found the queue empty and sleeps.
    service_sleeps: bool,
}

/// All fault slots of a machine.
pub(crate) struct FaultTable<P: Platform> {
    slots: Box<[Slot<P>]>,
    /// Next slot in whichever list a slot is in; guarded by `lists`.
    links: Box<[AtomicU16]>,
    lists: Mutex<Lists>,
}

impl<P: Platform> FaultTable<P> {
    pub(crate) fn new(count: usize) -> Self {
        let slots = (0..count as u16).map(Slot::new).collect();
        let links: Box<[AtomicU16]> = (0..count).map(|_| AtomicU16::new(NONE)).collect();
        let mut free = Fifo::EMPTY;
        for index in 0..count as u16 {
            free.push(&links, index);
        }
        let lists = Lists {
            free,
            queue: Fifo::EMPTY,
            memory: Fifo::EMPTY,
            slot_waiters: WaitList::new(),
            service: None,
            service_sleeps: false,
        };
        Self {
            slots,
            links,
            lists: Mutex::new(lists),
        }
    }

    #[inline]
    pub(crate) fn slot(&self, index: u16) -> &Slot<P> {
        &self.slots[usize::from(index)]
    }

    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.lists.lock().free.len
    }

    pub(crate) fn waiting_for_memory(&self) -> usize {
        self.lists.lock().memory.len
    }

    /// Takes a free slot for a new use.
    #[inline]
    pub(super) fn claim(&self) -> Option<SlotToken> {
        let index = self.lists.lock().free.pop(&self.links)?;
        self.slot(index).advance();
        Some(SlotToken(index))
    }

    /// Writes the request of a slot that was just claimed.
    #[inline]
    pub(super) fn fill(&self, token: &SlotToken, request: Request<P>) {
        // SAFETY: the slot was just claimed, so no space links to it yet, and the token is the caller's.
        unsafe { self.slot(token.index()).replace_request(Some(request)) };
    }

    /// Queues a slot and wakes the service if it sleeps.
    #[inline]
    pub(super) fn push(&self, token: SlotToken) {
        let mut lists = self.lists.lock();
        lists.queue.push(&self.links, token.index());
        if lists.service_sleeps {
            lists.service_sleeps = false;
            // Wakers neither poll nor call back (the contract of the executor), so the lock may be held.
            if let Some(waker) = &lists.service {
                waker.wake_by_ref();
            }
        }
    }

    /// Takes the oldest queued slot; with none, notes that the service sleeps from now on.
    #[inline]
    pub(super) fn take(&self, waker: &Waker) -> Option<SlotToken> {
        let mut lists = self.lists.lock();
        if let Some(index) = lists.queue.pop(&self.links) {
            return Some(SlotToken(index));
        }
        match &lists.service {
            Some(current) if current.will_wake(waker) => {}
            _ => lists.service = Some(waker.clone()),
        }
        lists.service_sleeps = true;
        None
    }

    /// How to wake the service, once it has slept.
    pub(super) fn service_waker(&self) -> Option<Waker> {
        self.lists.lock().service.clone()
    }

    /// Puts a slot at the end of those that wait for a frame.
    pub(super) fn park_for_memory(&self, token: SlotToken) {
        self.lists.lock().memory.push(&self.links, token.index());
    }

    /// Queues up to `count` of the slots that wait for a frame, oldest first, ahead of nothing: those that find no frame
    /// go back to the end in the same order.
    pub(super) fn retry_for_memory(&self, count: usize) -> usize {
        let mut lists = self.lists.lock();
        let mut moved = 0;
        while moved < count
            && let Some(index) = lists.memory.pop(&self.links)
        {
            lists.queue.push(&self.links, index);
            moved += 1;
        }
        moved
    }

    /// Ends a use: the slot is free, and a future that waits for one is woken.
    #[inline]
    pub(super) fn release(&self, token: SlotToken) {
        let mut lists = self.lists.lock();
        lists.free.push(&self.links, token.index());
        if !lists.slot_waiters.is_empty() {
            // SAFETY: the lock of the list is held, and futures unlink their nodes before they go.
            let waker = unsafe { complete_first(&mut lists.slot_waiters, Ok(FaultOutcome::Retry)) };
            drop(lists);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// A future that was woken because a slot is free goes away without using it: wakes the next one.
    pub(super) fn pass_slot_on(&self) {
        let mut lists = self.lists.lock();
        if lists.free.len > 0 && !lists.slot_waiters.is_empty() {
            // SAFETY: as in `release`.
            let waker = unsafe { complete_first(&mut lists.slot_waiters, Ok(FaultOutcome::Retry)) };
            drop(lists);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Runs `f` on the list of futures that wait for a slot; tells it whether one is free.
    pub(super) fn with_slot_waiters<R>(&self, f: impl FnOnce(&mut WaitList, bool) -> R) -> R {
        let mut lists = self.lists.lock();
        let free = lists.free.len > 0;
        f(&mut lists.slot_waiters, free)
    }
}
