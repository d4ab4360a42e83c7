//! What the kernel keeps for each CPU, put together from what its parts do.
//!
//! Only the CPU itself writes here, in polls, between its turns and in interrupt handlers; so a word is changed by a load
//! and a store. The exception is the [`Mailbox`], which is for the others. Anybody may read.

use crate::arch::alarm::Alarm;
use crate::arch::fpu::Switches;
use crate::arch::smp::Mailbox;
use crate::process::run_time::Running;
use crate::statistics::Counted;
use crate::tracing::Here;

/// What the kernel keeps for one CPU; [`local`](crate::arch::cpu::local) is the calling CPU's.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Local {
    /// Where it records events.
    pub tracing: Here,
    /// What it has counted.
    pub counted: Counted,
    /// Who runs on it.
    pub running: Running,
    /// How often it has switched FPU registers.
    pub fpu: Switches,
    /// When it wants to be interrupted.
    pub alarm: Alarm,
    /// What the others want of it. In a cache line of its own.
    pub mailbox: Aligned<Mailbox>,
}

/// Something that shares no cache line with its neighbours.
#[derive(Debug)]
#[repr(align(128))]
pub struct Aligned<T>(T);

impl<T> core::ops::Deref for Aligned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Local {
    /// That of a CPU that has done nothing.
    pub const fn new() -> Self {
        Self {
            tracing: Here::new(),
            counted: Counted::new(),
            running: Running::new(),
            fpu: Switches::new(),
            alarm: Alarm::new(),
            mailbox: Aligned(Mailbox::new()),
        }
    }
}
