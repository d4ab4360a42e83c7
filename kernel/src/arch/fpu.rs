//! FPU, SSE and AVX registers of user threads.
//!
//! The kernel is compiled without them, so the registers stay a thread's own across any number of traps: they are
//! switched only when *another* thread is entered. Each CPU remembers whose they are (the address of the save area).
//!
//! So a save costs what it costs only where somebody else needs the registers, or wants to see them: another thread is
//! entered, a signal frame shows them, a `fork` copies them. A fault or a call after which the same thread goes on
//! neither saves nor loads. [`counts`] says how often each was done.
//!
//! `xsave` where the CPU has it, for the components that XCR0 enables; `fxsave` otherwise.

use core::alloc::Layout;
use core::arch::asm;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::cpu;
use super::features::{Features, features};
use crate::heap;

/// Size of the area that `fxsave` writes.
const FXSAVE: usize = 512;
/// Offset of the x87 control word, and its start value: all exceptions masked, extended precision.
const CONTROL_WORD: usize = 0;
const CONTROL_WORD_START: u16 = 0x37f;
/// Offset of MXCSR, and its start value: all exceptions masked.
const MXCSR: usize = 24;
const MXCSR_START: u32 = 0x1f80;
/// The bits of MXCSR that exist.
const MXCSR_BITS: u32 = 0xffff;
/// The components of the legacy area: x87 and SSE.
const LEGACY: u64 = 0b11;
/// Where the legacy area has the bytes that no save and no restore touches (Intel SDM volume 1, section 13.4.1).
pub const SOFTWARE_BYTES: usize = 464;
/// How many words they are.
const SOFTWARE_WORDS: usize = (FXSAVE - SOFTWARE_BYTES) / size_of::<u64>();
/// First of the software bytes of an extended image in a Linux signal frame, and what closes the image.
pub const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;

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

/// How often a CPU has saved registers, and loaded them.
#[derive(Debug)]
pub struct Switches {
    saves: AtomicU64,
    loads: AtomicU64,
}

impl Switches {
    /// Never.
    pub const fn new() -> Self {
        Self {
            saves: AtomicU64::new(0),
            loads: AtomicU64::new(0),
        }
    }
}

/// How often the registers of a thread were saved, and loaded, since the start, on all CPUs.
pub fn counts() -> (u64, u64) {
    let each = cpu::locals().iter().map(|local| &local.fpu);
    each.fold((0, 0), |(saves, loads), own| {
        (saves + own.saves.load(Relaxed), loads + own.loads.load(Relaxed))
    })
}

/// Saves the registers that this CPU holds, if they are anybody's, so that another CPU can load them: for a thread that is
/// about to move there.
pub fn save_for_another_cpu() {
    let owner = cpu::loaded();
    if !owner.is_null() {
        // SAFETY: an owner is alive: its drop clears the CPU's record, and it moves only after this.
        unsafe { save(owner) };
        cpu::set_loaded(null_mut());
    }
}

fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

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

/// The state components that are saved (XCR0); 0 where the area is the legacy one alone.
pub fn components() -> u64 {
    if !features().contains(Features::XSAVE) {
        return 0;
    }
    LEGACY | if features().contains(Features::AVX) { 1 << 2 } else { 0 }
}

/// Bytes of an image as a signal frame holds it: the save area, and a closing mark if it is an extended one.
pub fn image_size() -> usize {
    area_size()
        + if components() == 0 {
            0
        } else {
            size_of_val(&FP_XSTATE_MAGIC2)
        }
}

fn layout() -> Layout {
    // The size is a constant of the machine and far below the limit of a layout.
    Layout::from_size_align(image_size(), 64).expect("a save area is small")
}

impl FpuState {
    /// The registers as a new thread finds them.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the heap is full.
    pub fn new() -> Result<Self, OutOfMemory> {
        let area = heap::allocate(layout()).ok_or(OutOfMemory)?.cast();
        // SAFETY: the area is fresh.
        unsafe { start_values(area) };
        Ok(Self(area))
    }

