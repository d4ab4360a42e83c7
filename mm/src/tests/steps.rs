//! Calls that work in steps: whose turn it is, what each step leaves, and what may come in between.

use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use std::vec::Vec;

use super::machine::*;
use super::walk::Walk;
use crate::*;

const A: u64 = 0x4000_0000;
const TABLE: u64 = HUGE_PAGE_SIZE;

/// A machine whose steps are as small as they can be.
fn world() -> World {
    World::with(4096, |config| config.step = (2, 1), 0)
}

/// A space with `tables` last-level tables, a page in each.
fn sparse(world: &World, tables: u64) -> Vas {
    let space = world.space();
    space.map_lazy(at(A), tables * TABLE, RW, Backing::Anonymous).unwrap();
    for table in 0..tables {
        world.write(&space, A + table * TABLE, table).unwrap();
    }
    space
}

fn check(world: &World, spaces: &[&Vas]) {
    Walk::of(world, spaces.iter().copied()).check_counts(world, &[]);
}

/// Polls a future to its end; says how often.
fn finish<F: Future>(world: &World, future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    for polls in 1..1_000_000 {
        if let Poll::Ready(output) = world.poll(future.as_mut()) {
            return (output, polls);
        }
    }
    panic!("a call in steps did not end");
}

#[test]
fn turns_come_in_the_order_of_arrival() {
    let world = world();
    let space = sparse(&world, 8);
    let mut first = pin!(space.unmap_in_steps(at(A), 2 * TABLE));
    assert!(world.poll(first.as_mut()).is_pending());
    let mut second = pin!(space.protect_in_steps(at(A + 4 * TABLE), 4 * TABLE, R));
    let mut third = pin!(space.unmap_in_steps(at(A + 4 * TABLE), 4 * TABLE));
    assert!(world.poll(second.as_mut()).is_pending());
    assert!(world.poll(third.as_mut()).is_pending());
    // Nobody else changes the space meanwhile.
    let request = || MapRequest::anonymous(PAGE_SIZE, RW);
    assert_eq!(space.mmap(request()), Err(VasError::Busy));
    assert_eq!(space.unmap(at(A), PAGE_SIZE), Err(VasError::Busy));
    assert_eq!(space.fork().map(drop), Err(VasError::Busy));
    // A fault does not change regions.
    world.write(&space, A + 6 * TABLE + PAGE_SIZE, 7).unwrap();
    let mut order = Vec::new();
    let mut done = [false; 3];
    while done != [true; 3] {
        // The last one asks first.
        if !done[2] && world.poll(third.as_mut()).is_ready() {
            order.push(3);
            done[2] = true;
        }
        if !done[1] && world.poll(second.as_mut()).is_ready() {
            order.push(2);
            done[1] = true;
        }
        if !done[0] && world.poll(first.as_mut()).is_ready() {
            order.push(1);
            done[0] = true;
        }
    }
    assert_eq!(order, [1, 2, 3]);
    space.mmap(request()).unwrap();
    check(&world, &[&space]);
}

#[test]
fn a_turn_that_is_dropped_is_passed_on() {
    let world = world();
    let space = sparse(&world, 4);
    {
        let mut first = pin!(space.unmap_in_steps(at(A), 4 * TABLE));
        assert!(world.poll(first.as_mut()).is_pending());
        let mut third = pin!(space.turn());
        {
            let mut second = pin!(space.turn());
            assert!(world.poll(second.as_mut()).is_pending());
            assert!(world.poll(third.as_mut()).is_pending());
        }
        assert!(world.poll(third.as_mut()).is_pending());
    }
    // The one was killed half-way, the others while they waited.
    assert_eq!(space.mmap(MapRequest::anonymous(PAGE_SIZE, RW)).map(drop), Ok(()));
    check(&world, &[&space]);
}

