//! Awaiting and cancelling a task.

use core::{
    fmt,
    future::Future,
    marker::PhantomData,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    TaskId,
    task::{Released, Slot, bits},
    waits::{Edge, Target},
};

/// Why a task ended without an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// The task was cancelled before it was ready.
    Cancelled,
    /// The task's poll panicked (on the host: the kernel aborts at a panic).
    Panicked,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "the task was cancelled",
            Self::Panicked => "the task panicked",
        })
    }
}

impl core::error::Error for JoinError {}

/// The right to await a task's output, and to cancel it.
///
/// Awaiting the handle gives the output. Dropping it detaches the task, which then runs on by itself; say so by
/// [`JoinHandle::detach`].
#[must_use = "await, cancel or detach the task"]
pub struct JoinHandle<T> {
    slot: &'static Slot,
    id: TaskId,
    /// The output has been taken.
    taken: bool,
    /// The edge in the slot is in the wait-for graph.
    waiting: bool,
    output: PhantomData<fn() -> T>,
}

// SAFETY: the handle moves an output, which is `Send`, out of the slot; the slot is `Sync`.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: a shared handle gives access to the atomic state only.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> Unpin for JoinHandle<T> {}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinHandle").field(&self.id()).finish()
    }
}

impl<T> JoinHandle<T> {
    /// The caller has set `HANDLE`, and the output of the task has the type `T`.
    #[inline(always)]
    pub(crate) fn new(slot: &'static Slot, id: TaskId) -> Self {
        Self {
            slot,
            id,
            taken: false,
            waiting: false,
            output: PhantomData,
        }
    }

    /// The id of the task.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The name of the task.
    #[must_use]
    pub fn name(&self) -> &'static str {
        // SAFETY: the handle is a reference.
        unsafe { self.slot.name() }
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.slot.state.load() & bits::DONE != 0
    }

    /// Lets the task run on by itself. Its output will be dropped.
    #[inline]
    pub fn detach(self) {}

    /// Asks that the task be cancelled: in the next turn of its CPU the executor drops the future, instead of polling
    /// it, and so runs its clean-up. The handle can still be awaited: it gives [`JoinError::Cancelled`], or the output
    /// if the task was ready first.
    pub fn cancel(&self) {
        // SAFETY: the handle is a reference.
        let queue = unsafe { self.slot.queue() };
        queue.executor().cancel(self.slot, self.id);
    }

    /// The output, if the task has ended; the handle back, if it has not.
    ///
    /// # Errors
    /// The handle itself.
    pub fn try_join(mut self) -> Result<Result<T, JoinError>, Self> {
        match self.take() {
            Some(result) => Ok(result),
            None => Err(self),
        }
    }

    /// Takes the output if the task has ended.
    fn take(&mut self) -> Option<Result<T, JoinError>> {
        let word = self.slot.state.load_acquire();
        if word & bits::DONE == 0 {
            return None;
        }
        assert!(!self.taken, "a join handle was polled after it was ready");
        self.taken = true;
        self.leave();
        Some(if word & bits::OUTPUT != 0 {
            let mut output = MaybeUninit::<T>::uninit();
            // SAFETY: the task is `DONE`, so the storage is the handle's; it has an output of type `T` that was not
            // taken yet.
            unsafe {
                (self.slot.table().take_output)(self.slot, output.as_mut_ptr().cast());
                Ok(output.assume_init())
            }
        } else if word & bits::PANICKED != 0 {
            Err(JoinError::Panicked)
        } else {
            Err(JoinError::Cancelled)
        })
    }

    /// Declares that the current task waits for this one, which lends it its class.
    fn enter(&mut self) {
        // SAFETY: the handle is a reference.
        let executor = unsafe { self.slot.queue() }.executor();
        if let Some(waiter) = executor.current() {
            let edge = self.slot.joined.with_mut(|edge| {
                // SAFETY: the edge is not in the graph, so it is the handle's.
                unsafe { (*edge).write(Edge::new(executor, waiter, 0, Target::Task(self.slot))) as *mut Edge }
            });
            // SAFETY: the edge is in the slot, which the handle keeps, and `leave` removes it, at the latest in `drop`.
            unsafe { executor.graph().add(executor, edge) };
            self.waiting = true;
        }
    }

    /// Ends the declared wait.
    #[inline(always)]
    fn leave(&mut self) {
        if self.waiting {
            self.waiting = false;
            // SAFETY: the handle is a reference.
            let executor = unsafe { self.slot.queue() }.executor();
            let edge = self.slot.joined.with_mut(<*mut _>::cast::<Edge>);
            // SAFETY: `waiting` shows that the edge was added.
            unsafe { executor.graph().remove(executor, edge) };
        }
    }

    /// Registers the waker. `Err` if the task is done.
    fn register(&mut self, cx: &Context<'_>) -> Result<(), ()> {
        let state = &self.slot.state;
        if state.load() & bits::JOINER != 0 {
            let same = self.slot.joiner.with(|joiner| {
                // SAFETY: `JOINER` is set: the cell is only read.
                let registered = unsafe { &*joiner };
                registered
                    .as_ref()
                    .is_some_and(|registered| registered.will_wake(cx.waker()))
            });
            if same {
                return Ok(());
            }
            state.set_joiner(false)?;
            // Perhaps another task than before waits.
            self.leave();
        }
        // SAFETY: `JOINER` is clear and the task was not done: the cell is the handle's until `set_joiner`.
        let old = self
            .slot
            .joiner
            .with_mut(|joiner| unsafe { (*joiner).replace(cx.waker().clone()) });
        let registered = state.set_joiner(true);
        drop(old);
        if registered.is_ok() && !self.waiting {
            self.enter();
        }
        registered
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.take() {
            return Poll::Ready(result);
        }
        if self.register(cx).is_ok() {
            return Poll::Pending;
        }
        Poll::Ready(self.take().expect("a task that can't be waited for is done"))
    }
}

impl<T> Drop for JoinHandle<T> {
    #[inline]
    fn drop(&mut self) {
        self.leave();
        let Err(word) = self.slot.state.drop_handle() else {
            return;
        };
        // SAFETY: the handle is a reference.
        let queue = unsafe { self.slot.queue() };
        if word & bits::OUTPUT != 0 && !self.taken {
            // SAFETY: the task is `DONE`: the storage is the handle's, and has an output.
            unsafe { self.slot.table().drop_output(self.slot) };
        }
        if self.slot.state.release(bits::HANDLE) == Released::Freed {
            queue.executor().give(self.slot);
        }
    }
}
