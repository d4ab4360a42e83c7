//! Looking at the wait-for graph.

use core::fmt;

use super::graph::{Edge, Event, Target, class_of};
use crate::{Class, Executor, Hooks, TaskId, task::Slot};

/// How many tasks of a cycle are found.
const LONGEST: usize = 32;

/// One task waits for one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who waits.
    pub waiter: TaskId,
    /// The name of that task.
    pub name: &'static str,
    /// The number by which it calls itself; 0 for none. Of a user thread, its thread id.
    pub label: u32,
    /// Its effective class.
    pub class: Class,
    /// The resource that it waits for, if it is one.
    pub resource: Option<&'static str>,
    /// The event that it waits for, if it is one.
    pub event: Option<Event>,
    /// The task that it waits for, or that holds the resource; with its name.
    pub holder: Option<(TaskId, &'static str)>,
    /// Since when.
    pub since: u64,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}) waits for ", self.waiter, self.name, self.class.name())?;
        match (self.event, self.resource, self.holder) {
            (Some(event), ..) => write!(f, "{event}")?,
            (None, None, Some((id, name))) => write!(f, "task {id} {name}")?,
            (None, Some(resource), Some((id, name))) => write!(f, "{resource}, held by {id} {name},")?,
            (None, resource, None) => f.write_str(resource.unwrap_or("nothing"))?,
        }
        write!(f, " since {} ns", self.since)
    }
}

/// The wait-for graph at this moment; from [`Executor::waits`]. Its [`Display`](fmt::Display) has a line for each wait and
/// one for each cycle.
///
/// Looking takes the lock of the graph for as long as it lasts. If somebody holds the lock, which an interrupt handler may
/// find, there is nothing to see, and the display says so.
pub struct WaitGraph<'a, H: Hooks> {
    executor: &'a Executor<H>,
}

impl<H: Hooks> fmt::Debug for WaitGraph<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The lock is held by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Busy;

impl<'a, H: Hooks> WaitGraph<'a, H> {
    pub(crate) fn new(executor: &'a Executor<H>) -> Self {
        Self { executor }
    }

    /// Calls the function with every wait. It must not begin or end a wait itself. `false` if somebody holds the lock.
    pub fn for_each(&self, mut f: impl FnMut(Wait)) -> bool {
        self.try_for_each(&mut |wait| {
            f(wait);
            Ok(())
        })
        .is_ok_and(|result| result.is_ok())
    }

    /// Calls the function with every cycle of tasks that wait for each other; its longest part if it has more than 32
    /// tasks. A task that waits for several things is followed through the newest. The
    /// function must not begin or end a wait itself. `false` if somebody holds the lock.
    pub fn for_each_cycle(&self, mut f: impl FnMut(&[TaskId])) -> bool {
        self.try_for_each_cycle(&mut |cycle| {
            f(cycle);
            Ok(())
        })
        .is_ok_and(|result| result.is_ok())
    }

    fn try_for_each(&self, f: &mut dyn FnMut(Wait) -> fmt::Result) -> Result<fmt::Result, Busy> {
        let Some(_lock) = self.executor.graph.0.try_lock() else {
            return Err(Busy);
        };
        for slot in self.executor.slab.iter() {
            // SAFETY: the list is ours under the lock, and its edges are valid.
            let mut edge = slot.waits.with(|first| unsafe { *first });
            // SAFETY: as above.
            while let Some(this) = unsafe { edge.as_ref() } {
                edge = this.next;
                let (resource, event, holder) = match &this.target {
                    // SAFETY: the join handle that waits is a reference.
                    Target::Task(task) => (None, None, Some((task.id(), unsafe { task.name() }))),
                    // SAFETY: the event lies beside the edge, which is in the list.
                    Target::Event(event) => (None, Some(unsafe { *event.as_ref() }), None),
                    Target::Resource(resource) => (
                        Some(resource.name),
                        None,
                        resource.holder().map(|holder| (holder.id, holder.name)),
                    ),
                };
                let wait = Wait {
                    waiter: slot.id(),
                    // SAFETY: a slot with an edge was not freed, and who frees it waits for the lock.
                    name: unsafe { slot.name() },
                    label: this.label,
                    class: class_of(slot),
                    resource,
                    event,
                    holder,
                    since: this.since,
                };
                if let Err(error) = f(wait) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(()))
    }

    fn try_for_each_cycle(&self, f: &mut dyn FnMut(&[TaskId]) -> fmt::Result) -> Result<fmt::Result, Busy> {
        let Some(_lock) = self.executor.graph.0.try_lock() else {
            return Err(Busy);
        };
        for first in self.executor.slab.iter() {
            let mut path = [TaskId::from_u64(0); LONGEST];
            let (mut slot, mut length) = (first, 0);
            while length < LONGEST {
                path[length] = slot.id();
                length += 1;
                let Some(next) = newest_wait(slot) else { break };
                if core::ptr::eq(next, first) {
                    // Each cycle is found from each of its tasks, and reported from the one with the lowest index.
                    if path[..length].iter().all(|id| id.index() >= first.index)
                        && let Err(error) = f(&path[..length])
                    {
                        return Ok(Err(error));
                    }
                    break;
                }
                slot = next;
            }
        }
        Ok(Ok(()))
    }
}

impl<H: Hooks> fmt::Display for WaitGraph<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits = self.try_for_each(&mut |wait| {
            f.write_fmt(format_args!("{wait}"))?;
            f.write_str("\n")
        });
        if waits == Err(Busy) {
            return writeln!(f, "the wait-for graph is being changed");
        }
        let cycles = self.try_for_each_cycle(&mut |cycle| {
            write!(f, "cycle:")?;
            for id in cycle {
                write!(f, " {id} ->")?;
            }
            writeln!(f, " {}", cycle[0])
        });
        waits.and(cycles).unwrap_or(Ok(()))
    }
}

/// The task at the end of the newest wait of a task. The caller holds the lock.
fn newest_wait(slot: &'static Slot) -> Option<&'static Slot> {
    // SAFETY: the list is ours under the lock, and its edges are valid.
    let edge: *const Edge = slot.waits.with(|first| unsafe { *first });
    // SAFETY: as above.
    match unsafe { &edge.as_ref()?.target } {
        Target::Task(task) => Some(task),
        Target::Resource(resource) => resource.holder().map(|holder| holder.slot),
        Target::Event(_) => None,
    }
}
