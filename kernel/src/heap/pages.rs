//! Where the heap's runs come from: frames, and the stock.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use faultline_heap::{Arena, PAGE, Pages};
use faultline_mm::frame::{FrameAllocator, Pfn};
use x86_64::PhysAddr;

use super::{RESERVE_SHARE, STOCK_SHARE};
use crate::arch::cpu;
use crate::layout::PHYSICAL_MEMORY;
use crate::memory::{BootMemory, phys_to_virt};

/// The smallest stock: enough for the start-up.
const SMALLEST_STOCK: u64 = 1 << 20;
const LARGEST_STOCK: u64 = 256 << 20;

/// The smallest reserve.
const SMALLEST_RESERVE: usize = 128 << 10;
const LARGEST_RESERVE: usize = 8 << 20;

pub struct MachinePages {
    stock: Arena,
    /// Null until there is a frame allocator.
    frames: AtomicPtr<FrameAllocator>,
    /// A word for each frame, where a run that starts there has its owner.
    owners: AtomicPtr<AtomicU32>,
    /// Frames taken from the frame allocator.
    taken: AtomicU64,
    /// The most bytes that may be taken there.
    limit: AtomicUsize,
    reserve: AtomicUsize,
}

impl MachinePages {
    pub const fn new() -> Self {
        Self {
            stock: Arena::new(),
            frames: AtomicPtr::new(null_mut()),
            owners: AtomicPtr::new(null_mut()),
            taken: AtomicU64::new(0),
            limit: AtomicUsize::new(usize::MAX),
            reserve: AtomicUsize::new(0),
        }
    }

    pub fn start(&self, memory: &mut BootMemory) {
        let frames = memory.ranges().last().map_or(0, |range| range.end) / PAGE as u64;
        let stock = (memory.total() / STOCK_SHARE).clamp(SMALLEST_STOCK, LARGEST_STOCK);
        let owners = memory.carve(frames * size_of::<AtomicU32>() as u64);
        let stock = memory.carve(stock);
        let (Some(owners), Some(stock)) = (owners, stock) else {
            panic!("too little memory: no room for a kernel heap");
        };
        let words = phys_to_virt(owners.start);
        // SAFETY: 1. both ranges were just carved, so nothing else uses them, and are mapped for ever; 2. zero is a valid
        // word.
        unsafe {
            words.write_bytes(0, owners.len() as usize);
            let start = NonNull::new_unchecked(phys_to_virt(stock.start));
            self.stock.add(start, stock.len() as usize);
        }
        self.owners.store(words.cast(), Release);
        let reserve = (memory.total() / RESERVE_SHARE) as usize;
        self.reserve
            .store(reserve.clamp(SMALLEST_RESERVE, LARGEST_RESERVE), Relaxed);
    }

    pub fn use_frames(&self, frames: &'static FrameAllocator) {
        self.frames.store(core::ptr::from_ref(frames).cast_mut(), Release);
    }

    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
        self.reserve.fetch_min((bytes / 8).max(PAGE), Relaxed);
    }

    pub fn frames(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    fn allocator(&self) -> Option<&'static FrameAllocator> {
        // SAFETY: null, or what `use_frames` was given for ever.
        unsafe { self.frames.load(Acquire).as_ref() }
    }

    /// Bytes that may still be taken from the frame allocator.
    fn frames_available(&self) -> usize {
        let Some(frames) = self.allocator() else { return 0 };
        let taken = self.taken.load(Relaxed) as usize * PAGE;
        let left = self.limit.load(Relaxed).saturating_sub(taken);
        (frames.available() as usize * PAGE).min(left)
    }

    fn take_frames(&self, order: u8) -> Option<NonNull<u8>> {
        let run = self.allocator()?.allocate_contiguous(order, cpu::index()).ok()?;
        self.taken.fetch_add(1 << order, Relaxed);
        NonNull::new(phys_to_virt(run.pin().address().as_u64()))
    }
}

fn frame_of(run: NonNull<u8>) -> u64 {
    (run.addr().get() as u64 - PHYSICAL_MEMORY) / PAGE as u64
}

// SAFETY: 1. a run of the stock or of frames is nobody else's, and is aligned to its size where all physical memory is
// mapped, as the mapping is aligned to the largest page; the addresses are those of a mapping that has no provenance but
// its own; physical memory beyond 128 GiB is not used (`take`). 2. There is a word for each frame.
unsafe impl Pages for MachinePages {
    #[inline(always)]
    fn base(&self) -> *mut u8 {
        phys_to_virt(0)
    }

    fn take(&self, order: u8) -> Option<NonNull<u8>> {
        // The stock is for when frames are short.
        let bytes = PAGE << order;
        if self.frames_available() >= self.reserve() + bytes
            && let Some(run) = self.take_frames(order)
        {
            return Some(run);
        }
        if let Some(run) = self.stock.take(order) {
            return Some(run);
        }
        if self.frames_available() >= bytes {
            self.take_frames(order)
        } else {
            None
        }
    }

    unsafe fn give(&self, run: NonNull<u8>, order: u8) {
        if self.stock.contains(run) {
            // SAFETY: the caller's.
            return unsafe { self.stock.give(run, order) };
        }
        let Some(frames) = self.allocator() else { return };
        self.taken.fetch_sub(1 << order, Relaxed);
        let first = Pfn::containing(PhysAddr::new(frame_of(run) * PAGE as u64));
        for index in 0..1 << order {
            match frames.unpin(first.offset(index), cpu::index()) {
                Ok(frame) => frame.free(),
                Err(error) => log::error!("a frame of the heap is not what it was: {error}"),
            }
        }
    }

    fn owner(&self, run: NonNull<u8>) -> &AtomicU32 {
        // SAFETY: there is a word for each frame below the end of memory, where all runs are.
        unsafe { &*self.owners.load(Acquire).add(frame_of(run) as usize) }
    }

    fn available(&self) -> usize {
        self.frames_available() + self.stock.available()
    }

    #[inline]
    fn reserve(&self) -> usize {
        self.reserve.load(Relaxed)
    }
}
