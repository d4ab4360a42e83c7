//! The first Rust code: runs the stages in order and owns their failures.

use core::arch::global_asm;
use core::convert::Infallible;
use core::panic::PanicInfo;

use crate::error::Error;
use crate::memory::{FREE_BELOW, FreeMemory, PAGE, Range};
use crate::{bundle, console, handoff, kernel, pvh};

global_asm!(include_str!("entry.s"));

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// Link address minus load address (`LINK_BASE` in `boot.ld` and `entry.s`).
pub const LINK_BASE: u64 = 0xffff_ffff_c000_0000;

/// Entered from `entry.s` with the physical address of the start info.
#[unsafe(no_mangle)]
extern "C" fn boot_main(start_info: u64) -> ! {
    let Err(error) = run(start_info);
    console::fail(format_args!("{error}"))
}

fn run(start_info: u64) -> Result<Infallible, Error> {
    // SAFETY: 1. `entry.s` passes EBX of the PVH entry, which points to the start info. 2. Low memory is identity
    // mapped and nothing has been written to it yet.
    let machine = unsafe { pvh::read(start_info) }?;
    let module = machine.module.ok_or(Error::NoModule)?;

    let mut memory = FreeMemory::new(machine.ram(), machine.reserved())?;
    let image = Range::new(
        &raw const __image_start as u64 - LINK_BASE,
        &raw const __image_end as u64 - LINK_BASE,
    );
    if !memory.contains(module) || module.end > FREE_BELOW {
        return Err(Error::ModuleOutsideMemory(module));
    }
    if !module.start.is_multiple_of(PAGE) {
        return Err(Error::ModuleNotAligned(module.start));
    }
    for range in [Range::new(0, 1 << 20), image, machine.start_info, module] {
        memory.reserve(range)?;
    }

    // SAFETY: 1. The module lies in RAM below 4 GiB (checked above), which is identity mapped. 2. It is reserved, so
    // nothing below writes to it.
    let archive = unsafe { core::slice::from_raw_parts(module.start as *const u8, module.len() as usize) };
    let file = bundle::find(archive, "boot/kernel").ok_or(Error::NoKernel)?;
    let kernel = kernel::Kernel::parse(file)?;
    handoff::enter(&kernel, &machine, memory, module)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    console::fail(format_args!("internal error: {info}"))
}
