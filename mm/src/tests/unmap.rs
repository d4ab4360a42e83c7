//! Cases 25 to 27: unmapping, and ranges that are no ranges.

use std::vec::Vec;

use super::machine::*;
use super::walk::{Walk, check_kernel_half, translations};
use crate::*;

const A: u64 = 0x1000_0000;

fn page(index: u64) -> u64 {
    A + index * PAGE_SIZE
}

/// Regions of eager pages: `(first, count, protection)`; each page holds its number.
fn with_regions(world: &World, regions: &[(u64, u64, Protection)]) -> Vas {
    let space = world.space();
    for &(first, count, protection) in regions {
        space.map_region(at(page(first)), count * PAGE_SIZE, RW).unwrap();
        for index in first..first + count {
            world.write(&space, page(index), index).unwrap();
        }
        space
            .protect_region(at(page(first)), count * PAGE_SIZE, protection)
            .unwrap();
    }
    space
}

/// The regions of a space as `(first page, number of pages)`.
fn regions(space: &Vas) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    space.mappings_ref(|view| found.push(((view.range.start() - A) / PAGE_SIZE, view.range.pages())));
    found
}

fn check(world: &World, space: &Vas, expected: &[(u64, u64)]) {
    assert_eq!(regions(space), expected);
    let mapped: Vec<u64> = translations(world, space)
        .iter()
        .map(|found| (found.page - A) / PAGE_SIZE)
        .collect();
    let pages: Vec<u64> = expected
        .iter()
        .flat_map(|&(first, count)| first..first + count)
        .collect();
    assert_eq!(mapped, pages);
    for index in pages {
        assert_eq!(world.read(space, page(index)), Ok(index));
    }
    Walk::of(world, [space]).check_counts(world, &[]);
}

#[test]
fn case_25_exact_front_back_and_hole() {
    let world = World::new(256);
    for (from, count, left) in [
        (0, 10, &[][..]),
        (0, 3, &[(3, 7)]),
        (7, 3, &[(0, 7)]),
        (4, 2, &[(0, 4), (6, 4)]),
        (9, 1, &[(0, 9)]),
    ] {
        let space = with_regions(&world, &[(0, 10, RW)]);
        let before = space.tlb_generation.load(core::sync::atomic::Ordering::Relaxed);
        space.unmap(at(page(from)), count * PAGE_SIZE).unwrap();
        assert_eq!(
            space.tlb_generation.load(core::sync::atomic::Ordering::Relaxed),
            before + 1
        );
        check(&world, &space, left);
        let gone = world.fault(&space, page(from), Access::Read);
        assert!(matches!(gone, Err(FaultError::NoRegion { .. })));
    }
}

#[test]
fn case_25_several_regions_and_gaps_at_once() {
    let world = World::new(256);
    let layout = [(0, 4, RW), (4, 4, R), (10, 2, RW), (600, 4, RW)];
    let space = with_regions(&world, &layout);
    space.unmap(at(page(2)), 4 * PAGE_SIZE).unwrap();
    check(&world, &space, &[(0, 2), (6, 2), (10, 2), (600, 4)]);
    space.unmap(at(page(7)), 594 * PAGE_SIZE).unwrap();
    check(&world, &space, &[(0, 2), (6, 1), (601, 3)]);
    space.unmap(at(A - MIB), 64 * MIB).unwrap();
    check(&world, &space, &[]);
    assert_eq!(world.account().page_tables, 1);
}

#[test]
fn case_25_nothing_mapped_is_success_and_size_0_is_not() {
    let world = World::new(64);
    let space = with_regions(&world, &[(0, 1, RW)]);
    let asked = world.take_asked();
    space.unmap(at(page(1)), 100 * MIB).unwrap();
    space.unmap(at(0), A).unwrap();
    assert_eq!(world.take_asked(), []);
    assert_eq!(space.unmap(at(A), 0), Err(VasError::EmptyRange { start: A }));
    check(&world, &space, &[(0, 1)]);
    drop(asked);
}

#[test]
fn case_25_the_whole_region_by_its_start() {
    let world = World::new(64);
    let space = with_regions(&world, &[(0, 4, RW), (4, 2, R)]);
    assert_eq!(
        space.unmap_region(at(page(1))),
        Err(VasError::NotMapped { address: page(1) })
    );
    assert_eq!(
        space.unmap_region(at(page(9))),
        Err(VasError::NotMapped { address: page(9) })
    );
    space.unmap_region(at(A)).unwrap();
    check(&world, &space, &[(4, 2)]);
}

#[test]
fn case_25_the_cost_grows_with_what_is_mapped_not_with_the_range() {
    let world = World::new(64);
    let space = world.space();
    // 64 TiB of nothing with one page in it: this ends at once or never.
    space.map_lazy(at(A), 64 << 40, RW, Backing::Anonymous).unwrap();
    world.touch(&space, A + (13 << 40), Access::Write).unwrap();
    space.unmap(at(A), 64 << 40).unwrap();
    assert_eq!(world.account().page_tables, 1);
    assert_eq!(space.get_stats().virtual_bytes, 0);
}

