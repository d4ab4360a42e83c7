//! Tests of the frame allocator.

extern crate std;

use std::boxed::Box;
use std::vec::Vec;
use x86_64::PhysAddr;

use super::*;

#[test]
fn smoke() {
    let meta = Box::leak(
        (0..2048)
            .map(|_| FrameMeta::new())
            .collect::<Vec<_>>()
            .into_boxed_slice(),
    );
    let frames = FrameAllocator::new(meta, [PhysAddr::new(0)..PhysAddr::new(2000 * 4096)], 2);
    assert_eq!(frames.account().total, 1999);
    let a = frames.allocate(0).unwrap();
    let b = frames.allocate(1).unwrap();
    std::println!("{a:?} {b:?} {}", frames.account());
    let pa = a.map();
    let pb = b.into_page_table();
    std::println!("{}", frames.account());
    frames.add_mapping(pa).unwrap();
    assert!(frames.remove_mapping(pa, 1).unwrap().is_none());
    let mut q = QuarantineList::new(&frames);
    frames.remove_mapping(pa, 1).unwrap().unwrap().quarantine(&mut q, 7);
    frames.table_remove_ref(pb, 1).unwrap().unwrap().quarantine(&mut q, 8);
    std::println!("{}", frames.account());
    assert_eq!(q.release_up_to(7, 0), 1);
    drop(q);
    std::println!("{}", frames.account());
    let run = frames.allocate_contiguous(9, 0).unwrap();
    assert_eq!(frames.state(run.pfn().offset(5)), FrameState::Reserved);
    let p = run.map();
    std::println!("{}", frames.account());
    for i in 0..512 {
        frames.remove_mapping(p.offset(i), 0).unwrap().unwrap().free();
    }
    frames.drain_caches(true);
    std::println!("{}", frames.account());
    assert_eq!(frames.account().free, 1999);
    std::println!("{}", frames.remove_mapping(p, 0).unwrap_err());
}
