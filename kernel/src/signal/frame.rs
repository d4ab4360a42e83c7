//! The signal frame on the user stack, byte for byte as Linux x86-64 lays it out (`struct rt_sigframe`).
//!
//! ```text
//!   0  return address: the restorer
//!   8  ucontext: flags, link, stack (24 bytes)
//!  48  sigcontext: r8..r15 rdi rsi rbp rbx rdx rax rcx rsp rip rflags, selectors, error, trap, mask, cr2, fpu pointer
//! 304  signal mask
//! 312  siginfo (128 bytes)
//! 440  end; the FPU area lies above, on a 64-byte boundary
//! ```
//!
//! The module turns registers into bytes and back. What comes back from user mode is not trusted:
//! [`Registers::sanitize`] keeps only the flags that user mode may change.

use faultline_fallible::{Box, Vec};

use super::{AlternateStack, SignalInfo, SignalSet};
use crate::arch::{UserContext, fpu};
use crate::syscall::Errno;

/// Size of the frame in bytes, without the FPU area.
pub const SIZE: usize = 440;

/// Words in the frame.
pub const WORDS: usize = SIZE / 8;

/// Where `ucontext` starts in the frame.
pub const CONTEXT: u64 = 8;

/// Where `siginfo` starts in the frame.
pub const INFO: u64 = 312;

/// Bytes below the stack pointer that belong to the interrupted function.
pub const RED_ZONE: u64 = 128;

/// The flags that user mode may change: arithmetic flags, trap, direction, nested task excluded, resume, alignment check.
const USER_FLAGS: u64 = 0x5_0dd5;

/// Flags that are always set in user mode: interrupts on, and the bit that is always 1.
const FIXED_FLAGS: u64 = 0x202;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

/// Size of the legacy part of an image.
const LEGACY_SIZE: usize = 512;

/// A thread's registers, as a signal frame holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the registers")]
pub struct Registers {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
    /// Error code of the last exception.
    pub error: u64,
    /// Vector of the last exception.
    pub vector: u64,
    /// Address of the last page fault.
    pub cr2: u64,
}

impl Registers {
    /// The registers of a thread.
    #[must_use]
    pub fn of(context: &UserContext) -> Self {
        let (vector, error) = context.last_trap();
        Self {
            r8: context.r8,
            r9: context.r9,
            r10: context.r10,
            r11: context.r11,
            r12: context.r12,
            r13: context.r13,
            r14: context.r14,
            r15: context.r15,
            rdi: context.rdi,
            rsi: context.rsi,
            rbp: context.rbp,
            rbx: context.rbx,
            rdx: context.rdx,
            rax: context.rax,
            rcx: context.rcx,
            rsp: context.rsp(),
            rip: context.rip(),
            rflags: context.rflags(),
            error,
            vector,
            cr2: context.cr2(),
        }
    }

    /// Makes these the registers of a thread. The context keeps its own rules about flags and addresses.
    pub fn load_into(&self, context: &mut UserContext) {
        context.r8 = self.r8;
        context.r9 = self.r9;
        context.r10 = self.r10;
        context.r11 = self.r11;
        context.r12 = self.r12;
        context.r13 = self.r13;
        context.r14 = self.r14;
        context.r15 = self.r15;
        context.rdi = self.rdi;
        context.rsi = self.rsi;
        context.rbp = self.rbp;
        context.rbx = self.rbx;
        context.rdx = self.rdx;
        context.rax = self.rax;
        context.rcx = self.rcx;
        context.set_rsp(self.rsp);
        context.set_rip(self.rip);
        context.set_rflags(self.rflags);
    }

    /// Sets what user mode must not choose to what it has to be.
    pub fn sanitize(&mut self) {
        self.rflags = self.rflags & USER_FLAGS | FIXED_FLAGS;
    }

    /// Whether the instruction pointer is one that user mode can have.
    #[must_use]
    pub const fn is_resumable(&self) -> bool {
        self.rip < crate::exec::elf::USER_END
    }
}

