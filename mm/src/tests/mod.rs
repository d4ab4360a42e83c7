//! Tests of address spaces on a machine made of a buffer and a list of events.

mod access;
mod cow;
mod faults;
mod fork;
mod hardware;
mod huge;
mod layout;
mod machine;
mod map;
mod model;
mod protect;
mod quarantine;
mod tlb;
mod unmap;
mod waking;
mod walk;
