//! The kernel half of the address space, and the configuration that makes a boot stage lay it out.
//!
//! | From | To | What |
//! |---|---|---|
//! | `ffff_8000_0000_0000` | + RAM | all physical memory, read-write |
//! | `ffff_f000_0000_0000` | + 256 KiB a CPU | kernel stack, a guard page below it; but for the boot CPU, its exception stacks above |
//! | `ffff_f080_0000_0000` | | boot info |
//! | `ffff_f100_0000_0000` | `ffff_f7ff_ffff_f000` | the ramdisk, and whatever else a boot stage maps |
//! | `ffff_ffff_8000_0000` | | the kernel image |
//!
//! The lower half belongs to user programs; the boot stage's own mappings there are dropped at start-up.

use core::ops::Range;

use bootloader_api::BootloaderConfig;
use bootloader_api::config::Mapping;

/// First address of the kernel half.
pub const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// Where physical memory is mapped.
pub const PHYSICAL_MEMORY: u64 = KERNEL_HALF;
/// Where the kernel stacks are.
const STACKS: u64 = 0xffff_f000_0000_0000;
/// From one CPU's stacks to the next one's.
const STACK_STEP: u64 = 256 * 1024;
/// Bytes of a kernel stack.
pub const STACK_SIZE: u64 = 128 * 1024;
/// Bytes of a CPU's exception stacks.
pub const EXCEPTION_STACKS: u64 = 48 * 1024;

const GUARD: u64 = 4096;
const _: () = assert!(GUARD + STACK_SIZE + EXCEPTION_STACKS <= STACK_STEP);

/// The guard page below the kernel stack of a CPU.
pub const fn stack_guard(cpu: usize) -> Range<u64> {
    let start = STACKS + cpu as u64 * STACK_STEP;
    start..start + GUARD
}

/// The kernel stack of a CPU.
pub const fn stack(cpu: usize) -> Range<u64> {
    let start = stack_guard(cpu).end;
    start..start + STACK_SIZE
}

/// The exception stacks of a CPU that is not the boot CPU, which has its own in the kernel image.
pub const fn exception_stacks(cpu: usize) -> Range<u64> {
    let start = stack(cpu).end;
    start..start + EXCEPTION_STACKS
}

const BOOT_INFO: u64 = 0xffff_f080_0000_0000;
const DYNAMIC: Range<u64> = 0xffff_f100_0000_0000..0xffff_f7ff_ffff_f000;

/// What the kernel asks of the stage that boots it.
pub const BOOT_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = STACK_SIZE;
    config.mappings.kernel_stack = Mapping::FixedAddress(stack_guard(0).start);
    config.mappings.boot_info = Mapping::FixedAddress(BOOT_INFO);
    config.mappings.physical_memory = Some(Mapping::FixedAddress(PHYSICAL_MEMORY));
    config.mappings.dynamic_range_start = Some(DYNAMIC.start);
    config.mappings.dynamic_range_end = Some(DYNAMIC.end);
    config
};