    /// A copy, from the CPU if it holds the registers.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the heap is full.
    pub fn duplicate(&self) -> Result<Self, OutOfMemory> {
        let copy = Self::new()?;
        self.save_if_loaded();
        // SAFETY: both areas have this size and are distinct.
        unsafe {
            copy.0
                .cast::<u8>()
                .copy_from_nonoverlapping(self.0.cast(), image_size())
        };
        Ok(copy)
    }

    /// The registers as a signal frame holds them: [`image_size`] bytes, in the layout of [`components`], with the marks
    /// by which a program recognises an extended image.
    pub fn image(&self) -> &[u8] {
        self.save_if_loaded();
        // SAFETY: the allocation has this size, all of it is initialized, and it is written through this value alone: by
        // methods that take it mutably, or when the CPU saves the thread's registers, which happens when another thread
        // is entered or above, never while the slice is read.
        unsafe { core::slice::from_raw_parts(self.0.cast().as_ptr(), image_size()) }
    }

    /// Writes the registers as a signal frame holds them, as [`image`](Self::image) gives them: from the CPU straight to
    /// the frame if it holds them.
    ///
    /// # Safety
    /// `to` is valid for writes of [`image_size`] bytes and aligned to 64.
    pub unsafe fn write_image(&self, to: *mut u8) {
        let own = self.0.cast::<u8>().as_ptr();
        if cpu::loaded() != self.area() {
            // SAFETY: 1. the allocation has this size, and all of it is initialized; 2. the caller's promise; a save area is
            // no user memory, so the two are distinct.
            return unsafe { to.copy_from_nonoverlapping(own, image_size()) };
        }
        // SAFETY: 1. the caller's promise: the area lies at `to`, the closing mark behind it; the header exists where XSAVE
        // does. 2. The own area has the marks since it was made: no save and no restore touches them. 3. The CPU's
        // registers are this thread's.
        unsafe {
            if components() != 0 {
                // A save sets only the bits of enabled components there, and leaves the other words as they are.
                to.add(FXSAVE).cast::<[u64; 8]>().write([0; 8]);
                let size = area_size();
                to.add(size).cast::<u32>().write_unaligned(FP_XSTATE_MAGIC2);
            }
            save(to.cast());
            let marks = own.add(SOFTWARE_BYTES).cast::<[u64; SOFTWARE_WORDS]>().read();
            to.add(SOFTWARE_BYTES).cast::<[u64; SOFTWARE_WORDS]>().write(marks);
        }
    }

    /// Loads the registers straight from an image that a program may have changed, if the CPU holds this thread's and nothing
    /// in the image has to be corrected first. Else nothing has changed: [`refill`](Self::refill) does it.
    ///
    /// # Safety
    /// `image` is valid for reads of [`area_size`] bytes, which nobody writes during the call.
    pub unsafe fn load_image(&mut self, image: *const u8) -> bool {
        let components = components();
        if components == 0 || cpu::loaded() != self.area() || !image.addr().is_multiple_of(64) {
            return false;
        }
        // SAFETY: 1. the caller's promise; every offset lies in the area, which is longer than the header where XSAVE is, at
        // aligned offsets. 2. What is loaded can't fault: MXCSR has no reserved bit, the header names only enabled
        // components, in the standard format, and its other words are zero.
        unsafe {
            let mark = image.add(SOFTWARE_BYTES).cast::<u32>().read();
            let mxcsr = image.add(MXCSR).cast::<u32>().read();
            let [present, rest @ ..] = image.add(FXSAVE).cast::<[u64; 8]>().read();
            let reserved = rest.iter().fold(present & !components, |all, word| all | word);
            if mark != FP_XSTATE_MAGIC1 || mxcsr & !MXCSR_BITS != 0 || reserved != 0 {
                return false;
            }
            restore(image.cast_mut().cast());
        }
        true
    }

