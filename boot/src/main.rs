//! The direct-boot stage: `qemu -kernel faultline-boot -initrd BUNDLE`.
//!
//! QEMU (or any PVH loader) enters `pvh_start` in `entry.s`. The stage then plays the part of the `bootloader` crate:
//! the kernel sees only a [`bootloader_api::BootInfo`] and cannot tell the two apart.
//!
//! 1. `entry.s` enters 64-bit mode on the stage's own tables: 4 GiB of identity map, and the stage at its link address.
//! 2. [`pvh`] copies what the loader left in memory: memory map, first module, RSDP.
//! 3. [`memory`] turns the map into free ranges, without the first MiB, this image, the start info and the module.
//! 4. [`bundle`] finds the kernel in the module, a cpio archive; [`kernel`] loads it with W^X page permissions.
//! 5. [`handoff`] maps what the kernel's configuration asks for, writes the `BootInfo`, and jumps.
//!
//! Guarantees: nothing is written to memory that the map does not give as usable; every failure prints one line that
//! starts with `boot:` on COM1 and ends QEMU through the debug-exit device with [`console::FAILED`].
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

mod bundle;
mod memory;

#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod error;
#[cfg(target_os = "none")]
mod handoff;
#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod pvh;
#[cfg(target_os = "none")]
mod start;

/// On the host only the tests of the pure modules are of use.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("faultline-boot is the guest's boot stage: build it with `cargo kbuild -p faultline-boot`");
    std::process::exit(1);
}
