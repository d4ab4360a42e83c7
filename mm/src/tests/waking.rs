//! Wakes that must not be lost, and faults that must not be served twice.

use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::sync::Arc;

use super::machine::*;
use super::tlb::Bell;
use super::walk::Walk;
use crate::*;

const A: u64 = 0x1000_0000;

fn page(index: u64) -> u64 {
    A + index * PAGE_SIZE
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    (bell, waker)
}

fn write_fault(space: &Vas, index: u64) -> core::pin::Pin<Box<FaultFuture<'_, Machine>>> {
    Box::pin(space.handle_page_fault(FaultInfo::user(page(index), Access::Write)))
}

#[test]
fn a_waiter_that_needs_no_slot_after_all_wakes_the_next() {
    let world = World::with(64, |config| config.fault_slots = 1, 0);
    let space = world.space();
    space.map_lazy(at(A), 4 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut faults = [write_fault(&space, 0), write_fault(&space, 1), write_fault(&space, 2)];
    let bells = [bell(), bell(), bell()];
    for (fault, (_, waker)) in faults.iter_mut().zip(&bells) {
        assert!(fault.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    world.serve();
    assert_eq!([0, 1, 2].map(|index: usize| bells[index].0.rings()), [1, 1, 0]);
    // The page of the second fault goes before it is polled.
    space.unmap(at(page(1)), PAGE_SIZE).unwrap();
    let refused = faults[1].as_mut().poll(&mut Context::from_waker(&bells[1].1));
    assert!(matches!(refused, Poll::Ready(Err(FaultError::NoRegion { .. }))));
    assert_eq!(bells[2].0.rings(), 1, "the slot is free and the third fault sleeps");
    drop(faults);
}

#[test]
fn every_frame_that_comes_free_wakes_the_service_while_faults_wait_for_one() {
    let world = World::new(12);
    let space = world.space();
    space.map_lazy(at(A), 64 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut filled = 0;
    while world.free() > 0 {
        world.touch(&space, page(filled), Access::Write).unwrap();
        filled += 1;
    }
    let (bell, waker) = bell();
    world.serve_with(&waker);
    let mut waiting: std::vec::Vec<_> = (0..3).map(|index| write_fault(&space, filled + index)).collect();
    for fault in &mut waiting {
        assert!(world.poll(fault.as_mut()).is_pending());
    }
    world.serve_with(&waker);
    assert_eq!(world.memory.faults_waiting_for_memory(), 3);
    for (served, fault) in waiting.iter_mut().enumerate() {
        let rings = bell.rings();
        space.unmap(at(page(served as u64)), PAGE_SIZE).unwrap();
        assert_eq!(bell.rings(), rings + 1, "after {served} frames");
        world.serve_with(&waker);
        assert!(world.poll(fault.as_mut()).is_ready());
    }
    drop(waiting);
}

#[test]
fn a_table_that_appears_under_a_queued_fault_does_not_let_it_be_served_twice() {
    for shared in [false, true] {
        let world = World::new(128);
        let space = world.space();
        space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        let mut child = None;
        if shared {
            world.write(&space, A, 5).unwrap();
            child = Some(space.fork().unwrap());
        }
        let mut first = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
        assert!(world.poll(first.as_mut()).is_pending());
        // A neighbour's table: made, or taken from the child.
        space.map_region(at(page(4)), PAGE_SIZE, RW).unwrap();
        let mut second = pin!(space.handle_page_fault(FaultInfo::user(A + 8, Access::Write)));
        assert!(world.poll(second.as_mut()).is_pending());
        assert_eq!(world.memory.faults_in_flight(), 1, "shared: {shared}");
        world.run(first).unwrap();
        world.run(second).unwrap();
        assert_eq!(space.faults_served().iter().sum::<u64>(), if shared { 2 } else { 1 });
        let spaces: std::vec::Vec<&Vas> = [&space].into_iter().chain(&child).collect();
        Walk::of(&world, spaces).check_counts(&world, &[]);
    }
}

#[test]
fn a_reader_served_first_does_not_leave_the_writer_asleep() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    for warm in [false, true] {
        let address = page(u64::from(warm));
        let mut reader = pin!(space.handle_page_fault(FaultInfo::user(address, Access::Read)));
        let mut writer = pin!(space.handle_page_fault(FaultInfo::user(address, Access::Write)));
        assert!(world.poll(reader.as_mut()).is_pending() && world.poll(writer.as_mut()).is_pending());
        world.run(reader).unwrap();
        world.run(writer).unwrap();
        world.touch(&space, address, Access::Write).unwrap();
    }
}
