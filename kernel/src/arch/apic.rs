//! The local APIC, set so that the 8259 pair's interrupts reach the CPU whatever the firmware left.
//!
//! qboot leaves LINT0 masked, other firmware does not: nothing is inherited.

use x86_64::registers::model_specific::Msr;

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
    (0x32, MASKED),
    (0x37, MASKED),
    (0x35, EXT_INT), // LINT0: the 8259 pair
    (0x36, NMI),     // LINT1
    (0x0b, 0),       // end of interrupt, for whatever was in service
];

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
