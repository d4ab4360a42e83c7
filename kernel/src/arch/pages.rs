//! Zeroing and copying pages, by whichever instructions are fastest here.
//!
//! No choice is right everywhere: an emulator takes a string instruction word by word and vector stores in pieces, a
//! processor has fast strings or has not. So [`choose`] times every way at start-up, and takes the fastest. Under
//! `-icount`, where the counter counts instructions, that is the way with the fewest.
//!
//! # Vector registers in the kernel
//!
//! The kernel is compiled without vector registers, and while it runs they hold what the last user thread left in them
//! ([`fpu`](super::fpu)). The ways by vectors use one of them:
//!
//! - They save it before and restore it after, within one block of assembly. Interrupts are off, and what could come in
//!   between all the same (a non-maskable interrupt) is compiled without vector registers like everything else. So no
//!   save of a thread's registers can see the borrowed value.
//! - No use of them faults: `CR0.TS` and `CR0.EM` are never set, `CR4.OSFXSR` always is, and 32-byte vectors are used only
//!   where XCR0 enables them.
//! - 16-byte stores by the legacy instructions leave the upper halves of the registers alone. 32-byte stores make the
//!   processor take the upper halves for used, which can make a program that uses 16-byte instructions slower from then
//!   on. A processor that keeps track of that (`xgetbv` with ECX 1) is asked, and if the upper halves were not in use
//!   they are given back so. One that does not keep track takes them for used anyway.

use core::alloc::Layout;
use core::arch::asm;
use core::fmt::Write as _;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use faultline_fallible::String;

use super::clock;
use super::features::{Features, features};
use crate::heap;

/// Size of a page.
const PAGE: usize = 4096;
/// Pages that are zeroed or copied between two readings of the counter, and readings, of which the least counts.
const RUN: u64 = 8;
const ROUNDS: usize = 16;
/// The component of XCR0 that has the upper halves of the vector registers.
const UPPER_HALVES: u32 = 1 << 2;

/// By which instructions a page is zeroed or copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// 32-byte vectors.
    Vectors32,
    /// 32-byte vectors, on a processor that keeps track of the upper halves.
    Vectors32Tracked,
    /// 16-byte vectors.
    Vectors16,
    /// 8-byte words.
    Words,
    /// `rep stosq` and `rep movsq`.
    Strings,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Vectors32,
        Self::Vectors32Tracked,
        Self::Vectors16,
        Self::Words,
        Self::Strings,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Vectors32 => "32-byte vectors",
            Self::Vectors32Tracked => "32-byte vectors (tracked)",
            Self::Vectors16 => "16-byte vectors",
            Self::Words => "words",
            Self::Strings => "a string instruction",
        }
    }

    /// Whether this processor can go this way, or should: of the two ways by 32-byte vectors it has one.
    fn is_possible(self) -> bool {
        match self {
            Self::Vectors32 => has_avx() && !tracks_upper_halves(),
            Self::Vectors32Tracked => has_avx() && tracks_upper_halves(),
            Self::Vectors16 | Self::Words | Self::Strings => true,
        }
    }
}

/// The ways that were chosen, as numbers of [`Way::ALL`].
static ZERO: AtomicU8 = AtomicU8::new(Way::Strings as u8);
static COPY: AtomicU8 = AtomicU8::new(Way::Strings as u8);

/// Fills a page with zeros.
///
/// # Safety
/// `page` is aligned to 4096 and valid for writes of as many bytes. Interrupts are off.
#[inline(always)]
pub unsafe fn zero(page: *mut u8) {
    // SAFETY: the caller's promise; a way that was chosen is possible.
    unsafe {
        match ZERO.load(Relaxed) {
            0 => zero_vectors32(page),
            1 => zero_vectors32_tracked(page),
            2 => zero_vectors16(page),
            3 => zero_words(page),
            _ => zero_strings(page),
        }
    }
}

/// Copies a page.
///
/// # Safety
/// Both are aligned to 4096; `from` is valid for reads, `to` for writes of as many bytes, and they are not the same.
/// Interrupts are off.
#[inline(always)]
pub unsafe fn copy(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; a way that was chosen is possible.
    unsafe {
        match COPY.load(Relaxed) {
            0 => copy_vectors32(from, to),
            1 => copy_vectors32_tracked(from, to),
            2 => copy_vectors16(from, to),
            3 => copy_words(from, to),
            _ => copy_strings(from, to),
        }
    }
}

