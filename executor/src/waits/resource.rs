//! Things that tasks wait for and hold.

use alloc::sync::Arc;
use core::{
    fmt,
    future::Future,
    marker::PhantomPinned,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    DEPTH,
    graph::{Edge, Event, Target, lend_to_task},
};
use crate::{
    Class, TaskId,
    executor::Inner,
    sync::{AtomicU32, Mutex, Ordering},
    task::Slot,
};

/// Something that tasks wait for: a device, a buffer, a lock. Made by [`Executor::resource`](crate::Executor::resource).
///
/// It holds nothing and blocks nobody. It is for the wait-for graph, and it passes the class of those who wait on to the
/// task that holds it. Clones are the same resource.
#[derive(Clone)]
pub struct Resource {
    executor: &'static dyn Inner,
    state: Arc<ResourceState>,
}

/// Changed under the lock of the graph; atomic and locked only so that this needs no `unsafe`, hence Relaxed.
pub(crate) struct ResourceState {
    pub(super) name: &'static str,
    /// The task that holds it.
    holder: Mutex<Option<Holder>>,
    /// How many edges of each class end here.
    waiters: [AtomicU32; Class::COUNT],
}

/// The task that holds a resource.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) slot: &'static Slot,
    pub(super) id: TaskId,
    pub(super) name: &'static str,
}

/// How the waiters of a resource changed.
pub(super) struct Change {
    pub(super) holder: Option<&'static Slot>,
    pub(super) old: Option<Class>,
    pub(super) new: Option<Class>,
}

impl ResourceState {
    pub(super) fn holder(&self) -> Option<Holder> {
        *self.holder.lock()
    }

    /// The highest class that waits.
    fn highest(&self) -> Option<Class> {
        Class::ALL
            .into_iter()
            .find(|class| self.waiters[class.index()].load(Ordering::Relaxed) != 0)
    }

    /// A waiter changes its class, begins or ends to wait.
    pub(super) fn change_waiters(&self, old: Option<Class>, new: Option<Class>) -> Change {
        let before = self.highest();
        if let Some(class) = old {
            self.waiters[class.index()].fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(class) = new {
            self.waiters[class.index()].fetch_add(1, Ordering::Relaxed);
        }
        Change {
            holder: self.holder().map(|holder| holder.slot),
            old: before,
            new: self.highest(),
        }
    }
}

impl Resource {
    pub(crate) fn new(executor: &'static dyn Inner, name: &'static str) -> Self {
        let state = ResourceState {
            name,
            holder: Mutex::new(None),
            waiters: core::array::from_fn(|_| AtomicU32::new(0)),
        };
        Self {
            executor,
            state: Arc::new(state),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.state.name
    }

    /// Declares that the current task waits for this resource while the future is pending.
    pub fn wait<F: Future>(&self, future: F) -> Waiting<F> {
        Waiting::new(self.executor, Subject::Resource(self.state.clone()), future)
    }

    /// Declares that the current task holds this resource, until the guard is dropped. Whoever held it before does not
    /// any more. `None` outside of a task.
    #[must_use = "the resource is held as long as this exists"]
    pub fn hold(&self) -> Option<Held> {
        let slot = self.executor.current()?;
        // SAFETY: the task is being polled, so it is `LIVE`.
        let name = unsafe { slot.name() };
        let holder = Holder {
            slot,
            id: slot.id(),
            name,
        };
        self.pass_to(Some(holder));
        Some(Held {
            resource: self.clone(),
            holder,
        })
    }

    /// Makes another task the holder, and moves what the waiters lend.
    fn pass_to(&self, holder: Option<Holder>) {
        let _lock = self.executor.graph().0.lock();
        let lent = self.state.highest();
        if let Some(old) = self.state.holder() {
            lend_to_task(self.executor, old.slot, lent, None, DEPTH);
        }
        *self.state.holder.lock() = holder;
        if let Some(new) = holder {
            lend_to_task(self.executor, new.slot, None, lent, DEPTH);
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resource").field(&self.state.name).finish()
    }
}

/// A task holds a resource; from [`Resource::hold`].
#[must_use = "the resource is held as long as this exists"]
pub struct Held {
    resource: Resource,
    holder: Holder,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held")
            .field(&self.resource.state.name)
            .field(&self.holder.id)
            .finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.resource.state.holder() == Some(self.holder) {
            self.resource.pass_to(None);
        }
    }
}

/// The future of [`Resource::wait`] and [`Executor::wait_for`](crate::Executor::wait_for).
#[must_use = "futures do nothing unless polled"]
pub struct Waiting<F> {
    future: F,
    executor: &'static dyn Inner,
    subject: Subject,
    /// In the graph as long as it is here.
    edge: Option<Edge>,
    _pinned: PhantomPinned,
}

/// What is waited for.
pub(crate) enum Subject {
    Resource(Arc<ResourceState>),
    Event { event: Event, label: u32 },
}

// SAFETY: the edge is touched under the lock of the graph, or by the owner of the future while it is not in the graph.
unsafe impl<F: Send> Send for Waiting<F> {}

impl<F> fmt::Debug for Waiting<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl<F> Waiting<F> {
    pub(crate) fn new(executor: &'static dyn Inner, subject: Subject, future: F) -> Self {
        Self {
            future,
            executor,
            subject,
            edge: None,
            _pinned: PhantomPinned,
        }
    }

    /// Declares the wait of the current task, unless it is declared.
    ///
    /// # Safety
    /// The future is pinned.
    unsafe fn enter(&mut self) {
        if self.edge.is_some() {
            return;
        }
        let Some(waiter) = self.executor.current() else { return };
        let (target, label) = match &self.subject {
            Subject::Resource(resource) => (Target::Resource(resource.clone()), 0),
            Subject::Event { event, label } => (Target::Event(event.into()), *label),
        };
        let edge = self.edge.insert(Edge::new(self.executor, waiter, label, target));
        // SAFETY: the edge is pinned with the future, as is the event, and `leave` removes it, at the latest in `drop`.
        unsafe { self.executor.graph().add(self.executor, edge) };
    }

    /// Ends the declared wait.
    ///
    /// # Safety
    /// The future is pinned.
    unsafe fn leave(&mut self) {
        if let Some(edge) = &mut self.edge {
            // SAFETY: the edge was added when it was put here.
            unsafe { self.executor.graph().remove(self.executor, edge) };
            self.edge = None;
        }
    }
}

impl<F: Future> Future for Waiting<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: nothing is moved out; the inner future is pinned with the outer one.
        let (this, poll) = unsafe {
            let this = self.get_unchecked_mut();
            let poll = Pin::new_unchecked(&mut this.future).poll(cx);
            (this, poll)
        };
        // SAFETY: the future is pinned.
        unsafe {
            match poll {
                Poll::Ready(_) => this.leave(),
                Poll::Pending => this.enter(),
            }
        }
        poll
    }
}

impl<F> Drop for Waiting<F> {
    fn drop(&mut self) {
        // SAFETY: an edge exists only after a poll, so the future is pinned until the end of this drop.
        unsafe { self.leave() };
    }
}
