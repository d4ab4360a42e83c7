//! The program as the first process of a Linux that runs nothing else.

use std::ptr;
use std::thread;
use std::time::Duration;

/// The debug-exit device of the benchmark's machine, and the value that ends QEMU with the status of an orderly end.
const EXIT_PORT: u16 = 0xf4;
const ORDERLY: u8 = 0x10;

/// Waits until the kernel has finished what it does late in its start, so that nothing of it is measured.
pub fn settle() {
    thread::sleep(Duration::from_secs(2));
}

/// Waits until the console has sent everything and ends the machine.
pub fn power_off() -> ! {
    // SAFETY: the descriptor is standard output; the call only waits.
    unsafe { libc::tcdrain(1) };
    // SAFETY: `ioperm` gives this process, which is root, one port: that of a device that ends the machine. If it is not
    // there the write goes nowhere, and the reset that follows ends QEMU.
    unsafe {
        if libc::ioperm(u64::from(EXIT_PORT), 1, 1) == 0 {
            core::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") ORDERLY, options(nostack, nomem));
        }
        libc::reboot(libc::RB_AUTOBOOT);
    }
    loop {
        // SAFETY: null pointers make the call wait for ever.
        unsafe { libc::select(0, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) };
    }
}
