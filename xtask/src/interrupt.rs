//! Ctrl-C, `kill` and a closed terminal end the machine before they end the tool.
//!
//! The first signal only sets a flag, which whoever waits for QEMU looks at; it kills QEMU by its own process id,
//! collects it and returns. A second signal ends the tool at once; QEMU then dies with it (`PR_SET_PDEATHSIG`). So it
//! does when the reader of the tool's output goes away, which ends the tool as it ends any program in a pipe.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Lets the tool end with the reader of its output, as any program in a pipe does. Comes first in `main`: what is printed
/// before would panic. Tests don't call this.
pub fn end_with_reader() {
    // SAFETY: the default action is valid for SIGPIPE; the Rust runtime ignored it before `main`, and no other thread
    // of this program changes it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Takes over the signals that ask the tool to end. Tests don't call this.
///
/// # Errors
/// Fails when the operating system refuses a handler.
pub fn install() -> io::Result<()> {
    let flag = REQUESTED.get_or_init(Default::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let second = Arc::new(std::sync::atomic::AtomicBool::new(false));
        // In this order: the shutdown sees the flag that an earlier signal set, not the one of its own.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&second))?;
        signal_hook::flag::register(signal, second)?;
        let number = usize::try_from(signal).expect("signal numbers are positive");
        signal_hook::flag::register_usize(signal, Arc::clone(flag), number)?;
    }
    Ok(())
}

/// Asks the tool to end, as Ctrl-C does, for a command that reads Ctrl-C as a key.
pub fn request() {
    let number = usize::try_from(SIGINT).expect("signal numbers are positive");
    REQUESTED.get_or_init(Default::default).store(number, Ordering::Relaxed);
}

/// The signal that asked the tool to end, if one did.
#[must_use]
pub fn requested() -> Option<i32> {
    match REQUESTED.get()?.load(Ordering::Relaxed) {
        0 => None,
        signal => i32::try_from(signal).ok(),
    }
}
