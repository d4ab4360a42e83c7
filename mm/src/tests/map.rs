//! Cases 28, 29, 34 to 39: making mappings, and ending spaces.

use core::sync::atomic::Ordering;

use x86_64::PhysAddr;

use super::machine::*;
use super::walk::{Walk, check_kernel_half, frames_of, translations, word};
use crate::frame::Pfn;
use crate::*;

const A: u64 = 0x1000_0000;

fn check(world: &World, spaces: &[&Vas]) {
    Walk::of(world, spaces.iter().copied()).check_counts(world, &[]);
}

#[test]
fn case_28_an_unaligned_start_covers_its_whole_range() {
    let world = World::new(64);
    let space = world.space();
    space.map_region(at(A + 100), 2 * PAGE_SIZE, RW).unwrap();
    assert_eq!(space.find_mapping(at(A)).unwrap().range.pages(), 3);
    assert_eq!(world.account().mapped, 3);
    space.map_lazy(at(A + MIB + 4095), 2, R, Backing::Anonymous).unwrap();
    assert_eq!(space.find_mapping(at(A + MIB)).unwrap().range.pages(), 2);
    space.map_page(at(A + 2 * MIB + 5), RW).unwrap();
    assert!(space.is_mapped_for(A + 2 * MIB, Access::Write));
    assert!(matches!(
        space.map_page(at(A + 2 * MIB + 4000), RW),
        Err(VasError::Overlap { .. })
    ));
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of frames")]
fn case_29_map_region_with_each_allocation_failing_leaves_nothing() {
    for shared_neighbour in [false, true] {
        let world = World::new(256);
        let space = world.space();
        let mut child = None;
        if shared_neighbour {
            space.map_region(at(A - 2 * PAGE_SIZE), 2 * PAGE_SIZE, RW).unwrap();
            space.map_region(at(A), PAGE_SIZE, RW).unwrap();
            world.write(&space, A, 77).unwrap();
            child = Some(space.fork().unwrap());
        }
        let before = world.account();
        let regions = space.get_stats().regions;
        // Across two last-level tables.
        let start = at(A + 500 * PAGE_SIZE);
        let failed = |result, _| {
            assert_eq!(result, Err(VasError::OutOfMemory { needed: 1 }));
            let account = world.account();
            // A table that was unshared on the way stays so.
            let unshared = account.page_tables - before.page_tables;
            assert!(unshared == 0 || (shared_neighbour && unshared == 1));
            assert_eq!(account.mapped, before.mapped);
            assert_eq!(account.available() + unshared, before.available());
            assert_eq!(space.get_stats().regions, regions);
            if shared_neighbour {
                assert_eq!(world.read(&space, A), Ok(77));
            }
        };
        let (result, failures) = world.fail_each(|| space.map_region(start, 20 * PAGE_SIZE, RW), failed);
        result.unwrap();
        assert!(failures > 20, "{failures}");
        if shared_neighbour {
            assert_eq!(world.read(&space, A), Ok(77));
            assert_eq!(world.read(child.as_ref().unwrap(), A), Ok(77));
        }
        space.unmap(start, 20 * PAGE_SIZE).unwrap();
        let spaces: std::vec::Vec<&Vas> = [&space].into_iter().chain(&child).collect();
        check(&world, &spaces);
    }
}

#[test]
fn case_29_a_refused_call_changes_nothing() {
    let world = World::with(64, |config| config.max_regions = 2, 0);
    let space = world.space();
    space.map_region(at(A), 2 * PAGE_SIZE, RW).unwrap();
    space.map_page(at(A + 4 * PAGE_SIZE), RW).unwrap();
    let before = world.account();
    let limit = VasError::TooManyRegions { limit: 2 };
    assert_eq!(space.map_page(at(A + 8 * PAGE_SIZE), RW), Err(limit));
    assert_eq!(
        space.map_lazy(at(A + 8 * PAGE_SIZE), 1, RW, Backing::Anonymous),
        Err(limit)
    );
    assert_eq!(space.protect_region(at(A), PAGE_SIZE, R), Err(limit));
    let overlap = space.map_region(at(A - PAGE_SIZE), 2 * PAGE_SIZE, RW);
    assert!(matches!(overlap, Err(VasError::Overlap { existing, .. }) if existing.start() == A));
    assert_eq!(world.account(), before);
    let bare = Vas::new(world.memory);
    assert_eq!(bare.map_page(at(A), RW), Err(VasError::NoTable));
    assert_eq!(bare.get_page_table(), Err(VasError::NoTable));
    assert_eq!(world.account(), before);
    bare.init().unwrap();
    let root = bare.page_table_root.load(Ordering::Relaxed);
    assert_eq!(bare.init(), Err(VasError::AlreadyInitialized { root }));
    assert_eq!(world.account().page_tables, before.page_tables + 1);
    check_kernel_half(&world, &bare);
}

#[test]
fn case_34_device_memory_never_reaches_the_allocator_and_has_its_cache_bits() {
    let world = World::new(64);
    let space = world.space();
    let before = world.account();
    let device = PhysAddr::new(0);
    let policies = [
        (CachePolicy::WriteBack, 0),
        (CachePolicy::WriteThrough, Entry::PWT),
        (CachePolicy::Uncached, Entry::PWT | Entry::PCD),
    ];
    for (policy, bits) in policies {
        space.map_physical_region(at(A), device, PAGE_SIZE, RW, policy).unwrap();
        world.touch(&space, A, Access::Write).unwrap();
        let entry = translations(&world, &space)[0].entry;
        assert_eq!(entry.bits() & (Entry::PWT | Entry::PCD), bits);
        assert!(entry.has(Entry::NO_EXECUTE | Entry::BORROWED | Entry::WRITABLE));
        space.protect_region(at(A), PAGE_SIZE, R).unwrap();
        space.protect_region(at(A), PAGE_SIZE, RW).unwrap();
        let entry = translations(&world, &space)[0].entry;
        assert_eq!(entry.bits() & (Entry::PWT | Entry::PCD), bits);
        assert!(entry.has(Entry::WRITABLE), "a device page is never copied");
        assert_eq!(space.get_stats().physical_bytes, PAGE_SIZE);
        let refused = space.advise(at(A), PAGE_SIZE, Advice::DontNeed);
        assert!(matches!(refused, Err(VasError::WrongKind { .. })));
        space.unmap(at(A), PAGE_SIZE).unwrap();
        assert_eq!(world.account(), before);
    }
    let execute = space.map_physical_region(
        at(A),
        device,
        PAGE_SIZE,
        Protection::READ_EXECUTE,
        CachePolicy::Uncached,
    );
    assert!(matches!(execute, Err(VasError::Forbidden { .. })));
    let unaligned = space.map_physical_region(at(A), PhysAddr::new(8), PAGE_SIZE, RW, CachePolicy::Uncached);
    assert!(matches!(unaligned, Err(VasError::Unaligned { address: 8, .. })));
}

#[test]
fn case_34_ram_and_addresses_that_are_none_are_refused() {
    let world = World::new(64);
    let space = world.space();
    let ram = PhysAddr::new(4 * PAGE_SIZE);
    let map = |base, size| space.map_physical_region(at(A), base, size, RW, CachePolicy::Uncached);
    assert!(matches!(
        map(ram, PAGE_SIZE),
        Err(VasError::BadFrame { address: 0x4000, .. })
    ));
    assert!(matches!(
        map(PhysAddr::new(0), 8 * PAGE_SIZE),
        Err(VasError::BadFrame { .. })
    ));
    let backing = Backing::Physical {
        base: ram,
        cache: CachePolicy::Uncached,
    };
    let lazy = space.map_lazy(at(A), PAGE_SIZE, RW, backing.clone());
    assert!(matches!(lazy, Err(VasError::BadFrame { .. })), "{lazy:?}");
    let request = MapRequest {
        backing,
        ..MapRequest::anonymous(PAGE_SIZE, RW)
    };
    assert!(matches!(space.mmap(request), Err(VasError::BadFrame { .. })));
    // Beyond what a processor, or an entry of ours, can address.
    for base in [0x000f_ffff_ffff_f000, 0x1000_0000_0000] {
        let beyond = map(PhysAddr::new(base), 2 * PAGE_SIZE);
        assert!(matches!(beyond, Err(VasError::BadFrame { .. })), "{beyond:?}");
    }
    assert_eq!(space.get_stats().regions, 0);
}

#[test]
fn case_35_remap_page_swaps_the_frame_and_keeps_record_and_counts() {
    let world = World::new(64);
    let space = world.space();
    space.map_region(at(A), 3 * PAGE_SIZE, RW).unwrap();
    world.memory.switch_to(&space);
    let before = (world.account(), space.get_stats());
    let frame = world.memory.frames().allocate(0).unwrap();
    let (number, new) = (frame.pfn(), frame.address());
    // SAFETY: the frame was just taken from the allocator.
    unsafe { world.memory.platform().phys_to_virt(new).cast::<u64>().write(42) };
    world.take_asked();
    space.remap_page(at(A + PAGE_SIZE), frame).unwrap();
    assert_eq!(world.take_asked(), [Asked::Page(A + PAGE_SIZE)]);
    assert_eq!(space.translate(A + PAGE_SIZE, Access::Write), Some(new.as_u64()));
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(42));
    assert_eq!(world.account(), before.0, "the old frame is free, the new one mapped");
    assert_eq!(space.get_stats(), before.1);
    assert!(frames_of(&world, &space).contains(&number));
    // A page that a child shares: the child keeps the old frame.
    let child = space.fork().unwrap();
    space
        .remap_page(at(A + PAGE_SIZE), world.memory.frames().allocate(0).unwrap())
        .unwrap();
    assert_eq!(world.read(&child, A + PAGE_SIZE), Ok(42));
    check(&world, &[&space, &child]);
    // Refused: nothing there, not touched yet, shared memory.
    space.map_lazy(at(A + MIB), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let free = world.free();
    let take = || world.memory.frames().allocate(0).unwrap();
    for address in [A + 8 * PAGE_SIZE, A + MIB] {
        assert_eq!(
            space.remap_page(at(address), take()),
            Err(VasError::NotMapped { address })
        );
    }
    assert_eq!(world.free(), free, "the frame that was refused went back");
}

#[test]
fn case_35_map_page_with_frame_keeps_content_and_counts() {
    let world = World::new(64);
    let space = world.space();
    let before = world.free();
    let frame = world.memory.frames().allocate(0).unwrap();
    let number = frame.pfn();
    let content = word(&world, number);
    space.map_page_with_frame(at(A + 8), frame, R).unwrap();
    assert_eq!(world.read(&space, A), Ok(content));
    assert!(matches!(world.write(&space, A, 1), Err(FaultError::Protection { .. })));
    assert_eq!(space.get_stats().resident_pages, 1);
    check(&world, &[&space]);
    let again = space.map_page_with_frame(at(A), world.memory.frames().allocate(0).unwrap(), RW);
    assert!(matches!(again, Err(VasError::Overlap { .. })));
    check(&world, &[&space]);
    for successes in 0..3 {
        let frame = world.memory.frames().allocate(0).unwrap();
        world.memory.frames().fail_after(successes);
        let result = space.map_page_with_frame(at(A + (1 << 39)), frame, RW);
        world.memory.frames().fail_never();
        assert_eq!(result, Err(VasError::OutOfMemory { needed: 1 }));
        check(&world, &[&space]);
    }
    space.unmap(at(A), PAGE_SIZE).unwrap();
    assert_eq!(world.free(), before);
}

#[test]
fn case_36_map_page_over_a_page_is_an_overlap() {
    let world = World::new(64);
    let space = world.space();
    space.map_page(at(A), RW).unwrap();
    world.write(&space, A, 5).unwrap();
    let range = PageRange::aligned(at(A), PAGE_SIZE).unwrap();
    let expected = VasError::Overlap {
        wanted: range,
        existing: range,
    };
    assert_eq!(space.map_page(at(A), R), Err(expected));
    assert_eq!(world.read(&space, A), Ok(5));
    assert_eq!(space.get_stats().regions, 1);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of frames")]
fn case_37_clear_destroy_and_drop_restore_the_exact_count_and_are_idempotent() {
    let world = World::new(1024);
    let free = world.free();
    let fill = |space: &Vas| {
        for start in [
            0,
            A,
            A + 3 * MIB,
            0x40_0000_0000,
            0x7000_0000_0000,
            USER_END - PAGE_SIZE,
        ] {
            space.map_region(at(start), PAGE_SIZE, RW).unwrap();
        }
        space
            .map_lazy(at(A + MIB), 8 * PAGE_SIZE, RW, Backing::Anonymous)
            .unwrap();
        world.read(space, A + MIB).unwrap();
        space.brk(Some(space.heap_start_addr() + 3 * PAGE_SIZE)).unwrap();
        world.write(space, space.heap_start_addr().as_u64(), 1).unwrap();
    };
    let space = world.space();
    let child = {
        fill(&space);
        space.fork().unwrap()
    };
    drop(child);
    for _ in 0..2 {
        space.clear();
        assert_eq!(world.free(), free - 1, "the root is left");
        assert_eq!(space.get_stats().table_pages, 1);
        assert_eq!(space.brk(None).unwrap(), space.heap_start_addr());
    }
    fill(&space);
    space.set_stack_size(MIB).unwrap();
    space.clear_user_space();
    space.clear_user_space();
    assert_eq!(space.layout(), Layout::default());
    fill(&space);
    for _ in 0..2 {
        space.destroy();
        assert_eq!(world.free(), free);
        assert!(!space.is_live());
    }
    space.init().unwrap();
    fill(&space);
    drop(space);
    assert_eq!(world.free(), free);
}

#[test]
fn case_38_the_guard_unmaps_once_and_is_harmless_later() {
    let world = World::new(128);
    let space = world.space();
    let free = world.free();
    let guard = space.map_region_raii(at(A), 2 * PAGE_SIZE, RW).unwrap();
    assert_eq!(guard.range().start(), A);
    drop(guard);
    assert_eq!(world.free(), free);
    // After a manual unmap, and with something else there since.
    let guard = space.map_region_raii(at(A), 2 * PAGE_SIZE, RW).unwrap();
    space.unmap(at(A), 2 * PAGE_SIZE).unwrap();
    space.map_region(at(A), PAGE_SIZE, RW).unwrap();
    drop(guard);
    assert!(space.is_mapped_for(A, Access::Write));
    space.unmap(at(A), PAGE_SIZE).unwrap();
    // A neighbour that joined the region, and a table shared with a child, keep what is theirs.
    let guard = space.map_region_raii(at(A), 2 * PAGE_SIZE, RW).unwrap();
    space.map_region(at(A + 2 * PAGE_SIZE), PAGE_SIZE, RW).unwrap();
    world.write(&space, A + 2 * PAGE_SIZE, 9).unwrap();
    world.write(&space, A, 8).unwrap();
    let child = space.fork().unwrap();
    drop(guard);
    assert_eq!(world.read(&space, A + 2 * PAGE_SIZE), Ok(9));
    assert_eq!(world.read(&child, A), Ok(8));
    assert!(space.find_mapping(at(A)).is_none());
    check(&world, &[&space, &child]);
    // After exec, after a move, and after the end of the space.
    let exec = child.map_region_raii(at(A + MIB), PAGE_SIZE, RW).unwrap();
    child.clear_user_space();
    drop(exec);
    let moved = space.map_region_raii(at(A + MIB), PAGE_SIZE, RW).unwrap();
    space
        .remap(at(A + MIB), PAGE_SIZE, PAGE_SIZE, RemapTarget::Fixed(at(A + 3 * MIB)))
        .unwrap();
    drop(moved);
    assert!(space.is_mapped_for(A + 3 * MIB, Access::Write));
    let last = space.map_region_raii(at(A + MIB), PAGE_SIZE, RW).unwrap();
    drop((space, child));
    drop(last);
    assert_eq!(world.free(), free + 1);
}

#[test]
fn set_page_table_replaces_the_root_of_an_empty_space_only() {
    let world = World::new(64);
    let space = world.space();
    let free = world.free();
    let root = || {
        let frame = world.memory.frames().allocate(0).unwrap();
        world.memory.platform().zero_frame(frame.frame());
        frame
    };
    let new = root();
    let number = new.pfn();
    space.set_page_table(new).unwrap();
    assert_eq!(space.get_page_table().map(Pfn::from), Ok(number));
    assert_eq!(world.free(), free, "the old root is free");
    check_kernel_half(&world, &space);
    space.map_page(at(A), RW).unwrap();
    let before = world.free();
    assert!(matches!(space.set_page_table(root()), Err(VasError::Overlap { .. })));
    assert_eq!(world.free(), before);
    check(&world, &[&space]);
}
