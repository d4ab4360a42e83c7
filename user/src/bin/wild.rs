//! Accesses that no program may make: each ends by SIGSEGV.
//!
//! With a MODE the program itself makes the access; without one it has a child make each and checks how the child ended.

use std::arch::asm;

use faultline_user::{Access, Arguments, Ended, Mapping, PAGE, expect, fail, probe};

const MODES: [(&str, fn()); 6] = [
    ("null", null),
    ("kernel", kernel),
    ("non-canonical", non_canonical),
    ("write-text", write_text),
    ("execute-data", execute_data),
    ("jump-non-canonical", jump_non_canonical),
];

fn main() {
    let mut arguments = Arguments::new("wild [null|kernel|non-canonical|write-text|execute-data|jump-non-canonical]");
    match arguments.next_word() {
        None => {
            for (name, access) in MODES {
                expect(probe(access), Ended::Signal(libc::SIGSEGV), name);
                println!("{name}: ended by SIGSEGV");
            }
        }
        Some(mode) => {
            let Some((_, access)) = MODES.iter().find(|(name, _)| *name == mode) else {
                arguments.wrong()
            };
            // SAFETY: the default action is valid for every signal.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            access();
            fail(format_args!("{mode}: nothing happened"));
        }
    }
}

/// Reads a word at an address that isn't this program's, by an instruction that the compiler doesn't look into.
fn load(address: u64) {
    // SAFETY: the load either raises a signal, which is what this program is for, or changes only the named register.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack, readonly)) };
}

/// Writes a byte to an address that isn't writable, in the same way.
fn store(address: u64) {
    // SAFETY: the caller passes an address of its own that isn't writable: the store raises a signal.
    unsafe { asm!("mov byte ptr [{0}], 0", in(reg) address, options(nostack)) };
}

/// Calls an address that isn't executable.
fn call(address: u64) {
    // SAFETY: the caller passes an address from which no instruction can be fetched: the call raises a signal. If it
    // did return, it would do so to the next instruction, with the scratch registers declared as lost.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
}

fn null() {
    load(0);
}

fn kernel() {
    load(0xffff_ffff_8000_0000);
}

fn non_canonical() {
    load(0x8000_0000_0000_0000);
}

fn write_text() {
    store(write_text as fn() as usize as u64);
}

fn execute_data() {
    let page = Mapping::private(PAGE);
    // A near return, so that a call that wrongly succeeds comes back.
    page.write(0, 0xc3);
    call(page.address(0).expose_provenance() as u64);
    page.protect(0..1, Access::None);
}

fn jump_non_canonical() {
    call(0x8000_0000_0000_0000);
}
