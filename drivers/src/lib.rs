//! The PC devices that the kernel drives: serial ports, interrupt controller, interval timer, clock, debug
//! exit, a virtio serial port and virtio disks on the PCI bus, and a disk that is only a model.
//!
//! Each driver is a small state-free or single-owner type over the [`Ports`] seam (the serial port: over the back end
//! of `uart_16550`), so that its logic runs in host tests against a model. Locking is the kernel's business: nothing
//! here is shared, nothing here waits for an interrupt.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod exit;
pub mod model_disk;
pub mod pci;
pub mod pic;
pub mod pit;
mod ports;
pub mod rtc;
pub mod serial;
pub mod virtio_block;
pub mod virtio_port;

pub use ports::{Ports, X86Ports, port_accesses};
pub use virtio_drivers as virtio;
