//! Everything of a user thread that the processor holds while it runs.
//!
//! # What a context can hold
//! Segment selectors are fixed, RFLAGS is filtered ([`UserContext::set_rflags`]), the segment bases are lower-half
//! addresses. The instruction pointer can be any word: [`enter_user`](super::enter_user) checks it on the way out.

use core::arch::asm;
use core::mem::{offset_of, size_of};
use core::ops::{Deref, DerefMut};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase};
use x86_64::registers::rflags::RFlags;

use super::cpu;
use super::descriptors::{USER_CODE, USER_DATA};
use super::fpu::{FpuState, OutOfMemory};
use super::trap_entry::TrapFrame;

/// First address after the lower half.
pub const USER_END: u64 = 1 << 47;

/// The flags a user may have set: status, single step, direction, resume, alignment check, identification.
const USER_FLAGS: RFlags = RFlags::CARRY_FLAG
    .union(RFlags::PARITY_FLAG)
    .union(RFlags::AUXILIARY_CARRY_FLAG)
    .union(RFlags::ZERO_FLAG)
    .union(RFlags::SIGN_FLAG)
    .union(RFlags::TRAP_FLAG)
    .union(RFlags::DIRECTION_FLAG)
    .union(RFlags::OVERFLOW_FLAG)
    .union(RFlags::RESUME_FLAG)
    .union(RFlags::ALIGNMENT_CHECK)
    .union(RFlags::ID);

/// The flags that are always set in user mode: interrupts on, and bit 1, which is fixed.
const FIXED_FLAGS: u64 = RFlags::INTERRUPT_FLAG.bits() | 2;

/// The segment registers as a Linux signal frame shows them: code, GS, FS, stack, 16 bits each.
pub const USER_SELECTORS: u64 = USER_CODE as u64 | (USER_DATA as u64) << 48;

/// Everything of a user thread that the processor holds while it runs.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct UserContext {
    pub(super) frame: TrapFrame,
    pub(super) cr2: u64,
    fs_base: u64,
    gs_base: u64,
    fpu: FpuState,
}

/// Offset of the vector number in the context.
pub(super) const SAVED_VECTOR: usize = offset_of!(UserContext, frame) + offset_of!(TrapFrame, vector);
/// Offset of CR2 in the context.
pub(super) const CR2: usize = offset_of!(UserContext, cr2);
/// Where rsp0 points: the processor pushes downwards from here.
pub(super) const FRAME_END: usize = offset_of!(UserContext, frame) + size_of::<TrapFrame>();

// The processor aligns the stack pointer down to 16 before it pushes; a misaligned end would shift the whole frame.
const _: () =
    assert!(FRAME_END.is_multiple_of(16) && offset_of!(UserContext, frame) == 0 && align_of::<UserContext>() == 16);

/// The context's registers can be read and written as `context.rax`.
impl Deref for UserContext {
    type Target = TrapFrame;

    fn deref(&self) -> &TrapFrame {
        &self.frame
    }
}

impl DerefMut for UserContext {
    fn deref_mut(&mut self) -> &mut TrapFrame {
        &mut self.frame
    }
}

impl UserContext {
    /// A thread that starts at `rip` with stack pointer `rsp`, all other registers zero, and a fresh FPU state.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no room for the FPU state.
    pub fn new(rip: u64, rsp: u64) -> Result<Self, OutOfMemory> {
        let frame = TrapFrame {
            rip,
            rsp,
            cs: u64::from(USER_CODE),
            ss: u64::from(USER_DATA),
            rflags: FIXED_FLAGS,
            ..TrapFrame::default()
        };
        Ok(Self {
            frame,
            cr2: 0,
            fs_base: 0,
            gs_base: 0,
            fpu: FpuState::new()?,
        })
    }

    /// A copy for a new thread, FPU registers included.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no room for the FPU state.
    pub fn fork(&self) -> Result<Self, OutOfMemory> {
        Ok(Self {
            frame: self.frame.clone(),
            cr2: self.cr2,
            fs_base: self.fs_base,
            gs_base: self.gs_base,
            fpu: self.fpu.duplicate()?,
        })
    }

    /// The instruction pointer.
    pub fn rip(&self) -> u64 {
        self.frame.rip
    }

