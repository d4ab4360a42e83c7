//! A user thread's registers, and the way into user mode and back.
//!
//! # Protocol
//! [`enter_user`] loads the registers of a [`UserContext`] and runs the thread until its next trap. Before it leaves
//! the kernel it points rsp0 to the end of the trap frame inside that very context, so the processor pushes the
//! interrupted state straight into it; the stub adds the other registers and returns to the caller of [`enter_user`] as
//! if it had been an ordinary call. A suspended thread therefore is its context and nothing else.
//!
//! # What a context can hold
//! Segment selectors are fixed, RFLAGS is filtered ([`UserContext::set_rflags`]), and the instruction pointer is checked
//! on the way out: one that is not a lower-half address ends the call at once with a general protection fault, as the
//! processor would raise it. So neither `iretq` nor `sysretq` can fault in the kernel.
//!
//! `sysretq` is used when the context looks as `syscall` left it (rcx = rip, r11 = rflags), which is also the only time
//! when clobbering these two registers goes unseen; otherwise `iretq`.

use core::arch::{asm, naked_asm};
use core::mem::{offset_of, size_of};
use core::ops::{Deref, DerefMut};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase, LStar, Msr, SFMask};
use x86_64::registers::rflags::RFlags;

use super::cpu::{self, KERNEL_RSP, RSP0, USER_RSP};
use super::descriptors::{KERNEL_CODE, SYSRET_BASE, USER_CODE, USER_DATA, vector};
use super::fpu::{FpuState, OutOfMemory};
use super::interrupts;
use super::trap_entry::{TrapFrame, pop_registers, push_registers};

/// The vector number under which a system call comes back; no interrupt has it.
const SYSCALL: u64 = 0x100;

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

/// Flags that `sysretq` does not restore as `iretq` does.
const SLOW_FLAGS: u64 = RFlags::TRAP_FLAG.bits() | RFlags::RESUME_FLAG.bits();

/// Everything of a user thread that the processor holds while it runs.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct UserContext {
    frame: TrapFrame,
    cr2: u64,
    fs_base: u64,
    gs_base: u64,
    fpu: FpuState,
}

/// Offset of the vector number in the context.
pub(super) const SAVED_VECTOR: usize = offset_of!(UserContext, frame) + offset_of!(TrapFrame, vector);
/// Offset of CR2 in the context.
pub(super) const CR2: usize = offset_of!(UserContext, cr2);
/// Where rsp0 points: the processor pushes downwards from here.
const FRAME_END: usize = offset_of!(UserContext, frame) + size_of::<TrapFrame>();

// The processor aligns the stack pointer down to 16 before it pushes; a misaligned end would shift the whole frame.
const _: () =
    assert!(FRAME_END.is_multiple_of(16) && offset_of!(UserContext, frame) == 0 && align_of::<UserContext>() == 16);

