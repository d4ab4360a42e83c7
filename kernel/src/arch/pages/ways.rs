//! The ways to zero and copy pages, in assembly.

use core::arch::asm;
use core::mem::MaybeUninit;

use super::{PAGE, uses_upper_halves};

/// Assembly that repeats a line for each piece of a page, unrolled within steps of so many bytes.
macro_rules! for_each_piece {
    ($piece:literal, $step:literal, [$($advance:literal),*], $($line:literal),+) => {
        concat!(
            "2:\n.set page_piece, 0\n.rept ", $step, " / ", $piece, "\n",
            $($line, "\n",)+
            ".set page_piece, page_piece + ", $piece, "\n.endr\n",
            $($advance, "\n",)*
            "dec {steps:e}\njnz 2b"
        )
    };
}

/// Zeroes a page by vectors of which the first is saved around.
macro_rules! zero_by_vectors {
    ($page:ident, $piece:literal, $save:literal, $clear:literal, $store:literal, $($restore:literal),+) => {{
        let mut saved = MaybeUninit::<[u64; 4]>::uninit();
        asm!(
            $save,
            $clear,
            for_each_piece!($piece, "2048", ["add {page}, 2048"], $store),
            $($restore,)+
            saved = in(reg) saved.as_mut_ptr(),
            page = inout(reg) $page => _,
            steps = inout(reg) 2 => _,
            options(nostack),
        );
    }};
}

/// Copies a page by one vector, which is saved around.
macro_rules! copy_by_vectors {
    ($from:ident, $to:ident, $piece:literal, $save:literal, $load:literal, $store:literal, $($restore:literal),+) => {{
        let mut saved = MaybeUninit::<[u64; 4]>::uninit();
        asm!(
            $save,
            for_each_piece!($piece, "2048", ["add {from}, 2048", "add {to}, 2048"], $load, $store),
            $($restore,)+
            saved = in(reg) saved.as_mut_ptr(),
            from = inout(reg) $from => _,
            to = inout(reg) $to => _,
            steps = inout(reg) 2 => _,
            options(nostack),
        );
    }};
}

/// # Safety
/// As [`zero`](super::zero), and 32-byte vectors are enabled.
#[inline(never)]
pub(super) unsafe fn zero_vectors32(page: *mut u8) {
    // SAFETY: the caller's promise; the register is restored.
    unsafe {
        zero_by_vectors!(
            page,
            "32",
            "vmovups [{saved}], ymm0",
            "vxorps ymm0, ymm0, ymm0",
            "vmovaps [{page} + page_piece], ymm0",
            "vmovups ymm0, [{saved}]"
        );
    }
}

/// # Safety
/// As [`zero_vectors32`], and the upper halves of all vector registers are zero.
#[inline(never)]
pub(super) unsafe fn zero_unused_vectors32(page: *mut u8) {
    // SAFETY: the caller's promise; the register is restored: `vzeroupper` makes zero what was zero.
    unsafe {
        zero_by_vectors!(
            page,
            "32",
            "movups [{saved}], xmm0",
            "vxorps ymm0, ymm0, ymm0",
            "vmovaps [{page} + page_piece], ymm0",
            "vzeroupper",
            "movups xmm0, [{saved}]"
        );
    }
}

/// # Safety
/// As [`zero_vectors32`], and the processor has `xgetbv` with ECX 1.
#[inline(never)]
pub(super) unsafe fn zero_vectors32_tracked(page: *mut u8) {
    // SAFETY: the caller's promise; halves that are not in use are zero.
    unsafe {
        if uses_upper_halves() {
            zero_vectors32(page);
        } else {
            zero_unused_vectors32(page);
        }
    }
}

/// # Safety
/// As [`zero`](super::zero).
#[inline(never)]
pub(super) unsafe fn zero_vectors16(page: *mut u8) {
    // SAFETY: the caller's promise; the register is restored.
    unsafe {
        zero_by_vectors!(
            page,
            "16",
            "movups [{saved}], xmm0",
            "xorps xmm0, xmm0",
            "movaps [{page} + page_piece], xmm0",
            "movups xmm0, [{saved}]"
        );
    }
}

/// # Safety
/// As [`zero`](super::zero).
#[inline(never)]
pub(super) unsafe fn zero_words(page: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            for_each_piece!("8", "512", ["add {page}, 512"], "mov [{page} + page_piece], {zero}"),
            page = inout(reg) page => _,
            zero = in(reg) 0u64,
            steps = inout(reg) 8 => _,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`zero`](super::zero).
#[inline(never)]
pub(super) unsafe fn zero_strings(page: *mut u8) {
    // SAFETY: the caller's promise; the direction flag is clear in all kernel code.
    unsafe {
        asm!("rep stosq", inout("rcx") PAGE / 8 => _, inout("rdi") page => _, in("rax") 0,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As [`copy`](super::copy), and 32-byte vectors are enabled.
#[inline(never)]
pub(super) unsafe fn copy_vectors32(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; the register is restored.
    unsafe {
        copy_by_vectors!(
            from,
            to,
            "32",
            "vmovups [{saved}], ymm0",
            "vmovaps ymm0, [{from} + page_piece]",
            "vmovaps [{to} + page_piece], ymm0",
            "vmovups ymm0, [{saved}]"
        );
    }
}

/// # Safety
/// As [`copy_vectors32`], and the upper halves of all vector registers are zero.
#[inline(never)]
pub(super) unsafe fn copy_unused_vectors32(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; the register is restored, as in `zero_unused_vectors32`.
    unsafe {
        copy_by_vectors!(
            from,
            to,
            "32",
            "movups [{saved}], xmm0",
            "vmovaps ymm0, [{from} + page_piece]",
            "vmovaps [{to} + page_piece], ymm0",
            "vzeroupper",
            "movups xmm0, [{saved}]"
        );
    }
}

/// # Safety
/// As [`copy_vectors32`], and the processor has `xgetbv` with ECX 1.
#[inline(never)]
pub(super) unsafe fn copy_vectors32_tracked(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; halves that are not in use are zero.
    unsafe {
        if uses_upper_halves() {
            copy_vectors32(from, to);
        } else {
            copy_unused_vectors32(from, to);
        }
    }
}

/// # Safety
/// As [`copy`](super::copy).
#[inline(never)]
pub(super) unsafe fn copy_vectors16(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; the register is restored.
    unsafe {
        copy_by_vectors!(
            from,
            to,
            "16",
            "movups [{saved}], xmm0",
            "movaps xmm0, [{from} + page_piece]",
            "movaps [{to} + page_piece], xmm0",
            "movups xmm0, [{saved}]"
        );
    }
}

/// # Safety
/// As [`copy`](super::copy).
#[inline(never)]
pub(super) unsafe fn copy_words(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            for_each_piece!(
                "8",
                "512",
                ["add {from}, 512", "add {to}, 512"],
                "mov {word}, [{from} + page_piece]",
                "mov [{to} + page_piece], {word}"
            ),
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            word = out(reg) _,
            steps = inout(reg) 8 => _,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`copy`](super::copy).
#[inline(never)]
pub(super) unsafe fn copy_strings(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; the direction flag is clear in all kernel code.
    unsafe {
        asm!("rep movsq", inout("rcx") PAGE / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}
