//! Wakers that do more than wake a task: they call a shared object.

use core::mem::ManuallyDrop;
use core::task::{RawWaker, RawWakerVTable, Waker};

use faultline_fallible::Arc;

/// What is called by a waker.
pub trait Ring: Send + Sync + 'static {
    /// The wake.
    fn ring(&self);
}

/// A waker that rings a bell, which it keeps alive. Allocates nothing.
pub fn waker<T: Ring>(bell: Arc<T>) -> Waker {
    let raw = RawWaker::new(Arc::into_counted(bell).cast_const().cast(), table::<T>());
    // SAFETY: 1. the bell is `Send` and `Sync`; 2. each function of the table treats the word as one counted reference to
    // it: `clone` adds one, `wake` and `drop` take theirs, `wake_by_ref` leaves it.
    unsafe { Waker::from_raw(raw) }
}

const fn table<T: Ring>() -> &'static RawWakerVTable {
    &RawWakerVTable::new(clone::<T>, wake::<T>, wake_by_ref::<T>, forget::<T>)
}

/// # Safety
/// The word is a reference that [`waker`] or [`clone`] has counted for a `T`, and that is not given back yet.
unsafe fn take<T: Ring>(word: *const ()) -> Arc<T> {
    // SAFETY: it was made by `into_counted` of an `Arc<T>` (the contract).
    unsafe { Arc::from_counted(word.cast_mut().cast()) }
}

unsafe fn clone<T: Ring>(word: *const ()) -> RawWaker {
    // SAFETY: the waker's reference; it stays counted.
    let bell = ManuallyDrop::new(unsafe { take::<T>(word) });
    RawWaker::new(Arc::into_counted(Arc::clone(&bell)).cast_const().cast(), table::<T>())
}

unsafe fn wake<T: Ring>(word: *const ()) {
    // SAFETY: the waker's reference, which is given back here.
    unsafe { take::<T>(word) }.ring();
}

unsafe fn wake_by_ref<T: Ring>(word: *const ()) {
    // SAFETY: the waker's reference; it stays counted.
    ManuallyDrop::new(unsafe { take::<T>(word) }).ring();
}

unsafe fn forget<T: Ring>(word: *const ()) {
    // SAFETY: the waker's reference, which is given back here.
    drop(unsafe { take::<T>(word) });
}
