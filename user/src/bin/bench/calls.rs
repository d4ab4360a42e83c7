//! Calls, switches and signals.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use faultline_user::PAGE;

use crate::memory::{fork, map, protect, share, unmap, wait, write};
use crate::series::Bench;

/// Measures them.
pub fn run(bench: &Bench) {
    bench.run("getpid", 1, |series| {
        series.begin();
        for _ in 0..1000 {
            // SAFETY: the call has no pointer arguments.
            series.time(|| unsafe { libc::syscall(libc::SYS_getpid) });
        }
        series.end();
    });
    const ROUNDS: usize = 1000;
    bench.run(
        "sched_yield between two processes, a switch",
        2 * ROUNDS as u64,
        |series| {
            let spin = || {
                for _ in 0..ROUNDS {
                    // SAFETY: the call has no arguments.
                    unsafe { libc::syscall(libc::SYS_sched_yield) };
                }
            };
            let gate = share(PAGE).cast::<AtomicUsize>();
            // SAFETY: the shared page is mapped for the rest of the program and only used as an atomic word.
            let gate = unsafe { &*gate };
            let pid = fork(|| {
                gate.store(1, Ordering::Release);
                while gate.load(Ordering::Acquire) != 2 {
                    // SAFETY: the call has no arguments.
                    unsafe { libc::syscall(libc::SYS_sched_yield) };
                }
                spin();
                // Stays runnable until the parent has ended its rounds.
                while gate.load(Ordering::Acquire) != 3 {
                    // SAFETY: the call has no arguments.
                    unsafe { libc::syscall(libc::SYS_sched_yield) };
                }
            });
            while gate.load(Ordering::Acquire) != 1 {
                // SAFETY: the call has no arguments.
                unsafe { libc::syscall(libc::SYS_sched_yield) };
            }
            gate.store(2, Ordering::Release);
            series.begin();
            series.time(spin);
            series.end();
            gate.store(3, Ordering::Release);
            wait(pid);
        },
    );
    signals(bench);
}

/// How many bytes the store in `refused_store` takes.
const STORE_LENGTH: i64 = 3;

/// A store that the page refuses; the handler goes on behind it.
fn refused_store(address: *mut u8) {
    // SAFETY: the page allows nothing, so the store does not happen; the handler leaves every register as it was.
    unsafe { core::arch::asm!("mov byte ptr [rax], 1", in("rax") address, options(nostack)) };
}

extern "C" fn skip(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO its context, which it may change.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += STORE_LENGTH };
}

fn handle_faults(handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)) {
    // SAFETY: the structure is plain data, and the handlers of this module are safe in a signal.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &raw const action, null_mut());
    }
}

fn default_faults() {
    // SAFETY: the default action touches nothing of the program's.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
}

static FAULT_PAGE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn mend(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let page = FAULT_PAGE.load(Ordering::Relaxed) as *mut libc::c_void;
    // SAFETY: `mprotect` is a bare system call, and the page is a mapping of `signals`.
    unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
}

fn signals(bench: &Bench) {
    bench.run("SIGSEGV to a handler and back", 1, |series| {
        let memory = map(PAGE);
        protect(memory, PAGE, libc::PROT_NONE);
        handle_faults(skip);
        series.begin();
        for _ in 0..200 {
            series.time(|| refused_store(memory));
        }
        series.end();
        default_faults();
        unmap(memory, PAGE);
    });
    bench.run("SIGSEGV to a handler that mends, and back", 1, |series| {
        let memory = map(PAGE);
        write(memory, 0);
        FAULT_PAGE.store(memory as usize, Ordering::Relaxed);
        handle_faults(mend);
        series.begin();
        for _ in 0..200 {
            protect(memory, PAGE, libc::PROT_NONE);
            series.time(|| write(memory, 0));
        }
        series.end();
        default_faults();
        unmap(memory, PAGE);
    });
}
