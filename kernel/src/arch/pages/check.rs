//! The self-test of the ways to zero and copy pages.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use super::ways::{copy_unused_vectors32, zero_unused_vectors32};
use super::{COPY, PAGE, Way, ZERO, copy, has_avx, zero};

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
