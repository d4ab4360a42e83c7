//! The programs of the trap test: one page of machine code.

use core::arch::global_asm;

use super::space::CODE;

// One page of snippets, copied to user memory; each starts at its label.
global_asm!(
    ".pushsection .rodata.snippets, \"a\"",
    ".balign 4096",
    "snippets:",
    "snippet_syscall: 2: syscall; jmp 2b",
    "snippet_read: mov al, [rdi]; ud2",
    "snippet_write: mov [rdi], al; ud2",
    "snippet_jump: jmp rdi",
    "snippet_ud2: ud2",
    "snippet_int3: int3",
    "snippet_int80: int 0x80",
    "snippet_int1: .byte 0xf1",
    "snippet_divide: xor ecx, ecx; div ecx",
    "snippet_nop: nop; nop; ud2",
    "snippet_hlt: hlt",
    "snippet_cli: cli",
    "snippet_out: out 0x80, al",
    "snippet_wrmsr: wrmsr",
    "snippet_swapgs: swapgs",
    "snippet_mov_cr: mov rax, cr0",
    "snippet_iretq: iretq",
    "snippet_sysretq: sysretq",
    "snippet_sysenter: sysenter",
    "snippet_sgdt: sgdt [rdi]; ud2",
    "snippet_flags: push rax; popfq; syscall; pushfq; pop rbx; ud2",
    "snippet_segments: mov ds, eax; mov es, eax; mov fs, ebx; mov gs, ebx; ud2",
    "snippet_fs: mov rax, fs:[0]; mov rbx, gs:[8]; ud2",
    "snippet_xmm_set: movq xmm7, rax; fld1; syscall; movq rbx, xmm7; ud2",
    "snippet_shadow_syscall: mov ss, eax; syscall; ud2",
    "snippet_shadow_int3: mov ss, eax; int3; ud2",
    "snippet_loop: jmp snippet_loop",
    ".org snippets + 4094",
    "snippet_last: syscall",
    ".popsection",
);

/// Declares the labels as addresses in the code page.
macro_rules! snippets {
    ($($name:ident)*) => {
        unsafe extern "C" { pub static snippets: u8; $(static $name: u8;)* }
        /// Addresses of the snippets.
        pub struct At { $(pub $name: u64,)* }
        impl At {
            /// Computes them.
            pub fn new() -> Self {
                let base = &raw const snippets as u64;
                Self { $($name: CODE + (&raw const $name as u64 - base),)* }
            }
        }
    };
}

snippets! {
    snippet_syscall snippet_read snippet_write snippet_jump snippet_ud2 snippet_int3 snippet_int80 snippet_int1
    snippet_divide snippet_nop snippet_hlt snippet_cli snippet_out snippet_wrmsr snippet_swapgs snippet_mov_cr
    snippet_iretq snippet_sysretq snippet_sysenter snippet_sgdt snippet_flags snippet_segments snippet_fs
    snippet_xmm_set snippet_shadow_syscall snippet_shadow_int3 snippet_loop snippet_last
}