/// Times every way that is possible, and chooses the fastest for zeroing and the fastest for copying.
///
/// # Safety
/// Interrupts are off, and the heap is there.
pub unsafe fn choose() {
    const TWO_PAGES: Layout = match Layout::from_size_align(2 * PAGE, PAGE) {
        Ok(layout) => layout,
        Err(_) => panic!("no layout"),
    };
    let block = heap::allocate(TWO_PAGES).expect("there is memory for two pages at the start");
    let first = block.as_ptr();
    // SAFETY: the second page lies in the allocation.
    let second = unsafe { first.add(PAGE) };
    // So that copies read something that was written.
    // SAFETY: both pages lie in the allocation.
    unsafe { first.write_bytes(0, 2 * PAGE) };
    // SAFETY: 1. the pages are two, aligned, and this function's; 2. interrupts are off (the caller's promise).
    pick(&ZERO, "zeroed", &|| unsafe { zero(first) });
    // SAFETY: as above.
    pick(&COPY, "copied", &|| unsafe { copy(first, second) });
    // SAFETY: it came from this layout.
    unsafe { heap::free(block, TWO_PAGES) };
}

/// Times every way that is possible at this work, takes the fastest, and logs the times.
fn pick(choice: &AtomicU8, what: &str, work: &dyn Fn()) {
    let mut costs = Way::ALL.map(|way| {
        choice.store(way as u8, Relaxed);
        (if way.is_possible() { least(work) } else { u64::MAX }, way)
    });
    costs.sort_unstable_by_key(|&(cost, _)| cost);
    choice.store(costs[0].1 as u8, Relaxed);
    let mut list = String::new();
    for (cost, way) in costs.into_iter().filter(|&(cost, _)| cost != u64::MAX) {
        let separator = if list.is_empty() { "" } else { ", " };
        // Without memory the line is cut off.
        let _ = write!(list, "{separator}{} {}", way.name(), clock::to_nanoseconds(cost) / RUN);
    }
    log::info!("a page is {what}, in ns, by: {list}");
}

/// The least time that [`RUN`] times of this work take.
fn least(work: &dyn Fn()) -> u64 {
    let time = |_| {
        let before = clock::counter();
        (0..RUN).for_each(|_| work());
        clock::counter().wrapping_sub(before)
    };
    (0..ROUNDS).map(time).min().unwrap_or(u64::MAX)
}

/// Every way does what it should, and leaves the vector registers as they were. For the self-test; `page` and `other` are
/// pages of its own.
///
/// # Safety
/// As [`copy`].
///
/// # Panics
/// If a way is wrong.
pub unsafe fn check(page: *mut u8, other: *mut u8) {
    let chosen = [ZERO.load(Relaxed), COPY.load(Relaxed)];
    let both = [Way::Vectors32, Way::Vectors32Tracked];
    let ways = Way::ALL.into_iter().filter(|way| match way {
        // Each of the two is right on every processor.
        Way::Vectors32 | Way::Vectors32Tracked => has_avx(),
        _ => true,
    });
    for way in ways {
        for upper_halves in [false, true] {
            if upper_halves && !has_avx() {
                continue;
            }
            let before = pattern_registers(upper_halves);
            ZERO.store(way as u8, Relaxed);
            COPY.store(way as u8, Relaxed);
            // SAFETY: both pages are the caller's.
            let [page_bytes, other_bytes] = unsafe {
                page.write_bytes(0xa5, PAGE);
                other.write_bytes(0x5a, PAGE);
                load_registers(&before);
                copy(page, other);
                zero(page);
                [page, other].map(|page| core::slice::from_raw_parts(page, PAGE))
            };
            let after = stored_registers();
            assert!(page_bytes.iter().all(|&byte| byte == 0), "{way:?} leaves a byte");
            assert!(other_bytes.iter().all(|&byte| byte == 0xa5), "{way:?} copies wrongly");
            assert!(before == after, "{way:?} changes a vector register");
        }
    }
    if has_avx() {
        for way in both {
            // SAFETY: as above; without upper halves in use, those of all registers are zero.
            unsafe {
                load_registers(&pattern_registers(false));
                match way {
                    Way::Vectors32Tracked => zero_unused_vectors32(page),
                    _ => copy_unused_vectors32(other, page),
                }
            }
            assert!(
                stored_registers() == pattern_registers(false),
                "the upper halves are not given back"
            );
        }
    }
    ZERO.store(chosen[0], Relaxed);
    COPY.store(chosen[1], Relaxed);
}

