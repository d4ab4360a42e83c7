//! Faults that are left with the CPU until the poll that met them is over.

use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

use faultline_trace::{FaultClass, Kind};

use super::machine::*;
use super::tlb::Bell;
use crate::*;

const A: u64 = 0x1000_0000;

fn world(frames: u32) -> World {
    World::with(frames, |config| config.fault_mode = FaultMode::HandedOff, 0)
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    (bell, waker)
}

fn fault(space: &Vas, page: u64) -> core::pin::Pin<Box<FaultFuture<'_, Machine>>> {
    Box::pin(space.handle_page_fault(FaultInfo::user(A + page * PAGE_SIZE, Access::Write)))
}

const DONE: Poll<Result<FaultOutcome, FaultError>> = Poll::Ready(Ok(FaultOutcome::Resolved(FaultClass::DemandZero)));

#[test]
fn a_fault_is_served_after_its_poll_without_a_wake_and_with_the_same_events() {
    let world = world(64);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    // The first fault of a space makes its tables.
    world.take_events();
    for page in 0..3 {
        assert!(!world.memory.has_left_fault());
        let mut fault = fault(&space, page);
        assert!(fault.as_mut().poll(&mut context).is_pending());
        assert!(world.memory.has_left_fault());
        assert!(world.memory.serve_left_fault(&waker), "the polled task can go on");
        assert!(!world.memory.has_left_fault());
        assert_eq!(fault.as_mut().poll(&mut context), DONE);
    }
    assert_eq!(bell.rings(), 0);
    let events = world.take_events();
    let last: Vec<Kind> = events[events.len() - 6..].to_vec();
    assert_eq!(
        last,
        [
            Kind::FaultQueue,
            Kind::FaultServe,
            Kind::FaultFrame,
            Kind::FaultFill,
            Kind::FaultCommit,
            Kind::FaultWake,
        ]
    );
}

#[test]
fn a_waiter_with_another_waker_than_the_polled_task_is_woken() {
    let world = world(64);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let (bell, waker) = bell();
    let (_, other) = self::bell();
    let mut fault = fault(&space, 0);
    assert!(fault.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(!world.memory.serve_left_fault(&other));
    assert_eq!(bell.rings(), 1);
    assert_eq!(fault.as_mut().poll(&mut Context::from_waker(&waker)), DONE);
}

#[test]
fn who_joins_a_fault_that_was_left_is_woken_and_so_is_the_polled_task() {
    let world = world(64);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let bells = [bell(), bell()];
    let mut faults = [fault(&space, 0), fault(&space, 0)];
    for (fault, (_, waker)) in faults.iter_mut().zip(&bells) {
        assert!(fault.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    assert_eq!(world.memory.stats().coalesced, 1);
    assert!(!world.memory.serve_left_fault(&bells[0].1));
    assert_eq!(bells.each_ref().map(|(bell, _)| bell.rings()), [1, 1]);
    for (fault, (_, waker)) in faults.iter_mut().zip(&bells) {
        assert_eq!(fault.as_mut().poll(&mut Context::from_waker(waker)), DONE);
    }
}

#[test]
fn what_is_not_served_at_once_is_queued_and_its_task_woken() {
    let world = world(64);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let (bell, waker) = bell();
    // The service sleeps.
    world.serve();
    let mut context = Context::from_waker(&waker);
    let mut one = fault(&space, 0);
    assert!(one.as_mut().poll(&mut context).is_pending());
    world.memory.queue_left_fault();
    assert!(!world.memory.has_left_fault());
    assert!(one.as_mut().poll(&mut context).is_pending());
    world.serve();
    assert_eq!(bell.rings(), 1);
    assert_eq!(one.as_mut().poll(&mut context), DONE);
    // Two of one poll are queued both, in their order.
    let mut two = [fault(&space, 1), fault(&space, 2)];
    world.take_events();
    for fault in &mut two {
        assert!(fault.as_mut().poll(&mut context).is_pending());
    }
    assert!(!world.memory.has_left_fault());
    world.serve();
    for fault in &mut two {
        assert_eq!(fault.as_mut().poll(&mut context), DONE);
    }
    assert_eq!(space.get_stats().resident_pages, 3);
}

#[test]
fn a_fault_that_nobody_waits_for_any_more_takes_no_frame() {
    let world = world(64);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let (bell, waker) = bell();
    let free = world.free();
    let mut given_up = fault(&space, 0);
    assert!(given_up.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(given_up);
    assert!(!world.memory.serve_left_fault(&waker));
    assert_eq!(
        (world.free(), world.memory.faults_in_flight(), bell.rings()),
        (free, 0, 0)
    );
    assert_eq!(world.memory.stats().cancelled, 1);
}

#[test]
fn a_fault_does_not_take_memory_for_which_others_wait() {
    let world = world(16);
    let space = world.space();
    space.map_lazy(at(A), 64 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let (bell, waker) = bell();
    let mut context = Context::from_waker(&waker);
    world.serve();
    let mut page = 0;
    let mut waiting = loop {
        let mut fault = fault(&space, page);
        assert!(fault.as_mut().poll(&mut context).is_pending());
        if !world.memory.serve_left_fault(&waker) {
            break fault;
        }
        assert_eq!(fault.as_mut().poll(&mut context), DONE);
        page += 1;
    };
    assert_eq!(world.memory.faults_waiting_for_memory(), 1);
    // Memory comes free before the service runs, and a younger fault meets it.
    space.unmap(at(A), PAGE_SIZE).unwrap();
    let mut younger = fault(&space, page + 1);
    assert!(younger.as_mut().poll(&mut context).is_pending());
    assert!(
        !world.memory.serve_left_fault(&waker),
        "it is queued behind the older one"
    );
    world.serve();
    let ends = [&mut waiting, &mut younger].map(|fault| fault.as_mut().poll(&mut context) == DONE);
    assert_eq!(ends.iter().filter(|&&ended| ended).count(), 1, "there was one frame");
    assert!(bell.rings() > 0);
    drop((waiting, younger));
    // The one that was given up is parked until memory comes free.
    space.unmap(at(A + PAGE_SIZE), PAGE_SIZE).unwrap();
    world.serve();
    assert_eq!(world.memory.faults_in_flight(), 0);
}