#[test]
fn a_waiting_call_that_was_given_the_turn_gives_it_up_when_it_is_dropped() {
    let world = world();
    let space = sparse(&world, 1);
    let held = finish(&world, space.turn()).0.unwrap();
    {
        let mut waits = pin!(space.turn());
        assert!(world.poll(waits.as_mut()).is_pending());
        drop(held);
    }
    space.unmap(at(A), TABLE).unwrap();
}

#[test]
fn what_lies_behind_a_step_is_done() {
    let world = world();
    let space = sparse(&world, 6);
    let free = world.free();
    let mut call = pin!(space.unmap_in_steps(at(A), 6 * TABLE));
    for step in 0..5 {
        assert!(world.poll(call.as_mut()).is_pending());
        let bytes = space.virtual_bytes();
        assert_eq!(bytes, (5 - step) * TABLE, "step {step}");
        check(&world, &[&space]);
    }
    assert_eq!(world.poll(call.as_mut()), Poll::Ready(Ok(())));
    // Six pages, their tables, and the two above.
    assert_eq!(world.free(), free + 6 + 6 + 2);
}

#[test]
fn a_fork_in_steps_is_a_fork() {
    let world = world();
    let space = sparse(&world, 5);
    let start = A + 16 * TABLE;
    // Neighbours in one table, each with properties of its own; many regions.
    for index in 0..20 {
        space
            .map_lazy(at(start + 2 * index * PAGE_SIZE), PAGE_SIZE, RW, Backing::Anonymous)
            .unwrap();
        world.write(&space, start + 2 * index * PAGE_SIZE, 100 + index).unwrap();
    }
    space.set_locked(at(start), PAGE_SIZE, true).unwrap();
    space
        .advise(at(start + 2 * PAGE_SIZE), PAGE_SIZE, Advice::NotInherited)
        .unwrap();
    space
        .advise(at(start + 4 * PAGE_SIZE), PAGE_SIZE, Advice::WipedInChild)
        .unwrap();
    let (child, polls) = finish(&world, space.fork_in_steps());
    let child = child.unwrap();
    // Five tables of the parent's own, and then the child, whose tables are shared.
    assert!(polls > 6, "{polls} steps");
    for table in 0..5 {
        assert_eq!(world.read(&child, A + table * TABLE), Ok(table));
    }
    assert_eq!(child.locked_bytes(), 0);
    assert_eq!(world.read(&child, start), Ok(100));
    assert!(matches!(
        world.read(&child, start + 2 * PAGE_SIZE),
        Err(FaultError::NoRegion { .. })
    ));
    assert_eq!(world.read(&child, start + 4 * PAGE_SIZE), Ok(0));
    assert_eq!(world.read(&child, start + 38 * PAGE_SIZE), Ok(119));
    world.write(&child, A, 77).unwrap();
    assert_eq!(world.read(&space, A), Ok(0));
    check(&world, &[&space, &child]);
}

#[test]
fn a_fork_in_steps_fails_at_every_allocation_and_leaves_the_parent_alone() {
    let world = world();
    let space = sparse(&world, 5);
    let before = world.free();
    let (child, failures) = world.fail_each(
        || finish(&world, space.fork_in_steps()).0,
        |result, _| {
            assert!(matches!(result, Err(VasError::OutOfMemory { .. })));
            assert_eq!(world.free(), before);
            check(&world, &[&space]);
            for table in 0..5 {
                assert_eq!(world.read(&space, A + table * TABLE), Ok(table));
            }
        },
    );
    assert!(failures >= 3);
    check(&world, &[&space, &child.unwrap()]);
}

