//! Segment descriptors, the task-state segment and the 256 interrupt gates.
//!
//! The order of the segments is what `syscall` and `sysret` ask for: kernel code, kernel data, then an empty place
//! where 32-bit user code would be, user data, user code. With that place empty, no 32-bit code segment exists.
//!
//! Double fault, non-maskable interrupt and machine check have stacks of their own: they may come when the stack
//! pointer is no good (kernel stack overflow, the first and last instructions of a trap from user mode).

use core::cell::UnsafeCell;
use core::mem::size_of;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags, SegmentSelector};

use super::cpu::{self, BLOCKS, MAX_CPUS};
use super::trap_entry;
use crate::layout;

/// Selector of kernel code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of kernel data (the stack segment).
pub const KERNEL_DATA: u16 = 0x10;
/// The base from which `sysret` computes its selectors, with the user's privilege level.
pub const SYSRET_BASE: u16 = 0x18 | 3;
/// Selector of user data.
pub const USER_DATA: u16 = 0x20 | 3;
/// Selector of 64-bit user code.
pub const USER_CODE: u16 = 0x28 | 3;
/// Selector of the first CPU's task-state segment; those of the others follow, 16 bytes each.
const TASK_STATE: u16 = 0x30;

/// Descriptors before those of the task-state segments.
const SHARED: usize = TASK_STATE as usize / 8;

const _: () = assert!(USER_DATA == SYSRET_BASE + 8 && USER_CODE == SYSRET_BASE + 16 && KERNEL_DATA == KERNEL_CODE + 8);

/// Vectors with a stack of their own, and the index of that stack.
const OWN_STACK: [(u8, u8); 3] = [(vector::DOUBLE_FAULT, 0), (vector::NMI, 1), (vector::MACHINE_CHECK, 2)];

/// Exception vectors that code elsewhere names.
pub mod vector {
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// `int3`.
    pub const BREAKPOINT: u8 = 3;
    /// `into`, which 64-bit mode does not have.
    pub const OVERFLOW: u8 = 4;
    /// Double fault.
    pub const DOUBLE_FAULT: u8 = 8;
    /// General protection fault.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// Page fault.
    pub const PAGE_FAULT: u8 = 14;
    /// Machine check.
    pub const MACHINE_CHECK: u8 = 18;
    /// First vector that is no exception.
    pub const FIRST_INTERRUPT: u8 = 32;
    /// The local APIC's timer, after the lines of the 8259 pair.
    pub const APIC_TIMER: u8 = 48;
    /// What CPUs interrupt each other with.
    pub const OTHER_CPU: u8 = 49;
}

/// Bytes of each of the three exception stacks: room for a report with its formatting.
const EXCEPTION_STACK: usize = 16 * 1024;

#[repr(C, align(4096))]
struct ExceptionStacks([[u8; EXCEPTION_STACK]; OWN_STACK.len()]);

/// One interrupt gate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    const MISSING: Self = Self {
        offset_low: 0,
        selector: 0,
        stack: 0,
        attributes: 0,
        offset_middle: 0,
        offset_high: 0,
        reserved: 0,
    };

    /// A present 64-bit interrupt gate (interrupts off on entry) that ring `level` may use with `int`.
    fn new(entry: u64, stack: u8, level: u8) -> Self {
        Self {
            offset_low: entry as u16,
            selector: KERNEL_CODE,
            stack,
            attributes: 0x8e | level << 5,
            offset_middle: (entry >> 16) as u16,
            offset_high: (entry >> 32) as u32,
            reserved: 0,
        }
    }
}

/// A static that is written once at start-up and then read by the processor only.
struct Table<T>(UnsafeCell<T>);

// SAFETY: written by the boot CPU before any other CPU runs; from then on only hardware uses it.
unsafe impl<T> Sync for Table<T> {}

static SEGMENTS: Table<[u64; SHARED + 2 * MAX_CPUS]> = Table(UnsafeCell::new([0; _]));
static GATES: Table<[Gate; 256]> = Table(UnsafeCell::new([Gate::MISSING; 256]));
/// Those of the boot CPU; the other CPUs' lie [above their stacks](crate::layout::exception_stacks).
static EXCEPTION_STACKS: Table<ExceptionStacks> = Table(UnsafeCell::new(ExceptionStacks(
    [[0; EXCEPTION_STACK]; OWN_STACK.len()],
)));

