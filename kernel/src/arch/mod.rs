//! Everything that knows the processor: descriptor tables, trap entry and exit, page-table template, time.
//!
//! # Order of start-up
//! [`init_boot_cpu`] runs first: it turns on the CPU's features, loads the kernel's own descriptor tables and makes traps
//! safe. The other parts may run in any order after it. The [other CPUs](smp) are started last.
//!
//! # Interrupts
//! Kernel code runs with interrupts off; only [`idle`] and [`let_interrupts_in`] let them in. An interrupt that arrives in
//! user mode comes out of [`enter_user`] as a [`Trap::Interrupt`] after its handler has run.

pub mod alarm;
pub mod apic;
pub mod clock;
mod context;
pub mod cpu;
pub mod descriptors;
pub mod features;
pub mod fpu;
pub mod interrupts;
pub mod kernel_trap;
pub mod pages;
pub mod paging;
pub mod smp;
pub mod trap_entry;
pub mod user;

pub use context::{USER_END, USER_SELECTORS, UserContext};
pub use cpu::{idle, let_interrupts_in};
pub use user::{Trap, enter_user, time_stays};

/// Prepares the boot CPU for traps.
///
/// # Safety
/// Runs once, in ring 0, with interrupts off, on the kernel's boot stack.
pub unsafe fn init_boot_cpu() {
    // SAFETY: the caller's promise.
    unsafe {
        features::enable();
        descriptors::build();
        descriptors::load(0);
        user::enable_syscall();
    }
}

/// Prepares CPU `index`, which runs this, for traps, and its local APIC.
///
/// # Safety
/// Runs once on that CPU, in ring 0, with interrupts off, on a stack of its own, after the boot CPU was prepared and has set
/// its alarm up; the CPU has the boot CPU's features.
unsafe fn init_other_cpu(index: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        features::switch_on();
        descriptors::load(index);
        user::enable_syscall();
        apic::start_other();
        alarm::start_other();
    }
}
