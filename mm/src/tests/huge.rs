//! Case 33: huge pages.

use core::pin::pin;
use std::vec::Vec;

use faultline_trace::FaultClass;

use super::machine::*;
use super::walk::{Walk, translations, word};
use crate::*;

/// A multiple of 2 MiB.
const A: u64 = 0x1000_0000;
const HUGE: u64 = HUGE_PAGE_SIZE;
const FRAMES: u32 = 4 * 1024;

fn check(world: &World, spaces: &[&Vas]) {
    Walk::of(world, spaces.iter().copied()).check_counts(world, &[]);
}

/// A space with one huge page at `A`; each of its small pages holds its number.
fn huge(world: &World) -> Vas {
    let space = world.space();
    space.map_huge_page(at(A), RW).unwrap();
    for index in 0..512 {
        world.write(&space, A + index * PAGE_SIZE, index).unwrap();
    }
    space
}

/// A lazy region of `size` bytes at `A` that asks for huge pages.
fn wanting(world: &World, size: u64) -> Vas {
    let space = world.space();
    space
        .map_with(at(A), size, RW, Backing::Anonymous, RegionFlags::HUGE_PAGES)
        .unwrap();
    space
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_one_entry_of_level_2_translates_512_pages() {
    let world = World::new(FRAMES);
    let space = world.space();
    let before = world.account();
    space.map_huge_page(at(A), RW).unwrap();
    let found = translations(&world, &space);
    let [mapped] = found[..] else { panic!("{found:?}") };
    assert!(mapped.entry.has(Entry::HUGE) && Entry::HUGE == 1 << 7);
    assert_eq!(mapped.entry.frame().number() % 512, 0);
    for index in 0..512 {
        let physical = space.translate(A + index * PAGE_SIZE + 8, Access::Write);
        assert_eq!(
            physical,
            Some(mapped.entry.frame().address().as_u64() + index * PAGE_SIZE + 8)
        );
        assert_eq!(word(&world, mapped.entry.frame().offset(index as u32)), 0);
    }
    let after = world.account();
    assert_eq!((after.mapped, after.page_tables), (512, before.page_tables + 2));
    assert_eq!(space.get_stats().huge_pages, 1);
    check(&world, &[&space]);
    world.take_asked();
    space.unmap(at(A), HUGE).unwrap();
    assert_eq!(world.account().mapped, 0);
    assert_eq!(world.free(), before.available());
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_a_misaligned_start_or_an_overlap_is_refused() {
    let world = World::new(FRAMES);
    let space = world.space();
    assert_eq!(
        space.map_huge_page(at(A + PAGE_SIZE), RW),
        Err(VasError::Unaligned {
            address: A + PAGE_SIZE,
            alignment: HUGE
        })
    );
    space
        .map_lazy(at(A + HUGE - PAGE_SIZE), 1, R, Backing::Anonymous)
        .unwrap();
    assert!(matches!(space.map_huge_page(at(A), RW), Err(VasError::Overlap { .. })));
    let last = at(USER_END & !(HUGE - 1));
    assert!(matches!(space.map_huge_page(last, RW), Err(VasError::BadRange { .. })));
    let small = World::new(300);
    let space = small.space();
    let before = small.account();
    assert_eq!(
        space.map_huge_page(at(A), RW),
        Err(VasError::OutOfMemory { needed: 512 })
    );
    assert_eq!(small.account().available(), before.available());
    assert_eq!(space.find_mapping(at(A)).map(|found| found.range), None);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_each_allocation_may_fail_and_nothing_is_left() {
    let world = World::new(FRAMES);
    let space = world.space();
    let before = world.account();
    for successes in 0..3 {
        world.memory.frames().fail_after(successes);
        assert_eq!(
            space.map_huge_page(at(A), RW),
            Err(VasError::OutOfMemory { needed: 512 })
        );
        assert_eq!(world.memory.frames().fail_never(), 1);
        assert_eq!(world.account().available(), before.available());
        assert_eq!(space.get_stats().regions, 0);
    }
    space.map_huge_page(at(A), RW).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_unmapping_a_part_splits_and_returns_the_frames_of_the_part() {
    let world = World::new(FRAMES);
    for (from, pages) in [(0, 1), (511, 1), (100, 300)] {
        let space = huge(&world);
        world.take_asked();
        space.unmap(at(A + from * PAGE_SIZE), pages * PAGE_SIZE).unwrap();
        assert_eq!(world.account().mapped, 512 - pages);
        assert_eq!(space.get_stats().huge_pages, 0);
        for index in (0..512).filter(|&index| index < from || from + pages <= index) {
            assert_eq!(world.read(&space, A + index * PAGE_SIZE), Ok(index));
        }
        let hole = world.fault(&space, A + from * PAGE_SIZE, Access::Read);
        assert!(matches!(hole, Err(FaultError::NoRegion { .. })));
        check(&world, &[&space]);
    }
    // Without memory for the split nothing changes.
    let space = huge(&world);
    world.memory.frames().fail_after(0);
    assert_eq!(space.unmap(at(A), PAGE_SIZE), Err(VasError::OutOfMemory { needed: 1 }));
    assert_eq!(
        space.advise(at(A), PAGE_SIZE, Advice::DontNeed),
        Err(VasError::OutOfMemory { needed: 1 })
    );
    assert_eq!(
        space.protect_region(at(A), PAGE_SIZE, R),
        Err(VasError::OutOfMemory { needed: 1 })
    );
    // Whole, it needs none.
    space.protect_region(at(A), HUGE, R).unwrap();
    space.unmap(at(A), HUGE).unwrap();
    world.memory.frames().fail_never();
    assert_eq!(world.account().mapped, 0);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_protecting_the_whole_keeps_it_and_a_part_splits_it() {
    let world = World::new(FRAMES);
    let space = huge(&world);
    world.memory.switch_to(&space);
    world.take_asked();
    space.protect_region(at(A), HUGE, R).unwrap();
    assert_eq!(world.take_asked(), [Asked::Page(A)]);
    assert_eq!(space.get_stats().huge_pages, 1);
    assert!(matches!(world.write(&space, A, 1), Err(FaultError::Protection { .. })));
    space.protect_region(at(A), HUGE, RW).unwrap();
    world.write(&space, A + 5 * PAGE_SIZE, 5).unwrap();
    assert_eq!(space.get_stats().huge_pages, 1, "its only owner gets the right back");
    space.protect_region(at(A + PAGE_SIZE), PAGE_SIZE, NONE).unwrap();
    assert_eq!(space.get_stats().huge_pages, 0);
    for index in (0..512).filter(|&index| index != 1) {
        assert_eq!(world.read(&space, A + index * PAGE_SIZE), Ok(index));
    }
    assert!(matches!(
        world.read(&space, A + PAGE_SIZE),
        Err(FaultError::Protection { .. })
    ));
    check(&world, &[&space]);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_fork_shares_the_page_and_a_write_copies_one_small_page() {
    let world = World::new(FRAMES);
    let parent = huge(&world);
    let child = parent.fork().unwrap();
    assert_eq!(world.account().mapped, 512);
    check(&world, &[&parent, &child]);
    world.write(&child, A + 7 * PAGE_SIZE, 1000).unwrap();
    assert_eq!(world.account().mapped, 513);
    assert_eq!((child.get_stats().huge_pages, parent.get_stats().huge_pages), (0, 1));
    assert_eq!(world.read(&parent, A + 7 * PAGE_SIZE), Ok(7));
    assert_eq!(world.read(&child, A + 8 * PAGE_SIZE), Ok(8));
    check(&world, &[&parent, &child]);
    drop(child);
    world.write(&parent, A + 9 * PAGE_SIZE, 1001).unwrap();
    assert_eq!(world.account().mapped, 512, "the last owner copies nothing");
    check(&world, &[&parent]);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_a_huge_fault_is_served_by_one_entry() {
    let world = World::new(FRAMES);
    let space = wanting(&world, 2 * HUGE);
    let served = world.fault(&space, A + 5 * PAGE_SIZE, Access::Write);
    assert_eq!(served, Ok(FaultOutcome::Resolved(FaultClass::Huge)));
    assert_eq!(space.get_stats().huge_pages, 1);
    assert_eq!(space.faults_served()[FaultClass::Huge as usize], 1);
    assert!(space.is_mapped_for(A + 511 * PAGE_SIZE, Access::Write));
    assert!(!space.is_mapped_for(A + HUGE, Access::Read));
    check(&world, &[&space]);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_the_service_zeroes_in_chunks_and_serves_others_between() {
    let world = World::new(FRAMES);
    let space = wanting(&world, HUGE);
    let other = world.space();
    other.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut first = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    let mut joined = pin!(space.handle_page_fault(FaultInfo::user(A + 9 * PAGE_SIZE, Access::Read)));
    let mut small = pin!(other.handle_page_fault(FaultInfo::user(A, Access::Write)));
    for future in [first.as_mut(), joined.as_mut(), small.as_mut()] {
        assert!(world.poll(future).is_pending());
    }
    assert_eq!(world.memory.faults_in_flight(), 2, "one slot for the whole huge page");
    world.take_events();
    world.run(first).unwrap();
    world.run(joined).unwrap();
    world.run(small).unwrap();
    let events = world.take_events();
    let place = |kind| events.iter().rposition(|&event| event == kind).unwrap();
    use faultline_trace::Kind;
    let serves = events.iter().filter(|&&event| event == Kind::FaultServe).count();
    assert!(serves > 4, "{serves}");
    let small_done = events.iter().position(|&event| event == Kind::FaultCommit).unwrap();
    assert!(
        small_done < place(Kind::FaultCommit),
        "the small fault did not wait for the huge one"
    );
    assert_eq!(space.get_stats().huge_pages, 1);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_without_a_run_or_room_a_small_page_serves() {
    // The region does not hold the whole 2 MiB.
    let world = World::new(FRAMES);
    let space = wanting(&world, HUGE - PAGE_SIZE);
    world.touch(&space, A, Access::Write).unwrap();
    assert_eq!((space.get_stats().huge_pages, space.get_stats().resident_pages), (0, 1));
    // A table is there already.
    let space = wanting(&world, HUGE);
    space.advise(at(A), HUGE, Advice::NoHugePages).unwrap();
    world.touch(&space, A, Access::Write).unwrap();
    space.advise(at(A), HUGE, Advice::HugePages).unwrap();
    world.touch(&space, A + PAGE_SIZE, Access::Write).unwrap();
    assert_eq!((space.get_stats().huge_pages, space.get_stats().resident_pages), (0, 2));
    // No aligned run is free.
    let world = World::new(400);
    let space = wanting(&world, HUGE);
    world.touch(&space, A + 3 * PAGE_SIZE, Access::Write).unwrap();
    assert_eq!((space.get_stats().huge_pages, space.get_stats().resident_pages), (0, 1));
    check(&world, &[&space]);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_a_run_without_frames_for_its_tables_gives_way_to_a_small_page() {
    let world = World::new(2048);
    let space = wanting(&world, HUGE);
    // One run of 512 frames is all that is left.
    let mut runs = Vec::new();
    while let Ok(run) = world.memory.frames().allocate_contiguous(9, 0) {
        runs.push(run);
    }
    let mut singles = Vec::new();
    while let Ok(frame) = world.memory.frames().allocate(0) {
        singles.push(frame);
    }
    runs.pop();
    assert_eq!(world.free(), 512);
    world.touch(&space, A, Access::Write).unwrap();
    assert_eq!((space.get_stats().huge_pages, space.get_stats().resident_pages), (0, 1));
    check_tables(&world, &space);
    drop((runs, singles));
}

fn check_tables(world: &World, space: &Vas) {
    let walk = Walk::of(world, [space]);
    assert_eq!(world.account().page_tables, walk.tables.len() as u64);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_a_cancelled_huge_fault_returns_its_run() {
    let world = World::new(FRAMES);
    let space = wanting(&world, HUGE);
    let free = world.free();
    let mut fault = std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(fault.as_mut()).is_pending());
    drop(fault);
    while world.memory.faults_in_flight() > 0 {
        world.serve();
    }
    assert_eq!(world.free(), free);
    assert_eq!(space.get_stats().resident_pages, 0);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_a_stale_huge_fault_commits_nothing() {
    for protect in [false, true] {
        let world = World::new(FRAMES);
        let space = wanting(&world, HUGE);
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A + 8, Access::Write)));
        assert!(world.poll(fault.as_mut()).is_pending());
        // A page of the span other than the one that faulted.
        let page = at(A + 100 * PAGE_SIZE);
        if protect {
            space.protect_region(page, PAGE_SIZE, R).unwrap();
        } else {
            space.unmap(page, PAGE_SIZE).unwrap();
        }
        assert_eq!(world.run(fault), Ok(FaultOutcome::Retry));
        assert_eq!(space.get_stats().resident_pages, 0);
        world.touch(&space, A + 8, Access::Write).unwrap();
        assert_eq!(space.get_stats().huge_pages, 0);
        check(&world, &[&space]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_33_a_read_fault_maps_the_huge_page_too_and_dontneed_empties_it() {
    let world = World::new(FRAMES);
    let space = wanting(&world, HUGE);
    world.touch(&space, A, Access::Read).unwrap();
    world.write(&space, A + PAGE_SIZE, 5).unwrap();
    space.advise(at(A), HUGE, Advice::DontNeed).unwrap();
    assert_eq!(world.account().mapped, 0);
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(0));
    // A mapping that moves goes by small pages.
    let space = huge(&world);
    let to = space
        .remap(at(A), HUGE, HUGE, RemapTarget::Fixed(at(A + 3 * HUGE + PAGE_SIZE)))
        .unwrap();
    for index in 0..512 {
        assert_eq!(world.read(&space, to.as_u64() + index * PAGE_SIZE), Ok(index));
    }
}
