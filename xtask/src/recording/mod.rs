//! Recording a run: its options, and what becomes of the events.
//!
//! A command that boots flattens [`Options`] into its own, lets them [`configure`](Options::configure) the kernel,
//! [`start`](Options::start)s a [`Recorder`], gives the machine the recorder's [`port`](Recorder::port), and
//! [`finish`](Recorder::finish)es when the machine has ended, however it ended.
//!
//! ```text
//! kernel -- frames --> Recorder -- Recording --+-- file: FILE.fltrace (the frames, with checksums and names)
//!                                              +-- perfetto: FILE.pftrace
//!                                              +-- page: FILE.html
//!                                              +-- faults: CSV and JSON, a line a fault
//!                                              +-- strace: a line a system call
//!                                              +-- show: tables, JSON, the life of a fault, and why it took so long
//! ```
//!
//! [`lives`] puts the events of each fault together, and [`figures`] counts; everything that is shown comes from these.

pub mod faults;
pub mod figures;
pub mod file;
pub mod lives;
pub mod names;
mod options;
pub mod page;
pub mod perfetto;
mod recorder;
pub mod show;
pub mod strace;
pub mod text;
pub mod why;

pub use file::Recording;
pub use options::{Options, TraceTo};
pub use recorder::Recorder;
