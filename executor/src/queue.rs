//! The run queue of one class on one CPU.
//!
//! It is a first-in first-out queue made of two parts. Anybody may push on the **inbox**, a lock-free stack; only the
//! CPU that owns the queue takes from the **list**, and when the list is empty it takes the whole inbox at once and
//! reverses it. All tasks of the list are older than those of the inbox, so the order is that of the pushes; the owner
//! may also put a task in front of the list. A push is one read-modify-write, whoever pushes and from wherever: a task,
//! an interrupt handler or another CPU. Both parts are linked through the slots, so neither can overflow.
//!
//! A CPU that is about to sleep marks its empty inboxes. Who pushes on a marked inbox has to notify the CPU. As mark and
//! push are read-modify-writes of one word, one of them is first: either the CPU sees the task and does not sleep, or the
//! pusher sees the mark.
//!
//! # Memory order
//!
//! * Push: **Release**, so that what the pusher wrote to the slot (its `next`, at spawn everything) is seen by the CPU
//!   that pops it. The stack is only ever taken as a whole, so there is no ABA problem.
//! * Take: **Acquire**, the other half.
//! * Everything else belongs to the owner, and is not atomic; links are, because the pusher writes them too, but Relaxed.

use core::ptr;

use crate::{
    Class,
    executor::Inner,
    sync::{AtomicPtr, AtomicU64, Ordering, UnsafeCell, mutant},
    task::Slot,
};

/// In an inbox, or at the end of the chain that was pushed on it: the CPU that owns it sleeps.
const ASLEEP: *mut Slot = ptr::without_provenance_mut(1);

/// Whether a link is the end of a chain.
#[inline(always)]
fn is_end(link: *mut Slot) -> bool {
    link.addr() <= ASLEEP.addr()
}

/// The run queue of one class on one CPU.
#[repr(C)]
pub(crate) struct ClassQueue {
    /// Tasks that were pushed since the CPU last took them, the newest first.
    inbox: AtomicPtr<Slot>,
    /// Tasks that the CPU has taken from the inbox, the oldest first. The owner's; atomic only because that makes the
    /// compiler's choice of instructions the better one.
    list: AtomicPtr<Slot>,
    /// What is left of the share of the turn. The owner's.
    left: UnsafeCell<u16>,
    /// What the turn has given up of it. The owner's.
    forfeited: UnsafeCell<u16>,
    /// How many tasks were popped so far. Written by the owner, read by the statistics.
    popped: AtomicU64,
    /// The executor that this belongs to.
    pub(crate) executor: *const dyn Inner,
    /// Whether there are other CPUs, so that a push may have to notify the owner.
    pub(crate) has_others: bool,
    /// The CPU that owns the queue.
    pub(crate) cpu: usize,
    /// The class.
    pub(crate) class: Class,
}

// SAFETY: `executor` points at an `Executor`, which is `Sync` and lives for ever; the cells are used by the functions
// that ask to be called by the owner only.
unsafe impl Send for ClassQueue {}
// SAFETY: as above.
unsafe impl Sync for ClassQueue {}

impl ClassQueue {
    pub(crate) fn new(executor: *const dyn Inner, cpu: usize, has_others: bool, class: Class) -> Self {
        Self {
            inbox: AtomicPtr::new(ptr::null_mut()),
            list: AtomicPtr::new(ptr::null_mut()),
            left: UnsafeCell::new(0),
            forfeited: UnsafeCell::new(0),
            popped: AtomicU64::new(0),
            executor,
            has_others,
            cpu,
            class,
        }
    }

