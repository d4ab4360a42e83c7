//! The edges of the wait-for graph, and how classes move along them.

use alloc::sync::Arc;
use core::{
    fmt,
    ptr::{self, NonNull},
};

use super::{DEPTH, resource::ResourceState};
use crate::{
    Class,
    executor::Inner,
    sync::{Mutex, Ordering},
    task::Slot,
};

/// The lock of the graph. What it protects lies in the slots, edges and resources.
pub(crate) struct Graph(pub(super) Mutex<()>);

/// What a task waits for.
#[derive(Clone)]
pub(crate) enum Target {
    /// The end of a task.
    Task(&'static Slot),
    /// A resource.
    Resource(Arc<ResourceState>),
    /// Something that no task holds. It lies in the future that waits, as the edge does.
    Event(NonNull<Event>),
}

/// Something that no task holds and that tasks wait for, by a name and a number: "pipe 7", "sleep".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name of its kind.
    pub kind: &'static str,
    /// Which of its kind, if that has a meaning.
    pub number: Option<u64>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{} {number:#x}", self.kind),
            None => f.write_str(self.kind),
        }
    }
}

/// One task waits for one thing.
pub(crate) struct Edge {
    /// Who waits.
    pub(super) waiter: &'static Slot,
    /// A number by which the task calls itself; 0 for none.
    pub(super) label: u32,
    /// For what.
    pub(super) target: Target,
    /// Since when.
    pub(super) since: u64,
    /// The class that is lent.
    lent: Class,
    /// The next edge of the same waiter.
    pub(super) next: *mut Edge,
}

impl Edge {
    /// That the task, which calls itself `label`, waits for the target from now on.
    pub(crate) fn new(executor: &'static dyn Inner, waiter: &'static Slot, label: u32, target: Target) -> Self {
        Self {
            waiter,
            label,
            target,
            since: executor.now(),
            lent: class_of(waiter),
            next: ptr::null_mut(),
        }
    }
}

/// The effective class of a task.
pub(super) fn class_of(slot: &'static Slot) -> Class {
    // SAFETY: a slot that was ever used has a queue, and queues live for ever.
    unsafe { slot.queue() }.class
}

impl Graph {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(()))
    }

    /// Adds an edge, and lends its class.
    ///
    /// # Safety
    /// The edge stays in place, and nobody else touches it, until [`Graph::remove`].
    pub(crate) unsafe fn add(&self, executor: &'static dyn Inner, edge: *mut Edge) {
        let _lock = self.0.lock();
        // SAFETY: the edge is valid (the contract), and the list is ours under the lock.
        unsafe {
            let waiter = (*edge).waiter;
            (*edge).lent = class_of(waiter);
            waiter.waits.with_mut(|first| {
                (*edge).next = *first;
                *first = edge;
            });
            lend(executor, &(*edge).target, None, Some((*edge).lent), DEPTH);
        }
    }

    /// Removes an edge, and takes its class back.
    ///
    /// # Safety
    /// The edge was added, and not removed since.
    pub(crate) unsafe fn remove(&self, executor: &'static dyn Inner, edge: *mut Edge) {
        let _lock = self.0.lock();
        // SAFETY: the edges of the list are valid, as they were added and not removed; the list is ours under the lock.
        unsafe {
            (*edge).waiter.waits.with_mut(|first| {
                let mut link = first;
                while !(*link).is_null() && *link != edge {
                    link = &raw mut (**link).next;
                }
                if *link == edge {
                    *link = (*edge).next;
                }
            });
            lend(executor, &(*edge).target, Some((*edge).lent), None, DEPTH);
        }
    }
}

impl Graph {
    /// Forgets the waits of a task that has ended; there are some only if their futures were leaked, or the join handle
    /// that waited was moved to another task. An edge in a task's list therefore shows that its slot was not freed.
    #[cold]
    pub(crate) fn forget(&self, slot: &'static Slot) {
        let _lock = self.0.lock();
        // SAFETY: the list is ours under the lock.
        slot.waits.with_mut(|first| unsafe { *first = ptr::null_mut() });
    }
}

/// A lender of the target changes its class; `None` means that it does not lend. The caller holds the lock.
pub(super) fn lend(executor: &'static dyn Inner, target: &Target, old: Option<Class>, new: Option<Class>, depth: u32) {
    match target {
        Target::Task(slot) => lend_to_task(executor, slot, old, new, depth),
        Target::Event(_) => {}
        Target::Resource(resource) => {
            let change = resource.change_waiters(old, new);
            if let Some(holder) = change.holder
                && change.old != change.new
            {
                lend_to_task(executor, holder, change.old, change.new, depth);
            }
        }
    }
}

/// As [`lend`], for a task.
pub(super) fn lend_to_task(
    executor: &'static dyn Inner,
    slot: &'static Slot,
    old: Option<Class>,
    new: Option<Class>,
    depth: u32,
) {
    // 16 bits for each class. A count that has reached its end, or that was reset because the slot has a new task, stays.
    let mut lent = slot.lent.load(Ordering::Relaxed);
    let count = |lent: u64, class: Class| lent >> (16 * class.index()) & 0xffff;
    let one = |class: Class| 1 << (16 * class.index());
    if let Some(class) = old
        && count(lent, class) != 0
    {
        lent -= one(class);
    }
    if let Some(class) = new
        && count(lent, class) != 0xffff
    {
        lent += one(class);
    }
    slot.lent.store(lent, Ordering::Relaxed);

    let highest = Class::ALL.into_iter().find(|&class| count(lent, class) != 0);
    let class = highest.map_or(slot.base(), |class| class.min(slot.base()));
    if class == class_of(slot) {
        return;
    }
    executor.set_class(slot, class);
    if depth == 0 {
        return;
    }
    // What it borrows it lends on.
    // SAFETY: the list is ours under the lock, and its edges are valid.
    let mut edge = slot.waits.with(|first| unsafe { *first });
    while !edge.is_null() {
        // SAFETY: as above.
        let this = unsafe { &mut *edge };
        let old = core::mem::replace(&mut this.lent, class);
        let target = this.target.clone();
        lend(executor, &target, Some(old), Some(class), depth - 1);
        // SAFETY: as above; read again, as `lend` may have come back to this edge through a cycle.
        edge = unsafe { (*edge).next };
    }
}