    /// Lets `fill` write an image that a program may have changed; it says how many of its bytes count: all, or those of
    /// the legacy area. Components that the machine does not have, and reserved bits, are dropped; what a short image
    /// leaves out starts afresh. With fewer bytes than the legacy area the registers are those of a new thread, and the
    /// result is false.
    pub fn refill(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if cpu::loaded() == self.area() {
            cpu::set_loaded(null_mut());
        }
        let area = self.0.cast::<u8>();
        // SAFETY: the area has this size, is this value's alone, and no CPU counts as its holder.
        let length = fill(unsafe { core::slice::from_raw_parts_mut(area.as_ptr(), area_size()) });
        if length < FXSAVE {
            self.reset();
            return false;
        }
        let whole = length >= area_size();
        // SAFETY: 1. Every offset lies in the area: the header exists where XSAVE does, and then the area is longer than
        // that. 2. What remains cannot make a restore fault: MXCSR has no reserved bit, the header names only enabled
        // components, in the standard format, and its other words are zero.
        unsafe {
            if !whole {
                area.add(FXSAVE).write_bytes(0, area_size() - FXSAVE);
            }
            let mxcsr = area.add(MXCSR).cast::<u32>();
            mxcsr.write(mxcsr.read() & MXCSR_BITS);
            mark(self.0);
            if components() != 0 {
                let header = area.add(FXSAVE).cast::<[u64; 8]>();
                let present = if whole {
                    header.cast::<u64>().read() & components()
                } else {
                    LEGACY
                };
                header.write([present, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        true
    }

    /// Takes the registers from an image that a program may have changed, as [`refill`](Self::refill). Changes nothing if
    /// the image is shorter than the legacy area.
    pub fn replace(&mut self, image: &[u8]) -> bool {
        if image.len() < FXSAVE {
            return false;
        }
        self.refill(|area| {
            let length = image.len().min(area.len());
            area[..length].copy_from_slice(&image[..length]);
            if image.len() < area.len() {
                length.min(FXSAVE)
            } else {
                length
            }
        })
    }

    /// Back to the registers of a new thread.
    pub fn reset(&mut self) {
        if cpu::loaded() == self.area() {
            cpu::set_loaded(null_mut());
        }
        // SAFETY: the area is owned and live, and no CPU counts as its holder.
        unsafe { start_values(self.0) };
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
        // SAFETY: 1. An owner is alive: its drop clears the CPU's record. 2. The own area was written by `start_values`,
        // `save` or `replace`, so its image is valid to load.
        unsafe {
            if !owner.is_null() {
                save(owner);
            }
            restore(self.area());
        }
        cpu::set_loaded(self.area());
    }
}

/// Writes what a new thread finds: everything zero but the two control words.
///
/// # Safety
/// `area` is a live save area that no CPU holds the registers of.
unsafe fn start_values(area: NonNull<FpuArea>) {
    let area = area.cast::<u8>();
    // SAFETY: both words lie in the area, which is at least FXSAVE long, at aligned offsets.
    unsafe {
        area.write_bytes(0, area_size());
        area.add(CONTROL_WORD).cast::<u16>().write(CONTROL_WORD_START);
        area.add(MXCSR).cast::<u32>().write(MXCSR_START);
    }
    // SAFETY: the caller's promise.
    unsafe { mark(area.cast()) };
}

/// Writes the marks of an extended image, as a Linux signal frame has them; none for a legacy one.
///
/// # Safety
/// `area` is a live save area.
unsafe fn mark(area: NonNull<FpuArea>) {
    let components = components();
    if components == 0 {
        return;
    }
    let size = area_size() as u32;
    let software = [
        FP_XSTATE_MAGIC1,
        image_size() as u32,
        components as u32,
        (components >> 32) as u32,
        size,
    ];
    let area = area.cast::<u8>();
    // SAFETY: the software bytes lie in the legacy area, aligned to 16; the closing mark lies behind the area, whose size
    // is a multiple of 4, in the same allocation.
    unsafe {
        area.add(SOFTWARE_BYTES).cast().write(software);
        area.add(size as usize).cast().write_unaligned(FP_XSTATE_MAGIC2);
    }
}

/// # Safety
/// `area` is a live save area.
unsafe fn save(area: *mut FpuArea) {
    count(&cpu::local().fpu.saves);
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
    count(&cpu::local().fpu.loads);
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
        unsafe { heap::free(self.0.cast(), layout()) };
    }
}
