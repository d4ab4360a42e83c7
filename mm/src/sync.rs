//! Atomics and locks: from `core` and `spin`, or from the simulation when it runs the crate.

#[cfg(not(feature = "simulation"))]
pub(crate) use core::{hint::spin_loop, sync::atomic};
#[cfg(not(feature = "simulation"))]
pub(crate) use spin::{Mutex, MutexGuard};

#[cfg(feature = "simulation")]
pub(crate) use faultline_probe::{Mutex, MutexGuard, atomic, spin_loop};
