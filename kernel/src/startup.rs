//! Collections whose allocations end the machine when they fail: for what runs only before the first program.
//!
//! Everything else has the types of [`faultline_fallible`]. This is the one place that names the crate `alloc`
//! (`tests/tests/barrier.rs` sees to that), and `clippy.toml` forbids its types and the methods that bring them in without
//! naming them: a module of the start-up says that it may have them.

#![allow(
    clippy::disallowed_types,
    reason = "it runs before the first program, or without one"
)]

extern crate alloc;

pub use alloc::{boxed::Box, string::String, vec, vec::Vec};