#[test]
fn case_26_a_partial_unmap_over_lazy_holes_frees_the_right_frames() {
    let world = World::new(128);
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let touched = [0, 3, 200, 201, 511, 512, 599];
    for index in touched {
        world.write(&space, page(index), index).unwrap();
    }
    world.read(&space, page(300)).unwrap();
    let mapped = world.account().mapped;
    space.unmap(at(page(3)), 509 * PAGE_SIZE).unwrap();
    assert_eq!(world.account().mapped, mapped - 4);
    for index in [0, 512, 599] {
        assert_eq!(world.read(&space, page(index)), Ok(index));
    }
    Walk::of(&world, [&space]).check_counts(&world, &[]);
    space.unmap(at(A), 600 * PAGE_SIZE).unwrap();
    assert_eq!((world.account().mapped, world.account().page_tables), (0, 1));
}

#[test]
fn case_27_bad_ranges_are_refused_by_every_call() {
    let world = World::new(64);
    let space = with_regions(&world, &[(0, 2, RW)]);
    let before = (world.account(), regions(&space));
    let bad: &[(u64, u64)] = &[
        (USER_END, PAGE_SIZE),
        (USER_END - PAGE_SIZE, 2 * PAGE_SIZE),
        (0x7fff_ffff_f000, 1),
        (0xffff_8000_0000_0000, PAGE_SIZE),
        (0xffff_ffff_ffff_f000, PAGE_SIZE),
        (PAGE_SIZE, u64::MAX),
        (PAGE_SIZE, u64::MAX - PAGE_SIZE + 1),
        (0, 1 << 47),
    ];
    for &(start, size) in bad {
        let start = at(start);
        let expected = Err(VasError::BadRange {
            start: start.as_u64(),
            size,
        });
        assert_eq!(space.map_region(start, size, RW), expected);
        assert_eq!(space.map_lazy(start, size, RW, Backing::Anonymous), expected);
        assert_eq!(space.unmap(start, size), expected);
        assert_eq!(space.protect_region(start, size, RW), expected);
        assert_eq!(space.advise(start, size, Advice::DontNeed), expected);
        assert_eq!(space.resident(start, size, |_| ()), expected);
        assert_eq!(space.set_locked(start, size, true), expected);
        assert!(space.map_region_raii(start, size, RW).is_err());
        let device = x86_64::PhysAddr::new(0);
        assert_eq!(
            space.map_physical_region(start, device, size, RW, CachePolicy::Uncached),
            expected
        );
        let request = MapRequest {
            placement: Placement::Fixed(start),
            ..MapRequest::anonymous(size, RW)
        };
        assert!(space.mmap(request).is_err());
        assert!(space.remap(start, size, PAGE_SIZE, RemapTarget::MayMove).is_err());
        assert!(space.remap(at(A), PAGE_SIZE, size, RemapTarget::Fixed(start)).is_err());
    }
    let empty = Err(VasError::EmptyRange { start: A });
    assert_eq!(space.map_region(at(A), 0, RW), empty);
    assert_eq!(space.map_lazy(at(A), 0, RW, Backing::Anonymous), empty);
    assert_eq!(space.protect_region(at(A), 0, RW), empty);
    assert_eq!(space.advise(at(A), 0, Advice::DontNeed), empty);
    let resized = space.remap(at(A), PAGE_SIZE, 0, RemapTarget::MayMove);
    assert_eq!(resized.map(|_| ()), empty);
    assert!(space.mmap(MapRequest::anonymous(0, RW)).is_err());
    for address in [USER_END, 0xffff_8000_0000_0000] {
        assert!(space.map_page(at(address), RW).is_err());
        assert!(space.map_huge_page(at(address & !(HUGE_PAGE_SIZE - 1)), RW).is_err());
        let frame = world.memory.frames().allocate(0).unwrap();
        assert!(space.map_page_with_frame(at(address), frame, RW).is_err());
        let frame = world.memory.frames().allocate(0).unwrap();
        assert!(space.remap_page(at(address), frame).is_err());
        assert!(space.set_heap_start(at(address)).is_err());
        assert!(space.set_mmap_start(at(address)).is_err());
        assert_eq!(space.translate(address, Access::Read), None);
        assert_eq!(space.find_mapping(at(address)).map(|found| found.range), None);
    }
    let unaligned = VasError::Unaligned {
        address: A + 1,
        alignment: PAGE_SIZE,
    };
    assert_eq!(space.unmap(at(A + 1), PAGE_SIZE), Err(unaligned));
    assert_eq!(space.protect_region(at(A + 1), PAGE_SIZE, R), Err(unaligned));
    assert_eq!(space.advise(at(A + 1), PAGE_SIZE, Advice::DontNeed), Err(unaligned));
    assert_eq!((world.account(), regions(&space)), before);
    check(&world, &space, &[(0, 2)]);
}

#[test]
fn case_27_no_kernel_table_ever_gains_the_user_bit() {
    let world = World::new(256);
    let space = world.space();
    // As near to the kernel half as user mode can come, on every path that makes tables.
    let last = USER_END - 16 * PAGE_SIZE;
    space.map_region(at(last), PAGE_SIZE, RW).unwrap();
    space
        .map_lazy(at(USER_END - PAGE_SIZE), PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    world.touch(&space, USER_END - 8, Access::Write).unwrap();
    space.map_page(at(0), RW).unwrap();
    let child = space.fork().unwrap();
    world.write(&child, USER_END - 8, 1).unwrap();
    world.write(&space, last, 2).unwrap();
    space.map_kernel_space().unwrap();
    for space in [&space, &child] {
        check_kernel_half(&world, space);
    }
    space.clear();
    check_kernel_half(&world, &space);
}
