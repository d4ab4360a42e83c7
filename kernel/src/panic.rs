//! The end of a failing kernel: what happened, the registers, a backtrace, and QEMU's failure code.
//!
//! The backtrace is a frame-pointer walk over the kernel's own stacks, one line `backtrace: 0x...` per frame; the host
//! tool turns the addresses into names.

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use faultline_drivers::exit::{Exit, exit};

use crate::arch::trap_entry::TrapFrame;
use crate::arch::{cpu, descriptors};
use crate::{console, layout, tracing};

/// Frames that are printed at most.
const MAX_FRAMES: usize = 64;

static ENDING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    match info.location() {
        Some(at) => console::last_words(format_args!(
            "panic: {} ({}:{})\n",
            info.message(),
            at.file(),
            at.line()
        )),
        None => console::last_words(format_args!("panic: {}\n", info.message())),
    }
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    backtrace(frame);
    end()
}

/// Reports a trap that the kernel itself caused, with the registers at that point.
pub fn report_trap(what: &str, frame: &TrapFrame, cr2: u64) -> ! {
    begin();
    console::last_words(format_args!(
        "kernel fault: {what} (vector {}, error {:#x}) at {:#018x}\n{frame}cr2 {cr2:#018x}\nbacktrace: {:#018x}\n",
        frame.vector(),
        frame.error(),
        frame.rip(),
        frame.rip(),
    ));
    backtrace(frame.rbp);
    end()
}

/// Ends the run at once if this is a failure while reporting a failure.
fn begin() {
    if ENDING.swap(true, Relaxed) {
        console::last_words(format_args!("failed again while reporting the failure\n"));
        end();
    }
}

fn end() -> ! {
    // SAFETY: this is the end; no other code runs again.
    unsafe { tracing::last_words() };
    // SAFETY: ring 0; the report has been sent.
    unsafe { exit(Exit::KernelFailure) };
    cpu::halt()
}

/// Prints the return addresses from the frame pointer `frame` on.
///
/// Every frame must lie on a kernel stack, above the one before, so that a broken chain ends the walk.
fn backtrace(mut frame: u64) {
    let mut lowest = 0;
    for _ in 0..MAX_FRAMES {
        let on_stack = |range: core::ops::Range<u64>| range.start <= frame && frame + 16 <= range.end;
        let valid = on_stack(layout::STACK) || on_stack(descriptors::exception_stacks());
        if !frame.is_multiple_of(8) || frame <= lowest || !valid {
            break;
        }
        // SAFETY: the two words lie on a mapped kernel stack (checked above).
        let [next, return_address] = unsafe { *(frame as *const [u64; 2]) };
        if return_address == 0 {
            break;
        }
        console::last_words(format_args!("backtrace: {return_address:#018x}\n"));
        (lowest, frame) = (frame, next);
    }
}
