//! The seam between driver logic and port I/O.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::port::Port;

/// Port accesses so far by all [`X86Ports`]. The count orders nothing.
static ACCESSES: AtomicU64 = AtomicU64::new(0);

/// How many `in` and `out` instructions the drivers have executed, those of the serial ports not included.
#[must_use]
pub fn port_accesses() -> u64 {
    ACCESSES.load(Relaxed)
}

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
        ACCESSES.fetch_add(1, Relaxed);
        // SAFETY: the owner of this value promised ring 0 and sole use of the device (see `new`).
        unsafe { Port::new(port).read() }
    }

    fn write(&mut self, port: u16, value: u8) {
        ACCESSES.fetch_add(1, Relaxed);
        // SAFETY: as in `read`.
        unsafe { Port::new(port).write(value) }
    }
}
