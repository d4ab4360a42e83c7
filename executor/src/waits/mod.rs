//! Who waits for what: the wait-for graph, and the classes that waiters lend along its edges.
//!
//! An **edge** says that a task waits for another task (it awaits its join handle), for a [`Resource`], which a third
//! task may hold, or for an [`Event`], which nobody holds. As long as the edge exists, the waiter lends its class: the task at its end runs at the higher of its
//! own class and all those that are lent to it, directly or through a resource that it holds. What a task borrows it lends
//! on, over up to [`DEPTH`] tasks. When the wait ends, the class is taken back.
//!
//! One short lock protects all of it. It is taken in polls only, never in an interrupt handler, and nothing is polled or
//! woken by a waker under it. A wait that is ready at its first poll takes no lock.
//!
//! Edges lie in the futures that wait (which are pinned) or in the slot of the awaited task, so waiting allocates nothing.

mod graph;
mod resource;
mod view;

pub use graph::Event;
pub use resource::{Held, Resource, Waiting};
pub use view::{Wait, WaitGraph};

pub(crate) use graph::{Edge, Graph, Target};
pub(crate) use resource::Subject;

/// Over how many tasks a class is lent on.
const DEPTH: u32 = 16;
