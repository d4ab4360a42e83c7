//! Atomics and locks: from `core` and `spin`, or from the simulation when it runs the crate.

#[cfg(not(feature = "simulation"))]
pub(crate) use core::{hint::spin_loop, sync::atomic};
#[cfg(not(feature = "simulation"))]
pub(crate) use spin::{Mutex, MutexGuard};

#[cfg(feature = "simulation")]
pub(crate) use faultline_probe::{Mutex, MutexGuard, atomic, spin_loop};

/// No mistake is planted without the simulation.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) const fn never() -> bool {
    false
}

/// Whether a planted mistake is switched on: never, unless the simulation runs the crate.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(feature = "simulation")]
        let on = faultline_probe::is_on(faultline_probe::Mutant::$name);
        #[cfg(not(feature = "simulation"))]
        let on = crate::sync::never();
        on
    }};
}
pub(crate) use mutant;
