//! The host side of Faultline: everything between `cargo run` and the first instruction of the kernel, and everything
//! after its last one.
//!
//! The steps, each in a module of its own, in the order in which a command takes them:
//!
//! 1. [`setup`] sees to it that the Rust target and QEMU are there.
//! 2. [`build`] builds the kernel, the boot stage and the sample tasks with a nested cargo.
//! 3. [`program`] refuses, before anything boots, a file that can't be a user task, and says why.
//! 4. [`bundle`] packs kernel, configuration and programs into the one archive that QEMU takes as `-initrd`.
//! 5. [`machine`] runs QEMU within a time limit and carries its serial [`ports`] to wherever they belong.
//! 6. [`report`] reads the account that the kernel gives at its end, [`trace`] reads its events, and [`symbols`] turns its
//!    back-traces into names. [`recording`] keeps the events of a run and makes timelines, pages and figures of them.
//!
//! [`mod@bench`] makes such runs on Faultline and on Linux and lays the figures side by side; [`executor`] lets the kernel
//! measure its own executor; [`storm`] makes long runs and proves that nothing was lost; [`lab`] makes the runs of an
//! experiment and tables and plots of them.
//!
//! The system tests call the same functions as the command-line tool.
#![warn(missing_docs)]

pub mod bench;
pub mod build;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod demo;
pub mod disks;
pub mod executor;
pub mod flame;
pub mod folder_image;
pub mod gdb;
pub mod interrupt;
pub mod kernel_image;
pub mod lab;
pub mod machine;
pub mod manual;
pub mod ports;
pub mod program;
pub mod recording;
pub mod report;
pub mod root;
pub mod run;
pub mod session;
pub mod setup;
pub mod shell;
pub mod sim;
pub mod stored;
pub mod storm;
pub mod symbols;
pub mod top;
pub mod trace;
pub mod typing;
pub mod unwind;
pub mod workspace;
