//! Device interrupts: lines of the 8259 pair, delivered to the boot CPU from vector 32 on; the local APIC's timer; and
//! interrupts by other CPUs.
//!
//! A handler is a plain function. It runs with interrupts off, either at idle or between a user thread and the kernel,
//! so it meets no lock that its own CPU holds; it must neither block nor allocate.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faultline_drivers::X86Ports;
use faultline_drivers::pic::{InterruptController, LINES};
use spin::{Mutex, Once};

use super::descriptors::vector::{APIC_TIMER, FIRST_INTERRUPT, OTHER_CPU};
use super::{alarm, apic, smp};

/// Line of the interval timer.
pub const TIMER_LINE: u8 = 0;

// SAFETY: the kernel runs in ring 0, and this is the only owner of the controllers' ports.
static CONTROLLER: Mutex<InterruptController<X86Ports>> =
    Mutex::new(InterruptController::new(unsafe { X86Ports::new() }, FIRST_INTERRUPT));

static HANDLERS: [Once<fn()>; LINES as usize] = [const { Once::new() }; LINES as usize];
static SPURIOUS: AtomicU64 = AtomicU64::new(0);

/// Programs the controllers; every line stays masked until it has a handler.
///
/// # Safety
/// Runs once, in ring 0, with interrupts off and the interrupt gates loaded.
pub unsafe fn start() {
    // SAFETY: the caller's promise; vectors 32 to 47 have gates and are used for nothing else.
    unsafe { CONTROLLER.lock().start() };
}

/// Makes `handler` the handler of `line` and lets the line through.
///
/// # Panics
/// If there is no such line, or it has a handler already.
pub fn set_handler(line: u8, handler: fn()) {
    let slot = &HANDLERS[usize::from(line)];
    assert!(!slot.is_completed(), "interrupt line {line} has a handler");
    slot.call_once(|| handler);
    CONTROLLER.lock().unmask(line);
}

/// Interrupts that no device raised, so far.
pub fn spurious_count() -> u64 {
    SPURIOUS.load(Relaxed)
}

/// Serves the interrupt that arrived as `vector`. Kept out of line: the caller is the way back from user mode.
#[cold]
#[inline(never)]
pub(super) fn dispatch(vector: u8) {
    if vector == APIC_TIMER {
        apic::end_of_interrupt();
        return alarm::interrupt();
    }
    if vector == OTHER_CPU {
        apic::end_of_interrupt();
        return smp::interrupted();
    }
    let line = CONTROLLER.lock().acknowledge(vector);
    match line.and_then(|line| HANDLERS[usize::from(line)].get()) {
        Some(handler) => handler(),
        None => {
            SPURIOUS.fetch_add(1, Relaxed);
        }
    }
}
