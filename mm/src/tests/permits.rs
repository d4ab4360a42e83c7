//! Who gets a frame when few are free: the reserve, and permits.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

use super::machine::*;
use super::tlb::{A, Bell};
use crate::frame::{ReservedFrame, Watermarks};
use crate::*;

type Fault<'a> = Pin<Box<FaultFuture<'a, super::machine::Machine>>>;

fn write<'a>(space: &'a Vas, page: u64) -> Fault<'a> {
    Box::pin(space.handle_page_fault(FaultInfo::user(A + page * PAGE_SIZE, Access::Write)))
}

fn poll(fault: &mut Fault<'_>) -> Poll<FaultResult> {
    fault.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Begins a fault and lets it find no frame.
fn park<'a>(world: &World, space: &'a Vas, page: u64) -> Fault<'a> {
    let mut fault = write(space, page);
    assert!(poll(&mut fault).is_pending());
    world.serve();
    assert!(poll(&mut fault).is_pending());
    fault
}

fn space(world: &World) -> Vas {
    let space = world.space();
    space.map_lazy(at(A), 64 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    // The tables are there.
    world.touch(&space, A + 63 * PAGE_SIZE, Access::Read).unwrap();
    space
}

/// Takes every frame but `left`.
fn take_all(world: &World, left: u64) -> Vec<ReservedFrame<'static>> {
    let frames = world.memory.frames();
    let mut taken = Vec::new();
    while frames.available() > left {
        taken.push(frames.allocate(0).unwrap());
    }
    taken
}

