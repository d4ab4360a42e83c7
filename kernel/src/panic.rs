//! The end of a failing kernel: what happened, the registers, the stack, and QEMU's failure code.
//!
//! The kernel keeps no frame pointers and has no unwind tables in memory. So it prints what an unwinder starts from: one
//! line `unwind: rip 0x... rsp 0x...` with the registers that calls preserve, and the words of the stack, eight to a line
//! `stack: 0xADDRESS: ...`, from the stack pointer up. The host tool has the tables (`.debug_frame` of the kernel's file),
//! walks the frames and turns the addresses into names.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use faultline_drivers::exit::{Exit, exit};

use crate::arch::trap_entry::TrapFrame;
use crate::arch::{cpu, descriptors, smp};
use crate::{console, layout, output, tracing};

/// Bytes of the stack that are printed at most.
const STACK_SHOWN: u64 = 32 << 10;

/// Words of the stack on a line.
const WORDS: u64 = 8;

/// What an unwinder starts from: the instruction pointer, the stack pointer, and what a call preserves.
#[repr(C)]
struct Registers {
    rip: u64,
    rsp: u64,
    rbp: u64,
    rbx: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
}

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
    show_stack(&Registers::here());
    end()
}

/// Reports a trap that the kernel itself caused, with the registers at that point.
pub fn report_trap(what: &str, frame: &TrapFrame, cr2: u64) -> ! {
    begin();
    console::last_words(format_args!(
        "kernel fault: {what} (vector {}, error {:#x}) at {:#018x}\n{frame}cr2 {cr2:#018x}\n",
        frame.vector(),
        frame.error(),
        frame.rip(),
    ));
    show_stack(&Registers {
        rip: frame.rip(),
        rsp: frame.rsp(),
        rbp: frame.rbp,
        rbx: frame.rbx,
        r12: frame.r12,
        r13: frame.r13,
        r14: frame.r14,
        r15: frame.r15,
    });
    end()
}

/// Ends the run at once if this is a failure while reporting a failure.
fn begin() {
    if ENDING.swap(true, Relaxed) {
        console::last_words(format_args!("failed again while reporting the failure\n"));
        end();
    }
    smp::halt_others(|cpu, rip, rsp| {
        console::last_words(format_args!("CPU {cpu} was at {rip:#018x}, stack {rsp:#018x}\n"));
    });
}

/// Whether the kernel has failed, so that other CPUs are to do nothing more.
pub fn is_ending() -> bool {
    ENDING.load(Relaxed)
}

fn end() -> ! {
    // SAFETY: this is the end; no other code runs again.
    unsafe {
        tracing::last_words();
        output::last_words();
    }
    // SAFETY: ring 0; the report has been sent.
    unsafe { exit(Exit::KernelFailure) };
    cpu::halt()
}

impl Registers {
    /// Those of the caller, in which this is expanded.
    #[inline(always)]
    fn here() -> Self {
        let mut registers = MaybeUninit::<Self>::uninit();
        // SAFETY: writes all fields of `registers`, in their order, and changes nothing else but RAX.
        unsafe {
            asm!(
                "lea rax, [rip]",
                "mov [rdi], rax",
                "mov [rdi + 8], rsp",
                "mov [rdi + 16], rbp",
                "mov [rdi + 24], rbx",
                "mov [rdi + 32], r12",
                "mov [rdi + 40], r13",
                "mov [rdi + 48], r14",
                "mov [rdi + 56], r15",
                in("rdi") registers.as_mut_ptr(),
                out("rax") _,
                options(nostack, preserves_flags),
            );
            registers.assume_init()
        }
    }
}

/// Prints the registers and the words of the stack from which the host tool finds the frames.
///
/// A stack that has overflowed is shown from its lowest word on; a stack pointer that is on no kernel stack shows nothing.
fn show_stack(registers: &Registers) {
    let Registers {
        rip,
        rsp,
        rbp,
        rbx,
        r12,
        r13,
        r14,
        r15,
    } = registers;
    console::last_words(format_args!(
        "unwind: rip {rip:#x} rsp {rsp:#x} rbp {rbp:#x} rbx {rbx:#x} r12 {r12:#x} r13 {r13:#x} r14 {r14:#x} r15 {r15:#x}\n"
    ));
    let cpu = cpu::index();
    let stack = match layout::stack_guard(cpu).contains(rsp) {
        true => layout::stack(cpu),
        false => [layout::stack(cpu), descriptors::exception_stacks(cpu)]
            .into_iter()
            .find(|stack| stack.contains(rsp))
            .unwrap_or_default(),
    };
    let start = rsp.next_multiple_of(8).max(stack.start);
    let words = (stack.end.saturating_sub(start).min(STACK_SHOWN)) / 8;
    for line in (0..words).step_by(WORDS as usize) {
        let address = start + 8 * line;
        console::last_words(format_args!("stack: {address:#x}:"));
        for word in line..words.min(line + WORDS) {
            // SAFETY: the word lies on a mapped kernel stack, and is aligned.
            let value = unsafe { ((start + 8 * word) as *const u64).read_volatile() };
            console::last_words(format_args!(" {value:x}"));
        }
        console::last_words(format_args!("\n"));
    }
}