    /// Sets the instruction pointer. One outside the lower half makes the next entry a general protection fault.
    pub fn set_rip(&mut self, rip: u64) {
        self.frame.rip = rip;
    }

    /// The stack pointer.
    pub fn rsp(&self) -> u64 {
        self.frame.rsp
    }

    /// Sets the stack pointer; any value is safe for the kernel.
    pub fn set_rsp(&mut self, rsp: u64) {
        self.frame.rsp = rsp;
    }

    /// The flags.
    pub fn rflags(&self) -> u64 {
        self.frame.rflags
    }

    /// Sets the flags that a user may set; the others keep their fixed values.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.frame.rflags = rflags & USER_FLAGS.bits() | FIXED_FLAGS;
    }

    /// The address of the last page fault.
    pub fn cr2(&self) -> u64 {
        self.cr2
    }

    /// The vector of the last trap (256 for a system call) and its error code.
    pub fn last_trap(&self) -> (u64, u64) {
        (self.frame.vector, self.frame.error)
    }

    /// The base address of FS (thread-local storage).
    pub fn fs_base(&self) -> u64 {
        self.fs_base
    }

    /// The base address of GS.
    pub fn gs_base(&self) -> u64 {
        self.gs_base
    }

    /// Sets the base address of FS; returns false, and changes nothing, for one outside the lower half.
    pub fn set_fs_base(&mut self, base: u64) -> bool {
        if base >= USER_END {
            return false;
        }
        self.fs_base = base;
        if self.is_loaded() {
            FsBase::write(VirtAddr::new(base));
        }
        true
    }

    /// Sets the base address of GS; returns false, and changes nothing, for one outside the lower half.
    pub fn set_gs_base(&mut self, base: u64) -> bool {
        if base >= USER_END {
            return false;
        }
        self.gs_base = base;
        if self.is_loaded() {
            KernelGsBase::write(VirtAddr::new(base));
        }
        true
    }

    /// The FPU registers.
    pub fn fpu(&self) -> &FpuState {
        &self.fpu
    }

    /// The FPU registers, to be replaced.
    pub fn fpu_mut(&mut self) -> &mut FpuState {
        &mut self.fpu
    }

    /// Makes this a thread that starts at `rip` with stack pointer `rsp`, all other registers as in a new one.
    pub fn restart(&mut self, rip: u64, rsp: u64) {
        self.frame = TrapFrame {
            rip,
            rsp,
            cs: u64::from(USER_CODE),
            ss: u64::from(USER_DATA),
            rflags: FIXED_FLAGS,
            ..TrapFrame::default()
        };
        self.cr2 = 0;
        self.set_fs_base(0);
        self.set_gs_base(0);
        self.fpu.reset();
    }

    /// The system-call number of a [`Trap::Syscall`](super::Trap::Syscall).
    pub fn syscall_number(&self) -> u64 {
        self.frame.rax
    }

    /// The arguments of a [`Trap::Syscall`](super::Trap::Syscall).
    pub fn syscall_arguments(&self) -> [u64; 6] {
        let frame = &self.frame;
        [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9]
    }

    /// Sets the result of a system call.
    pub fn set_return(&mut self, value: u64) {
        self.frame.rax = value;
    }

    pub(super) fn is_loaded(&self) -> bool {
        cpu::loaded() == self.fpu.area()
    }

    /// Makes this CPU hold the thread's FPU registers and segment bases. The data segment registers, which a user can
    /// load but the kernel does not keep, start from null.
    #[cold]
    #[inline(never)]
    pub(super) fn load(&mut self) {
        self.fpu.load();
        // SAFETY: 1. Null is a valid selector for the four of them. 2. Loading GS may clear the active base, so it is
        // done while the user's base is active and the kernel's is parked; nothing in between uses GS.
        unsafe {
            asm!(
                "mov ds, {null:e}",
                "mov es, {null:e}",
                "mov fs, {null:e}",
                "swapgs",
                "mov gs, {null:e}",
                "swapgs",
                null = in(reg) 0,
                options(nostack, preserves_flags),
            );
        }
        FsBase::write(VirtAddr::new(self.fs_base));
        KernelGsBase::write(VirtAddr::new(self.gs_base));
    }
}
