//! Single accesses to any address whatever: each says what was read, or which signal it caused.
//!
//! The handler that [`catch_signals`] installs makes the thread go on behind the access that failed. Only for programs
//! with one thread: where to go on is one word for the whole process.

use std::arch::asm;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A signal that an access caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Its number.
    pub signal: u64,
    /// `si_code`.
    pub code: u64,
    /// `si_addr`.
    pub address: u64,
}

/// Where to go on after a failed access; 0 outside [`read`] and its relatives.
static RESUME: AtomicU64 = AtomicU64::new(0);
static SIGNAL: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Installs the handler for `SIGSEGV` and `SIGBUS`.
pub fn catch_signals() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: 1. all zeros is a valid `sigaction`. 2. the handler has the signature that SA_SIGINFO asks for, and
        // touches only atomics and the context that it is given.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// Goes back to the default, so that a bad access ends the program.
pub fn let_signals_kill() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action is valid for every signal.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let resume = RESUME.swap(0, Ordering::Relaxed);
    if resume == 0 {
        // The program itself is wrong: end by the same signal.
        let_signals_kill();
        return;
    }
    // SAFETY: the kernel passes a valid siginfo and context to a handler with SA_SIGINFO, and nobody else uses them.
    unsafe {
        SIGNAL.store(u64::from(signal.unsigned_abs()), Ordering::Relaxed);
        CODE.store(u64::from((*info).si_code.unsigned_abs()), Ordering::Relaxed);
        ADDRESS.store((*info).si_addr() as u64, Ordering::Relaxed);
        let registers = &raw mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        (*registers)[libc::REG_RIP as usize] = resume.cast_signed();
    }
}

fn outcome<T>(value: T) -> Result<T, Caught> {
    RESUME.store(0, Ordering::Relaxed);
    match SIGNAL.swap(0, Ordering::Relaxed) {
        0 => Ok(value),
        signal => Err(Caught {
            signal,
            code: CODE.load(Ordering::Relaxed),
            address: ADDRESS.load(Ordering::Relaxed),
        }),
    }
}

/// Reads 8 bytes.
///
/// # Errors
/// The signal that the read caused.
pub fn read(address: u64) -> Result<u64, Caught> {
    let mut value = 0_u64;
    // SAFETY: 1. a load changes only the named register. 2. one that fails goes on at label 3, by the handler. 3. the
    // compiler keeps nothing in memory that the load could contradict: no reference to it exists.
    unsafe {
        asm!(
            "lea {t}, [rip + 3f]", "mov [{slot}], {t}", "mov {v}, [{a}]", "3:",
            t = out(reg) _, slot = in(reg) RESUME.as_ptr(), a = in(reg) address, v = inout(reg) value,
        );
    }
    outcome(value)
}

/// Writes 8 bytes.
///
/// # Errors
/// The signal that the write caused.
///
/// # Safety
/// Nothing of the program's own lies in those 8 bytes.
pub unsafe fn write(address: u64, value: u64) -> Result<(), Caught> {
    // SAFETY: as in `read`; that the store hits nothing of the program's own is the caller's promise.
    unsafe {
        asm!(
            "lea {t}, [rip + 3f]", "mov [{slot}], {t}", "mov [{a}], {v}", "3:",
            t = out(reg) _, slot = in(reg) RESUME.as_ptr(), a = in(reg) address, v = in(reg) value,
        );
    }
    outcome(())
}

/// Calls an address at which there is a `ret` instruction, if it can be executed.
///
/// # Errors
/// The signal that the fetch caused.
///
/// # Safety
/// If an instruction can be fetched there, it is `ret`.
pub unsafe fn execute(address: u64) -> Result<(), Caught> {
    // SAFETY: 1. the callee is a lone `ret`, by the caller's promise, and returns to label 3. 2. a fetch that fails goes
    // on at label 3 too, by the handler, with the return address still on the stack, which is why rsp is restored.
    unsafe {
        asm!(
            "lea {t}, [rip + 3f]", "mov [{slot}], {t}", "mov {s}, rsp", "call {a}", "3:", "mov rsp, {s}",
            t = out(reg) _, slot = in(reg) RESUME.as_ptr(), a = in(reg) address, s = out(reg) _,
        );
    }
    outcome(())
}
