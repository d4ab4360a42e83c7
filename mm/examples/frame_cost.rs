//! What frames cost, in instructions.
//!
//! ```text
//! cargo build --release -p faultline-mm --example frame_cost
//! for step in pair allocate_map zeroed_map remove_free remove_quarantine release_quarantine; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="frame_cost::$step" \
//!         target/release/examples/frame_cost 50 2>&1 | grep Collected
//! done
//! ```
//!
//! The argument says how many per cent of 512 MiB are in use, in scattered frames. Each step is a function of this
//! file that is called [`FRAMES`] times (`release_quarantine` and `run_map` once), so the number collected, divided by
//! that, is the cost of one, with everything that belongs to it: the call, the saved registers, the caches refilled from
//! the buddy lists and drained into them. `pair` takes and returns one frame, which the cache serves alone.

use std::hint::black_box;

use faultline_mm::{FrameAllocator, FrameMeta, Pfn, QuarantineList};
use x86_64::PhysAddr;

/// How often each step is taken.
const FRAMES: usize = 1_000;

#[inline(never)]
fn pair(frames: &FrameAllocator, cpu: usize) -> bool {
    let Ok(frame) = frames.allocate(cpu) else { return false };
    let pfn = black_box(frame.map());
    matches!(frames.remove_mapping(pfn, cpu), Ok(Some(_)))
}

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
    let Ok(Some(frame)) = frames.remove_mapping(pfn, cpu) else {
        return false;
    };
    frame.quarantine(list, 1);
    true
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
fn run_map(frames: &FrameAllocator) -> Pfn {
    frames.allocate_contiguous(9, 0).map_or(Pfn::NONE, |run| run.map())
}

/// Maps all frames and frees all but `percent` of each hundred, scattered.
fn fill(frames: &FrameAllocator, percent: usize) {
    let mapped: Vec<_> = std::iter::from_fn(|| frames.allocate(0).ok())
        .map(|frame| frame.map())
        .collect();
    for pfn in mapped {
        if pfn.index() * 37 % 100 >= percent {
            drop(frames.remove_mapping(pfn, 0));
        }
    }
    frames.drain_caches(true);
}

fn main() {
    let percent = std::env::args()
        .nth(1)
        .map_or(0, |percent| percent.parse().expect("a percentage"));
    let end = PhysAddr::new(512 << 20);
    let metadata: Vec<_> = (0..FrameAllocator::required_metadata(end))
        .map(|_| FrameMeta::new())
        .collect();
    let frames = FrameAllocator::new(metadata.leak(), [PhysAddr::new(0)..end], 1);
    let cpu = black_box(0);
    if percent > 0 {
        fill(&frames, percent);
    }

    drop(frames.allocate(cpu));
    assert!((0..FRAMES).all(|_| pair(&frames, cpu)));

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

    run_map(&frames);
    println!("{}", frames.account());
}
