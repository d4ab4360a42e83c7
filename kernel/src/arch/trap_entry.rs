//! Trap entry: 256 stubs and the three ways on from them.
//!
//! Every stub leaves the same frame: the five words that the processor pushed, the error code (0 if the vector has
//! none), and the vector number. Then:
//!
//! - **From user mode** the stack pointer is inside the running thread's [`UserContext`](super::UserContext), because
//!   rsp0 points to the end of the frame in it. The stub pushes the registers below, which completes the context, and
//!   returns from the `enter_user` call in progress. Nothing stays on the kernel stack.
//! - **From kernel mode** the frame is on the current stack. [`kernel_trap`](super::kernel_trap) serves an interrupt or
//!   reports a fault.
//! - **On a stack of its own** (double fault, NMI, machine check) the trap may have come between any two instructions,
//!   so the GS base itself is asked, not the saved code segment, whether it has to be exchanged.
//!
//! The saved code segment decides about `swapgs` in the first two: the GS base is the kernel's in all kernel code
//! except a few instructions of entry and exit, which run with interrupts off and cannot fault: the exit only loads
//! values that `enter` has checked.

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

use super::context::{CR2, SAVED_VECTOR};
use super::cpu::KERNEL_RSP;
use super::descriptors::vector::PAGE_FAULT;

/// Bytes between the entries of two neighbouring vectors.
const STRIDE: u64 = 16;

/// The registers as a trap leaves them in memory, lowest address first.
#[repr(C)]
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "registers have no other names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub(super) vector: u64,
    pub(super) error: u64,
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
    pub(super) ss: u64,
}

// The stubs push rax first and r15 last, and a frame on a 16-byte boundary leaves the stack on one.
const _: () = assert!(offset_of!(TrapFrame, r15) == 0 && offset_of!(TrapFrame, rax) == 14 * 8);
const _: () = assert!(offset_of!(TrapFrame, vector) == 15 * 8 && offset_of!(TrapFrame, cs) == 18 * 8);
const _: () = assert!(size_of::<TrapFrame>() == 176 && size_of::<TrapFrame>().is_multiple_of(16));

/// Pushes the general registers: the lower part of a [`TrapFrame`].
macro_rules! push_registers {
    () => {
        "push rax; push rcx; push rdx; push rsi; push rdi; push r8; push r9; push r10; push r11; \
         push rbp; push rbx; push r12; push r13; push r14; push r15"
    };
}

/// The reverse of [`push_registers`].
macro_rules! pop_registers {
    () => {
        "pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp; pop r11; pop r10; pop r9; pop r8; \
         pop rdi; pop rsi; pop rdx; pop rcx; pop rax"
    };
}

pub(super) use {pop_registers, push_registers};

global_asm!(
    ".pushsection .text.trap, \"ax\"",
    // One stub per vector, each at trap_entries + STRIDE * vector.
    ".balign 16",
    "trap_entries:",
    ".set vector, 0",
    ".rept 256",
    ".balign {stride}",
    // Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code; the others get a 0 in its place.
    ".if !((vector < 32) && ((0x60227d00 >> (vector & 31)) & 1))",
    "push 0",
    ".endif",
    "push vector",
    ".if (vector == 2) || (vector == 8) || (vector == 18)",
    "jmp trap_own_stack",
    ".else",
    "jmp trap_common",
    ".endif",
    ".set vector, vector + 1",
    ".endr",

    // The page fault, which pushes an error code, has no stub to jump from.
    ".balign 16",
    "trap_page_fault:",
    "push 14",
    // rsp -> vector, error, rip, cs, ...
    "trap_common:",
    "test byte ptr [rsp + 24], 3",
    "jz trap_kernel",

    // From user mode: complete the context, then return from `enter`, which left its caller's registers on the kernel
    // stack. A fixed RFLAGS word clears what the user may have set (direction, alignment check, which would suspend
    // SMAP, nested task).
    "swapgs",
    push_registers!(),
    "mov rax, cr2",
    "mov [rsp + {cr2}], rax",
    "mov rax, [rsp + {vector}]",
    "mov rsp, gs:[{kernel_rsp}]",
    "push 2",
    "popfq",
    "pop rbx; pop rbp",
    "ret",

    // From kernel mode, on the current stack, which the processor aligned to 16 before it pushed.
    "trap_kernel:",
    push_registers!(),
    "cld",
    "mov rdi, rsp",
    "call {kernel_trap}",
    pop_registers!(),
    "add rsp, 16", // vector, error
    "iretq",

    // On a stack of its own: the sign of the GS base says whose it is (the kernel's lies in the upper half). RBX keeps
    // whether it was exchanged; the called function preserves it.
    "trap_own_stack:",
    push_registers!(),
    "cld",
    "mov ecx, 0xc0000101", // IA32_GS_BASE
    "rdmsr",
    "xor ebx, ebx",
    "test edx, edx",
    "js 2f",
    "swapgs",
    "mov ebx, 1",
    "2:",
    "mov rdi, rsp",
    "call {own_stack_trap}",
    "test ebx, ebx",
    "jz 3f",
    "swapgs",
    "3:",
    pop_registers!(),
    "add rsp, 16",
    "iretq",
    ".popsection",
    stride = const STRIDE,
    cr2 = const CR2,
    vector = const SAVED_VECTOR,
    kernel_rsp = const KERNEL_RSP,
    kernel_trap = sym super::kernel_trap::kernel_trap,
    own_stack_trap = sym super::kernel_trap::own_stack_trap,
);

unsafe extern "C" {
    static trap_entries: u8;
    static trap_page_fault: u8;
}

/// Address of the entry of `vector`.
pub(super) fn entry(vector: u8) -> u64 {
    match vector {
        PAGE_FAULT => &raw const trap_page_fault as u64,
        _ => &raw const trap_entries as u64 + STRIDE * u64::from(vector),
    }
}

impl TrapFrame {
    /// The vector.
    pub fn vector(&self) -> u64 {
        self.vector
    }

    /// The error code, 0 if the vector has none.
    pub fn error(&self) -> u64 {
        self.error
    }

    /// The instruction pointer.
    pub fn rip(&self) -> u64 {
        self.rip
    }

    /// The stack pointer.
    pub fn rsp(&self) -> u64 {
        self.rsp
    }
}

/// The registers, four to a line.
impl core::fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let rows = [
            [
                ("rax", self.rax),
                ("rbx", self.rbx),
                ("rcx", self.rcx),
                ("rdx", self.rdx),
            ],
            [
                ("rsi", self.rsi),
                ("rdi", self.rdi),
                ("rbp", self.rbp),
                ("rsp", self.rsp),
            ],
            [("r8 ", self.r8), ("r9 ", self.r9), ("r10", self.r10), ("r11", self.r11)],
            [
                ("r12", self.r12),
                ("r13", self.r13),
                ("r14", self.r14),
                ("r15", self.r15),
            ],
            [
                ("rip", self.rip),
                ("cs ", self.cs),
                ("flg", self.rflags),
                ("ss ", self.ss),
            ],
        ];
        for row in rows {
            let [(a, av), (b, bv), (c, cv), (d, dv)] = row;
            writeln!(f, "{a} {av:#018x}  {b} {bv:#018x}  {c} {cv:#018x}  {d} {dv:#018x}")?;
        }
        Ok(())
    }
}