/// The rest of what a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The registers of the interrupted code.
    pub registers: Registers,
    /// The mask to go back to.
    pub mask: SignalSet,
    /// The alternate stack to go back to.
    pub alternate: AlternateStack,
    /// Address of the FPU area, 0 for none.
    pub fpu: u64,
}

/// A copy of an FPU state as it lies in a signal frame.
#[derive(Debug)]
pub struct FpuImage {
    /// The bytes of the image.
    pub bytes: Vec<u8>,
}

impl FpuImage {
    /// The FPU state of a thread.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn of(context: &UserContext) -> Result<Box<Self>, Errno> {
        let image = context.fpu().image();
        let bytes = Vec::try_from_slice(image)?;
        Ok(Box::try_new(Self { bytes })?)
    }

    /// Room for an FPU state.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn blank() -> Result<Box<Self>, Errno> {
        let bytes = Vec::try_of(0, fpu::area_size())?;
        Ok(Box::try_new(Self { bytes })?)
    }

    /// Drops what lies behind the legacy area unless the image says that it is extended.
    pub fn recognise(&mut self) {
        self.bytes.truncate(recognised(&self.bytes));
    }
}

/// How many bytes of an image from a frame count: all if it says that it is extended, else those of the legacy area.
#[must_use]
pub fn recognised(image: &[u8]) -> usize {
    let mark = fpu::FP_XSTATE_MAGIC1.to_le_bytes();
    if image.get(fpu::SOFTWARE_BYTES..fpu::SOFTWARE_BYTES + mark.len()) == Some(&mark) {
        image.len()
    } else {
        LEGACY_SIZE.min(image.len())
    }
}

/// Where the frame and the FPU area go, below `top`.
#[must_use]
pub const fn place(top: u64, fpu_size: usize) -> (u64, u64) {
    let fpu = top.wrapping_sub(fpu_size as u64) & !63;
    let frame = (fpu.wrapping_sub(SIZE as u64) & !15).wrapping_sub(8);
    (frame, fpu)
}

/// The words of a frame.
#[inline(always)]
#[must_use]
pub fn encode(saved: &Saved, restorer: u64, extended: bool, info: &SignalInfo, selectors: u64) -> [u64; WORDS] {
    let registers = &saved.registers;
    let flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS | if extended { UC_FP_XSTATE } else { 0 };
    let [number, code, first, second] = info.to_words();
    [
        restorer,
        flags,
        0,
        saved.alternate.base,
        u64::from(saved.alternate.flags),
        saved.alternate.size,
        registers.r8,
        registers.r9,
        registers.r10,
        registers.r11,
        registers.r12,
        registers.r13,
        registers.r14,
        registers.r15,
        registers.rdi,
        registers.rsi,
        registers.rbp,
        registers.rbx,
        registers.rdx,
        registers.rax,
        registers.rcx,
        registers.rsp,
        registers.rip,
        registers.rflags,
        selectors,
        registers.error,
        registers.vector,
        saved.mask.0,
        registers.cr2,
        saved.fpu,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        saved.mask.0,
        number,
        code,
        first,
        second,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
}

/// What the words of a frame say, of which `word` gives the one at an offset. The registers are sanitized.
#[inline(always)]
#[must_use]
pub fn decode(word: impl Fn(usize) -> u64) -> Saved {
    let register = |index: usize| word(48 + index * 8);
    let mut registers = Registers {
        r8: register(0),
        r9: register(1),
        r10: register(2),
        r11: register(3),
        r12: register(4),
        r13: register(5),
        r14: register(6),
        r15: register(7),
        rdi: register(8),
        rsi: register(9),
        rbp: register(10),
        rbx: register(11),
        rdx: register(12),
        rax: register(13),
        rcx: register(14),
        rsp: register(15),
        rip: register(16),
        rflags: register(17),
        error: register(19),
        vector: register(20),
        cr2: register(22),
    };
    registers.sanitize();
    Saved {
        registers,
        mask: SignalSet(word(304)).without(SignalSet::UNBLOCKABLE),
        alternate: AlternateStack {
            base: word(24),
            flags: word(32) as u32,
            size: word(40),
        },
        fpu: register(23),
    }
}
