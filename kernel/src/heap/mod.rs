//! The kernel heap: [`faultline_heap`] over the frames of the machine, with an account for each process.
//!
//! It holds tasks, processes, regions, open files and all else whose number programs choose, in as much of the memory as
//! is free: runs of frames come from the frame allocator, where they count as pinned, and go back when they are empty.
//! No page of user memory comes from it.
//!
//! # Who is charged
//! Each CPU knows whose turn it is: a user thread sets its process's account when it is polled ([`charge`]) and the
//! kernel's own after it. What is allocated meanwhile is charged to the account until it is freed, by whomever and
//! whenever. When a process holds its share, its allocations fail, and its calls end with `ENOMEM`; others go on.
//!
//! # What is left for whom
//! - The *reserve*, a part of RAM in [`RESERVE_SHARE`], is never taken for an account. A thread on its way out, the
//!   terminal, timers and all other tasks of the kernel allocate without an account, and get the reserve too.
//! - The *stock*, a part of RAM in [`STOCK_SHARE`] that is carved at boot, serves the start-up, and later whoever finds
//!   too few frames: programs that took all memory for their pages do not end each other's calls.
//!
//! Nothing here can end the machine: an allocation that finds nothing returns null, and outside the start-up everybody
//! who allocates takes that for an answer, because the types of [`faultline_fallible`] leave no other way.

mod account;
pub mod inject;
mod pages;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use faultline_heap::{Account, GUARANTEED, Heap, Usage};
use faultline_mm::frame::FrameAllocator;

use crate::arch::cpu;
use crate::memory::BootMemory;
use pages::MachinePages;

pub use account::{ProcessAccount, charge, charge_nobody, for_a_while, for_good};

/// The reserve is one part in this many of RAM.
const RESERVE_SHARE: u64 = 128;

/// The stock is one part in this many of RAM.
const STOCK_SHARE: u64 = 16;

/// Bytes that a call and what it holds while it lasts take at most, in most cases.
const ROOM_FOR_A_CALL: usize = 16 * 1024;

static HEAP: Heap<MachinePages> = Heap::new(MachinePages::new());

/// The global allocator: charges to whose turn it is.
struct KernelHeap;

#[global_allocator]
static ALLOCATOR: KernelHeap = KernelHeap;

// SAFETY: a block of the heap is nobody else's from `allocate` to `free`, has room for its layout and its alignment, and
// does not move.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if inject::fails() {
            return core::ptr::null_mut();
        }
        // SAFETY: `charge` asks that the account stays open for as long as it is noted.
        let account = unsafe { Account::from_bits(cpu::account()) };
        let block = HEAP.allocate(layout, account);
        if block.is_null() {
            return self.alloc_beyond(layout, account);
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's; a block is never null.
        unsafe { HEAP.free(NonNull::new_unchecked(block), layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if Heap::<MachinePages>::fits_in_place(layout, size) {
            return block;
        }
        // SAFETY: 1. the caller's for the old block; a size with which the alignment overflows is refused by its caller;
        // 2. the new block is nobody else's, and both have room for the smaller size.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(block, new, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

impl KernelHeap {
    /// What [`for_a_while`] allows beyond a share.
    #[cold]
    #[inline(never)]
    fn alloc_beyond(&self, layout: Layout, account: Account) -> *mut u8 {
        match cpu::beyond() {
            0 => core::ptr::null_mut(),
            beyond => HEAP.allocate_beyond(layout, account, beyond as usize),
        }
    }
}

/// Takes the heap's stock and makes allocation possible.
///
/// # Panics
/// If RAM is too small for the smallest stock.
pub fn start(memory: &mut BootMemory) {
    HEAP.pages().start(memory);
    HEAP.refresh();
}

/// From now on runs come from the frame allocator.
pub fn use_frames(frames: &'static FrameAllocator) {
    HEAP.pages().use_frames(frames);
    HEAP.refresh();
}

/// Sets the most bytes that the heap takes from the frame allocator: for tests with little kernel memory.
pub fn set_limit(bytes: usize) {
    HEAP.pages().set_limit(bytes);
    HEAP.refresh();
}

/// A block for `layout`, charged to whose turn it is; `None` if there is none.
pub fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the trait asks for a layout with a size; this allocator has blocks for others too.
    NonNull::new(unsafe { ALLOCATOR.alloc(layout) })
}

/// Gives a block back.
///
/// # Safety
/// [`allocate`] gave it for this layout, and nobody uses it any more.
pub unsafe fn free(block: NonNull<u8>, layout: Layout) {
    // SAFETY: the caller's.
    unsafe { ALLOCATOR.dealloc(block.as_ptr(), layout) }
}

/// What the heap holds.
pub fn usage() -> Usage {
    HEAP.usage()
}

/// Frames that the heap has from the frame allocator: pinned ones, in the account.
pub fn frames() -> u64 {
    HEAP.pages().frames()
}

/// Whether so little is left that a call could find no room even for itself.
pub fn is_short() -> bool {
    use faultline_heap::Pages;

    let pages = HEAP.pages();
    pages.available() < pages.reserve() / 2 + ROOM_FOR_A_CALL
}

/// Whether `bytes` more are there beyond the reserve, and within the share of whose turn it is.
pub fn has_room(bytes: usize) -> bool {
    use faultline_heap::Pages;

    // SAFETY: as in `alloc`.
    let account = unsafe { Account::from_bits(cpu::account()) };
    let pages = HEAP.pages();
    pages.available() >= pages.reserve() + bytes && HEAP.has_room(account, bytes.min(GUARANTEED / 4))
}
