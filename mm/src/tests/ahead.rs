//! First writes that run ahead.

use faultline_trace::Kind;

use super::machine::*;
use crate::*;

const A: u64 = 0x1000_0000;

fn world(frames: u32) -> World {
    World::with(frames, |config| config.run_ahead = 16, 0)
}

fn page(index: u64) -> u64 {
    A + index * PAGE_SIZE
}

/// A space with so many pages of memory at `A`, and a page of another region behind them.
fn space(world: &World, pages: u64) -> Vas {
    let space = world.space();
    space
        .map_lazy(at(A), pages * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    let rest = Protection::READ;
    space
        .map_lazy(at(page(pages)), PAGE_SIZE, rest, Backing::Anonymous)
        .unwrap();
    space
}

/// Writes to the pages one after the other; returns those that faulted.
fn faults(world: &World, space: &Vas, pages: impl IntoIterator<Item = u64>) -> std::vec::Vec<u64> {
    let write = |&index: &u64| {
        let faults = !space.is_mapped_for(page(index), Access::Write);
        world.write(space, page(index), index + 1).unwrap();
        faults
    };
    pages.into_iter().filter(write).collect()
}

#[test]
fn pages_that_are_written_in_order_come_in_steps_that_double() {
    let world = world(2000);
    let space = space(&world, 100);
    assert_eq!(faults(&world, &space, 0..100), [0, 1, 2, 4, 8, 16, 32, 48, 64, 80, 96]);
    for index in 0..100 {
        assert_eq!(world.read(&space, page(index)), Ok(index + 1));
    }
    assert_eq!(world.memory.stats().ahead, 89);
    assert!(
        !space.is_mapped_for(page(100), Access::Read),
        "the region behind is another"
    );
    assert_eq!(space.get_stats().resident_pages, 100);
}

#[test]
fn pages_that_are_written_in_no_order_come_alone() {
    let world = world(2000);
    let space = space(&world, 100);
    let pages = (0..100).map(|index| index * 37 % 100);
    assert_eq!(faults(&world, &space, pages).len(), 100);
    assert_eq!(world.memory.stats().ahead, 0);
}

#[test]
fn several_streams_run_beside_each_other() {
    let world = world(2000);
    let space = space(&world, 400);
    let pages = (0..100).flat_map(|index| [index, 100 + index, 200 + index, 300 + index]);
    assert_eq!(faults(&world, &space, pages).len(), 4 * 11);
}

#[test]
fn advice_goes_first() {
    let world = world(2000);
    let space = space(&world, 100);
    let all = 100 * PAGE_SIZE;
    space.advise(at(A), all, Advice::Random).unwrap();
    assert_eq!(faults(&world, &space, 0..20).len(), 20);
    space.advise(at(A), all, Advice::Sequential).unwrap();
    assert_eq!(faults(&world, &space, 20..52), [20, 36]);
    assert_eq!(faults(&world, &space, [70, 71]), [70]);
    space.advise(at(A), all, Advice::Normal).unwrap();
    assert_eq!(faults(&world, &space, 90..94), [90, 91, 92]);
}

#[test]
fn what_is_there_stays_and_ends_the_step() {
    let world = world(2000);
    let space = space(&world, 100);
    world.write(&space, page(10), 77).unwrap();
    assert_eq!(world.read(&space, page(20)), Ok(0));
    // At 11 goes on what began at 10.
    assert_eq!(faults(&world, &space, 0..32), [0, 1, 2, 4, 8, 11, 12, 14, 18, 20, 21]);
    assert_eq!(world.read(&space, page(10)), Ok(11));
}

#[test]
fn it_ends_with_the_table() {
    let world = world(2000);
    let space = world.space();
    let start = 0x4000_0000 - 8 * PAGE_SIZE;
    space
        .map_lazy(at(start), 16 * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    for index in 0..5 {
        world.write(&space, start + index * PAGE_SIZE, 1).unwrap();
    }
    assert!(space.is_mapped_for(start + 7 * PAGE_SIZE, Access::Write));
    assert!(!space.is_mapped_for(start + 8 * PAGE_SIZE, Access::Write));
}

#[test]
fn a_fault_in_flight_keeps_its_page() {
    let world = world(2000);
    let space = space(&world, 100);
    faults(&world, &space, 0..4);
    let mut other = core::pin::pin!(space.handle_page_fault(FaultInfo::user(page(6), Access::Write)));
    assert!(world.poll(other.as_mut()).is_pending());
    // The service takes them in order: the other's page is served first, and ends the step.
    let mut next = core::pin::pin!(space.handle_page_fault(FaultInfo::user(page(4), Access::Write)));
    assert!(world.poll(next.as_mut()).is_pending());
    world.serve();
    assert!(world.poll(other.as_mut()).is_ready() && world.poll(next.as_mut()).is_ready());
    assert!(space.is_mapped_for(page(5), Access::Write) && !space.is_mapped_for(page(7), Access::Write));
}

#[test]
fn nothing_runs_ahead_when_frames_are_few() {
    let world = world(64);
    let space = space(&world, 100);
    world.memory.frames().set_watermarks(Watermarks {
        reserve: 10,
        low: 20,
        high: 64,
    });
    assert_eq!(faults(&world, &space, 0..20).len(), 20);
    assert_eq!(world.memory.stats().ahead, 0);
}

#[test]
fn a_step_is_one_event() {
    let world = world(2000);
    let space = space(&world, 100);
    faults(&world, &space, 0..4);
    world.take_events();
    faults(&world, &space, 4..8);
    let events = world.take_events();
    assert_eq!(
        events,
        [
            Kind::FaultQueue,
            Kind::FaultServe,
            Kind::FaultFrame,
            Kind::FaultFill,
            Kind::FaultCommit,
            Kind::FaultAhead,
            Kind::FaultWake
        ]
    );
}

#[test]
fn a_child_shares_what_ran_ahead() {
    let world = world(2000);
    let before = world.free();
    let parent = space(&world, 100);
    faults(&world, &parent, 0..4);
    let child = parent.fork().unwrap();
    world.write(&child, page(5), 9).unwrap();
    assert_eq!(world.read(&parent, page(5)), Ok(0));
    assert_eq!(world.read(&child, page(5)), Ok(9));
    assert_eq!(world.read(&child, page(6)), Ok(0));
    drop((parent, child));
    assert_eq!(world.free(), before);
}