/// What the first and the last vector register hold.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
struct Two([[u64; 4]; 2]);

fn pattern_registers(upper_halves: bool) -> Two {
    let upper = u64::from(upper_halves);
    Two([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]
        .map(|word: u64| [word, !word, upper * word.rotate_left(8), upper * word.rotate_left(24)]))
}

/// # Safety
/// The registers are nobody's.
unsafe fn load_registers(two: &Two) {
    // SAFETY: the caller's promise; the memory is aligned, and wide vectors are used only where they exist.
    unsafe {
        if has_avx() {
            asm!("vzeroall", "vmovaps ymm0, [{0}]", "vmovaps ymm15, [{0} + 32]", in(reg) two, options(nostack));
            if two.0[0][2] == 0 {
                asm!("vzeroupper", options(nostack, nomem));
            }
        } else {
            asm!("movaps xmm0, [{0}]", "movaps xmm15, [{0} + 32]", in(reg) two, options(nostack));
        }
    }
}

fn stored_registers() -> Two {
    let mut two = Two([[0; 4]; 2]);
    // SAFETY: the memory is aligned and large enough, and wide vectors are used only where they exist.
    unsafe {
        if has_avx() {
            asm!("vmovaps [{0}], ymm0", "vmovaps [{0} + 32], ymm15", in(reg) &raw mut two, options(nostack));
        } else {
            asm!("movaps [{0}], xmm0", "movaps [{0} + 32], xmm15", in(reg) &raw mut two, options(nostack));
        }
    }
    two
}

/// Whether 32-byte vectors are enabled.
fn has_avx() -> bool {
    features().contains(Features::XSAVE | Features::AVX)
}

/// Whether the processor keeps track of which components are in use: asked at start-up, when no program has run that could
/// have used the upper halves.
fn tracks_upper_halves() -> bool {
    // Leaf 13, subleaf 1, EAX: bit 2 is `xgetbv` with ECX 1.
    let knows = core::arch::x86_64::__cpuid_count(0xd, 1).eax & 1 << 2 != 0;
    // SAFETY: the processor has the instruction with this operand.
    knows && !unsafe { uses_upper_halves() }
}

/// Whether the upper halves of the vector registers are in use.
///
/// # Safety
/// The processor has `xgetbv` with ECX 1.
#[inline(always)]
unsafe fn uses_upper_halves() -> bool {
    let in_use: u32;
    // SAFETY: the caller's promise.
    unsafe { asm!("xgetbv", in("ecx") 1, out("eax") in_use, out("edx") _, options(nostack, nomem, preserves_flags)) };
    in_use & UPPER_HALVES != 0
}

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
/// As [`zero`], and 32-byte vectors are enabled.
#[inline(never)]
unsafe fn zero_vectors32(page: *mut u8) {
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
unsafe fn zero_unused_vectors32(page: *mut u8) {
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
unsafe fn zero_vectors32_tracked(page: *mut u8) {
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
/// As [`zero`].
#[inline(never)]
unsafe fn zero_vectors16(page: *mut u8) {
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
/// As [`zero`].
#[inline(never)]
unsafe fn zero_words(page: *mut u8) {
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
/// As [`zero`].
#[inline(never)]
unsafe fn zero_strings(page: *mut u8) {
    // SAFETY: the caller's promise; the direction flag is clear in all kernel code.
    unsafe {
        asm!("rep stosq", inout("rcx") PAGE / 8 => _, inout("rdi") page => _, in("rax") 0,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As [`copy`], and 32-byte vectors are enabled.
#[inline(never)]
unsafe fn copy_vectors32(from: *const u8, to: *mut u8) {
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
unsafe fn copy_unused_vectors32(from: *const u8, to: *mut u8) {
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
unsafe fn copy_vectors32_tracked(from: *const u8, to: *mut u8) {
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
/// As [`copy`].
#[inline(never)]
unsafe fn copy_vectors16(from: *const u8, to: *mut u8) {
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
/// As [`copy`].
#[inline(never)]
unsafe fn copy_words(from: *const u8, to: *mut u8) {
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
/// As [`copy`].
#[inline(never)]
unsafe fn copy_strings(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; the direction flag is clear in all kernel code.
    unsafe {
        asm!("rep movsq", inout("rcx") PAGE / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}
