//! Cases 30, 31 and 39: the heap, addresses that the space picks, and many regions.

use std::vec::Vec;

use super::machine::*;
use super::walk::Walk;
use crate::*;

const A: u64 = 0x1000_0000;

fn ranges(space: &Vas) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    space.mappings_ref(|view| found.push((view.range.start(), view.range.end())));
    found
}

#[test]
fn case_30_the_heap_is_one_region_however_many_calls() {
    let world = World::new(64);
    let space = world.space();
    let start = space.heap_start_addr();
    assert_eq!(space.brk(None), Ok(start));
    let before = world.free();
    for bytes in [1, 100, 4096, 4097, 20_000, 65_536] {
        assert_eq!(space.brk(Some(start + bytes)), Ok(start + bytes));
        assert_eq!(space.get_stats().regions, 1);
    }
    assert_eq!(world.free(), before, "growing takes no frame");
    let view = space.find_mapping(start).unwrap();
    assert_eq!(
        (view.range.size(), view.protection, view.flags),
        (65_536, RW, RegionFlags::HEAP)
    );
    let at_end = start.as_u64() + 65_528;
    world.write(&space, at_end, 5).unwrap();
    assert!(matches!(
        world.fault(&space, at_end, Access::Execute),
        Err(FaultError::Protection { .. })
    ));
    // A move within a page changes no page.
    space.brk(Some(start + 65_535)).unwrap();
    assert_eq!(world.read(&space, at_end), Ok(5));
    // Shrinking frees the pages; what comes back is zero.
    let mapped = world.account().mapped;
    space.brk(Some(start + 61_440)).unwrap();
    assert_eq!(world.account().mapped, mapped - 1);
    space.brk(Some(start + 65_536)).unwrap();
    assert_eq!(world.read(&space, at_end), Ok(0));
    space.brk(Some(start)).unwrap();
    assert_eq!((space.get_stats().regions, world.account().mapped), (0, 0));
    Walk::of(&world, [&space]).check_counts(&world, &[]);
}

#[test]
fn case_30_a_break_below_the_start_or_into_a_neighbour_is_refused_without_change() {
    let world = World::new(64);
    let space = world.space();
    let start = space.heap_start_addr();
    space.brk(Some(start + 8192u64)).unwrap();
    let refused = |wanted: x86_64::VirtAddr| {
        let before = (ranges(&space), space.layout());
        let result = space.brk(Some(wanted));
        assert!(matches!(result, Err(VasError::BadBreak { .. })), "{result:?}");
        assert_eq!((ranges(&space), space.layout()), before);
    };
    refused(start - 1u64);
    refused(at(0));
    refused(at(0x4000_0000_0001));
    refused(at(0xffff_8000_0000_0000));
    // One free page stays below a neighbour.
    let neighbour = start + 16 * PAGE_SIZE;
    space.map_lazy(neighbour, PAGE_SIZE, R, Backing::Anonymous).unwrap();
    refused(neighbour);
    refused(neighbour - PAGE_SIZE + 1u64);
    space.brk(Some(neighbour - PAGE_SIZE)).unwrap();
    assert!(matches!(space.set_heap_start(at(A)), Err(VasError::BadBreak { .. })));
    space.brk(Some(start)).unwrap();
    space.set_heap_start(at(A + 5)).unwrap();
    assert_eq!(space.brk(None), Ok(at(A + 5)));
    space.brk(Some(at(A + 100))).unwrap();
    assert_eq!(
        space.get_stats().regions,
        1,
        "the first page belongs to what is before the heap"
    );
    space.brk(Some(at(A + PAGE_SIZE + 1))).unwrap();
    assert_eq!(ranges(&space)[0], (A + PAGE_SIZE, A + 2 * PAGE_SIZE));
}

#[test]
fn case_30_a_heap_at_address_0_meets_the_region_there() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(0), PAGE_SIZE, R, Backing::Anonymous).unwrap();
    space.set_heap_start(at(0)).unwrap();
    assert!(matches!(
        space.brk(Some(at(2 * PAGE_SIZE))),
        Err(VasError::BadBreak { .. })
    ));
    assert_eq!(ranges(&space), [(0, PAGE_SIZE)]);
}

#[test]
fn case_30_without_memory_a_shrink_is_refused_and_changes_nothing() {
    let world = World::new(64);
    let space = world.space();
    let start = space.heap_start_addr();
    space.brk(Some(start + 4 * PAGE_SIZE)).unwrap();
    world.write(&space, start.as_u64(), 1).unwrap();
    world.write(&space, start.as_u64() + 3 * PAGE_SIZE, 2).unwrap();
    let child = space.fork().unwrap();
    world.memory.frames().fail_after(0);
    assert_eq!(
        space.brk(Some(start + PAGE_SIZE)),
        Err(VasError::OutOfMemory { needed: 1 })
    );
    world.memory.frames().fail_never();
    assert_eq!(space.brk(None), Ok(start + 4 * PAGE_SIZE));
    assert_eq!(world.read(&space, start.as_u64() + 3 * PAGE_SIZE), Ok(2));
    space.brk(Some(start + PAGE_SIZE)).unwrap();
    assert_eq!(world.read(&child, start.as_u64() + 3 * PAGE_SIZE), Ok(2));
    Walk::of(&world, [&space, &child]).check_counts(&world, &[]);
}

