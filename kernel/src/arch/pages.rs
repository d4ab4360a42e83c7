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

mod check;
mod ways;

use core::alloc::Layout;
use core::arch::asm;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use faultline_fallible::String;

use super::clock;
use super::features::{Features, features};
use crate::heap;
use ways::{
    copy_strings, copy_vectors16, copy_vectors32, copy_vectors32_tracked, copy_words, zero_strings, zero_vectors16,
    zero_vectors32, zero_vectors32_tracked, zero_words,
};

pub use check::check;

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
