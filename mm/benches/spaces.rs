//! What lookups and frames cost on the host: `cargo bench -p faultline-mm`.
//!
//! The guest's figures, in instructions, come from the sample task `bench`; see `docs/benchmarks.md`.

use std::cell::UnsafeCell;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use faultline_mm::{
    Backing, FrameAllocator, FrameMeta, Memory, MemoryConfig, PAGE_SIZE, Pcid, Platform, Protection,
    VirtualAddressSpace,
};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

/// Physical memory in a buffer; no TLB.
struct Buffer(Box<[UnsafeCell<u64>]>);

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
fn machine(frames: usize) -> &'static Memory<Buffer> {
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

fn find_mapping(criterion: &mut Criterion) {
    const REGIONS: u64 = 100_000;
    let space = VirtualAddressSpace::new(machine(64));
    for index in 0..REGIONS {
        // A hole between any two, so that none are joined.
        let start = VirtAddr::new(0x1000_0000 + index * 2 * PAGE_SIZE);
        space
            .map_lazy(start, PAGE_SIZE, Protection::READ_WRITE, Backing::Anonymous)
            .expect("the addresses are free");
    }
    let mut index = 0;
    criterion.bench_function("find_mapping among 100,000 regions", |bencher| {
        bencher.iter(|| {
            index = (index * 5 + 7919) % REGIONS;
            black_box(space.find_mapping(VirtAddr::new(0x1000_0000 + index * 2 * PAGE_SIZE)))
        });
    });
}

fn frames(criterion: &mut Criterion) {
    for percent in [0, 50, 99] {
        let memory = machine(100_000);
        let frames = memory.frames();
        for _ in 0..frames.available() * percent / 100 {
            frames.allocate(0).expect("frames are left").map();
        }
        criterion.bench_function(&format!("allocate and free a frame, {percent} % in use"), |bencher| {
            bencher.iter(|| frames.allocate(0).expect("frames are left").free());
        });
    }
}

fn unmap_a_page(criterion: &mut Criterion) {
    for mib in [16, 1024] {
        let space = VirtualAddressSpace::new(machine(8192));
        space.init().expect("a frame is free");
        let (start, size) = (0x4000_0000, mib << 20);
        space
            .map_lazy(VirtAddr::new(start), size, Protection::READ_WRITE, Backing::Anonymous)
            .expect("the addresses are free");
        criterion.bench_function(&format!("unmap and map a page of {mib} MiB"), |bencher| {
            bencher.iter_batched(
                || (),
                |()| {
                    let page = VirtAddr::new(start + size / 2);
                    space.unmap(page, PAGE_SIZE).expect("nothing has to be split");
                    space
                        .map_lazy(page, PAGE_SIZE, Protection::READ_WRITE, Backing::Anonymous)
                        .expect("the page is free");
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, find_mapping, frames, unmap_a_page);
criterion_main!(benches);
