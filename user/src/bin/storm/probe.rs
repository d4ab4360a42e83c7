//! Loads and stores that bear being refused: the handler goes on behind them.

use std::arch::global_asm;
use std::ptr::null_mut;

/// What came of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Value(u64),
    Refused,
}

// Both end behind their one access to memory, where rdx says whether it was made.
global_asm!(
    ".pushsection .text.storm_probe, \"ax\"",
    ".globl storm_load, storm_load_access, storm_load_refused, storm_store, storm_store_access, storm_store_refused",
    "storm_load:",
    "xor edx, edx",
    "storm_load_access:",
    "mov rax, [rdi]",
    "ret",
    "storm_load_refused:",
    "mov edx, 1",
    "ret",
    "storm_store:",
    "storm_store_access:",
    "mov [rdi], rsi",
    "storm_store_refused:",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    static storm_load: u8;
    static storm_load_access: u8;
    static storm_load_refused: u8;
    static storm_store: u8;
    static storm_store_access: u8;
    static storm_store_refused: u8;
}

/// Reads a word that may be refused.
pub fn load(place: *const u64) -> Answer {
    let (value, refused): (u64, u64);
    // SAFETY: the function changes rax and rdx only; a refused access ends behind it, by the handler, which must be set.
    unsafe {
        std::arch::asm!(
            "call {load}", load = sym storm_load,
            in("rdi") place, out("rax") value, out("rdx") refused,
        );
    }
    if refused == 0 {
        Answer::Value(value)
    } else {
        Answer::Refused
    }
}

/// Writes a word, unless that is refused.
pub fn store(place: *mut u64, value: u64) {
    // SAFETY: as in `load`; the function changes nothing but the word. The caller writes a word that it shares with nobody
    // who minds.
    unsafe { std::arch::asm!("call {store}", store = sym storm_store, in("rdi") place, in("rsi") value) };
}

/// The handler of refused accesses; the default action returns when it is dropped.
pub struct Handler(());

/// Lets refused probes go on. Any other bad access ends the program as ever.
pub fn catch_refusals() -> Handler {
    // SAFETY: the structure is plain data; the handler changes its own context only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = go_on as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &raw const action, null_mut());
    }
    Handler(())
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: the default action touches nothing of the program's.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    }
}

extern "C" fn go_on(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO its context, which it may change.
    let rip = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
    let address = |label: *const u8| label as i64;
    if *rip == address(&raw const storm_load_access) {
        *rip = address(&raw const storm_load_refused);
    } else if *rip == address(&raw const storm_store_access) {
        *rip = address(&raw const storm_store_refused);
    } else {
        // SAFETY: the access is made again, now with the default action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