const _: () = assert!(size_of::<ExceptionStacks>() as u64 == layout::EXCEPTION_STACKS);

/// Addresses of a CPU's exception stacks.
pub fn exception_stacks(cpu: usize) -> core::ops::Range<u64> {
    if cpu > 0 {
        return layout::exception_stacks(cpu);
    }
    let start = EXCEPTION_STACKS.0.get() as u64;
    start..start + layout::EXCEPTION_STACKS
}

/// Builds the descriptor tables of all CPUs.
///
/// # Safety
/// Runs once, on the boot CPU, before [`load`].
pub(super) unsafe fn build() {
    // SAFETY: called once, before the tables are loaded anywhere and before other CPUs run: nobody else uses the statics.
    unsafe {
        let segments = &mut *SEGMENTS.0.get();
        segments[..SHARED].copy_from_slice(&[
            0,
            DescriptorFlags::KERNEL_CODE64.bits(),
            DescriptorFlags::KERNEL_DATA.bits(),
            0,
            DescriptorFlags::USER_DATA.bits(),
            DescriptorFlags::USER_CODE64.bits(),
        ]);
        for (cpu, block) in BLOCKS.iter().enumerate() {
            let tss = &raw mut (*block.0.get()).tss;
            let stacks = exception_stacks(cpu);
            for index in 0..OWN_STACK.len() {
                let end = stacks.start + (index as u64 + 1) * EXCEPTION_STACK as u64;
                (*tss).interrupt_stack_table[index] = VirtAddr::new(end);
            }
            let Descriptor::SystemSegment(low, high) = Descriptor::tss_segment_unchecked(tss) else {
                unreachable!("a task-state segment is a system segment")
            };
            segments[SHARED + 2 * cpu..][..2].copy_from_slice(&[low, high]);
        }
        for (number, gate) in (*GATES.0.get()).iter_mut().enumerate() {
            let number = number as u8;
            let own = OWN_STACK.iter().find(|(vector, _)| *vector == number);
            let level = if matches!(number, vector::BREAKPOINT | vector::OVERFLOW) {
                3
            } else {
                0
            };
            let stack = own.map_or(0, |(_, stack)| stack + 1);
            *gate = Gate::new(trap_entry::entry(number), stack, level);
        }
    }
}

/// Loads the descriptor tables on CPU `index`, and its GS base.
///
/// # Safety
/// Runs once on that CPU, in ring 0, with interrupts off, after [`build`].
pub(super) unsafe fn load(index: usize) {
    // SAFETY: 1. The selectors loaded name the descriptors written, and the tables live for ever. 2. The GS base is set
    // right after GS. 3. Loading the task register marks the CPU's own descriptor as busy, which nobody else touches.
    unsafe {
        lgdt(&pointer(SEGMENTS.0.get()));
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        SS::set_reg(SegmentSelector(KERNEL_DATA));
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
        cpu::load_gs_base(index);
        load_tss(SegmentSelector(TASK_STATE + 16 * index as u16));
        lidt(&pointer(GATES.0.get()));
    }
}

fn pointer<T>(table: *const T) -> DescriptorTablePointer {
    DescriptorTablePointer {
        limit: (size_of::<T>() - 1) as u16,
        base: VirtAddr::from_ptr(table),
    }
}

/// Takes the protection fault's gate away and asks for it: the processor can deliver neither that nor the protection
/// fault about it, which is a double fault.
///
/// # Safety
/// For the self-test only: the kernel cannot take exceptions afterwards.
pub unsafe fn provoke_double_fault() {
    // SAFETY: the caller's promise; other CPUs do not run.
    unsafe {
        GATES
            .0
            .get()
            .cast::<Gate>()
            .add(usize::from(vector::GENERAL_PROTECTION))
            .write(Gate::MISSING);
        core::arch::asm!("int {}", const vector::GENERAL_PROTECTION);
    }
}
