//! Tests of address spaces on a machine made of a buffer and a list of events.

mod access;
mod cow;
mod faults;
mod huge;
mod interface;
mod machine;
mod model;
mod tlb;
