//! Case 32 and moves: protection, and mappings that change their place.

use core::pin::pin;
use std::vec::Vec;

use super::machine::*;
use super::walk::{Walk, translations};
use crate::*;

const A: u64 = 0x1000_0000;

fn page(index: u64) -> u64 {
    A + index * PAGE_SIZE
}

fn written(world: &World, pages: u64) -> Vas {
    let space = world.space();
    space.map_region(at(A), pages * PAGE_SIZE, RW).unwrap();
    for index in 0..pages {
        world.write(&space, page(index), index).unwrap();
    }
    space
}

fn regions(space: &Vas) -> Vec<(u64, u64, Protection)> {
    let mut found = Vec::new();
    space.mappings_ref(|view| {
        found.push((
            (view.range.start() - A) / PAGE_SIZE,
            view.range.pages(),
            view.protection,
        ));
    });
    found
}

fn check(world: &World, space: &Vas) {
    Walk::of(world, [space]).check_counts(world, &[]);
}

#[test]
fn case_32_protect_splits_and_joins_regions() {
    let world = World::new(64);
    let space = written(&world, 8);
    space.protect_region(at(page(2)), 2 * PAGE_SIZE, R).unwrap();
    assert_eq!(regions(&space), [(0, 2, RW), (2, 2, R), (4, 4, RW)]);
    space.protect_region(at(page(3)), 3 * PAGE_SIZE, NONE).unwrap();
    assert_eq!(regions(&space), [(0, 2, RW), (2, 1, R), (3, 3, NONE), (6, 2, RW)]);
    space.protect_region(at(A), 8 * PAGE_SIZE, RW).unwrap();
    assert_eq!(regions(&space), [(0, 8, RW)]);
    for index in 0..8 {
        assert_eq!(world.read(&space, page(index)), Ok(index));
        assert!(
            space.is_mapped_for(page(index), Access::Write),
            "its only owner needs no fault"
        );
    }
    check(&world, &space);
}

#[test]
fn case_32_none_faults_on_every_access_and_keeps_the_content() {
    let world = World::new(64);
    let space = written(&world, 1);
    space.protect_region(at(A), PAGE_SIZE, NONE).unwrap();
    for access in [Access::Read, Access::Write, Access::Execute] {
        let denied = FaultError::Protection {
            address: A,
            access,
            protection: NONE,
        };
        assert_eq!(world.fault(&space, A, access), Err(denied));
    }
    space.protect_region(at(A), PAGE_SIZE, R).unwrap();
    world.memory.switch_to(&space);
    assert!(space.is_mapped_for(A, Access::Read));
    space.protect_region(at(A), PAGE_SIZE, RW).unwrap();
    assert_eq!(world.read(&space, A), Ok(0));
    world.write(&space, A, 6).unwrap();
    assert_eq!(world.read(&space, A), Ok(6));
}

#[test]
fn case_32_a_hole_is_named_and_nothing_changes() {
    let world = World::new(64);
    let space = written(&world, 8);
    space.unmap(at(page(5)), PAGE_SIZE).unwrap();
    let before = translations(&world, &space)
        .iter()
        .map(|found| found.entry)
        .collect::<Vec<_>>();
    let hole = Err(VasError::NotMapped { address: page(5) });
    assert_eq!(space.protect_region(at(A), 8 * PAGE_SIZE, R), hole);
    assert_eq!(space.advise(at(A), 8 * PAGE_SIZE, Advice::DontNeed), hole);
    assert_eq!(space.set_locked(at(A), 8 * PAGE_SIZE, true), hole);
    let behind = Err(VasError::NotMapped { address: page(8) });
    assert_eq!(space.protect_region(at(page(6)), 3 * PAGE_SIZE, R), behind);
    let after = translations(&world, &space)
        .iter()
        .map(|found| found.entry)
        .collect::<Vec<_>>();
    assert_eq!(after, before);
    assert_eq!(regions(&space), [(0, 5, RW), (6, 2, RW)]);
}

