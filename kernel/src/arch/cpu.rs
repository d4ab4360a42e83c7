//! The per-CPU block and what a CPU does when it has nothing to do.
//!
//! In kernel mode the GS base points to the CPU's own [`PerCpu`]; in user mode the kernel's value waits in
//! `KERNEL_GS_BASE` and the trap entry exchanges the two. Assembly reaches the block as `gs:[OFFSET]`.
//!
//! What the rest of the kernel keeps for each CPU is a [`Local`], to which the block points. A task stays on one CPU
//! from the beginning of a poll to its end, and interrupts are off meanwhile: so whatever is read through the block
//! holds until the poll is over, and nobody else writes to it.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::hint::assert_unchecked;
use core::mem::offset_of;
use core::ptr::{null, null_mut};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::structures::tss::TaskStateSegment;

use super::fpu::FpuArea;
use crate::local::Local;

/// The largest number of CPUs.
pub const MAX_CPUS: usize = faultline_mm::MAX_CPUS;

/// One CPU's own data.
#[repr(C)]
pub struct PerCpu {
    /// Stack pointer of the `enter_user` call in progress; a trap from user mode returns there.
    kernel_rsp: u64,
    /// The user's stack pointer, for two instructions of the system-call entry.
    user_rsp: u64,
    /// Whose FPU registers and segment bases the CPU holds; null if nobody's.
    pub(super) loaded: *mut FpuArea,
    /// What the rest of the kernel keeps for this CPU.
    local: *const Local,
    index: u32,
    /// Also holds rsp0, where a trap from user mode starts to push.
    pub(super) tss: TaskStateSegment,
    /// The heap account of whose turn it is, as a number.
    account: u32,
    /// Bytes that may be charged to it beyond its share.
    beyond: u32,
}

/// Offset of [`PerCpu::kernel_rsp`].
pub const KERNEL_RSP: usize = offset_of!(PerCpu, kernel_rsp);
/// Offset of [`PerCpu::user_rsp`].
pub const USER_RSP: usize = offset_of!(PerCpu, user_rsp);
/// Offset of [`PerCpu::loaded`].
pub const LOADED: usize = offset_of!(PerCpu, loaded);
/// Offset of the address of this CPU's [`Local`].
pub const LOCAL: usize = offset_of!(PerCpu, local);
/// Offset of rsp0 in the task-state segment.
pub const RSP0: usize = offset_of!(PerCpu, tss) + 4;

// rsp0 is written on every return to user mode: it must not straddle a cache line.
const _: () = assert!(RSP0.is_multiple_of(8) && size_of::<TaskStateSegment>() == 104);

/// A [`PerCpu`] in a static: only its own CPU touches it.
#[repr(C, align(64))]
pub(super) struct PerCpuCell(pub(super) UnsafeCell<PerCpu>);

// SAFETY: every access is made by the CPU that owns the block, with interrupts off; the boot CPU fills the blocks of the
// others in before it starts them.
unsafe impl Sync for PerCpuCell {}

/// The blocks of all CPUs.
pub(super) static BLOCKS: [PerCpuCell; MAX_CPUS] = {
    let mut blocks = [const { PerCpuCell::new(0) }; MAX_CPUS];
    let mut index = 1;
    while index < MAX_CPUS {
        blocks[index] = PerCpuCell::new(index as u32);
        index += 1;
    }
    blocks
};

/// What the rest of the kernel keeps for each CPU.
static LOCALS: [Local; MAX_CPUS] = [const { Local::new() }; MAX_CPUS];

impl PerCpuCell {
    const fn new(index: u32) -> Self {
        Self(UnsafeCell::new(PerCpu {
            kernel_rsp: 0,
            user_rsp: 0,
            loaded: null_mut(),
            local: null(),
            index,
            tss: TaskStateSegment::new(),
            account: 0,
            beyond: 0,
        }))
    }
}

/// Points the GS base to the block of CPU `index`.
///
/// # Safety
/// Runs on that CPU, in ring 0, after the segment registers were loaded (loading GS clears its base), and before anything
/// asks for the CPU's index.
pub(super) unsafe fn load_gs_base(index: usize) {
    let block = BLOCKS[index].0.get();
    // SAFETY: the block is this CPU's, which does not use it yet.
    unsafe { (*block).local = &raw const LOCALS[index] };
    GsBase::write(VirtAddr::from_ptr(block));
    KernelGsBase::write(VirtAddr::zero());
}