#[test]
fn case_31_mmap_reuses_addresses_and_never_meets_the_stack_or_the_heap() {
    let world = World::new(64);
    let space = world.space();
    let area_end = space.user_stack_base().as_u64() - MIB;
    let map = |size| space.mmap(MapRequest::anonymous(size, RW)).unwrap().as_u64();
    let first = map(100);
    assert_eq!(first, area_end - PAGE_SIZE);
    let second = map(3 * PAGE_SIZE);
    assert_eq!(second, first - 3 * PAGE_SIZE);
    let third = map(PAGE_SIZE);
    assert_eq!(third, second - PAGE_SIZE);
    // A freed range is used again, and the highest that fits is taken.
    space.unmap(at(second), 3 * PAGE_SIZE).unwrap();
    assert_eq!(map(2 * PAGE_SIZE), second + PAGE_SIZE);
    assert_eq!(map(2 * PAGE_SIZE), third - 2 * PAGE_SIZE);
    assert_eq!(map(PAGE_SIZE), second);
    for _ in 0..1000 {
        let address = map(7 * PAGE_SIZE);
        assert!(address + 7 * PAGE_SIZE <= area_end);
        space.unmap(at(address), 7 * PAGE_SIZE).unwrap();
    }
    assert_eq!(world.account().mapped, 0);
}

#[test]
fn case_31_a_full_area_is_no_room_and_consumes_nothing() {
    let world = World::new(64);
    let space = world.space();
    let end = space.user_stack_base().as_u64() - MIB;
    space.set_mmap_start(at(end - 8 * PAGE_SIZE)).unwrap();
    space.mmap(MapRequest::anonymous(3 * PAGE_SIZE, RW)).unwrap();
    space
        .map_lazy(at(end - 6 * PAGE_SIZE), PAGE_SIZE, R, Backing::Anonymous)
        .unwrap();
    let before = ranges(&space);
    for size in [3 * PAGE_SIZE, 1 << 46, u64::MAX, u64::MAX - PAGE_SIZE] {
        let result = space.mmap(MapRequest::anonymous(size, RW));
        assert!(matches!(result, Err(VasError::NoRoom { .. })), "{result:?}");
        assert_eq!(ranges(&space), before);
    }
    assert_eq!(
        space.mmap(MapRequest::anonymous(2 * PAGE_SIZE, RW)),
        Ok(at(end - 5 * PAGE_SIZE))
    );
    assert_eq!(
        space.mmap(MapRequest::anonymous(2 * PAGE_SIZE, RW)),
        Ok(at(end - 8 * PAGE_SIZE))
    );
    // An area that the stack's reserve has swallowed is empty, not upside down.
    space.set_stack_top(at(64 * MIB)).unwrap();
    assert!(matches!(
        space.mmap(MapRequest::anonymous(1, RW)),
        Err(VasError::NoRoom { .. })
    ));
}

#[test]
fn case_31_a_fixed_place_replaces_and_a_hint_gives_way() {
    let world = World::new(64);
    let space = world.space();
    space.map_region(at(A), 4 * PAGE_SIZE, RW).unwrap();
    let ask = |placement, size| {
        space.mmap(MapRequest {
            placement,
            ..MapRequest::anonymous(size, R)
        })
    };
    assert!(matches!(
        ask(Placement::FixedNoReplace(at(A)), PAGE_SIZE),
        Err(VasError::Overlap { .. })
    ));
    assert_eq!(ask(Placement::FixedNoReplace(at(A + MIB)), PAGE_SIZE), Ok(at(A + MIB)));
    assert_ne!(ask(Placement::Hint(at(A)), PAGE_SIZE), Ok(at(A)));
    assert_eq!(ask(Placement::Hint(at(A + 2 * MIB)), PAGE_SIZE), Ok(at(A + 2 * MIB)));
    let mapped = world.account().mapped;
    assert_eq!(
        ask(Placement::Fixed(at(A + PAGE_SIZE)), 2 * PAGE_SIZE),
        Ok(at(A + PAGE_SIZE))
    );
    assert_eq!(world.account().mapped, mapped - 2);
    assert!(matches!(
        ask(Placement::Fixed(at(A + 1)), PAGE_SIZE),
        Err(VasError::Unaligned { .. })
    ));
    // What can't be mapped replaces nothing.
    let backing = Backing::Physical {
        base: x86_64::PhysAddr::new(8),
        cache: CachePolicy::Uncached,
    };
    let request = MapRequest {
        placement: Placement::Fixed(at(A)),
        backing,
        ..MapRequest::anonymous(PAGE_SIZE, RW)
    };
    assert!(matches!(space.mmap(request), Err(VasError::Unaligned { .. })));
    assert!(space.is_mapped_for(A, Access::Write));
}

