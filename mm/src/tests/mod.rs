//! Tests of address spaces on a machine made of a buffer and a list of events.
//!
//! `cargo +nightly miri test -p faultline-mm --lib` runs what needs few frames; it needs no flags. The others say why they
//! are left out. `FAULTLINE_SEED` and `FAULTLINE_STEPS` choose the run of the random tests (`model`, `tlb`).

mod access;
mod ahead;
mod contents;
mod cow;
mod disk;
mod everywhere;
mod faults;
mod fork;
mod handoff;
mod hardware;
mod huge;
mod layout;
pub(crate) mod machine;
mod map;
mod model;
mod object_model;
mod object_swap;
mod objects;
mod permits;
mod protect;
mod quarantine;
mod reclaim;
mod steps;
mod swap;
mod swap_off;
mod tlb;
mod unmap;
mod waking;
mod walk;
