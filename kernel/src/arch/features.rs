//! CPU features: detected through CPUID, switched on only if they are there.
//!
//! Setting a reserved CR4 bit livelocks some emulators instead of faulting, so every bit that is set here is gated on
//! its CPUID flag. What is not set here keeps no value from the boot stage: the registers are written as a whole.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bitflags::bitflags;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::debug::Dr7;
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

bitflags! {
    /// What the kernel asks CPUID for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Local APIC.
        const APIC = 1 << 0;
        /// Global pages.
        const PGE = 1 << 1;
        /// Process-context identifiers.
        const PCID = 1 << 2;
        /// `invpcid`.
        const INVPCID = 1 << 3;
        /// No kernel execution of user pages.
        const SMEP = 1 << 4;
        /// No kernel access to user pages.
        const SMAP = 1 << 5;
        /// No `sgdt` and friends in user mode.
        const UMIP = 1 << 6;
        /// `xsave` and `xrstor`.
        const XSAVE = 1 << 7;
        /// AVX.
        const AVX = 1 << 8;
        /// 1 GiB pages.
        const GIANT_PAGES = 1 << 9;
        /// The time-stamp counter runs at one rate in every power state.
        const INVARIANT_TSC = 1 << 10;
        /// The local APIC's timer takes deadlines of the time-stamp counter.
        const TSC_DEADLINE = 1 << 20;
        /// Page-table entries with no-execute.
        const NX = 1 << 11;
        /// `rdrand`.
        const RDRAND = 1 << 12;
    }
}

static FEATURES: AtomicU32 = AtomicU32::new(0);

/// The features of the boot CPU; empty before [`enable`].
pub fn features() -> Features {
    Features::from_bits_retain(FEATURES.load(Relaxed))
}

fn detect() -> Features {
    let mut found = Features::empty();
    let mut note = |feature, register: u32, bit: u32| found.set(feature, register & (1 << bit) != 0);
    let basic = __cpuid(0).eax;
    let extended = __cpuid(0x8000_0000).eax;
    let one = __cpuid(1);
    note(Features::APIC, one.edx, 9);
    note(Features::PGE, one.edx, 13);
    note(Features::PCID, one.ecx, 17);
    note(Features::TSC_DEADLINE, one.ecx, 24);
    note(Features::XSAVE, one.ecx, 26);
    note(Features::AVX, one.ecx, 28);
    note(Features::RDRAND, one.ecx, 30);
    if basic >= 7 {
        let seven = __cpuid_count(7, 0);
        note(Features::SMEP, seven.ebx, 7);
        note(Features::INVPCID, seven.ebx, 10);
        note(Features::SMAP, seven.ebx, 20);
        note(Features::UMIP, seven.ecx, 2);
    }
    if extended >= 0x8000_0001 {
        let flags = __cpuid(0x8000_0001);
        note(Features::NX, flags.edx, 20);
        note(Features::GIANT_PAGES, flags.edx, 26);
    }
    if extended >= 0x8000_0007 {
        note(Features::INVARIANT_TSC, __cpuid(0x8000_0007).edx, 8);
    }
    found
}

/// Detects the features of the boot CPU, and switches them on.
///
/// # Safety
/// As [`switch_on`].
///
/// # Panics
/// If the CPU has no no-execute bit: the kernel's W^X rests on it.
pub unsafe fn enable() {
    let found = detect();
    FEATURES.store(found.bits(), Relaxed);
    assert!(found.contains(Features::NX), "this CPU has no NX bit");
    // SAFETY: the caller's promise.
    unsafe { switch_on() };
}

/// Whether this CPU has everything that the boot CPU has.
pub fn is_like_boot_cpu() -> bool {
    detect().contains(features())
}

/// Writes CR0, CR4, EFER, XCR0, DR7 and the PAT of this CPU, for the features of the boot CPU.
///
/// # Safety
/// Runs in ring 0 with interrupts off, before anything relies on the features, which this CPU has. Bit 63 of page-table
/// entries is no-execute for every table in use.
pub unsafe fn switch_on() {
    let found = features();

    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    for (feature, bit) in [
        (Features::PGE, Cr4Flags::PAGE_GLOBAL),
        (Features::SMEP, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (Features::SMAP, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (Features::UMIP, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        (Features::PCID, Cr4Flags::PCID),
        (Features::XSAVE, Cr4Flags::OSXSAVE),
    ] {
        cr4.set(bit, found.contains(feature));
    }
    let cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::ALIGNMENT_MASK
        | Cr0Flags::PAGING;
    // SAFETY: 1. Every CR4 bit is there by CPUID (OSFXSR and PAE by long mode itself). 2. Paging, protection and long
    // mode stay on. 3. CR3 has PCID 0, as PCID was off until now. 4. The kernel has no writable code mapping and no
    // user mapping that write protection, SMEP or SMAP could cut off.
    unsafe {
        Efer::write(
            EferFlags::SYSTEM_CALL_EXTENSIONS
                | EferFlags::LONG_MODE_ENABLE
                | EferFlags::LONG_MODE_ACTIVE
                | EferFlags::NO_EXECUTE_ENABLE,
        );
        Cr0::write_raw(cr0.bits());
        Cr4::write_raw(cr4.bits());
        if found.contains(Features::XSAVE) {
            let mut xcr0 = XCr0Flags::X87 | XCr0Flags::SSE;
            xcr0.set(XCr0Flags::AVX, found.contains(Features::AVX));
            XCr0::write(xcr0);
        }
    }
    // No hardware breakpoint is ever armed: user mode cannot reach these registers.
    Dr7::write(x86_64::registers::debug::Dr7Value::from_bits_truncate(0));
    write_pat();
}

/// The page-attribute table with its power-on values, so that no cache type is inherited from the boot stage.
fn write_pat() {
    const PAT: u32 = 0x277;
    const POWER_ON: u64 = 0x0007_0406_0007_0406;
    let mut pat = x86_64::registers::model_specific::Msr::new(PAT);
    // SAFETY: every 64-bit CPU has the PAT; the value is the architectural default.
    unsafe { pat.write(POWER_ON) };
}

/// The flags that Linux hands to programs as `AT_HWCAP`: CPUID leaf 1, EDX.
pub fn hardware_capabilities() -> u64 {
    u64::from(__cpuid(1).edx)
}

/// The processor's name for itself.
pub fn brand() -> Brand {
    let mut text = [0; 48];
    if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
        for (part, leaf) in text.chunks_exact_mut(16).zip(0x8000_0002..) {
            let registers = __cpuid(leaf);
            let words = [registers.eax, registers.ebx, registers.ecx, registers.edx];
            for (bytes, word) in part.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    Brand(text)
}

/// See [`brand`].
pub struct Brand([u8; 48]);

impl core::fmt::Display for Brand {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = core::str::from_utf8(&self.0)
            .unwrap_or_default()
            .trim_matches(['\0', ' ']);
        f.write_str(if text.is_empty() { "an unnamed CPU" } else { text })
    }
}
