//! Deliberate failures of the kernel (`selftest=` in `boot/config`): each must end in a report and a failure code, and
//! the system tests check that it does.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering};

use faultline_executor::{Class, WaitQueue, yield_now};

use crate::config::SelfTest;
use crate::machine::executor;
use crate::time;

/// Fails in the given way.
pub fn fail(how: SelfTest) -> ! {
    log::info!("self-test: {how:?}");
    match how {
        SelfTest::Traps | SelfTest::LeakFrame | SelfTest::Stall => {}
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

/// Spawns a task that holds a resource, and one that waits for it; the first one's second poll takes two times the limit.
pub fn stall() {
    let door = executor().resource("door");
    let waiting = door.clone();
    let holder = async move {
        let held = door.hold();
        yield_now().await;
        let end = time::now() + 20_000_000;
        while time::now() < end {
            core::hint::spin_loop();
        }
        // Held until the next poll, so that the report of this one shows it.
        yield_now().await;
        drop(held);
        OPEN.store(true, Ordering::Relaxed);
        OPENED.wake_all();
    };
    let waiter = waiting.wait(OPENED.wait_until(|| OPEN.load(Ordering::Relaxed).then_some(())));
    // The waiter first, so that it waits when the holder's long poll is reported.
    let waiter = executor().spawn_detached("waiter", Class::User, waiter);
    let holder = executor().spawn_detached("holder", Class::User, holder);
    assert!(holder.is_ok() && waiter.is_ok(), "there is room for two tasks");
}

/// The holder has let go of the door.
static OPEN: AtomicBool = AtomicBool::new(false);

/// Who waits for that.
static OPENED: WaitQueue = WaitQueue::new();

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
