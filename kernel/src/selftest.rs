//! Deliberate failures of the kernel (`selftest=` in `boot/config`): each must end in a report and a failure code, and
//! the system tests check that it does.

use core::arch::asm;
use core::hint::black_box;

use crate::config::SelfTest;

/// Fails in the given way.
pub fn fail(how: SelfTest) -> ! {
    log::info!("self-test: {how:?}");
    match how {
        SelfTest::Traps | SelfTest::LeakFrame => {}
        SelfTest::Panic | SelfTest::LatePanic => panic!("deliberate panic"),
        SelfTest::Overflow => {
            black_box(recurse(1));
        }
        SelfTest::DoubleFault => {
            // SAFETY: the run ends here.
            unsafe { crate::arch::descriptors::provoke_double_fault() };
        }
        SelfTest::PageFault => {
            // SAFETY: deliberately none: the null page is not mapped.
            unsafe { asm!("mov {0}, [{0}]", inout(reg) 0u64 => _, options(nostack)) };
        }
        SelfTest::WriteText => {
            let code = fail as fn(SelfTest) -> ! as *mut u8;
            // SAFETY: deliberately none: the code is mapped read-only.
            unsafe { asm!("mov byte ptr [{}], 0", in(reg) code, options(nostack)) };
        }
        SelfTest::ExecuteData => {
            let code = [0xc3u8; 16];
            // SAFETY: deliberately none: the stack is mapped no-execute.
            unsafe { asm!("call {}", in(reg) black_box(code.as_ptr()), clobber_abi("C")) };
        }
    }
    panic!("the deliberate failure {how:?} did not happen")
}

/// Uses the stack up: each call keeps an array alive. Only arithmetic overflow would end the recursion.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let mut kept = [depth; 64];
    black_box(&mut kept);
    if depth == 0 {
        0
    } else {
        recurse(depth.wrapping_add(1)) + kept[black_box(0)]
    }
}