fn served(faults: &mut [Fault<'_>]) -> Vec<usize> {
    (0..faults.len())
        .filter(|&index| poll(&mut faults[index]).is_ready())
        .collect()
}

#[test]
fn spaces_with_waiting_faults_get_a_frame_each_in_turn() {
    let world = World::new(128);
    let (greedy, modest, third) = (space(&world), space(&world), space(&world));
    let mut taken = take_all(&world, 0);
    let mut faults: Vec<_> = (0..20).map(|page| park(&world, &greedy, page)).collect();
    faults.push(park(&world, &modest, 0));
    faults.push(park(&world, &modest, 1));
    faults.push(park(&world, &third, 0));
    assert_eq!(world.memory.faults_waiting_for_memory(), 23);
    // Of the first three frames each space has one, of the next two each that still waits.
    let mut order = Vec::new();
    for _ in 0..6 {
        drop(taken.pop());
        world.serve();
        for index in served(&mut faults) {
            if !order.contains(&index) {
                order.push(index);
            }
        }
    }
    assert_eq!(order, [0, 20, 22, 1, 21, 2]);
    taken.clear();
    world.serve();
    assert_eq!(world.memory.faults_waiting_for_memory(), 0);
}

#[test]
fn a_fault_that_comes_later_takes_no_frame_before_those_that_wait() {
    for mode in [FaultMode::Queued, FaultMode::Inline] {
        let world = World::with(128, |config| config.fault_mode = mode, 0);
        let (first, second) = (space(&world), space(&world));
        let mut taken = take_all(&world, 0);
        let mut early = park(&world, &first, 0);
        drop(taken.pop());
        // It finds the frame free, and somebody who waits for it.
        let mut late = write(&second, 0);
        assert!(poll(&mut late).is_pending());
        world.serve();
        assert!(poll(&mut early).is_ready(), "{mode:?}");
        assert!(poll(&mut late).is_pending(), "{mode:?}");
        drop(taken.pop());
        world.serve();
        assert!(poll(&mut late).is_ready());
    }
}

#[test]
fn a_fault_that_needs_no_frame_waits_for_nobody() {
    let world = World::new(128);
    let (first, second) = (space(&world), space(&world));
    let taken = take_all(&world, 0);
    let waiting = park(&world, &first, 0);
    world.touch(&second, A, Access::Read).unwrap();
    drop(taken);
    drop(waiting);
    world.serve();
}

#[test]
fn a_killed_waiter_leaves_its_turn_and_no_frame() {
    let world = World::new(128);
    let (first, second) = (space(&world), space(&world));
    let mut taken = take_all(&world, 0);
    let killed: Vec<_> = (0..4).map(|page| park(&world, &first, page)).collect();
    let mut others: Vec<_> = (0..2).map(|page| park(&world, &second, page)).collect();
    drop(killed);
    // Each frame goes to one that lives; those that were killed go when it is their turn.
    for served in 1..=2 {
        drop(taken.pop());
        world.serve();
        assert_eq!(
            others
                .iter_mut()
                .filter_map(|fault| poll(fault).is_ready().then_some(()))
                .count(),
            served
        );
    }
    assert_eq!(world.memory.frames().available(), 0);
    drop(taken);
    world.serve();
    assert_eq!(world.memory.faults_in_flight(), 0);
}

#[test]
fn faults_leave_the_reserve_and_tables_use_it() {
    let world = World::new(256);
    let space = space(&world);
    space.map_lazy(at(A + 1024 * MIB), MIB, RW, Backing::Anonymous).unwrap();
    world.memory.frames().set_watermarks(Watermarks {
        reserve: 16,
        low: 32,
        high: 48,
    });
    let frames = world.memory.frames();
    let mut held = Vec::new();
    while let Ok(frame) = frames.allocate_for_fault(0) {
        held.push(frame);
    }
    assert_eq!((frames.available(), frames.available_for_faults()), (16, 0));
    let mut waiting = park(&world, &space, 0);
    // Another fault has its tables made, and then waits too.
    let far = Box::pin(space.handle_page_fault(FaultInfo::user(A + 1024 * MIB, Access::Write)));
    let mut far: Fault<'_> = far;
    assert!(poll(&mut far).is_pending());
    world.serve();
    assert!(poll(&mut far).is_pending());
    assert!(frames.available() < 16, "the tables came from the reserve");
    assert_eq!(world.memory.faults_waiting_for_memory(), 2);
    // What comes free is for the first to wait; the reserve is filled up only where it is asked for.
    drop(held.pop());
    world.serve();
    assert!(poll(&mut waiting).is_ready());
    drop(held.drain(..10));
    frames.refill_reserve(0);
    assert!(frames.available_for_faults() < 10);
    held.clear();
    world.serve();
    assert!(poll(&mut far).is_ready());
}

#[test]
fn without_a_reserve_the_waiting_faults_may_have_it() {
    let world = World::new(256);
    let space = space(&world);
    let frames = world.memory.frames();
    frames.set_watermarks(Watermarks {
        reserve: 16,
        low: 16,
        high: 16,
    });
    let mut held = Vec::new();
    while let Ok(frame) = frames.allocate_for_fault(0) {
        held.push(frame);
    }
    let bell = Arc::new(Bell::default());
    world.serve();
    let mut waiting = write(&space, 0);
    assert!(poll(&mut waiting).is_pending());
    world.serve_with(&Waker::from(Arc::clone(&bell)));
    assert!(poll(&mut waiting).is_pending());
    let before = bell.rings();
    frames.set_watermarks(Watermarks::NONE);
    assert_eq!(bell.rings(), before + 1, "the service is told");
    world.serve();
    assert!(poll(&mut waiting).is_ready());
}

#[test]
fn the_reclaimer_is_called_when_frames_are_few() {
    let world = World::new(256);
    let frames = world.memory.frames();
    frames.set_watermarks(Watermarks {
        reserve: 16,
        low: 128,
        high: 192,
    });
    let bell = Arc::new(Bell::default());
    frames.set_hungry_waker(&Waker::from(Arc::clone(&bell)));
    let mut held = Vec::new();
    while frames.available() > 200 {
        held.push(frames.allocate_for_fault(0).unwrap());
    }
    assert_eq!(bell.rings(), 0);
    while frames.available() > 96 {
        held.push(frames.allocate_for_fault(0).unwrap());
    }
    assert_eq!(bell.rings(), 1, "once, until it asks again");
}

#[test]
fn watermarks_grow_with_the_machine() {
    let all = [1_u64 << 8, 1 << 14, 98_304, 1 << 20, 1 << 30].map(Watermarks::for_frames);
    assert_eq!(all.map(|marks| marks.reserve), [16, 64, 384, 4096, 4096]);
    assert!(
        all.iter()
            .all(|marks| marks.reserve < marks.low && marks.low < marks.high)
    );
}
