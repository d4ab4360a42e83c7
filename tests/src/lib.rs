//! The harness of the whole-system tests: the real kernel in QEMU, and the same program file on this machine's Linux.
//!
//! Everything is built once for each test binary, by the same functions as `cargo run` uses. Every run has a time limit,
//! which only ends a run that hangs: no test is decided by how long something takes.

mod guest;
pub mod images;
mod native;
mod tools;

use std::sync::OnceLock;

use faultline_xtask::build::Artifacts;
use faultline_xtask::session;

pub use guest::{Guest, Run};
pub use native::{Native, native, native_file};
pub use tools::{Libc, busybox, c_program, dynamic_program, pandoc, position_independent, root_with, sqlite, tool};

/// Kernel, boot stage and sample tasks, built at the first call.
///
/// # Panics
/// Panics with what the build said when it fails.
pub fn artifacts() -> &'static Artifacts {
    static ARTIFACTS: OnceLock<Result<Artifacts, String>> = OnceLock::new();
    let built = ARTIFACTS.get_or_init(|| session::prepare().map_err(|error| format!("{error:#}")));
    built.as_ref().unwrap_or_else(|error| panic!("{error}"))
}
