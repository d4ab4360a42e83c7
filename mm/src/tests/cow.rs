//! Cases 15 to 19, 22 and 23: copy-on-write.

use core::pin::pin;
use core::task::Poll;
use std::vec::Vec;

use super::machine::*;
use super::walk::{Walk, frames_of};
use crate::*;

pub const A: u64 = 0x1000_0000;

pub fn page(index: u64) -> u64 {
    A + index * PAGE_SIZE
}

/// A space with pages of RW memory at `A` that hold 100, 101, and so on.
pub fn written(world: &World, pages: u64) -> Vas {
    let space = world.space();
    space
        .map_lazy(at(A), pages * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    for index in 0..pages {
        world.write(&space, page(index), 100 + index).unwrap();
    }
    space
}

pub fn check(world: &World, spaces: &[&Vas]) {
    Walk::of(world, spaces.iter().copied()).check_counts(world, &[]);
}

#[test]
fn case_15_fork_copies_no_data_and_both_sides_are_read_only() {
    let pages = if cfg!(miri) { 4 } else { 100 };
    let world = World::new(256);
    let parent = written(&world, pages);
    let before = world.account();
    let child = parent.fork().unwrap();
    let after = world.account();
    assert_eq!(after.mapped, before.mapped);
    // The tables of levels 4 to 2; the last-level table is shared.
    assert_eq!(after.page_tables, before.page_tables + 3);
    assert!(parent.shares_table_at(at(A)) && child.shares_table_at(at(A)));
    assert_eq!(frames_of(&world, &parent), frames_of(&world, &child));
    for space in [&parent, &child] {
        assert!(space.is_mapped_for(A, Access::Read) && !space.is_mapped_for(A, Access::Write));
        assert_eq!(space.get_stats().shared_pages, pages);
        for index in 0..pages {
            assert_eq!(world.read(space, page(index)), Ok(100 + index));
        }
    }
    // Reading has unshared nothing.
    assert_eq!(world.account(), after);
    check(&world, &[&parent, &child]);
}

#[test]
fn case_16_the_writer_gets_a_copy_and_the_last_owner_its_own_frame() {
    let world = World::new(64);
    let parent = written(&world, 2);
    let child = parent.fork().unwrap();
    let original = parent.translate(A, Access::Read);
    world.write(&child, A, 7).unwrap();
    assert_eq!(world.read(&parent, A), Ok(100));
    assert_eq!(world.read(&child, A), Ok(7));
    assert_eq!(world.memory.stats().tables_unshared, 1);
    check(&world, &[&parent, &child]);
    drop(child);
    let free = world.free();
    world.write(&parent, A, 8).unwrap();
    assert_eq!(parent.translate(A, Access::Write), original, "nothing was copied");
    assert_eq!(world.free(), free);
    assert_eq!(world.memory.stats().tables_taken_back, 1);
    world.write(&parent, page(1), 9).unwrap();
    check(&world, &[&parent]);
}

#[test]
fn a_read_fault_in_a_shared_table_unshares_it_and_appears_on_one_side_only() {
    let world = World::new(64);
    let parent = written(&world, 1);
    parent.map_lazy(at(page(1)), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let child = parent.fork().unwrap();
    assert_eq!(world.read(&child, page(1)), Ok(0));
    assert!(child.is_mapped_for(page(1), Access::Read));
    assert!(!parent.is_mapped_for(page(1), Access::Read));
    assert_eq!(world.read(&parent, A), Ok(100));
    check(&world, &[&parent, &child]);
}

#[test]
fn case_17_a_fork_of_a_fork_before_any_write() {
    let world = World::new(128);
    let parent = written(&world, 3);
    let child = parent.fork().unwrap();
    let grandchild = child.fork().unwrap();
    let spaces = [&parent, &child, &grandchild];
    check(&world, &spaces);
    for (value, space) in spaces.iter().enumerate() {
        world.write(space, A, value as u64).unwrap();
    }
    for (value, space) in spaces.iter().enumerate() {
        assert_eq!(world.read(space, A), Ok(value as u64));
        assert_eq!(world.read(space, page(1)), Ok(101));
    }
    check(&world, &spaces);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of spaces")]
fn case_17_three_and_three_hundred_sharers() {
    for sharers in [3, 300] {
        let world = World::new(40 + sharers * 5);
        let parent = written(&world, 2);
        let mapped = world.account().mapped;
        let children: Vec<_> = (0..sharers).map(|_| parent.fork().unwrap()).collect();
        assert_eq!(world.account().mapped, mapped);
        let all: Vec<&Vas> = children.iter().chain([&parent]).collect();
        check(&world, &all);
        for (value, child) in children.iter().enumerate() {
            world.write(child, A, value as u64).unwrap();
        }
        check(&world, &all);
        for (value, child) in children.iter().enumerate() {
            assert_eq!(world.read(child, A), Ok(value as u64));
            assert_eq!(world.read(child, page(1)), Ok(101));
        }
        assert_eq!(world.read(&parent, A), Ok(100));
        drop(all);
        drop(children);
        check(&world, &[&parent]);
        assert_eq!(world.account().mapped, mapped);
    }
}

#[test]
fn case_18_making_a_shared_page_writable_keeps_it_copy_on_write() {
    let world = World::new(64);
    let parent = written(&world, 2);
    let child = parent.fork().unwrap();
    child.protect_region(at(A), 2 * PAGE_SIZE, R).unwrap();
    child.protect_region(at(A), 2 * PAGE_SIZE, RW).unwrap();
    assert!(!child.is_mapped_for(A, Access::Write));
    world.write(&child, A, 7).unwrap();
    assert_eq!(world.read(&parent, A), Ok(100));
    // The zero frame stays shared, too.
    child.map_lazy(at(A + MIB), PAGE_SIZE, R, Backing::Anonymous).unwrap();
    world.touch(&child, A + MIB, Access::Read).unwrap();
    child.protect_region(at(A + MIB), PAGE_SIZE, RW).unwrap();
    assert!(!child.is_mapped_for(A + MIB, Access::Write));
    world.write(&child, A + MIB, 1).unwrap();
    check(&world, &[&parent, &child]);
}

#[test]
fn case_18_a_read_only_mapping_never_becomes_writable() {
    let world = World::new(64);
    let parent = written(&world, 1);
    parent.protect_region(at(A), PAGE_SIZE, R).unwrap();
    let child = parent.fork().unwrap();
    for space in [&parent, &child] {
        assert!(matches!(world.write(space, A, 1), Err(FaultError::Protection { .. })));
    }
    drop(child);
    assert!(matches!(world.write(&parent, A, 1), Err(FaultError::Protection { .. })));
    assert_eq!(world.read(&parent, A), Ok(100));
}

#[test]
fn case_19_no_stale_writable_translation_survives_a_fork() {
    let world = World::new(64);
    let parent = written(&world, 2);
    for cpu in [1, 0] {
        world.on_cpu(cpu);
        world.store(&parent, A, 5).unwrap();
        assert!(world.would_store(A));
    }
    world.take_asked();
    let child = parent.fork().unwrap();
    let flush = Asked::Root {
        root: parent.page_table_root.load(core::sync::atomic::Ordering::Relaxed),
        pcid: 0,
        keep: false,
    };
    assert_eq!(
        world.take_asked(),
        [flush, Asked::Shootdown(1 << 1)],
        "one flush for the whole fork"
    );
    assert!(!world.would_store(A));
    world.on_cpu(1);
    assert!(world.would_store(A), "until it is asked");
    world.deliver();
    assert!(!world.would_store(A));
    world.store(&parent, A, 6).unwrap();
    assert_eq!(world.read(&child, A), Ok(5));
    // A second fork finds the pages read-only already where nobody has written.
    world.take_asked();
    let third = child.fork().unwrap();
    assert_eq!(world.take_asked(), []);
    drop(third);
}

#[test]
fn case_19_a_copy_replaces_the_translation_of_every_cpu() {
    let world = World::new(64);
    let parent = written(&world, 1);
    let child = parent.fork().unwrap();
    for cpu in [1, 0] {
        world.on_cpu(cpu);
        assert_eq!(world.load(&child, A), Ok(100));
    }
    world.store(&child, A, 7).unwrap();
    world.on_cpu(1);
    assert_eq!(world.load(&child, A), Ok(7));
    assert_eq!(world.load(&parent, A), Ok(100));
}

#[test]
fn a_page_is_not_copied_before_every_cpu_has_lost_its_right_to_write() {
    let world = World::new(64);
    let parent = written(&world, 1);
    for cpu in [1, 0] {
        world.on_cpu(cpu);
        world.store(&parent, A, 5).unwrap();
    }
    let child = parent.fork().unwrap();
    let mut fault = pin!(parent.handle_page_fault(FaultInfo::user(A, Access::Write)));
    for _ in 0..3 {
        assert!(
            world.poll(fault.as_mut()).is_pending(),
            "CPU 1 may still write to the page"
        );
        world.serve();
    }
    // Another thread of the parent does, by its old translation: the copy has to have that.
    world.on_cpu(1);
    assert!(world.store_on(A, 6));
    world.deliver();
    assert!(!world.would_store(A));
    world.on_cpu(0);
    world.serve();
    assert!(matches!(world.poll(fault.as_mut()), Poll::Ready(Ok(_))));
    assert_eq!(world.load(&parent, A), Ok(6));
    drop(child);
}

#[test]
fn case_22_both_sides_fault_at_once_and_each_gets_a_frame_of_its_own() {
    for inline in [false, true] {
        let mode = if inline { FaultMode::Inline } else { FaultMode::Queued };
        let world = World::with(64, |config| config.fault_mode = mode, 0);
        let parent = written(&world, 2);
        let child = parent.fork().unwrap();
        let mut first = pin!(parent.handle_page_fault(FaultInfo::user(A, Access::Write)));
        let mut second = pin!(child.handle_page_fault(FaultInfo::user(A, Access::Write)));
        let _ = (world.poll(first.as_mut()), world.poll(second.as_mut()));
        if !inline {
            world.run(first).unwrap();
            world.run(second).unwrap();
        }
        assert_ne!(parent.translate(A, Access::Write), child.translate(A, Access::Write));
        assert!(parent.is_mapped_for(A, Access::Write) && child.is_mapped_for(A, Access::Write));
        world.write(&parent, A, 1).unwrap();
        world.write(&child, A, 2).unwrap();
        assert_eq!((world.read(&parent, A), world.read(&child, A)), (Ok(1), Ok(2)));
        check(&world, &[&parent, &child]);
    }
}

#[test]
fn case_23_the_parent_exits_first_and_the_frame_is_freed_once() {
    let world = World::new(64);
    let free = world.free();
    let parent = written(&world, 2);
    let child = parent.fork().unwrap();
    let original = child.translate(A, Access::Read);
    drop(parent);
    check(&world, &[&child]);
    world.write(&child, A, 7).unwrap();
    assert_eq!(
        child.translate(A, Access::Write),
        original,
        "the last owner keeps the frame"
    );
    assert_eq!(world.read(&child, page(1)), Ok(101));
    check(&world, &[&child]);
    drop(child);
    assert_eq!(world.free(), free);
}

#[test]
fn a_shared_frame_waits_for_every_space_that_a_cpu_may_still_reach_it_through() {
    for whole_table in [false, true] {
        let world = World::new(64);
        let parent = world.space();
        parent.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        world.write(&parent, A, 1).unwrap();
        if !whole_table {
            world.write(&parent, A + PAGE_SIZE, 1).unwrap();
        }
        let child = parent.fork().unwrap();
        if !whole_table {
            // The tables part, the first page stays shared.
            world.write(&child, A + PAGE_SIZE, 2).unwrap();
        }
        world.on_cpu(1);
        world.memory.switch_to(&parent);
        world.on_cpu(0);
        let free = world.free();
        // CPU 1 may still reach the page through the parent, which gives its reference up first.
        parent.unmap(at(A), 2 * PAGE_SIZE).unwrap();
        // The last reference is the child's, which no CPU has loaded.
        child.unmap(at(A), 2 * PAGE_SIZE).unwrap();
        assert_eq!(world.free(), free, "a frame came free although CPU 1 has not flushed");
        assert!(world.account().quarantined > 0);
        world.on_cpu(1);
        world.memory.acknowledge();
        assert_eq!(world.account().quarantined, 0);
        assert!(world.free() > free);
        world.on_cpu(0);
    }
}
