//! The seam between driver logic and port I/O.

use x86_64::instructions::port::Port;

/// Byte-wide access to I/O ports.
pub trait Ports {
    /// Reads one byte.
    fn read(&mut self, port: u16) -> u8;
    /// Writes one byte.
    fn write(&mut self, port: u16, value: u8);
}

/// The `in` and `out` instructions.
#[derive(Debug)]
pub struct X86Ports(());

impl X86Ports {
    /// The ports of this machine.
    ///
    /// # Safety
    /// The caller runs in ring 0, and hands the value only to drivers of devices that nothing else is driving.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Ports for X86Ports {
    fn read(&mut self, port: u16) -> u8 {
        // SAFETY: the owner of this value promised ring 0 and sole use of the device (see `new`).
        unsafe { Port::new(port).read() }
    }

    fn write(&mut self, port: u16, value: u8) {
        // SAFETY: as in `read`.
        unsafe { Port::new(port).write(value) }
    }
}
