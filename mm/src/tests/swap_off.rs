//! Switching the swap area off, and pages that were read ahead and are dropped.

use core::pin::pin;
use core::task::Poll;

use super::cow::check;
use super::machine::*;
use super::swap::{A, written};
use crate::swap::SlotState;
use crate::*;

#[test]
fn everything_comes_back() {
    let world = World::new(512);
    let disk = world.swap(700);
    let space = written(&world, 100);
    space.protect_region(at(A), 10 * PAGE_SIZE, R).unwrap();
    space
        .protect_region(at(A + 10 * PAGE_SIZE), 10 * PAGE_SIZE, NONE)
        .unwrap();
    world.page_out(&disk, &space, A, 100);
    let children = [space.fork().unwrap(), space.fork().unwrap()];
    world.write(&children[0], A + 50 * PAGE_SIZE, 500).unwrap();
    let all = [&space, &children[0], &children[1]];
    assert!(children[1].shares_table_at(at(A)));
    assert_eq!(world.run(world.memory.swap_off()), Ok(()));
    assert_eq!(world.memory.swap_stats().slots, 0);
    assert!(
        children[1].shares_table_at(at(A)),
        "a shared table gets its pages back once"
    );
    check(&world, &all);
    let stats = space.get_stats();
    assert_eq!((stats.resident_pages, stats.swapped_pages), (100, 0));
    for space in all {
        assert!(!space.is_mapped_for(A, Access::Write));
        assert!(!space.is_mapped_for(A + 10 * PAGE_SIZE, Access::Read));
        space.protect_region(at(A), 100 * PAGE_SIZE, RW).unwrap();
        for page in (0..100).filter(|&page| page != 50) {
            assert_eq!(world.read(space, A + page * PAGE_SIZE), Ok(page + 1));
        }
        world.write(space, A + PAGE_SIZE, 7).unwrap();
    }
    assert_eq!(world.read(&children[0], A + 50 * PAGE_SIZE), Ok(500));
    assert_eq!(world.read(&children[1], A + 50 * PAGE_SIZE), Ok(51));
    check(&world, &all);
    // Another area may follow.
    let disk = world.swap(64);
    assert_eq!(world.page_out(&disk, &space, A, 4), 4);
    assert_eq!(world.read(&space, A), Ok(1));
}

#[test]
fn without_memory_the_area_stays_and_nothing_is_lost() {
    let world = World::new(256);
    let disk = world.swap(256);
    let space = written(&world, 120);
    world.page_out(&disk, &space, A, 120);
    let hog = written(&world, 120);
    assert_eq!(world.run(world.memory.swap_off()), Err(SwapError::OutOfMemory));
    assert_eq!(world.memory.swap_stats().slots, 256);
    check(&world, &[&space, &hog]);
    drop(hog);
    for page in 0..120 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    // Slots are given out again, until the next attempt.
    assert_eq!(world.page_out(&disk, &space, A, 120), 0);
    assert_eq!(world.run(world.memory.swap_off()), Ok(()));
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(2));
    assert_eq!(world.run(world.memory.swap_off()), Err(SwapError::Off));
}

#[test]
fn a_page_that_cannot_be_read_keeps_the_area() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 40);
    world.page_out(&disk, &space, A, 40);
    let slot = space.swap_slot_of(A + 7 * PAGE_SIZE).unwrap();
    disk.fail(slot, true);
    assert_eq!(world.run(world.memory.swap_off()), Err(SwapError::Unreadable { slot }));
    check(&world, &[&space]);
    disk.fail(slot, false);
    assert_eq!(world.run(world.memory.swap_off()), Ok(()));
    for page in 0..40 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
}

#[test]
fn switching_off_waits_for_reads_faults_and_writes_that_are_under_way() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 8);
    world.page_out(&disk, &space, A, 6);
    let left = world.leave(&space, A + 6 * PAGE_SIZE, 2).0;
    disk.at_once(false);
    let mut fault = std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(fault.as_mut()).is_pending());
    world.serve();
    let mut off = pin!(world.memory.swap_off());
    assert!(world.poll(off.as_mut()).is_pending());
    assert_eq!(world.run(world.memory.swap_off()), Err(SwapError::Closing));
    assert_eq!(disk.waiting(), 2, "the fault's read, and that of the others");
    disk.finish_all();
    for _ in 0..100 {
        assert!(world.poll(off.as_mut()).is_pending());
    }
    world.serve();
    assert!(world.poll(fault.as_mut()).is_ready());
    drop(fault);
    world.write_out(&disk, &left);
    let mut polls = 0;
    while world.poll(off.as_mut()).is_pending() {
        polls += 1;
        assert!(polls < 1000);
    }
    check(&world, &[&space]);
    for page in 0..8 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
}

#[test]
fn an_attempt_that_is_dropped_leaves_swap_on() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 8);
    world.page_out(&disk, &space, A, 4);
    disk.at_once(false);
    {
        let mut off = pin!(world.memory.swap_off());
        assert!(world.poll(off.as_mut()).is_pending());
        assert_eq!(world.leave(&space, A + 4 * PAGE_SIZE, 1).1, Err(SwapError::Full));
    }
    disk.finish_all();
    disk.at_once(true);
    assert_eq!(world.page_out(&disk, &space, A + 4 * PAGE_SIZE, 4), 4);
    check(&world, &[&space]);
    for page in 0..8 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
}

#[test]
fn pages_that_nobody_has_touched_since_they_were_read_are_dropped_first() {
    let world = World::new(512);
    let disk = world.swap(64);
    let space = written(&world, 32);
    world.page_out(&disk, &space, A, 32);
    for page in 0..2 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    let cached = world.memory.swap_stats().cached;
    assert_eq!(cached, 5, "two are mapped, three were read ahead");
    let frames = world.memory.frames();
    let free = world.free();
    // The first round leaves what has just come.
    assert_eq!(frames.drop_read_ahead(64, 0), 0);
    assert_eq!(frames.drop_read_ahead(2, 0), 2);
    assert_eq!(frames.drop_read_ahead(64, 0), 1);
    assert_eq!(frames.drop_read_ahead(64, 0), 0);
    assert_eq!(world.free(), free + 3);
    check(&world, &[&space]);
    for page in 0..32 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
}

#[test]
fn a_page_that_is_read_for_a_fault_is_not_dropped_before_it_is_mapped() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    world.page_out(&disk, &space, A, 1);
    let slot = space.swap_slot_of(A).unwrap();
    disk.at_once(false);
    let mut fault = std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Read)));
    assert!(world.poll(fault.as_mut()).is_pending());
    world.serve();
    disk.finish_all();
    assert_eq!(world.memory.frames().drop_read_ahead(64, 0), 0);
    assert!(matches!(
        world.memory.frames().swap.load(slot).state,
        SlotState::Cached { .. }
    ));
    world.serve();
    assert!(matches!(world.poll(fault.as_mut()), Poll::Ready(Ok(_))));
    drop(fault);
    check(&world, &[&space]);
}
