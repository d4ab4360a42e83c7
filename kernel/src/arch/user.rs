//! The way into user mode and back.
//!
//! # Protocol
//! [`enter_user`] loads the registers of a [`UserContext`] and runs the thread until its next trap. Before it leaves
//! the kernel it points rsp0 to the end of the trap frame inside that very context, so the processor pushes the
//! interrupted state straight into it; the stub adds the other registers and returns to the caller of [`enter_user`] as
//! if it had been an ordinary call. A suspended thread therefore is its context and nothing else.
//!
//! # No fault in the kernel
//! The instruction pointer is checked on the way out: one that is not a lower-half address ends the call at once with a
//! general protection fault, as the processor would raise it. With that, and with what a context can hold at all,
//! neither `iretq` nor `sysretq` can fault.
//!
//! `sysretq` is used when the context looks as `syscall` left it (rcx = rip, r11 = rflags), which is also the only time
//! when clobbering these two registers goes unseen; otherwise `iretq`.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, Ordering};

use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{LStar, Msr, SFMask};
use x86_64::registers::rflags::RFlags;

use super::context::{FRAME_END, USER_END, UserContext};
use super::cpu::{KERNEL_RSP, RSP0, USER_RSP};
use super::descriptors::{KERNEL_CODE, SYSRET_BASE, USER_CODE, USER_DATA, vector};
use super::interrupts;
use super::trap_entry::{TrapFrame, pop_registers, push_registers};

/// The vector number under which a system call comes back; no interrupt has it.
const SYSCALL: u64 = 0x100;

/// Flags that `sysretq` does not restore as `iretq` does.
const SLOW_FLAGS: u64 = RFlags::TRAP_FLAG.bits() | RFlags::RESUME_FLAG.bits();

/// What brought a user thread back into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A page fault.
    PageFault {
        /// The address that was accessed.
        address: u64,
        /// The processor's error code: bit 0 protection, 1 write, 2 user, 3 reserved bit, 4 instruction fetch.
        error: u64,
    },
    /// `syscall`: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9.
    Syscall,
    /// An interrupt, whose handler has run.
    Interrupt(u8),
    /// Any other exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 if it has none.
        error: u64,
    },
}

/// Runs the thread until its next trap; its registers are in the context again when this returns.
///
/// # Safety
/// The active page tables map the kernel as the template does and map nothing of the kernel's for user mode. Interrupts
/// are off, and the call is made on the CPU's own kernel stack.
#[inline]
pub unsafe fn enter_user(context: &mut UserContext) -> Trap {
    if !context.is_loaded() {
        context.load();
    }
    let vector: u64;
    // SAFETY: 1. The caller's promise, and what a context can hold (see the module's documentation). 2. `ENTER` is `enter`
    // or `enter_timed`, both of which keep RBX, RBP and the stack pointer; all other registers are declared as lost.
    unsafe {
        asm!(
            "call qword ptr [rip + {enter}]",
            enter = sym ENTER,
            in("rdi") &raw mut *context,
            lateout("rax") vector,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r14") _,
            lateout("r15") _,
            clobber_abi("C"),
        );
    }
    match vector {
        SYSCALL => Trap::Syscall,
        14 => Trap::PageFault {
            address: context.cr2,
            error: context.frame.error,
        },
        32..=255 => {
            interrupts::dispatch(vector as u8);
            Trap::Interrupt(vector as u8)
        }
        _ => Trap::Exception {
            vector: vector as u8,
            error: context.frame.error,
        },
    }
}

