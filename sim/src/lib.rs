//! A deterministic machine on the host that tries to break `mm` and `executor`.
//!
//! The real crates run here, on virtual CPUs that are switched between any two of their accesses to shared memory, with
//! TLBs that keep everything they may, interrupts that are late, a disk that is slow, memory that runs out, and poisoned
//! free frames. One seed decides everything. `docs/simulation.md` says what is checked and how to use it.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

mod access;
mod caches;
mod calls;
mod campaign;
mod check;
mod coverage;
mod cpu;
mod disk;
mod generate;
mod lane;
mod machine;
mod model;
mod parse;
mod queue;
mod ramdisk;
mod random;
mod replay;
mod run;
mod schedule;
mod script;
mod setup;
mod shrink;
mod swap;
mod tlb;
mod user;
mod world;

pub use campaign::{Campaign, Found, Shard, Summary, Verdict, hunt};
pub use coverage::Coverage;
pub use generate::{Profile, generate};
pub use lane::{Lane, default_jobs};
pub use parse::ScriptError;
pub use replay::{Replay, TraceError, read_trace};
pub use run::{Outcome, is_fit, run};
pub use schedule::{Kind, Schedule};
pub use script::{Backing, Process, Script, Settings, Step, Thread, WINDOW, WINDOW_PAGES};
pub use shrink::shrink;
pub use world::Counts;
