//! Waiters: the nodes by which fault futures hang in the lists of slots.
//!
//! A node lives inside its pinned future, so waiting allocates nothing. It is linked in one list at most: that of the
//! slot it waits for, or that of futures which wait for any slot to be free. Whoever owns the list's lock owns the
//! waker and the result of every linked node; once [`Waiter::is_done`] the node is in no list and belongs to its future
//! alone.

use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use core::mem::MaybeUninit;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::Waker;

use cordyceps::{Linked, List, list};

use super::Ending;

use crate::sync::atomic::{AtomicBool, Ordering};

/// A list of waiters, in the order in which they came. The first is beside the others: mostly there is but one.
pub(crate) struct WaitList {
    first: Option<NonNull<Waiter>>,
    others: List<Waiter>,
}

// SAFETY: the nodes are `Send` and are reached under the lock of the list only.
unsafe impl Send for WaitList {}

impl WaitList {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            others: List::new(),
        }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    #[inline(always)]
    fn push(&mut self, waiter: NonNull<Waiter>) {
        if self.is_empty() {
            self.first = Some(waiter);
        } else {
            self.others.push_back(waiter);
        }
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<NonNull<Waiter>> {
        self.first.take().or_else(|| self.others.pop_front())
    }

    /// # Safety
    /// The waiter is in this list.
    unsafe fn remove(&mut self, waiter: NonNull<Waiter>) {
        if self.first == Some(waiter) {
            self.first = None;
        } else {
            // SAFETY: it is not the first, so it is one of the others (the caller's promise).
            unsafe { self.others.remove(waiter) };
        }
    }
}

/// One waiting future's node.
pub(crate) struct Waiter {
    links: list::Links<Waiter>,
    /// Set last by whoever completes the waiter.
    done: AtomicBool,
    /// Owned by the list's lock until `done`.
    inside: UnsafeCell<Inside>,
    _pinned: PhantomPinned,
}

struct Inside {
    /// There while the node is linked.
    waker: MaybeUninit<Waker>,
    /// There once the waiter is done.
    ending: MaybeUninit<Ending>,
}

// SAFETY: 1. `inside` is only touched under the lock of the list that the node is in, or by the owning future when it
// is in none; 2. `done` is atomic; 3. wakers and results are `Send`.
unsafe impl Send for Waiter {}
// SAFETY: as above: every shared access is ordered by the list's lock or by `done`.
unsafe impl Sync for Waiter {}

// SAFETY: 1. a node is never moved while it is linked: it is `!Unpin` and is only linked through a `Pin`; 2. the owner
// unlinks it before it is dropped (`FaultFuture`'s `Drop`); 3. `links` are at a fixed place in it.
unsafe impl Linked<list::Links<Waiter>> for Waiter {
    type Handle = NonNull<Waiter>;

    fn into_ptr(handle: NonNull<Waiter>) -> NonNull<Waiter> {
        handle
    }

    unsafe fn from_ptr(pointer: NonNull<Waiter>) -> NonNull<Waiter> {
        pointer
    }

    unsafe fn links(target: NonNull<Waiter>) -> NonNull<list::Links<Waiter>> {
        // SAFETY: the caller promises that `target` is valid; the field's address is taken without a reference.
        unsafe { NonNull::new_unchecked(&raw mut (*target.as_ptr()).links) }
    }
}

impl Waiter {
    pub(crate) fn new() -> Self {
        Self {
            links: list::Links::new(),
            done: AtomicBool::new(false),
            inside: UnsafeCell::new(Inside {
                waker: MaybeUninit::uninit(),
                ending: MaybeUninit::uninit(),
            }),
            _pinned: PhantomPinned,
        }
    }

    /// Whether the waiter was completed. Acquire: the result, written before, may then be read.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Links the node at the end of `list`.
    ///
    /// # Safety
    /// The node is in no list, and the caller holds the lock of `list`.
    #[inline(always)]
    pub(crate) unsafe fn enqueue(self: Pin<&Self>, list: &mut WaitList, waker: &Waker) {
        // SAFETY: 1. the node is in no list, so this is the only access to `inside` (the caller's promise).
        unsafe { (*self.inside.get()).waker.write(waker.clone()) };
        self.done.store(false, Ordering::Relaxed);
        list.push(NonNull::from(self.get_ref()));
    }

    /// Replaces the waker if the future was polled by another one.
    ///
    /// # Safety
    /// The caller holds the lock of the list that the node is in.
    pub(crate) unsafe fn update(&self, waker: &Waker) {
        // SAFETY: 1. the lock of the list owns `inside` (the caller's promise); 2. a linked node has a waker.
        let current = unsafe { (*self.inside.get()).waker.assume_init_mut() };
        if !current.will_wake(waker) {
            *current = waker.clone();
        }
    }

    /// Takes the node out of `list`, and drops its waker.
    ///
    /// # Safety
    /// The caller holds the lock of `list`, and the node is in it.
    pub(crate) unsafe fn unlink(self: Pin<&Self>, list: &mut WaitList) {
        // SAFETY: 1. the node is in this list, as the caller promises; 2. a linked node has a waker, which nobody takes
        // once the node is out.
        unsafe {
            list.remove(NonNull::from(self.get_ref()));
            (*self.inside.get()).waker.assume_init_drop();
        }
    }

    /// What a completed waiter was told.
    ///
    /// # Safety
    /// [`is_done`](Self::is_done) was true, so the node is its future's alone.
    #[inline(always)]
    pub(crate) unsafe fn ending(&self) -> Ending {
        // SAFETY: nobody else touches `inside` any more (the caller's promise), and the ending was written before `done`.
        unsafe { (*self.inside.get()).ending.assume_init() }
    }
}

/// Completes the first waiter of `list` and returns its waker, to be woken after the lock was released. `None` if the
/// list is empty.
///
/// # Safety
/// The caller holds the lock of `list`, whose nodes are all alive.
#[inline(always)]
pub(crate) unsafe fn complete_first(list: &mut WaitList, ending: Ending) -> Option<Waker> {
    let node = list.pop()?;
    // SAFETY: 1. linked nodes are alive: a future unlinks its node under this lock before it goes; 2. the lock owns
    // `inside` until `done` is set, which is the last access here; 3. a linked node has a waker.
    unsafe {
        let inside = node.as_ref().inside.get();
        (*inside).ending.write(ending);
        let waker = (*inside).waker.assume_init_read();
        node.as_ref().done.store(true, Ordering::Release);
        Some(waker)
    }
}