/// Loads the thread's registers from the context in RDI and leaves the kernel; `trap_common` and `syscall_entry` return
/// from this call, with the vector in RAX.
///
/// It keeps RBX and RBP only, which inline assembly cannot declare as lost: the caller knows best which of the others
/// are worth saving.
///
/// # Safety
/// As for [`enter_user`]; the FPU registers and segment bases are the thread's. Called by `enter_user` only.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbp; push rbx",
        "mov gs:[{kernel_rsp}], rsp",
        "lea rax, [rdi + {frame_end}]",
        "mov gs:[{rsp0}], rax",
        // A lower-half address? The upper word says it.
        "cmp dword ptr [rdi + {rip} + 4], {user_end_high}",
        "jae 4f",
        // As `syscall` left it? Then `sysretq`.
        "mov rcx, [rdi + {rip}]",
        "cmp rcx, [rdi + {rcx}]",
        "jne 3f",
        "mov rax, [rdi + {rflags}]",
        "cmp rax, [rdi + {r11}]",
        "jne 3f",
        "test eax, {slow_flags}",
        "jnz 3f",
        "mov rsp, rdi",
        pop_registers!(),
        "mov rsp, [rsp + {rsp_after_pops}]",
        "swapgs",
        "sysretq",
        "3:",
        "mov rsp, rdi",
        pop_registers!(),
        "add rsp, 16", // vector, error
        "swapgs",
        "iretq",
        // Not a lower-half address: the fault that the processor would raise, without the trip.
        "4:",
        "mov eax, {general_protection}",
        "mov [rdi + {vector}], rax",
        "mov qword ptr [rdi + {error}], 0",
        "pop rbx; pop rbp",
        "ret",
        kernel_rsp = const KERNEL_RSP,
        rsp0 = const RSP0,
        frame_end = const FRAME_END,
        rip = const offset_of!(TrapFrame, rip),
        rcx = const offset_of!(TrapFrame, rcx),
        rflags = const offset_of!(TrapFrame, rflags),
        r11 = const offset_of!(TrapFrame, r11),
        vector = const offset_of!(TrapFrame, vector),
        error = const offset_of!(TrapFrame, error),
        rsp_after_pops = const offset_of!(TrapFrame, rsp) - offset_of!(TrapFrame, vector),
        user_end_high = const USER_END >> 32,
        slow_flags = const SLOW_FLAGS,
        general_protection = const vector::GENERAL_PROTECTION,
    )
}

/// The function that [`enter_user`] calls: [`enter`], or [`enter_timed`]. A call through a pointer costs no instruction more.
static ENTER: AtomicPtr<()> = AtomicPtr::new(enter as *const () as *mut ());

/// From now on tells `told` after each stay in user mode how long it was, in counts of the time-stamp counter.
pub fn time_stays(told: fn(u32)) {
    STAYS.call_once(|| told);
    ENTER.store(enter_timed as *const () as *mut (), Ordering::Relaxed);
}

/// Who is told about stays in user mode.
static STAYS: Once<fn(u32)> = Once::new();

/// As [`enter`], and tells [`STAYS`].
///
/// # Safety
/// As for [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn enter_timed() {
    naked_asm!(
        "push rbx", // the stack is on a 16-byte boundary
        "rdtsc",
        "mov ebx, eax",
        "call {enter}",
        "sub rsp, 16",
        "mov [rsp], rax",
        "rdtsc",
        "sub eax, ebx",
        "mov edi, eax",
        "call {stayed}",
        "mov rax, [rsp]",
        "add rsp, 16",
        "pop rbx",
        "ret",
        enter = sym enter,
        stayed = sym stayed,
    )
}

extern "C" fn stayed(counts: u32) {
    if let Some(told) = STAYS.get() {
        told(counts);
    }
}

/// Where `syscall` enters: builds the frame that a trap would have left, in the context, and returns from `enter`.
///
/// The processor has put the return address into rcx and the flags into r11, and has cleared the flags in SFMASK. The
/// stack pointer is still the user's.
///
/// # Safety
/// Only the processor enters here.
#[unsafe(naked)]
unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{user_rsp}], rsp",
        "mov rsp, gs:[{rsp0}]",
        "push {user_data}",
        "push gs:[{user_rsp}]",
        "push r11",
        "push {user_code}",
        "push rcx",
        "sub rsp, 16", // error code and vector: of no meaning here
        push_registers!(),
        "mov rsp, gs:[{kernel_rsp}]",
        "mov eax, {syscall}",
        "pop rbx; pop rbp",
        "ret",
        user_rsp = const USER_RSP,
        rsp0 = const RSP0,
        kernel_rsp = const KERNEL_RSP,
        user_data = const USER_DATA,
        user_code = const USER_CODE,
        syscall = const SYSCALL,
    )
}

/// Points `syscall` to [`syscall_entry`].
///
/// # Safety
/// Runs in ring 0 after the descriptor tables are loaded; `syscall` is enabled in EFER.
pub(super) unsafe fn enable_syscall() {
    const STAR: u32 = 0xc000_0081;
    let selectors = u64::from(SYSRET_BASE) << 48 | u64::from(KERNEL_CODE) << 32;
    // SAFETY: the selectors are those of the loaded table, in the order that the instructions ask for (asserted there).
    unsafe { Msr::new(STAR).write(selectors) };
    LStar::write(VirtAddr::from_ptr(syscall_entry as *const ()));
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK
            | RFlags::RESUME_FLAG
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
}
