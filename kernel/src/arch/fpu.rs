//! FPU, SSE and AVX registers of user threads.
//!
//! The kernel is compiled without them, so the registers stay a thread's own across any number of traps: they are
//! switched only when *another* thread is entered. Each CPU remembers whose they are (the address of the save area).
//!
//! `xsave` where the CPU has it, for the components that XCR0 enables; `fxsave` otherwise.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::arch::asm;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::cpu;
use super::features::{Features, features};

/// Size of the area that `fxsave` writes.
const FXSAVE: usize = 512;
/// Offset of the x87 control word, and its start value: all exceptions masked, extended precision.
const CONTROL_WORD: usize = 0;
const CONTROL_WORD_START: u16 = 0x37f;
/// Offset of MXCSR, and its start value: all exceptions masked.
const MXCSR: usize = 24;
const MXCSR_START: u32 = 0x1f80;

/// A save area; only its address means anything to Rust.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct FpuArea(());

/// There is no memory for a save area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// One thread's save area, on the heap.
#[derive(Debug)]
pub struct FpuState(NonNull<FpuArea>);

// SAFETY: the area is owned by this value, and its registers are on at most one CPU, the one that runs the thread.
unsafe impl Send for FpuState {}
// SAFETY: as above; a shared reference only reads the area's address or saves registers of this CPU into it.
unsafe impl Sync for FpuState {}

/// Bytes of a save area on this machine.
pub fn area_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    let known = SIZE.load(Relaxed);
    if known != 0 {
        return known;
    }
    // Leaf 13, subleaf 0, EBX: the size for the components that XCR0 enables now.
    let size = if features().contains(Features::XSAVE) {
        core::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize
    } else {
        FXSAVE
    };
    SIZE.store(size.max(FXSAVE), Relaxed);
    size.max(FXSAVE)
}

fn layout() -> Layout {
    // The size is a constant of the machine and far below the limit of a layout.
    Layout::from_size_align(area_size(), 64).expect("a save area is small")
}

impl FpuState {
    /// The registers as a new thread finds them.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the heap is full.
    pub fn new() -> Result<Self, OutOfMemory> {
        // SAFETY: the layout is not empty.
        let area = NonNull::new(unsafe { alloc_zeroed(layout()) }).ok_or(OutOfMemory)?;
        // SAFETY: both words lie in the area, which is at least FXSAVE long, at aligned offsets.
        unsafe {
            area.add(CONTROL_WORD).cast::<u16>().write(CONTROL_WORD_START);
            area.add(MXCSR).cast::<u32>().write(MXCSR_START);
        }
        Ok(Self(area.cast()))
    }

    /// A copy, from the CPU if it holds the registers.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the heap is full.
    pub fn duplicate(&self) -> Result<Self, OutOfMemory> {
        let copy = Self::new()?;
        self.save_if_loaded();
        // SAFETY: both areas have this size and are distinct.
        unsafe { copy.0.cast::<u8>().copy_from_nonoverlapping(self.0.cast(), area_size()) };
        Ok(copy)
    }

    /// The registers as `fxsave` would write them (512 bytes), for a signal frame.
    pub fn read_legacy(&self) -> [u8; FXSAVE] {
        self.save_if_loaded();
        // SAFETY: the area is at least FXSAVE long and any bytes are valid.
        unsafe { self.0.cast::<[u8; FXSAVE]>().read() }
    }

    /// Takes x87 and SSE registers from a signal frame. Reserved MXCSR bits are dropped; other state starts afresh.
    pub fn write_legacy(&mut self, image: &[u8; FXSAVE]) {
        if cpu::loaded() == self.area() {
            cpu::set_loaded(null_mut());
        }
        let area = self.0.cast::<u8>();
        // SAFETY: 1. The area is at least FXSAVE long; what lies behind is the xsave header, whose first word says that
        // x87 and SSE are present, and the rest zero. 2. MXCSR without reserved bits cannot make a restore fault.
        unsafe {
            area.write_bytes(0, area_size());
            area.copy_from_nonoverlapping(NonNull::from(image).cast(), FXSAVE);
            let mxcsr = area.add(MXCSR).cast::<u32>();
            mxcsr.write(mxcsr.read() & 0xffff);
            if area_size() > FXSAVE {
                area.add(FXSAVE).cast::<u64>().write(0b11);
            }
        }
    }

    /// Address of the area: the identity of the registers' owner.
    pub(super) fn area(&self) -> *mut FpuArea {
        self.0.as_ptr()
    }

    fn save_if_loaded(&self) {
        if cpu::loaded() == self.area() {
            // SAFETY: the CPU's registers belong to this live area.
            unsafe { save(self.area()) };
        }
    }

    /// Saves the registers to their owner, if there is one, and loads these.
    pub(super) fn load(&self) {
        let owner = cpu::loaded();
        // SAFETY: 1. An owner is alive: its drop clears the CPU's record. 2. The own area was written by `new`, `save`
        // or `write_legacy`, so its image is valid to load.
        unsafe {
            if !owner.is_null() {
                save(owner);
            }
            restore(self.area());
        }
        cpu::set_loaded(self.area());
    }
}

/// # Safety
/// `area` is a live save area.
unsafe fn save(area: *mut FpuArea) {
    // SAFETY: the caller's promise; the area is 64-byte aligned and long enough for every enabled component.
    unsafe {
        if features().contains(Features::XSAVE) {
            asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

/// # Safety
/// `area` is a live save area with a valid image.
unsafe fn restore(area: *mut FpuArea) {
    // SAFETY: as in `save`.
    unsafe {
        if features().contains(Features::XSAVE) {
            asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
        } else {
            asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

impl Drop for FpuState {
    fn drop(&mut self) {
        if cpu::loaded() == self.area() {
            cpu::set_loaded(null_mut());
        }
        // SAFETY: the area came from the same layout, and the CPU no longer counts as its holder.
        unsafe { dealloc(self.0.as_ptr().cast(), layout()) };
    }
}
