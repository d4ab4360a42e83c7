//! The kernel heap: `talc` over one piece of physical memory, sized from RAM at boot.
//!
//! It holds tasks, address-space bookkeeping and FPU areas. Frames of user memory never come from it, so user programs
//! can fill it only by creating objects; [`heap_headroom`] lets those who create them refuse in time.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use talc::TalcLock;
use talc::source::Manual;

use crate::memory::{BootMemory, phys_to_virt};

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

static SIZE: AtomicUsize = AtomicUsize::new(0);

/// The heap's share of RAM: one part in this many.
const SHARE: u64 = 16;
const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 256 << 20;

/// Takes the heap's memory and makes allocation possible.
///
/// # Panics
/// If RAM is too small for the smallest heap.
pub fn start(memory: &mut BootMemory) {
    let size = (memory.total() / SHARE).clamp(SMALLEST, LARGEST);
    let Some(range) = memory.carve(size) else {
        panic!("too little memory: no room for a kernel heap of {} KiB", size / 1024);
    };
    let size = range.len() as usize;
    // SAFETY: the range was just carved, so nothing else uses it, and it is mapped with all physical memory.
    unsafe { HEAP.lock().claim(phys_to_virt(range.start), size) }.expect("the smallest heap has room for metadata");
    SIZE.store(size, Relaxed);
}

/// Bytes of the heap.
pub fn size() -> usize {
    SIZE.load(Relaxed)
}

/// Bytes that are free; a single allocation may find less, as they need not be in one piece.
pub fn heap_headroom() -> usize {
    HEAP.lock().counters().available_bytes
}
