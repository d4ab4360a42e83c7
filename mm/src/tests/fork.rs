//! Cases 20 and 21: what a fork keeps, and a fork that fails.

use core::pin::pin;
use faultline_fallible::Arc;
use std::vec::Vec;

use super::cow::{A, check, page, written};
use super::machine::*;
use super::walk::{self, Walk, translations};
use crate::*;

#[test]
fn case_20_fork_keeps_protections_layout_flags_and_holes() {
    let world = World::new(128);
    let parent = world.space();
    parent.set_stack_size(3 * MIB).unwrap();
    parent.set_heap_start(at(0x1000_1234)).unwrap();
    parent.brk(Some(at(0x1000_5678))).unwrap();
    let code = Protection::READ_EXECUTE;
    for (index, protection) in [(100, RW), (102, R), (104, code), (106, NONE), (1024, RW)] {
        parent
            .map_lazy(at(page(index)), PAGE_SIZE, protection, Backing::Anonymous)
            .unwrap();
    }
    let stack = parent.stack_top() - PAGE_SIZE;
    parent
        .map_with(stack, PAGE_SIZE, RW, Backing::Anonymous, RegionFlags::STACK)
        .unwrap();
    for index in [100, 102, 104] {
        world.touch(&parent, page(index), Access::Read).unwrap();
    }
    let child = parent.fork().unwrap();
    assert_eq!(child.layout(), parent.layout());
    let regions = |space: &Vas| {
        let mut found = Vec::new();
        space.mappings_ref(|view| found.push((view.range, view.protection, view.flags)));
        found
    };
    assert_eq!(regions(&child), regions(&parent));
    let rights = |space: &Vas| -> Vec<_> {
        let bits = Entry::USER | Entry::NO_EXECUTE | Entry::COW | Entry::BORROWED;
        translations(&world, space)
            .iter()
            .map(|found| (found.page, found.entry.bits() & bits))
            .collect()
    };
    assert_eq!(rights(&child), rights(&parent));
    assert!(!child.is_mapped_for(page(101), Access::Read), "a hole");
    assert!(matches!(
        world.fault(&child, page(101), Access::Read),
        Err(FaultError::NoRegion { .. })
    ));
    assert!(matches!(
        world.fault(&child, page(100), Access::Execute),
        Err(FaultError::Protection { .. })
    ));
    assert!(child.is_mapped_for(page(104), Access::Execute));
    world.touch(&child, stack.as_u64() - 8, Access::Write).unwrap();
    assert_eq!(child.brk(None).unwrap(), at(0x1000_5678));
}

#[test]
fn case_20_shared_memory_stays_shared_and_device_memory_is_aliased() {
    let world = World::new(128);
    let parent = world.space();
    let object = MemoryObject::new(world.memory.frames(), 2 * PAGE_SIZE).unwrap();
    let backing = Backing::Shared {
        object: Arc::clone(&object),
        offset: 0,
    };
    parent.map_lazy(at(A), 2 * PAGE_SIZE, RW, backing).unwrap();
    // Frame 0 of the machine is no RAM of the allocator's.
    let device = x86_64::PhysAddr::new(0);
    parent
        .map_physical_region(at(page(4)), device, PAGE_SIZE, RW, CachePolicy::Uncached)
        .unwrap();
    world.write(&parent, A, 1).unwrap();
    world.write(&parent, page(4), 2).unwrap();
    let child = parent.fork().unwrap();
    world.write(&child, A, 3).unwrap();
    world.write(&child, page(1), 4).unwrap();
    world.write(&child, page(4), 5).unwrap();
    assert_eq!(world.read(&parent, A), Ok(3));
    assert_eq!(world.read(&parent, page(1)), Ok(4));
    assert_eq!(world.read(&parent, page(4)), Ok(5));
    assert_eq!(object.resident(), 2);
    assert_eq!(parent.translate(page(4), Access::Write), Some(0));
    assert_eq!(child.translate(page(4), Access::Write), Some(0));
    Walk::of(&world, [&parent, &child]).check_counts(&world, &[object]);
}

