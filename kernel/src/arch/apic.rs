//! The local APIC, set so that the 8259 pair's interrupts reach the CPU whatever the firmware left, and its timer.
//!
//! qboot leaves LINT0 masked, other firmware does not: nothing is inherited.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
    fence,
};

use x86_64::registers::model_specific::Msr;

use super::descriptors::vector::APIC_TIMER as TIMER_VECTOR;
use super::features::{Features, features};
use crate::memory;

const APIC_BASE: u32 = 0x1b;
const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// First of the x2APIC's registers among the model-specific registers.
const X2APIC_MSR: u32 = 0x800;

/// The registers that are set, by their offset in the page divided by 16, in this order.
const SETTINGS: [(u32, u32); 7] = [
    (0x0f, 0x1ff), // spurious-interrupt vector 255, software-enabled
    (0x08, 0),     // task priority: nothing held back
    (TIMER, MASKED),
    (0x37, MASKED),
    (0x35, EXT_INT), // LINT0: the 8259 pair
    (0x36, NMI),     // LINT1
    (0x0b, 0),       // end of interrupt, for whatever was in service
];

/// The timer's entry of the local vector table.
const TIMER: u32 = 0x32;

/// Local-vector-table entries.
const MASKED: u32 = 1 << 16;
const EXT_INT: u32 = 0x700;
const NMI: u32 = 0x400;

/// Sets the local APIC of this CPU. Without one (or with it disabled) the 8259 pair is wired to the CPU directly.
///
/// # Safety
/// Runs in ring 0 with interrupts off, after physical memory is mapped.
pub unsafe fn start() {
    let Some(base) = base() else { return };
    for (register, value) in SETTINGS {
        // SAFETY: the caller's promise; the settings only route interrupts that have gates.
        unsafe { write(base, register, value) };
    }
}

/// Whether the timer takes deadlines of the time-stamp counter.
pub fn has_deadlines() -> bool {
    base().is_some() && features().contains(Features::TSC_DEADLINE)
}

/// Sets the timer up for single interrupts: after a count, or at a deadline. Returns false if there is no local APIC.
pub fn start_timer(deadlines: bool) -> bool {
    const DIVIDE: u32 = 0x3e;
    /// The timer counts as fast as it can.
    const BY_ONE: u32 = 0b1011;
    const DEADLINE_MODE: u32 = 1 << 18;
    let Some(base) = base() else { return false };
    BASE.store(base, Relaxed);
    let mode = if deadlines { DEADLINE_MODE } else { 0 };
    // SAFETY: the vector has a gate, and its interrupt is served.
    unsafe {
        write(base, DIVIDE, BY_ONE);
        write(base, TIMER, u32::from(TIMER_VECTOR) | mode);
    }
    // A deadline is only taken after the mode is set, which a store to memory alone does not ensure.
    fence(SeqCst);
    true
}

/// Lets the timer count down from here; 0 stops it. After [`start_timer`].
pub fn set_count(count: u32) {
    const INITIAL_COUNT: u32 = 0x38;
    // SAFETY: `start_timer` has found the APIC, and the interrupt that follows is served.
    unsafe { write(BASE.load(Relaxed), INITIAL_COUNT, count) };
}

/// What is left of the count. After [`start_timer`].
pub fn count() -> u32 {
    const CURRENT_COUNT: u32 = 0x39;
    // SAFETY: `start_timer` has found the APIC; reading the count changes nothing.
    unsafe { read(BASE.load(Relaxed), CURRENT_COUNT) }
}

/// Sets the deadline; 0 for none. After [`start_timer`].
pub fn set_deadline(deadline: u64) {
    const TSC_DEADLINE: u32 = 0x6e0;
    // SAFETY: the processor has deadlines (`has_deadlines`), and the interrupt that follows is served.
    unsafe { Msr::new(TSC_DEADLINE).write(deadline) };
}

/// Tells the APIC that its timer's interrupt is served.
pub fn end_of_interrupt() {
    const END_OF_INTERRUPT: u32 = 0x0b;
    // SAFETY: an interrupt of the APIC's own is in service, so `start_timer` has found the APIC.
    unsafe { write(BASE.load(Relaxed), END_OF_INTERRUPT, 0) };
}

/// The APIC's base register, as [`start_timer`] found it.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Sends this CPU a non-maskable interrupt; returns false if it has no local APIC.
pub fn send_nmi() -> bool {
    const DESTINATION: u32 = 0x31;
    const COMMAND: u32 = 0x30;
    const ID: u32 = 0x02;
    const ASSERT: u32 = 1 << 14;
    let Some(base) = base() else { return false };
    if base & X2APIC != 0 {
        // SAFETY: in x2APIC mode the command is one register, the destination in its upper half.
        unsafe {
            let id = Msr::new(X2APIC_MSR + ID).read();
            Msr::new(X2APIC_MSR + COMMAND).write(id << 32 | u64::from(ASSERT | NMI));
        }
    } else {
        let page = memory::phys_to_virt(base & ADDRESS);
        // SAFETY: as in `write`; the interrupt has a gate and a stack of its own.
        unsafe {
            let id = page.add(ID as usize * 16).cast::<u32>().read_volatile();
            write(base, DESTINATION, id);
            write(base, COMMAND, ASSERT | NMI);
        }
    }
    true
}

/// The APIC's base register, if there is an APIC and it is enabled.
fn base() -> Option<u64> {
    if !features().contains(Features::APIC) {
        return None;
    }
    // SAFETY: the CPU has a local APIC, so it has this register.
    let base = unsafe { Msr::new(APIC_BASE).read() };
    (base & ENABLED != 0).then_some(base)
}

/// # Safety
/// `base` is what [`base`] returned, and reading the register changes nothing.
unsafe fn read(base: u64, register: u32) -> u32 {
    if base & X2APIC != 0 {
        // SAFETY: the APIC is in x2APIC mode, in which its registers are these.
        unsafe { Msr::new(X2APIC_MSR + register).read() as u32 }
    } else {
        let page = memory::phys_to_virt(base & ADDRESS);
        // SAFETY: as in `write`.
        unsafe { page.add(register as usize * 16).cast::<u32>().read_volatile() }
    }
}

/// # Safety
/// `base` is what [`base`] returned, and the kernel is prepared for what the register does.
unsafe fn write(base: u64, register: u32, value: u32) {
    if base & X2APIC != 0 {
        // SAFETY: the APIC is in x2APIC mode, in which its registers are these.
        unsafe { Msr::new(X2APIC_MSR + register).write(u64::from(value)) };
    } else {
        let page = memory::phys_to_virt(base & ADDRESS);
        // SAFETY: the APIC's page is mapped with the rest of the physical addresses below 4 GiB, and registers are 32
        // bits wide on 16-byte steps.
        unsafe { page.add(register as usize * 16).cast::<u32>().write_volatile(value) };
    }
}