#[test]
fn case_32_no_entry_is_writable_or_executable_beyond_its_region() {
    let world = World::new(256);
    let space = world.space();
    let object = MemoryObject::new(world.memory.frames(), 4 * PAGE_SIZE).unwrap();
    let file = super::machine::source(TestFile::new(std::vec![3; 4 * 4096]));
    let backings = [
        Backing::Anonymous,
        Backing::Shared { object, offset: 0 },
        Backing::File { file, offset: 0 },
    ];
    let protections = [
        NONE,
        R,
        RW,
        Protection::READ_EXECUTE,
        Protection::EXECUTE,
        Protection::WRITE,
    ];
    for backing in backings {
        space.map_lazy(at(A), 4 * PAGE_SIZE, RW, backing).unwrap();
        world.touch(&space, A, Access::Write).unwrap();
        world.touch(&space, page(1), Access::Read).unwrap();
        for protection in protections {
            space.protect_region(at(A), 4 * PAGE_SIZE, protection).unwrap();
            for found in translations(&world, &space) {
                let entry = found.entry;
                assert!(!entry.allows(Access::Write) || protection.allows(Access::Write));
                assert!(!(entry.allows(Access::Write) && entry.allows(Access::Execute)), "W^X");
                assert_eq!(entry.allows(Access::Execute), protection.allows(Access::Execute));
                assert_eq!(entry.allows(Access::Read), protection.allows(Access::Read));
            }
            for access in [Access::Read, Access::Write, Access::Execute] {
                for index in 0..4 {
                    let allowed = world.touch(&space, page(index), access).is_ok();
                    assert_eq!(allowed, protection.allows(access), "{access} with {protection}");
                }
            }
            space.protect_region(at(A), 4 * PAGE_SIZE, RW).unwrap();
        }
        space.unmap(at(A), 4 * PAGE_SIZE).unwrap();
    }
}

#[test]
fn case_32_each_allocation_may_fail_and_nothing_changes() {
    let world = World::new(256);
    let space = world.space();
    space.map_region(at(page(500)), 600 * PAGE_SIZE, RW).unwrap_err();
    space.map_region(at(page(500)), 100 * PAGE_SIZE, RW).unwrap();
    let child = space.fork().unwrap();
    for successes in 0..2 {
        world.memory.frames().fail_after(successes);
        let result = space.protect_region(at(page(501)), 90 * PAGE_SIZE, R);
        assert_eq!(result, Err(VasError::OutOfMemory { needed: 1 }));
        world.memory.frames().fail_never();
        assert_eq!(regions(&space), [(500, 100, RW)]);
    }
    space.protect_region(at(page(501)), 90 * PAGE_SIZE, R).unwrap();
    world.write(&space, page(500), 1).unwrap();
    assert!(matches!(
        world.write(&space, page(501), 1),
        Err(FaultError::Protection { .. })
    ));
    Walk::of(&world, [&space, &child]).check_counts(&world, &[]);
}

#[test]
fn a_mapping_grows_in_place_moves_and_shrinks_without_a_copy() {
    let world = World::new(128);
    let space = written(&world, 4);
    let mapped = world.account().mapped;
    let remap =
        |from: u64, old: u64, new: u64, target| space.remap(at(page(from)), old * PAGE_SIZE, new * PAGE_SIZE, target);
    assert_eq!(remap(0, 4, 6, RemapTarget::InPlace), Ok(at(A)));
    assert_eq!(regions(&space), [(0, 6, RW)]);
    space.map_lazy(at(page(6)), PAGE_SIZE, R, Backing::Anonymous).unwrap();
    assert!(matches!(
        remap(0, 6, 8, RemapTarget::InPlace),
        Err(VasError::NoRoom { .. })
    ));
    let moved = remap(0, 6, 8, RemapTarget::MayMove).unwrap();
    assert_ne!(moved, at(A));
    for index in 0..8 {
        let expected = if index < 4 { index } else { 0 };
        assert_eq!(world.read(&space, moved.as_u64() + index * PAGE_SIZE), Ok(expected));
    }
    assert_eq!(world.account().mapped, mapped);
    assert!(space.find_mapping(at(A)).is_none());
    check(&world, &space);
    // To a fixed place, in the middle of a region, shorter than before.
    let target = RemapTarget::Fixed(at(page(600)));
    space
        .remap(moved + PAGE_SIZE, 3 * PAGE_SIZE, 2 * PAGE_SIZE, target)
        .unwrap();
    assert_eq!(world.read(&space, page(600)), Ok(1));
    assert_eq!(world.read(&space, page(601)), Ok(2));
    assert_eq!(world.account().mapped, mapped - 1);
    assert_eq!(world.read(&space, moved.as_u64()), Ok(0));
    check(&world, &space);
    let overlap = space.remap(
        at(page(600)),
        2 * PAGE_SIZE,
        2 * PAGE_SIZE,
        RemapTarget::Fixed(at(page(601))),
    );
    assert!(matches!(overlap, Err(VasError::Overlap { .. })));
    let beyond = space.remap(at(page(600)), 3 * PAGE_SIZE, PAGE_SIZE, RemapTarget::MayMove);
    assert_eq!(beyond, Err(VasError::NotMapped { address: page(602) }));
    let nothing = space.remap(at(page(700)), PAGE_SIZE, PAGE_SIZE, RemapTarget::MayMove);
    assert_eq!(nothing, Err(VasError::NotMapped { address: page(700) }));
}

