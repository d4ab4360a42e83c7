//! The code that knows the type of a task's future.
//!
//! The storage of a slot holds a [`Stage`]: the future until it is ready or cancelled, then the output until it is
//! taken. A stage that does not fit is boxed, and the storage holds the pointer. Which of the two, and in which stage
//! it is, is known to the callers: the former by the type, the latter by the state word.

use alloc::alloc::{alloc, dealloc};
use core::{
    alloc::Layout,
    future::Future,
    mem::{ManuallyDrop, needs_drop},
    pin::Pin,
    ptr,
    task::Poll,
};

use super::slot::{INLINE, STORAGE_ALIGN, Slot};

/// The functions of one future type, beside its [`PollFunction`].
///
/// Each function's caller holds the slot exclusively in the sense of `State`: the running CPU until `DONE`, the join
/// handle after it.
pub(crate) struct FutureTable {
    /// Drops the future; the storage is empty then.
    pub(crate) drop_future: unsafe fn(&'static Slot),
    /// Moves the output to the address given; the storage is empty then.
    pub(crate) take_output: unsafe fn(&'static Slot, *mut ()),
    /// Drops the output; the storage is empty then. `None` if there is nothing to do.
    pub(crate) drop_output: Option<unsafe fn(&'static Slot)>,
}

/// The future or its output.
union Stage<F: Future> {
    future: ManuallyDrop<F>,
    output: ManuallyDrop<F::Output>,
}

/// The functions for one future type.
struct Typed<F>(core::marker::PhantomData<F>);

impl<F: Future> Typed<F> {
    const INLINE: bool = size_of::<Stage<F>>() <= INLINE && align_of::<Stage<F>>() <= STORAGE_ALIGN;
    /// The layout of the box; never empty, as the allocator wants it.
    const LAYOUT: Layout = match size_of::<Stage<F>>() {
        0 => Layout::new::<(F, u8)>(),
        _ => Layout::new::<Stage<F>>(),
    };
    const TABLE: FutureTable = FutureTable {
        drop_future: Self::drop_future,
        take_output: Self::take_output,
        drop_output: if needs_drop::<F::Output>() || !Self::INLINE {
            Some(Self::drop_output)
        } else {
            None
        },
    };

    /// Runs `f` on the stage.
    ///
    /// # Safety
    /// The slot holds a stage of this type, and is the caller's.
    #[inline(always)]
    unsafe fn with_stage<R>(slot: &'static Slot, f: impl FnOnce(*mut Stage<F>) -> R) -> R {
        slot.storage.with_mut(|storage| {
            let mut stage = storage.cast::<Stage<F>>();
            if !Self::INLINE {
                // SAFETY: a stage that is not inline is in a box, and `install` stored its address in the storage.
                stage = unsafe { *storage.cast::<*mut Stage<F>>() };
            }
            f(stage)
        })
    }

    /// Frees the box, if there is one, when the stage has been emptied.
    ///
    /// # Safety
    /// `stage` is what `with_stage` gives, and is not used again.
    #[inline(always)]
    unsafe fn free(stage: *mut Stage<F>) {
        if !Self::INLINE {
            // SAFETY: `install` allocated it with this layout.
            unsafe { dealloc(stage.cast(), Self::LAYOUT) }
        }
    }

    unsafe fn poll(slot: &'static Slot) -> Poll<()> {
        /// Drops the future if its poll unwinds.
        struct OnUnwind<F: Future>(*mut Stage<F>);
        impl<F: Future> Drop for OnUnwind<F> {
            fn drop(&mut self) {
                // SAFETY: the future is still there, and nobody uses it after its poll has panicked.
                unsafe {
                    ManuallyDrop::drop(&mut (*self.0).future);
                    Typed::<F>::free(self.0);
                }
            }
        }

        // SAFETY: the caller vouches for the slot. The future is pinned: it stays in place until it is dropped there,
        // as the slot and the box never move.
        unsafe {
            Self::with_stage(slot, |stage| {
                let guard = OnUnwind(stage);
                let future = Pin::new_unchecked(&mut *(*stage).future);
                let poll = slot.with_context(|cx| future.poll(cx));
                core::mem::forget(guard);
                let Poll::Ready(output) = poll else {
                    return Poll::Pending;
                };
                ManuallyDrop::drop(&mut (*stage).future);
                ptr::write(
                    stage,
                    Stage {
                        output: ManuallyDrop::new(output),
                    },
                );
                Poll::Ready(())
            })
        }
    }

    unsafe fn drop_future(slot: &'static Slot) {
        // SAFETY: the caller vouches for the slot, and that the stage is a future.
        unsafe {
            Self::with_stage(slot, |stage| {
                ManuallyDrop::drop(&mut (*stage).future);
                Self::free(stage);
            });
        }
    }

    unsafe fn take_output(slot: &'static Slot, to: *mut ()) {
        // SAFETY: the caller vouches for the slot, that the stage is an output, and that `to` is valid for writing one.
        unsafe {
            Self::with_stage(slot, |stage| {
                ptr::copy_nonoverlapping(&raw const (*stage).output, to.cast(), 1);
                Self::free(stage);
            });
        }
    }

    unsafe fn drop_output(slot: &'static Slot) {
        // SAFETY: the caller vouches for the slot, and that the stage is an output.
        unsafe {
            Self::with_stage(slot, |stage| {
                ManuallyDrop::drop(&mut (*stage).output);
                Self::free(stage);
            });
        }
    }
}

/// Polls the future. When it is ready, the future has been dropped and the output is stored. When it panics, the storage
/// is empty. The caller holds the slot as [`FutureTable`] says. (The functions for tasks that are to be cancelled, or that have
/// ended, are of this type too, and know what they find.)
pub(crate) type PollFunction = unsafe fn(&'static Slot) -> Poll<()>;

impl FutureTable {
    /// Drops the output.
    ///
    /// # Safety
    /// As the functions of the table; the storage has an output.
    pub(crate) unsafe fn drop_output(&self, slot: &'static Slot) {
        if let Some(drop_output) = self.drop_output {
            // SAFETY: the caller vouches for the slot.
            unsafe { drop_output(slot) }
        }
    }
}

/// Where a future will be put, with the memory for it.
pub(crate) struct Install<F: Future> {
    boxed: *mut Stage<F>,
}

/// Gets the memory for a future that is larger than a slot. `None` if there is none.
#[inline(always)]
pub(crate) fn install<F: Future>() -> Option<Install<F>> {
    if Typed::<F>::INLINE {
        return Some(Install { boxed: ptr::null_mut() });
    }
    // SAFETY: the layout is not empty.
    let boxed = unsafe { alloc(Typed::<F>::LAYOUT) }.cast::<Stage<F>>();
    // Not `then_some`: what that makes and drops would free a box that never was.
    (!boxed.is_null()).then(|| Install { boxed })
}

impl<F: Future> Install<F> {
    /// Puts the future into the slot.
    ///
    /// # Safety
    /// The slot came from the free list and is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn finish(self, slot: &'static Slot, future: F) {
        slot.storage.with_mut(|storage| {
            let stage = if Typed::<F>::INLINE {
                storage.cast::<Stage<F>>()
            } else {
                // SAFETY: the storage is large and aligned enough for a pointer, and is the caller's.
                unsafe { storage.cast::<*mut Stage<F>>().write(self.boxed) };
                self.boxed
            };
            // SAFETY: the stage is valid for writing: it is the storage, which it fits, or the box.
            unsafe {
                ptr::write(
                    stage,
                    Stage {
                        future: ManuallyDrop::new(future),
                    },
                )
            };
        });
        slot.set_poll(Typed::<F>::poll);
        // SAFETY: the slot is the caller's.
        slot.table
            .with_mut(|table| unsafe { (*table).write(&Typed::<F>::TABLE) });
        core::mem::forget(self);
    }
}

impl<F: Future> Drop for Install<F> {
    fn drop(&mut self) {
        // SAFETY: the box was not handed to a slot, and holds no value yet.
        unsafe { Typed::<F>::free(self.boxed) };
    }
}
