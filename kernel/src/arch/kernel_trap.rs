//! Traps that come while the kernel itself runs: interrupts at idle are served, everything else is a kernel bug and
//! ends the run with a report.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::registers::control::Cr2;

use super::cpu;
use super::descriptors::vector;
use super::trap_entry::TrapFrame;
use super::{interrupts, smp};
use crate::{layout, panic};

static NMI_COUNT: AtomicU64 = AtomicU64::new(0);

/// Non-maskable interrupts so far. The kernel arms no source of them, so it only counts them.
pub fn nmi_count() -> u64 {
    NMI_COUNT.load(Relaxed)
}

/// Called from `trap_kernel` with interrupts off, on the stack that was in use.
pub(super) extern "C" fn kernel_trap(frame: &TrapFrame) {
    match frame.vector {
        32..=255 => interrupts::dispatch(frame.vector as u8),
        _ => report(frame),
    }
}

/// Called from `trap_own_stack`; the GS base is the kernel's.
pub(super) extern "C" fn own_stack_trap(frame: &TrapFrame) {
    if frame.vector == u64::from(vector::NMI) {
        if panic::is_ending() {
            smp::halt_here(frame.rip, frame.rsp);
        }
        NMI_COUNT.fetch_add(1, Relaxed);
    } else {
        report(frame);
    }
}

fn report(frame: &TrapFrame) -> ! {
    let cr2 = Cr2::read_raw();
    let number = frame.vector as u8;
    // A push on the guard page faults, and so does the processor's push for that fault: a double fault with CR2 there.
    let overflow =
        matches!(number, vector::DOUBLE_FAULT | vector::PAGE_FAULT) && layout::stack_guard(cpu::index()).contains(&cr2);
    let what = if overflow {
        "kernel stack overflow"
    } else {
        name(number)
    };
    panic::report_trap(what, frame, cr2)
}

/// The exception's name.
pub fn name(number: u8) -> &'static str {
    const NAMES: [&str; 32] = [
        "divide error",
        "debug exception",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "coprocessor segment overrun",
        "invalid task-state segment",
        "segment not present",
        "stack-segment fault",
        "general protection fault",
        "page fault",
        "reserved exception 15",
        "x87 floating-point error",
        "alignment check",
        "machine check",
        "SIMD floating-point error",
        "virtualization exception",
        "control protection exception",
        "reserved exception 22",
        "reserved exception 23",
        "reserved exception 24",
        "reserved exception 25",
        "reserved exception 26",
        "reserved exception 27",
        "hypervisor injection exception",
        "VMM communication exception",
        "security exception",
        "reserved exception 31",
    ];
    NAMES.get(usize::from(number)).copied().unwrap_or("interrupt")
}