#[test]
fn a_move_with_each_allocation_failing_changes_nothing() {
    let world = World::new(256);
    let space = world.space();
    // Two tables, shared with a child, to two other tables that are not there.
    space.map_region(at(page(500)), 40 * PAGE_SIZE, RW).unwrap();
    for index in 500..540 {
        world.write(&space, page(index), index).unwrap();
    }
    let child = space.fork().unwrap();
    let (size, to) = (40 * PAGE_SIZE, 0x7000_0000_0000 + 490 * PAGE_SIZE);
    let failed = |result, _| {
        assert_eq!(result, Err(VasError::OutOfMemory { needed: 1 }));
        assert_eq!(regions(&space), [(500, 40, RW)]);
        for index in 500..540 {
            assert_eq!(world.read(&space, page(index)), Ok(index));
        }
        Walk::of(&world, [&space, &child]).check_counts(&world, &[]);
    };
    let moved = || space.remap(at(page(500)), size, size, RemapTarget::Fixed(at(to)));
    let (result, failures) = world.fail_each(moved, failed);
    assert_eq!(result, Ok(at(to)));
    assert!(failures >= 5, "{failures}");
    for index in 0..40 {
        assert_eq!(world.read(&space, to + index * PAGE_SIZE), Ok(500 + index));
        assert_eq!(world.read(&child, page(500 + index)), Ok(500 + index));
    }
    Walk::of(&world, [&space, &child]).check_counts(&world, &[]);
}

#[test]
fn a_fault_in_flight_does_not_follow_a_mapping_that_moves() {
    let world = World::new(128);
    let space = written(&world, 1);
    space.map_lazy(at(page(1)), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut fault = pin!(space.handle_page_fault(FaultInfo::user(page(1), Access::Write)));
    assert!(world.poll(fault.as_mut()).is_pending());
    let to = page(512);
    space
        .remap(at(A), 2 * PAGE_SIZE, 2 * PAGE_SIZE, RemapTarget::Fixed(at(to)))
        .unwrap();
    assert!(matches!(world.run(fault), Err(FaultError::NoRegion { address, .. }) if address == page(1)));
    assert_eq!(world.account().mapped, 1);
    world.write(&space, to + PAGE_SIZE, 3).unwrap();
    assert_eq!(world.read(&space, to), Ok(0));
    check(&world, &space);
}

#[test]
fn locking_is_a_property_that_splits_and_joins() {
    let world = World::new(64);
    let space = written(&world, 4);
    space.set_locked(at(page(1)), PAGE_SIZE, true).unwrap();
    assert_eq!(space.get_stats().regions, 3);
    assert_eq!(space.find_mapping(at(page(1))).unwrap().flags, RegionFlags::LOCKED);
    space.set_locked(at(page(1)), PAGE_SIZE, false).unwrap();
    assert_eq!(space.get_stats().regions, 1);
}

#[test]
fn a_mapping_of_what_cannot_be_written_never_becomes_writable() {
    let world = World::new(64);
    let space = world.space();
    space
        .map_with(at(page(2)), PAGE_SIZE, R, Backing::Anonymous, RegionFlags::READ_ONLY)
        .unwrap();
    space.map_lazy(at(A), 2 * PAGE_SIZE, R, Backing::Anonymous).unwrap();
    let refused = space.protect_region(at(A), 3 * PAGE_SIZE, RW);
    assert!(matches!(refused, Err(VasError::Forbidden { range, .. }) if range.start() == page(2)));
    assert_eq!(regions(&space), [(0, 2, R), (2, 1, R)]);
    space.protect_region(at(page(2)), PAGE_SIZE, NONE).unwrap();
    space.protect_region(at(page(2)), PAGE_SIZE, R).unwrap();
    check(&world, &space);
}
