//! QEMU's debug-exit device: the value written ends QEMU with the exit code `value << 1 | 1`.

use x86_64::instructions::port::Port;

/// The device's port (`-device isa-debug-exit,iobase=0xf4,iosize=0x04`).
const PORT: u16 = 0xf4;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// The kernel ran to its orderly end: QEMU exits with 33.
    Orderly = 0x10,
    /// The kernel failed: QEMU exits with 35.
    KernelFailure = 0x11,
}

/// Ends QEMU. On a machine without the device nothing happens and the call returns.
///
/// # Safety
/// The caller runs in ring 0. Nothing of the guest runs on afterwards, so all output must be on its way.
pub unsafe fn exit(exit: Exit) {
    // SAFETY: the caller's promise; without the device the write goes nowhere.
    unsafe { Port::new(PORT).write(exit as u32) }
}