/// What brought a user thread back into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A page fault.
    PageFault {
        /// The address that was accessed.
        address: u64,
        /// The processor's error code: bit 0 protection, 1 write, 2 user, 3 reserved bit, 4 instruction fetch.
        error: u64,
    },
    /// `syscall`: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9.
    Syscall,
    /// An interrupt, whose handler has run.
    Interrupt(u8),
    /// Any other exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 if it has none.
        error: u64,
    },
}

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

    /// The system-call number of a [`Trap::Syscall`].
    pub fn syscall_number(&self) -> u64 {
        self.frame.rax
    }

    /// The arguments of a [`Trap::Syscall`].
    pub fn syscall_arguments(&self) -> [u64; 6] {
        let frame = &self.frame;
        [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9]
    }

    /// Sets the result of a system call.
    pub fn set_return(&mut self, value: u64) {
        self.frame.rax = value;
    }

    fn is_loaded(&self) -> bool {
        cpu::loaded() == self.fpu.area()
    }

    /// Makes this CPU hold the thread's FPU registers and segment bases. The data segment registers, which a user can
    /// load but the kernel does not keep, start from null.
    #[cold]
    #[inline(never)]
    fn load(&mut self) {
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

/// Runs the thread until its next trap; its registers are in the context again when this returns.
///
/// # Safety
/// The active page tables map the kernel as the template does and map nothing of the kernel's for user mode. Interrupts
/// are off, and the call is made on the CPU's own kernel stack.
#[inline]
pub unsafe fn enter_user(context: &mut UserContext) -> Trap {
    if !context.is_loaded() {
        context.load();
    }
    let vector: u64;
    // SAFETY: 1. The caller's promise, and what a context can hold (see the module's documentation). 2. `enter` keeps
    // RBX, RBP and the stack pointer; all other registers are declared as lost.
    unsafe {
        asm!(
            "call {enter}",
            enter = sym enter,
            in("rdi") &raw mut *context,
            lateout("rax") vector,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r14") _,
            lateout("r15") _,
            clobber_abi("C"),
        );
    }
    match vector {
        SYSCALL => Trap::Syscall,
        14 => Trap::PageFault {
            address: context.cr2,
            error: context.frame.error,
        },
        32..=255 => {
            interrupts::dispatch(vector as u8);
            Trap::Interrupt(vector as u8)
        }
        _ => Trap::Exception {
            vector: vector as u8,
            error: context.frame.error,
        },
    }
}

/// Loads the thread's registers from the context in RDI and leaves the kernel; `trap_common` and `syscall_entry` return
/// from this call, with the vector in RAX.
///
/// It keeps RBX and RBP only, which inline assembly cannot declare as lost: the caller knows best which of the others
/// are worth saving.
///
/// # Safety
/// As for [`enter_user`]; the FPU registers and segment bases are the thread's. Called by `enter_user` only.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbp; push rbx",
        "mov gs:[{kernel_rsp}], rsp",
        "lea rax, [rdi + {frame_end}]",
        "mov gs:[{rsp0}], rax",
        // A lower-half address? The upper word says it.
        "cmp dword ptr [rdi + {rip} + 4], {user_end_high}",
        "jae 4f",
        // As `syscall` left it? Then `sysretq`.
        "mov rcx, [rdi + {rip}]",
        "cmp rcx, [rdi + {rcx}]",
        "jne 3f",
        "mov rax, [rdi + {rflags}]",
        "cmp rax, [rdi + {r11}]",
        "jne 3f",
        "test eax, {slow_flags}",
        "jnz 3f",
        "mov rsp, rdi",
        pop_registers!(),
        "mov rsp, [rsp + {rsp_after_pops}]",
        "swapgs",
        "sysretq",
        "3:",
        "mov rsp, rdi",
        pop_registers!(),
        "add rsp, 16", // vector, error
        "swapgs",
        "iretq",
        // Not a lower-half address: the fault that the processor would raise, without the trip.
        "4:",
        "mov eax, {general_protection}",
        "mov [rdi + {vector}], rax",
        "mov qword ptr [rdi + {error}], 0",
        "pop rbx; pop rbp",
        "ret",
        kernel_rsp = const KERNEL_RSP,
        rsp0 = const RSP0,
        frame_end = const FRAME_END,
        rip = const offset_of!(TrapFrame, rip),
        rcx = const offset_of!(TrapFrame, rcx),
        rflags = const offset_of!(TrapFrame, rflags),
        r11 = const offset_of!(TrapFrame, r11),
        vector = const offset_of!(TrapFrame, vector),
        error = const offset_of!(TrapFrame, error),
        rsp_after_pops = const offset_of!(TrapFrame, rsp) - offset_of!(TrapFrame, vector),
        user_end_high = const USER_END >> 32,
        slow_flags = const SLOW_FLAGS,
        general_protection = const vector::GENERAL_PROTECTION,
    )
}

/// Where `syscall` enters: builds the frame that a trap would have left, in the context, and returns from `enter`.
///
/// The processor has put the return address into rcx and the flags into r11, and has cleared the flags in SFMASK. The
/// stack pointer is still the user's.
///
/// # Safety
/// Only the processor enters here.
#[unsafe(naked)]
unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{user_rsp}], rsp",
        "mov rsp, gs:[{rsp0}]",
        "push {user_data}",
        "push gs:[{user_rsp}]",
        "push r11",
        "push {user_code}",
        "push rcx",
        "sub rsp, 16", // error code and vector: of no meaning here
        push_registers!(),
        "mov rsp, gs:[{kernel_rsp}]",
        "mov eax, {syscall}",
        "pop rbx; pop rbp",
        "ret",
        user_rsp = const USER_RSP,
        rsp0 = const RSP0,
        kernel_rsp = const KERNEL_RSP,
        user_data = const USER_DATA,
        user_code = const USER_CODE,
        syscall = const SYSCALL,
    )
}

/// Points `syscall` to [`syscall_entry`].
///
/// # Safety
/// Runs in ring 0 after the descriptor tables are loaded; `syscall` is enabled in EFER.
pub(super) unsafe fn enable_syscall() {
    const STAR: u32 = 0xc000_0081;
    let selectors = u64::from(SYSRET_BASE) << 48 | u64::from(KERNEL_CODE) << 32;
    // SAFETY: the selectors are those of the loaded table, in the order that the instructions ask for (asserted there).
    unsafe { Msr::new(STAR).write(selectors) };
    LStar::write(VirtAddr::from_ptr(syscall_entry as *const ()));
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK
            | RFlags::RESUME_FLAG
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
}
