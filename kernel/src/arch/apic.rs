//! The local APIC, set so that the 8259 pair's interrupts reach the CPU whatever the firmware left, and its timer.
//!
//! qboot leaves LINT0 masked, other firmware does not: nothing is inherited.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
    fence,
};

use x86_64::registers::model_specific::Msr;

use super::descriptors::vector::{self, APIC_TIMER as TIMER_VECTOR};
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

/// The same for a CPU that no device interrupts.
const OTHER_SETTINGS: [(u32, u32); 7] = [
    (0x0f, 0x1ff),
    (0x08, 0),
    (TIMER, MASKED),
    (0x37, MASKED),
    (0x35, MASKED),
    (0x36, MASKED),
    (0x0b, 0),
];

/// Sets the local APIC of the boot CPU. Without one (or with it disabled) the 8259 pair is wired to the CPU directly.
///
/// # Safety
/// Runs in ring 0 with interrupts off, after physical memory is mapped.
pub unsafe fn start() {
    let Some(base) = base() else { return };
    BASE.store(base, Relaxed);
    for (register, value) in SETTINGS {
        // SAFETY: the caller's promise; the settings only route interrupts that have gates.
        unsafe { write(base, register, value) };
    }
}

/// Sets the local APIC of this CPU, which is not the boot CPU, in the mode of the boot CPU's.
///
/// # Safety
/// Runs in ring 0 with interrupts off, after [`start`] on the boot CPU, which has found an APIC.
pub(super) unsafe fn start_other() {
    let base = BASE.load(Relaxed);
    // SAFETY: the CPU has the boot CPU's features, an APIC among them; the register says where it is, which is the same for
    // all, and which mode it is in. From disabled to x2APIC mode it has to go by the other mode (Intel SDM volume 3,
    // section 11.12.5).
    unsafe {
        let mut register = Msr::new(APIC_BASE);
        let own = register.read();
        register.write(own & !(ADDRESS | X2APIC) | base & ADDRESS | ENABLED);
        if base & X2APIC != 0 {
            register.write(own & !ADDRESS | base & ADDRESS | ENABLED | X2APIC);
        }
    }
    for (register, value) in OTHER_SETTINGS {
        // SAFETY: as in `start`.
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

/// The base register of the boot CPU's APIC, as [`start`] found it; all CPUs have theirs at the same place, in the same mode.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Sends this CPU a non-maskable interrupt; returns false if it has no local APIC.
pub fn send_nmi() -> bool {
    id().is_some_and(|id| {
        send_nmi_to(id);
        true
    })
}

/// The number of this CPU's APIC, if it has one.
pub fn id() -> Option<u32> {
    const ID: u32 = 0x02;
    let base = base()?;
    // SAFETY: `base` has found the APIC; reading its number changes nothing.
    let id = unsafe { read(base, ID) };
    Some(if base & X2APIC != 0 { id } else { id >> 24 })
}

/// Whether an interrupt can be sent to the APIC of this number: all of them in x2APIC mode, else those of 8 bits that are not
/// "everybody".
pub fn can_reach(id: u32) -> bool {
    BASE.load(Relaxed) & X2APIC != 0 || id < 255
}

/// Sends the CPU of that APIC the interrupt with which CPUs interrupt each other.
pub fn send_interrupt(id: u32) {
    send(id, ASSERT | u32::from(vector::OTHER_CPU));
}

/// Sends the CPU of that APIC a non-maskable interrupt.
pub fn send_nmi_to(id: u32) {
    send(id, ASSERT | NMI);
}

/// Resets the CPU of that APIC, which then waits for a start-up interrupt.
pub fn send_init(id: u32) {
    const INIT: u32 = 0x500;
    send(id, ASSERT | INIT);
}

/// Lets the CPU of that APIC start at page `page`.
pub fn send_startup(id: u32, page: u8) {
    const STARTUP: u32 = 0x600;
    send(id, ASSERT | STARTUP | u32::from(page));
}

/// Command: the level of an interrupt, which is always this.
const ASSERT: u32 = 1 << 14;

/// Sends an interrupt to the APIC of that number.
fn send(id: u32, command: u32) {
    const DESTINATION: u32 = 0x31;
    const COMMAND: u32 = 0x30;
    const PENDING: u32 = 1 << 12;
    // What was written to memory has to be seen before the interrupt is: a store to the APIC's page is ordered so by
    // itself, one to its registers in x2APIC mode is not (Intel SDM volume 3, section 11.12.3).
    fence(SeqCst);
    let base = BASE.load(Relaxed);
    if base & X2APIC != 0 {
        // SAFETY: in x2APIC mode the command is one register, the destination in its upper half; the interrupt is one
        // that its receiver is prepared for.
        unsafe { Msr::new(X2APIC_MSR + COMMAND).write(u64::from(id) << 32 | u64::from(command)) };
    } else {
        // SAFETY: as in `write`, and as above. The command before has to be on its way; it is, in a few cycles.
        unsafe {
            while read(base, COMMAND) & PENDING != 0 {
                core::hint::spin_loop();
            }
            write(base, DESTINATION, id << 24);
            write(base, COMMAND, command);
        }
    }
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
