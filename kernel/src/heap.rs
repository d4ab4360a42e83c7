//! The kernel heap: `talc` over one piece of physical memory, sized from RAM at boot.
//!
//! It holds tasks, address-space bookkeeping and FPU areas. Frames of user memory never come from it, so user programs
//! can fill it only by creating objects; [`heap_headroom`] lets those who create them refuse in time.

use core::alloc::{GlobalAlloc, Layout};
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

/// The largest piece that a call needs for itself: its future, or a buffer.
const PIECE: usize = 16 * 1024;

/// Whether more than `reserve` bytes are free, and enough of them in one piece for a call. Small objects that stay can
/// leave much free in pieces that are too small; while little of the heap is in use, nobody has to look.
pub fn has_room(reserve: usize) -> bool {
    let free = heap_headroom();
    free > reserve && (free > size() / 2 || has_piece())
}

/// Whether there is a free piece of [`PIECE`] bytes: takes one and gives it back.
#[cold]
fn has_piece() -> bool {
    const LAYOUT: Layout = Layout::new::<[u64; PIECE / 8]>();
    // Through the allocator itself: the compiler may leave out what goes through `alloc::alloc` for nothing.
    // SAFETY: 1. the layout has a size; 2. what was allocated is given back with the same layout, and not used.
    unsafe {
        let piece = HEAP.alloc(LAYOUT);
        if !piece.is_null() {
            HEAP.dealloc(piece, LAYOUT);
        }
        !piece.is_null()
    }
}

/// Bytes that are free; a single allocation may find less, as they need not be in one piece.
pub fn heap_headroom() -> usize {
    HEAP.lock().counters().available_bytes
}
