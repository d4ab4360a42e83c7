//! Cases 44 and 45: when a frame may be used again.

use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::sync::Arc;

use super::machine::*;
use super::tlb::{A, Bell, flush, generation, loaded};
use crate::*;

#[test]
fn case_44_a_frame_is_reused_only_after_every_cpu_passed_its_generation() {
    for pcids in [0, 4] {
        let world = World::with(64, |_| {}, pcids);
        let space = loaded(&world, 4);
        for cpu in [1, 2] {
            world.on_cpu(cpu);
            world.memory.switch_to(&space);
        }
        world.on_cpu(0);
        let free = world.free();
        space.unmap(at(A), 2 * PAGE_SIZE).unwrap();
        let changed = generation(&space);
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut flushed = pin!(space.flushed(changed));
        let mut poll = || flushed.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll().is_pending());
        assert_eq!((world.account().quarantined, world.free()), (2, free));
        world.on_cpu(1);
        world.memory.acknowledge();
        assert_eq!((world.account().quarantined, bell.rings()), (2, 0));
        world.on_cpu(2);
        world.memory.acknowledge();
        assert_eq!((world.account().quarantined, bell.rings()), (0, 1));
        assert_eq!(poll(), Poll::Ready(()));
        assert_eq!(world.free(), free + 2);
    }
}

#[test]
fn case_44_a_cpu_that_leaves_or_loses_its_pcid_holds_nothing_back() {
    for pcids in [0, 2] {
        let world = World::with(128, |_| {}, pcids);
        let others = [world.space(), world.space(), world.space()];
        let space = loaded(&world, 4);
        world.on_cpu(1);
        world.memory.switch_to(&space);
        world.on_cpu(0);
        let free = world.free();
        space.unmap(at(A), PAGE_SIZE).unwrap();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut flushed = pin!(space.flushed(generation(&space)));
        assert!(flushed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // CPU 1 runs other spaces until nothing of this one is left in its TLB.
        world.on_cpu(1);
        for other in &others {
            world.memory.switch_to(other);
        }
        assert_eq!(bell.rings(), 1, "{pcids} PCIDs");
        assert_eq!(world.free(), free + 1);
        // And nobody asks this CPU again.
        world.on_cpu(0);
        world.take_asked();
        space.unmap(at(A + PAGE_SIZE), PAGE_SIZE).unwrap();
        assert_eq!(world.take_asked(), [Asked::Page(A + PAGE_SIZE)]);
    }
}

#[test]
fn case_44_tables_wait_for_the_flush_too() {
    let world = World::new(64);
    let space = loaded(&world, 4);
    world.on_cpu(1);
    world.memory.switch_to(&space);
    world.on_cpu(0);
    space.unmap(at(A), 4 * PAGE_SIZE).unwrap();
    // Four pages and the tables of levels 1 to 3.
    assert_eq!(world.account().quarantined, 7);
    world.on_cpu(1);
    world.memory.acknowledge();
    assert_eq!(world.account().quarantined, 0);
}

#[test]
fn case_44_a_permission_upgrade_asks_no_other_cpu_which_then_takes_a_spurious_fault() {
    let world = World::new(64);
    let space = loaded(&world, 1);
    let child = space.fork().unwrap();
    world.load(&child, A).unwrap();
    drop(child);
    for cpu in [0, 1] {
        world.on_cpu(cpu);
        world.load(&space, A).unwrap();
    }
    world.on_cpu(0);
    world.take_asked();
    world.store(&space, A, 7).unwrap();
    assert_eq!(world.take_asked(), [Asked::Page(A)]);
    world.on_cpu(1);
    assert!(!world.would_store(A), "CPU 1 still has the narrower translation");
    assert_eq!(world.fault(&space, A, Access::Write), Ok(FaultOutcome::Spurious));
    assert!(world.would_store(A));
}

#[test]
fn case_45_a_change_to_a_space_that_is_not_loaded_asks_for_no_local_invalidation() {
    let world = World::new(128);
    let (a, b) = (loaded(&world, 4), world.space());
    world.memory.switch_to(&b);
    world.take_asked();
    a.unmap(at(A), 2 * PAGE_SIZE).unwrap();
    a.protect_region(at(A + 2 * PAGE_SIZE), PAGE_SIZE, R).unwrap();
    assert_eq!(world.take_asked(), []);
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), [flush(&a)]);
}

#[test]
fn case_45_a_pcid_that_is_not_loaded_where_the_change_is_made_holds_no_frame_back() {
    let world = World::with(128, |_| {}, 4);
    let (space, other) = (loaded(&world, 4), world.space());
    world.memory.switch_to(&other);
    world.on_cpu(1);
    world.memory.switch_to(&space);
    // CPU 0 makes the change; it keeps the space under a PCID, but has another one loaded.
    world.on_cpu(0);
    let free = world.free();
    space.unmap(at(A), PAGE_SIZE).unwrap();
    world.on_cpu(1);
    world.deliver();
    assert_eq!(world.free(), free + 1);
    world.on_cpu(0);
    world.take_asked();
    world.memory.switch_to(&space);
    assert!(matches!(world.take_asked()[..], [Asked::Root { keep: false, .. }]));
}

#[test]
fn the_waiter_for_a_flush_may_go_and_a_second_poll_adds_none() {
    let world = World::new(64);
    let space = loaded(&world, 2);
    world.on_cpu(1);
    world.memory.switch_to(&space);
    world.on_cpu(0);
    space.unmap(at(A), PAGE_SIZE).unwrap();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut flushed = Box::pin(space.flushed(generation(&space)));
    for _ in 0..3 {
        assert!(flushed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(flushed);
    assert_eq!(Arc::strong_count(&bell), 2, "its waker went with it");
    world.on_cpu(1);
    world.memory.acknowledge();
    assert_eq!(bell.rings(), 0);
}
