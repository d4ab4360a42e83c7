//! What lookups and frames cost on the host: `cargo bench -p faultline-mm`.
//!
//! The guest's figures, in instructions, come from the sample task `bench`; see `docs/benchmarks.md`.

#[path = "../tests/common/machine.rs"]
mod machine;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use faultline_mm::{Backing, PAGE_SIZE, Protection, VirtualAddressSpace};
use machine::machine;
use x86_64::VirtAddr;

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
            // Every region once before any is looked up again, in an order that caches do not know.
            index = (index + 61_803) % REGIONS;
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
