//! Tasks: the slot a task lives in, its state word, its waker, and the code that knows the type of its future.

mod future;
mod id;
mod slot;
mod state;
mod waker;

pub use id::TaskId;

pub(crate) use future::{FutureTable, PollFunction, install};
pub(crate) use slot::Slot;
pub(crate) use state::{Completed, Released, State, bits};
pub(crate) use waker::{is_representable, parts as waker_parts, waker};