#[test]
fn a_child_that_is_dropped_half_way_leaves_nothing() {
    for steps in 1..5 {
        let world = world();
        let space = sparse(&world, 5);
        for index in 0..20 {
            let start = at(A + 16 * TABLE + 2 * index * PAGE_SIZE);
            space.map_lazy(start, PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        }
        let before = world.free();
        {
            let mut fork = pin!(space.fork_in_steps());
            for _ in 0..steps {
                assert!(world.poll(fork.as_mut()).is_pending());
            }
        }
        space.mmap(MapRequest::anonymous(PAGE_SIZE, RW)).unwrap();
        assert_eq!(world.free(), before);
        check(&world, &[&space]);
    }
}

#[test]
fn a_remap_in_steps_moves_each_page_once() {
    let world = world();
    let space = sparse(&world, 4);
    let to = A + 64 * TABLE + 16 * PAGE_SIZE;
    let mut call = pin!(space.remap_in_steps(at(A), 4 * TABLE, 5 * TABLE, RemapTarget::Fixed(at(to))));
    let mut polls = 0;
    while world.poll(call.as_mut()).is_pending() {
        polls += 1;
        // Others touch the target, which is there from the first step on, before the pages have come; and a page that has
        // not been touched, so that its table is new.
        let page = to + polls % 4 * TABLE;
        let _ = world.write(&space, page, 999);
        let _ = world.read(&space, A + 3 * TABLE + 5 * PAGE_SIZE);
        check(&world, &[&space]);
    }
    assert!(polls > 6, "{polls} steps");
    for table in 0..4 {
        let value = world.read(&space, to + table * TABLE).unwrap();
        assert!(value == table || value == 999, "page {table} shows {value}");
    }
    assert_eq!(world.read(&space, to + 4 * TABLE + 8 * PAGE_SIZE), Ok(0));
    assert_eq!(space.virtual_bytes(), 5 * TABLE);
    check(&world, &[&space]);
}

#[test]
fn a_remap_in_steps_without_memory_for_tables_moves_nothing() {
    let world = world();
    let space = sparse(&world, 4);
    let to = RemapTarget::Fixed(at(A + 64 * TABLE + 16 * PAGE_SIZE));
    let before = world.free();
    // The last attempt is not made here: when pages move, nothing fails.
    for successes in 0..4 {
        world.memory.frames().fail_after(successes);
        let result = finish(&world, space.remap_in_steps(at(A), 4 * TABLE, 4 * TABLE, to)).0;
        world.memory.frames().fail_never();
        assert!(
            matches!(result, Err(VasError::OutOfMemory { .. })),
            "{successes}: {result:?}"
        );
        assert_eq!(world.free(), before);
        for table in 0..4 {
            assert_eq!(world.read(&space, A + table * TABLE), Ok(table));
        }
        check(&world, &[&space]);
    }
}

#[test]
fn pages_that_move_may_leave_their_range_mapped() {
    let world = world();
    let space = sparse(&world, 3);
    space.set_locked(at(A), 3 * TABLE, true).unwrap();
    let to = A + 64 * TABLE;
    let (result, _) = finish(
        &world,
        space.remap_and_keep_in_steps(at(A), 3 * TABLE, RemapTarget::Hint(at(to))),
    );
    assert_eq!(result, Ok(at(to)));
    for table in 0..3 {
        assert_eq!(world.read(&space, to + table * TABLE), Ok(table));
        assert_eq!(world.read(&space, A + table * TABLE), Ok(0));
    }
    assert_eq!((space.virtual_bytes(), space.locked_bytes()), (6 * TABLE, 3 * TABLE));
    check(&world, &[&space]);
}

#[test]
fn the_break_goes_down_in_steps() {
    let world = world();
    let space = world.space();
    space.set_heap_start(at(A)).unwrap();
    space.brk(Some(at(A + 8 * TABLE))).unwrap();
    for table in 0..8 {
        world.write(&space, A + table * TABLE, 1).unwrap();
    }
    assert_eq!(space.brk(Some(at(A + PAGE_SIZE))), Err(VasError::Busy));
    let (moved, polls) = finish(&world, space.brk_in_steps(at(A + PAGE_SIZE)));
    assert_eq!(moved, Ok(at(A + PAGE_SIZE)));
    assert!(polls >= 7);
    assert_eq!(space.get_stats().resident_pages, 1);
    check(&world, &[&space]);
}

#[test]
fn a_fixed_mapping_replaces_in_steps() {
    let world = world();
    let space = sparse(&world, 6);
    let request = MapRequest {
        placement: Placement::Fixed(at(A + TABLE)),
        ..MapRequest::anonymous(4 * TABLE, R)
    };
    let (mapped, polls) = finish(&world, space.mmap_in_steps(request));
    assert_eq!(mapped, Ok(at(A + TABLE)));
    assert!(polls >= 4);
    let values: Vec<_> = (0..6)
        .map(|table| world.read(&space, A + table * TABLE).unwrap())
        .collect();
    assert_eq!(values, [0, 0, 0, 0, 0, 5]);
    check(&world, &[&space]);
}

#[test]
fn advice_and_locks_act_on_what_is_mapped_and_tell_the_hole() {
    let world = world();
    let space = sparse(&world, 6);
    space.unmap(at(A + 2 * TABLE), TABLE).unwrap();
    let hole = VasError::NotMapped { address: A + 2 * TABLE };
    let dropped = finish(&world, space.advise_in_steps(at(A), 6 * TABLE, Advice::DontNeed)).0;
    assert_eq!(dropped, Err(hole));
    assert_eq!(space.get_stats().resident_pages, 0);
    let all = PageRange::aligned(at(A), 6 * TABLE).unwrap();
    assert_eq!(finish(&world, space.set_locked_in_steps(all, true)).0, Err(hole));
    assert_eq!(space.locked_bytes(), 5 * TABLE);
    let protected = finish(&world, space.protect_in_steps(at(A), 6 * TABLE, R)).0;
    assert_eq!(protected, Err(hole));
    assert_eq!(space.data_bytes(), 3 * TABLE, "what is behind the hole stays writable");
}

#[test]
fn a_large_space_that_is_dropped_ends_in_steps() {
    let world = world();
    let before = world.free();
    // Nobody takes spaces apart yet.
    drop(sparse(&world, 32));
    assert_eq!((world.free(), world.memory.ending_spaces()), (before, 0));
    let mut teardown = pin!(world.memory.teardown());
    assert!(world.poll(teardown.as_mut()).is_pending());
    drop(sparse(&world, 32));
    drop(sparse(&world, 32));
    drop(world.space());
    assert_eq!(world.memory.ending_spaces(), 2);
    let mut polls = 0;
    while world.memory.ending_spaces() > 0 {
        let free = world.free();
        assert!(world.poll(teardown.as_mut()).is_pending());
        assert!(world.free() - free < 64, "one step gave {} frames", world.free() - free);
        polls += 1;
    }
    assert!(polls > 32, "{polls} steps");
    assert_eq!(world.free(), before);
}

#[test]
fn statistics_are_counted_part_by_part() {
    let world = world();
    let space = sparse(&world, 5);
    let whole = space.get_stats();
    assert_eq!((whole.resident_pages, whole.table_pages), (5, 5 + 3));
    assert_eq!(whole.anonymous_bytes, 5 * TABLE);
    assert_eq!(whole.held_pages(), 13);
    let (stepped, polls) = finish(&world, space.get_stats_in_steps());
    assert_eq!(stepped, whole);
    assert!(polls >= 5);
}

#[test]
fn a_table_whose_other_sharers_are_gone_is_a_step_of_its_own() {
    let world = world();
    let space = sparse(&world, 8);
    let child = space.fork().unwrap();
    let (result, shared) = finish(&world, child.unmap_in_steps(at(A), 8 * TABLE));
    assert_eq!(result, Ok(()));
    drop(child);
    // Each is cleared entry by entry now.
    let (result, steps) = finish(&world, space.unmap_in_steps(at(A), 8 * TABLE));
    assert_eq!(result, Ok(()));
    assert!(shared < 4 && steps >= 8, "{shared} {steps}");
}