#[test]
fn a_child_lacks_what_it_must_not_inherit_and_finds_empty_what_is_wiped() {
    let world = World::new(128);
    let parent = written(&world, 12);
    let advise = |first: u64, pages: u64, advice| parent.advise(at(page(first)), pages * PAGE_SIZE, advice);
    advise(2, 2, Advice::NotInherited).unwrap();
    advise(5, 3, Advice::WipedInChild).unwrap();
    advise(6, 1, Advice::KeptInChild).unwrap();
    advise(8, 2, Advice::NotInherited).unwrap();
    advise(8, 2, Advice::Inherited).unwrap();
    parent.set_locked(at(page(10)), PAGE_SIZE, true).unwrap();
    let child = parent.fork().unwrap();
    for index in 0..12 {
        assert_eq!(world.read(&parent, page(index)), Ok(100 + index));
        let found = world.read(&child, page(index));
        match index {
            2 | 3 => assert!(matches!(found, Err(FaultError::NoRegion { .. })), "{index}"),
            5 | 7 => assert_eq!(found, Ok(0), "{index}"),
            _ => assert_eq!(found, Ok(100 + index)),
        }
    }
    let flags = |space: &Vas, index: u64| space.find_mapping(at(page(index))).unwrap().flags;
    assert_eq!(flags(&parent, 10), RegionFlags::LOCKED);
    assert_eq!(flags(&child, 10), RegionFlags::empty());
    // The child's own children find it empty too.
    world.write(&child, page(5), 55).unwrap();
    let grandchild = child.fork().unwrap();
    assert_eq!(world.read(&grandchild, page(5)), Ok(0));
    assert_eq!(world.read(&child, page(5)), Ok(55));
    check(&world, &[&parent, &child, &grandchild]);
}

