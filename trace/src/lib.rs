//! The event vocabulary of Faultline.
//!
//! One [`Event`] is one thing that happened: a fault was queued, a task was polled, a TLB generation was bumped. The
//! kernel, the address-space crate and the host tools share this vocabulary, so that a fault can be followed by its
//! correlation id from the trap to the resumed instruction. `docs/trace.md` explains every line of the text form.
//!
//! Events have two forms: a line of text (their [`Display`](core::fmt::Display)), and the binary form of [`wire`].
//!
//! Nothing here knows hardware: the time stamp, the CPU and the task are filled in by whoever keeps the ring.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "decode")]
extern crate alloc;

pub mod calls;
mod event;
mod text;
pub mod wire;

pub use event::{Category, Event, FaultClass, Kind, TrapWord};
