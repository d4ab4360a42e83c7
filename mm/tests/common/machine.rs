//! A machine for measurements from outside the crate: physical memory in a buffer, one CPU, no TLB.

use std::cell::UnsafeCell;

use faultline_mm::{FrameAllocator, FrameMeta, Memory, MemoryConfig, PAGE_SIZE, Pcid, Platform};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

/// Physical memory in a buffer; no TLB.
pub struct Buffer(Box<[UnsafeCell<u64>]>);

// SAFETY: the buffer is only touched through pointers, by the rules of `Platform`.
unsafe impl Sync for Buffer {}

// SAFETY: 1. every frame that the allocator below is given lies in the buffer; 2. there is one CPU; 3. nothing is
// translated through this machine's tables.
unsafe impl Platform for Buffer {
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        self.0
            .as_ptr()
            .cast::<u8>()
            .cast_mut()
            .wrapping_add(address.as_u64() as usize)
    }

    fn cpu(&self) -> usize {
        0
    }

    fn invalidate_page(&self, _: VirtAddr) {}

    fn load_root(&self, _: PhysFrame, _: Pcid, _: bool) {}
}

/// A machine of `frames` frames, for the rest of the program.
pub fn machine(frames: usize) -> &'static Memory<Buffer> {
    let buffer = Buffer((0..frames * 512).map(|_| UnsafeCell::new(0)).collect());
    let metadata: Box<[FrameMeta]> = (0..frames).map(|_| FrameMeta::new()).collect();
    let end = PhysAddr::new(frames as u64 * PAGE_SIZE);
    let allocator = FrameAllocator::new(Box::leak(metadata), [PhysAddr::new(2 * PAGE_SIZE)..end], 1);
    let template = PhysFrame::containing_address(PhysAddr::new(PAGE_SIZE));
    Box::leak(Box::new(Memory::new(
        buffer,
        allocator,
        MemoryConfig {
            max_regions: 200_000,
            ..MemoryConfig::new(template)
        },
    )))
}
