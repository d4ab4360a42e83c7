//! What frames cost, in instructions.
//!
//! ```text
//! cargo build --release -p faultline-mm --example frame_cost
//! for step in allocate_map remove_free; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="*::$step" \
//!         target/release/examples/frame_cost 2>&1 | grep Collected
//! done
//! ```
//!
//! Each step is one function that is run once for each of `FRAMES` frames, so the number collected, divided by that,
//! is the cost of one, with the loop, the call and the refilling of the caches.

use std::hint::black_box;

use faultline_mm::{FrameAllocator, FrameMeta, Pfn, QuarantineList};
use x86_64::PhysAddr;

const FRAMES: usize = 10_000;

#[inline(never)]
fn allocate_map(frames: &FrameAllocator, cpu: usize) -> Pfn {
    frames.allocate(cpu).map_or(Pfn::NONE, |frame| frame.map())
}

#[inline(never)]
fn zeroed_map(frames: &FrameAllocator, cpu: usize) -> Pfn {
    frames.allocate_zeroed(cpu).map_or(Pfn::NONE, |frame| frame.map())
}

#[inline(never)]
fn remove_free(frames: &FrameAllocator, pfn: Pfn, cpu: usize) -> bool {
    matches!(frames.remove_mapping(pfn, cpu), Ok(Some(_)))
}

#[inline(never)]
fn remove_quarantine<'a>(frames: &'a FrameAllocator, pfn: Pfn, cpu: usize, list: &mut QuarantineList<'a>) -> bool {
    match frames.remove_mapping(pfn, cpu) {
        Ok(Some(frame)) => {
            frame.quarantine(list, 1);
            true
        }
        _ => false,
    }
}

#[inline(never)]
fn release_quarantine(list: &mut QuarantineList<'_>) -> usize {
    list.release_up_to(1, 0)
}

#[inline(never)]
fn add_mapping(frames: &FrameAllocator, pfn: Pfn) -> bool {
    frames.add_mapping(pfn).is_ok()
}

#[inline(never)]
fn remove_shared(frames: &FrameAllocator, pfn: Pfn, cpu: usize) -> bool {
    matches!(frames.remove_mapping(pfn, cpu), Ok(None))
}

#[inline(never)]
fn in_flight_up(frames: &FrameAllocator, pfn: Pfn) -> bool {
    frames.table_add_in_flight(pfn).is_ok()
}

#[inline(never)]
fn run_map(frames: &FrameAllocator) -> Pfn {
    frames.allocate_contiguous(9, 0).map_or(Pfn::NONE, |run| run.map())
}

fn main() {
    let frames = 1 << 17;
    let metadata = (0..frames).map(|_| FrameMeta::new()).collect::<Vec<_>>();
    let frames = FrameAllocator::new(metadata.leak(), [PhysAddr::new(0)..PhysAddr::new(frames << 12)], 1);
    let cpu = black_box(0);

    let mapped: Vec<_> = (0..FRAMES).map(|_| allocate_map(&frames, cpu)).collect();
    assert!(mapped.iter().all(|&pfn| add_mapping(&frames, pfn)));
    assert!(mapped.iter().all(|&pfn| remove_shared(&frames, pfn, cpu)));
    assert!(mapped.iter().all(|&pfn| remove_free(&frames, pfn, cpu)));

    frames.set_zeroed_target(FRAMES as u32);
    while let Some(frame) = frames.take_for_zeroing(cpu) {
        frames.put_zeroed(frame);
    }
    let mapped: Vec<_> = (0..FRAMES).map(|_| zeroed_map(&frames, cpu)).collect();
    let mut list = QuarantineList::new(&frames);
    assert!(
        mapped
            .iter()
            .all(|&pfn| remove_quarantine(&frames, pfn, cpu, &mut list))
    );
    assert_eq!(release_quarantine(&mut list), FRAMES);

    let table = frames.allocate(cpu).expect("no frame for a table").into_page_table();
    assert!((0..FRAMES).all(|_| in_flight_up(&frames, table)));
    assert_ne!(run_map(&frames), Pfn::NONE);
    println!("{}", frames.account());
}