#[test]
fn stack_setters_are_consistent_and_refuse_nonsense() {
    let world = World::new(16);
    let space = world.space();
    let consistent = || {
        let layout = space.layout();
        assert_eq!(space.stack_top().as_u64(), layout.stack_top);
        assert_eq!(space.user_stack_size(), layout.stack_size);
        assert_eq!(space.user_stack_base().as_u64(), layout.stack_top - layout.stack_size);
        layout
    };
    assert_eq!(consistent(), Layout::default());
    space.set_stack_size(2 * MIB).unwrap();
    space.set_stack_top(at(0x7000_0000_0000)).unwrap();
    let layout = consistent();
    assert_eq!((layout.stack_top, layout.stack_size), (0x7000_0000_0000, 2 * MIB));
    for size in [0, 5, PAGE_SIZE + 1, 1 << 47, u64::MAX, !0xfff] {
        let top = layout.stack_top;
        assert_eq!(space.set_stack_size(size), Err(VasError::BadStack { top, size }));
    }
    for top in [0, 0x7000_0000_0001, 2 * MIB, USER_END + 1] {
        assert!(
            matches!(space.set_stack_top(at(top)), Err(VasError::BadStack { .. })),
            "{top:#x}"
        );
    }
    for top in [0xffff_8000_0000_0000, 0xffff_ffff_ffff_f000] {
        assert!(matches!(space.set_stack_top(at(top)), Err(VasError::BadStack { .. })));
    }
    assert_eq!(consistent(), layout);
    for gap in [1, PAGE_SIZE + 1, layout.stack_top, !0xfff] {
        assert!(
            matches!(space.set_mmap_gap(gap), Err(VasError::BadStack { .. })),
            "{gap:#x}"
        );
    }
    assert_eq!(consistent(), layout);
}

#[test]
fn mmap_keeps_clear_of_the_stack_by_its_gap() {
    let world = World::new(16);
    let space = world.space();
    let end = || {
        let start = space.mmap(MapRequest::anonymous(PAGE_SIZE, RW)).unwrap();
        space.unmap(start, PAGE_SIZE).unwrap();
        start.as_u64() + PAGE_SIZE
    };
    let before = end();
    space.set_mmap_gap(3 * MIB).unwrap();
    assert_eq!(end(), before - 3 * MIB);
    space.set_stack_top(at(0x7000_0000_0000)).unwrap();
    assert_eq!(
        end(),
        before - 3 * MIB - (Layout::default().stack_top - 0x7000_0000_0000)
    );
    assert_eq!(space.fork().unwrap().layout(), space.layout());
}

#[test]
#[cfg_attr(miri, ignore = "100,000 regions")]
fn case_39_find_mapping_among_100_000_clones_nothing_and_its_cost_does_not_grow() {
    let world = World::with(64, |config| config.max_regions = 200_000, 0);
    let space = world.space();
    let object = MemoryObject::new(world.memory.frames(), PAGE_SIZE).unwrap();
    for index in 0..100_000u64 {
        let backing = Backing::Shared {
            object: faultline_fallible::Arc::clone(&object),
            offset: 0,
        };
        space
            .map_lazy(at(A + 2 * index * PAGE_SIZE), PAGE_SIZE, R, backing)
            .unwrap();
    }
    assert_eq!(space.get_stats().regions, 100_000);
    // Every region holds a reference to its object: whoever cloned a list would show here.
    let count = faultline_fallible::Arc::strong_count(&object);
    for index in [0, 1, 49_999, 77_777, 99_999u64] {
        let view = space.find_mapping(at(A + 2 * index * PAGE_SIZE + 5)).unwrap();
        assert_eq!(view.range.start(), A + 2 * index * PAGE_SIZE);
        assert_eq!(faultline_fallible::Arc::strong_count(&object), count + 1);
        assert!(space.find_mapping(at(A + (2 * index + 1) * PAGE_SIZE)).is_none());
    }
    let before = allocations();
    for index in 0..1000u64 {
        assert!(space.find_mapping(at(A + 198 * index * PAGE_SIZE)).is_some());
    }
    assert_eq!(allocations(), before, "no allocation");
    let mut seen = 0;
    space.mappings_ref(|_| seen += 1);
    assert_eq!(seen, 100_000);
}

/// Heap allocations of this thread so far.
fn allocations() -> u64 {
    COUNT.get()
}

std::thread_local! {
    static COUNT: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator, with a count beside it.
unsafe impl core::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: core::alloc::Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { std::alloc::System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