#[test]
fn only_private_anonymous_memory_can_be_wiped_in_a_child() {
    let world = World::new(64);
    let space = world.space();
    let object = MemoryObject::new(world.memory.frames(), PAGE_SIZE).unwrap();
    let backing = Backing::Shared { object, offset: 0 };
    space.map_lazy(at(page(0)), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    space.map_lazy(at(page(1)), PAGE_SIZE, RW, backing).unwrap();
    let refused = space.advise(at(page(0)), 2 * PAGE_SIZE, Advice::WipedInChild);
    assert!(
        matches!(refused, Err(VasError::WrongKind { region, .. }) if region.start() == page(1)),
        "{refused:?}"
    );
    assert_eq!(space.find_mapping(at(page(0))).unwrap().flags, RegionFlags::empty());
    space.advise(at(page(1)), PAGE_SIZE, Advice::NotInherited).unwrap();
    let child = space.fork().unwrap();
    assert!(child.find_mapping(at(page(1))).is_none());
}

#[test]
fn a_fork_that_cannot_adapt_its_child_leaves_the_parent_intact() {
    let world = World::new(256);
    let parent = written(&world, 20);
    parent.advise(at(page(3)), PAGE_SIZE, Advice::NotInherited).unwrap();
    parent.advise(at(page(9)), PAGE_SIZE, Advice::WipedInChild).unwrap();
    let before = world.account();
    let failed = |child, successes| {
        assert!(matches!(child, Err(VasError::OutOfMemory { .. })));
        assert_eq!(world.account(), before, "after {successes} allocations");
    };
    let (child, failures) = world.fail_each(|| parent.fork(), failed);
    drop(child.unwrap());
    // One more than without: the child's own copy of the last-level table.
    assert_eq!(failures, 4);
    for index in 0..20 {
        assert_eq!(world.read(&parent, page(index)), Ok(100 + index));
    }
    check(&world, &[&parent]);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames")]
fn case_21_fork_with_each_allocation_failing_leaves_the_parent_intact() {
    for in_flight in [false, true] {
        let world = World::new(2048);
        let parent = written(&world, 20);
        for far in [0x2000_0000, 0x40_0000_0000, 0x7000_0000_0000] {
            parent.map_region(at(far), 3 * PAGE_SIZE, RW).unwrap();
        }
        parent.map_huge_page(at(0x1_0000_0000), RW).unwrap();
        parent
            .map_lazy(at(page(30)), PAGE_SIZE, RW, Backing::Anonymous)
            .unwrap();
        let mut fault = pin!(parent.handle_page_fault(FaultInfo::user(page(30), Access::Write)));
        if in_flight {
            assert!(world.poll(fault.as_mut()).is_pending());
        }
        let before = world.account();
        let failed = |child: Result<VirtualAddressSpace<_>, _>, successes| {
            assert_eq!(child.unwrap_err(), VasError::OutOfMemory { needed: 1 });
            assert_eq!(world.account(), before, "after {successes} allocations");
            for index in 0..20 {
                assert_eq!(world.read(&parent, page(index)), Ok(100 + index));
            }
        };
        let (child, failures) = world.fail_each(|| parent.fork(), failed);
        drop(child.unwrap());
        // A root, two tables of level 3, four of level 2, and a copy of the table that holds the marker.
        assert_eq!(failures, if in_flight { 8 } else { 7 });
        assert_eq!(world.account(), before);
        if in_flight {
            world.run(fault).unwrap();
        }
        for index in 0..20 {
            world.write(&parent, page(index), index).unwrap();
        }
        check(&world, &[&parent]);
    }
}

#[test]
fn fork_while_faults_are_in_flight_copies_no_marker() {
    let world = World::new(128);
    let parent = written(&world, 4);
    parent
        .map_lazy(at(page(8)), 2 * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    drop(parent.fork().unwrap());
    // One fault on an empty entry, one on a shared page, and one without a table.
    parent
        .map_lazy(at(A + 64 * MIB), PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    world.write(&parent, page(1), 101).unwrap();
    let sibling = parent.fork().unwrap();
    world.write(&parent, page(1), 101).unwrap();
    let addresses = [page(8), A, A + 64 * MIB];
    let mut faults: Vec<_> = addresses
        .iter()
        .map(|&address| std::boxed::Box::pin(parent.handle_page_fault(FaultInfo::user(address, Access::Write))))
        .collect();
    for fault in &mut faults {
        assert!(world.poll(fault.as_mut()).is_pending());
    }
    let child = parent.fork().unwrap();
    assert!(!child.shares_table_at(at(A)), "a table with markers is copied");
    assert_eq!(Walk::of(&world, [&child]).markers, 0);
    assert!(
        translations(&world, &child)
            .iter()
            .all(|found| !found.entry.has(Entry::BUSY))
    );
    assert_eq!(child.get_stats().faults_in_flight, 0);
    for fault in faults {
        world.run(fault).unwrap();
    }
    for address in addresses {
        assert!(parent.is_mapped_for(address, Access::Write));
        assert!(!child.is_mapped_for(address, Access::Write));
    }
    world.write(&parent, A, 1).unwrap();
    assert_eq!(world.read(&child, A), Ok(100));
    assert_eq!(world.read(&sibling, A), Ok(100));
    world.write(&child, page(8), 2).unwrap();
    assert_eq!(world.read(&parent, page(8)), Ok(0));
    check(&world, &[&parent, &child, &sibling]);
    walk::check_kernel_half(&world, &child);
}

#[test]
fn clone_from_needs_an_empty_space_and_copies_as_fork_does() {
    let world = World::new(64);
    let parent = written(&world, 2);
    let mut space = world.space();
    space.map_lazy(at(A), PAGE_SIZE, R, Backing::Anonymous).unwrap();
    assert!(matches!(space.clone_from(&parent), Err(VasError::Overlap { .. })));
    space.clear();
    space.clone_from(&parent).unwrap();
    assert_eq!(world.read(&space, page(1)), Ok(101));
    assert_eq!(Vas::new(world.memory).fork().unwrap_err(), VasError::NoTable);
    check(&world, &[&parent, &space]);
}