    /// The executor that this belongs to.
    #[inline(always)]
    pub(crate) fn executor(&self) -> &'static dyn Inner {
        // SAFETY: `Executor::new` set it to the address of the executor, which is never freed; a queue is reachable
        // only after `new` has filled the executor in.
        unsafe { &*self.executor }
    }

    /// How many tasks were popped so far.
    #[inline(always)]
    pub(crate) fn popped(&self) -> u64 {
        self.popped.load(Ordering::Relaxed)
    }

    /// Grants a share: the next so many tasks.
    ///
    /// # Safety
    /// The caller is the owner: it has the turn of the queue's CPU.
    #[inline(always)]
    pub(crate) unsafe fn grant(&self, share: u16) {
        // SAFETY: the cell is the owner's.
        self.left.with_mut(|left| unsafe { *left = share });
    }

    /// Counts what was popped of a share.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`].
    #[inline(always)]
    pub(crate) unsafe fn settle(&self, share: u16) -> u16 {
        // SAFETY: the cell is the owner's.
        let left = self.left.with(|left| unsafe { *left });
        if left == share {
            return 0;
        }
        // SAFETY: as above.
        let forfeited = self
            .forfeited
            .with_mut(|forfeited| unsafe { core::mem::take(&mut *forfeited) });
        let used = share - left - forfeited;
        self.popped.store(self.popped() + u64::from(used), Ordering::Relaxed);
        used
    }

    /// Counts one task against the share. `false` if the share is used up.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`].
    #[inline(always)]
    pub(crate) unsafe fn charge(&self) -> bool {
        // SAFETY: the cell is the owner's.
        self.left.with_mut(|left| unsafe {
            let may = *left != 0;
            if may {
                *left -= 1;
            }
            may
        })
    }

    /// Whether something is in the inbox; from anywhere.
    #[inline(always)]
    pub(crate) fn has_mail(&self) -> bool {
        self.inbox.load(Ordering::Relaxed).addr() > ASLEEP.addr()
    }

    /// Not 0 if something is in the inbox, or the mark: for the owner, which has none in its turn.
    #[inline(always)]
    pub(crate) fn inbox_word(&self) -> usize {
        self.inbox.load(Ordering::Relaxed).addr()
    }

    /// Not 0 if something is in the list.
    #[inline(always)]
    pub(crate) fn list_word(&self) -> usize {
        self.list.load(Ordering::Relaxed).addr()
    }

    /// Not 0 if a task is queued, or for the mark.
    #[inline(always)]
    pub(crate) fn word(&self) -> usize {
        self.list_word() | self.inbox_word()
    }

    /// Marks the inbox of a CPU that goes to sleep. `false` if something is in it.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.inbox
            .compare_exchange(ptr::null_mut(), ASLEEP, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the mark away, if nothing was pushed on it.
    pub(crate) fn wake_up(&self) {
        let _ = self
            .inbox
            .compare_exchange(ASLEEP, ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Queues a task, if nobody else does so at this moment. The caller has set its `ENQUEUED`. Says whether the owner was
    /// asleep; `Err` with the newest task if somebody was faster.
    #[inline(always)]
    pub(crate) fn push(&self, task: &'static Slot) -> Result<bool, *mut Slot> {
        self.try_push(task, self.inbox.load(Ordering::Relaxed))
    }

    /// Queues a task in an inbox whose newest task was `head`. `Err` with the newest one if that is not so any more.
    #[inline(always)]
    fn try_push(&self, task: &'static Slot, head: *mut Slot) -> Result<bool, *mut Slot> {
        task.next.store(head, Ordering::Relaxed);
        self.inbox
            .compare_exchange(head, task.as_ptr(), Ordering::Release, Ordering::Relaxed)
            .map(|_| head == ASLEEP)
    }

    /// Queues a task after another CPU, or an interrupt handler, was faster. Out of line, so that the usual case is no loop.
    #[cold]
    #[inline(never)]
    pub(crate) fn push_again(&self, task: &'static Slot, mut head: *mut Slot) -> bool {
        loop {
            match self.try_push(task, head) {
                Ok(asleep) => return asleep,
                Err(now) => head = now,
            }
        }
    }

    /// Queues a task before all others. The caller has set its `ENQUEUED`.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`].
    pub(crate) unsafe fn push_front(&self, task: &'static Slot) {
        task.next.store(self.list.load(Ordering::Relaxed), Ordering::Relaxed);
        self.list.store(task.as_ptr(), Ordering::Relaxed);
    }

    /// Queues a task right behind another. The caller has set its `ENQUEUED`.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`]; `before` is in the list since the caller has put it there.
    pub(crate) unsafe fn push_behind(&self, before: &'static Slot, task: &'static Slot) {
        task.next.store(before.next.load(Ordering::Relaxed), Ordering::Relaxed);
        before.next.store(task.as_ptr(), Ordering::Relaxed);
    }

    /// Ends the share of the turn.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`].
    pub(crate) unsafe fn spend(&self) {
        // SAFETY: the cells are the owner's.
        let left = self.left.with_mut(|left| unsafe { core::mem::take(&mut *left) });
        // SAFETY: as above.
        self.forfeited.with_mut(|forfeited| unsafe { *forfeited += left });
    }

    /// The first task of the list, if that is not empty.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<&'static Slot> {
        // SAFETY: the list holds slots, which are never freed, and ends with null.
        unsafe { self.list.load(Ordering::Relaxed).as_ref() }
    }

    /// Takes the oldest task.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`].
    #[inline(always)]
    pub(crate) unsafe fn pop(&self) -> Option<&'static Slot> {
        // SAFETY: the caller is the owner.
        unsafe {
            match self.first() {
                Some(first) => Some(self.pop_first(first)),
                None if self.inbox_word() != 0 => Some(self.take_inbox()),
                None => None,
            }
        }
    }

    /// Takes the first task of the list out, and returns it.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`]; `first` is what [`ClassQueue::first`] gives.
    #[inline(always)]
    pub(crate) unsafe fn pop_first(&self, first: &'static Slot) -> &'static Slot {
        self.list.store(first.next.load(Ordering::Relaxed), Ordering::Relaxed);
        first
    }

    /// Moves the inbox to the list, but for the oldest task, which it returns.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`]; the list is empty, and the inbox is not.
    #[inline(always)]
    pub(crate) unsafe fn take_inbox(&self) -> &'static Slot {
        let newest = self.inbox.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: the inbox was not empty and only its owner takes from it, so this is a slot; slots are never freed.
        let newest: &'static Slot = unsafe { &*newest };
        let next = newest.next.load(Ordering::Relaxed);
        if is_end(next) || mutant!(LoseInbox) {
            // A lone task, which is the common case: the list stays empty.
            return newest;
        }
        // SAFETY: the chain holds slots, which are never freed. The caller is the owner.
        unsafe { self.pop_first(&*Self::reverse(newest, next)) }
    }

    /// Moves the inbox to the list, or returns the only task in it.
    ///
    /// # Safety
    /// As [`ClassQueue::take_inbox`].
    #[inline(always)]
    pub(crate) unsafe fn take_only(&self) -> Option<&'static Slot> {
        let newest = self.inbox.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: as in `take_inbox`.
        let newest: &'static Slot = unsafe { &*newest };
        let next = newest.next.load(Ordering::Relaxed);
        if is_end(next) || mutant!(LoseInbox) {
            return Some(newest);
        }
        self.list.store(Self::reverse(newest, next), Ordering::Relaxed);
        None
    }

    /// Takes all tasks out that belong to another queue by now, or once `look` has looked at them, and gives them to `moved`.
    /// It looks at every task in the queue, so it is for rare events.
    ///
    /// # Safety
    /// As [`ClassQueue::grant`].
    pub(crate) unsafe fn take_moved(
        &self,
        look: impl Fn(&'static Slot),
        mut moved: impl FnMut(&'static Slot, &'static ClassQueue),
    ) {
        let mut link = &self.list;
        loop {
            let mut task = link.load(Ordering::Relaxed);
            if task.is_null() {
                // The list has ended: the inbox goes on. It may be taken more than once.
                let newest = self.inbox.swap(ptr::null_mut(), Ordering::Acquire);
                if is_end(newest) {
                    return;
                }
                // SAFETY: the inbox holds slots, which are never freed.
                let newest: &'static Slot = unsafe { &*newest };
                let next = newest.next.load(Ordering::Relaxed);
                task = if is_end(next) {
                    newest.next.store(ptr::null_mut(), Ordering::Relaxed);
                    newest.as_ptr()
                } else {
                    Self::reverse(newest, next)
                };
                link.store(task, Ordering::Relaxed);
            }
            // SAFETY: the chain holds slots, which are never freed.
            let slot: &'static Slot = unsafe { &*task };
            look(slot);
            // SAFETY: the task is queued, so it has `LIVE`, which is a reference.
            let queue = unsafe { slot.queue() };
            if ptr::eq(queue, self) {
                link = &slot.next;
            } else {
                link.store(slot.next.load(Ordering::Relaxed), Ordering::Relaxed);
                moved(slot, queue);
            }
        }
    }

    /// Turns the chain that starts with `newest` and `next` around; returns the oldest.
    fn reverse(newest: &'static Slot, next: *mut Slot) -> *mut Slot {
        // SAFETY: the chain holds slots, which are never freed; it belongs to the caller since it left the inbox.
        let turn = |task: *mut Slot, newer: *mut Slot| unsafe {
            let older = (*task).next.load(Ordering::Relaxed);
            (*task).next.store(newer, Ordering::Relaxed);
            older
        };
        newest.next.store(ptr::null_mut(), Ordering::Relaxed);
        // Three links a round: each pointer is the older, the middle and the newer one in turn, and none has to be moved.
        let (mut newer, mut task) = (newest.as_ptr(), next);
        loop {
            let older = turn(task, newer);
            if is_end(older) {
                return task;
            }
            newer = turn(older, task);
            if is_end(newer) {
                return older;
            }
            task = turn(newer, older);
            if is_end(task) {
                return newer;
            }
        }
    }
}