/// Index of the CPU that runs this code.
#[inline(always)]
pub fn index() -> usize {
    let index: u32;
    // SAFETY: reads a field of this CPU's block through the GS base, which is set in all kernel code. The field never
    // changes, and no poll moves to another CPU, so the compiler may read it once for several uses.
    unsafe {
        asm!("mov {:e}, gs:[{offset}]", out(reg) index, offset = const offset_of!(PerCpu, index),
            options(nostack, preserves_flags, pure, nomem));
    }
    // SAFETY: the block of a CPU is one of an array of this length, and has its place there as its index.
    unsafe { assert_unchecked((index as usize) < MAX_CPUS) };
    index as usize
}

/// What the kernel keeps for the CPU that runs this code.
#[inline(always)]
pub fn local() -> &'static Local {
    let local: *const Local;
    // SAFETY: as in `index`: the field is set with the GS base and never changes.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) local, offset = const LOCAL,
            options(nostack, preserves_flags, pure, nomem));
        &*local
    }
}

/// What the kernel keeps for each CPU, by its index.
pub fn locals() -> &'static [Local; MAX_CPUS] {
    &LOCALS
}

/// The heap account that allocations on this CPU are charged to, as a number.
#[inline(always)]
pub fn account() -> u32 {
    let account: u32;
    // SAFETY: as in `index`.
    unsafe {
        asm!("mov {:e}, gs:[{offset}]", out(reg) account, offset = const offset_of!(PerCpu, account),
            options(nostack, preserves_flags, readonly));
    }
    account
}

/// Sets the heap account that allocations on this CPU are charged to.
#[inline(always)]
pub fn set_account(account: u32) {
    // SAFETY: writes a field of this CPU's block through the GS base; no Rust reference to the field exists.
    unsafe {
        asm!("mov gs:[{offset}], {:e}", in(reg) account, offset = const offset_of!(PerCpu, account),
            options(nostack, preserves_flags));
    }
}

/// How many bytes may be charged to that account beyond its share.
pub fn beyond() -> u32 {
    let beyond: u32;
    // SAFETY: as in `index`.
    unsafe {
        asm!("mov {:e}, gs:[{offset}]", out(reg) beyond, offset = const offset_of!(PerCpu, beyond),
            options(nostack, preserves_flags, readonly));
    }
    beyond
}

/// Sets how many bytes may be charged to that account beyond its share.
#[inline(always)]
pub fn set_beyond(beyond: u32) {
    // SAFETY: as in `set_account`.
    unsafe {
        asm!("mov gs:[{offset}], {:e}", in(reg) beyond, offset = const offset_of!(PerCpu, beyond),
            options(nostack, preserves_flags));
    }
}

/// Whose FPU registers and segment bases this CPU holds.
pub(super) fn loaded() -> *mut FpuArea {
    let area: *mut FpuArea;
    // SAFETY: as in `index`.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) area, offset = const LOADED,
            options(nostack, preserves_flags, readonly));
    }
    area
}

/// Records whose FPU registers and segment bases this CPU holds.
pub(super) fn set_loaded(area: *mut FpuArea) {
    // SAFETY: writes a field of this CPU's block through the GS base; no Rust reference to the field exists.
    unsafe {
        asm!("mov gs:[{offset}], {}", in(reg) area, offset = const LOADED, options(nostack, preserves_flags));
    }
}

/// Waits for the next interrupt, whose handler has run when this returns.
///
/// The caller has checked with interrupts off that there is nothing to do: `sti` takes effect after `hlt` has begun, so
/// a wake-up that comes in between is not lost.
pub fn idle() {
    // SAFETY: 1. Kernel code holds no lock here that an interrupt handler takes. 2. Interrupts are off again after it.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Serves the interrupts that have come up.
pub fn let_interrupts_in() {
    // SAFETY: as in `idle`. `sti` takes effect behind the instruction that follows it.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but a non-maskable interrupt ends the halt, and the loop is entered again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
