//! Each numbered transition of the state diagram, and the limits of its counters.

use super::*;
use crate::frame::published::{Dropped, drop_reference};
use crate::frame::{FrameError, FrameState, QuarantineList};

#[test]
fn sixteen_bytes_and_one_cache_line() {
    assert_eq!(size_of::<FrameMeta>(), 16);
    assert_eq!(size_of::<crate::frame::ReservedFrame<'_>>(), 24);
    assert_eq!(size_of::<Option<crate::frame::RetiredFrame<'_>>>(), 24);
}

#[test]
fn numbers_and_addresses() {
    let pfn = Pfn::containing(PhysAddr::new(0x1234_5678));
    assert_eq!((pfn.number(), pfn.address()), (0x12345, PhysAddr::new(0x1234_5000)));
    assert_eq!(Pfn::from(pfn.frame()), pfn);
    assert_eq!(Pfn::containing(PhysAddr::new((1 << 44) - 1)), Pfn::NONE);
    assert_eq!(Pfn::containing(PhysAddr::new(1 << 44)), Pfn::NONE);
    assert_eq!(Pfn::containing(PhysAddr::new((1 << 44) - 4097)).number(), u32::MAX - 1);
    assert_eq!(
        std::format!("{pfn} {pfn:?} {}", Pfn::NONE),
        "0x12345000 Pfn(0x12345000) none"
    );
}

#[test]
fn a_dropped_token_returns_its_frame() {
    let frames = TestFrames::new(128, 1);
    let token = frames.allocate(0).unwrap();
    assert_eq!(frames.account().reserved, 1);
    drop(token);
    let run = frames.allocate_contiguous(4, 0).unwrap();
    assert_eq!(
        (
            frames.account().reserved,
            run.len(),
            run.address().as_u64() % (16 * FRAME_SIZE)
        ),
        (16, 16, 0)
    );
    drop(run);
    let account = frames.audit().unwrap();
    assert_eq!((account.available(), account.reserved), (127, 0));
}

#[test]
fn the_last_reference_retires_the_frame() {
    let frames = TestFrames::new(128, 1);
    let pfn = frames.allocate(0).unwrap().map();
    let sharers = if cfg!(miri) { 3 } else { 300 };
    for count in 1..=sharers {
        assert_eq!(frames.mapping_count(pfn), count);
        frames.add_mapping(pfn).unwrap();
    }
    for _ in 0..sharers {
        assert!(frames.remove_mapping(pfn, 0).unwrap().is_none());
    }
    assert_eq!(frames.account().mapped, 1);
    let retired = frames.remove_mapping(pfn, 0).unwrap().unwrap();
    assert_eq!((frames.account().mapped, frames.account().reserved), (0, 1));
    assert_eq!(retired.reuse().map(), pfn);
    unmap_all(&frames, &[pfn], 0);
}

#[test]
fn a_reference_dropped_by_another_cpu_meanwhile_counts() {
    let frames = TestFrames::new(128, 1);
    let pfn = frames.allocate(0).unwrap().map();
    let meta = &frames.metadata[pfn.index()];
    let (once, twice) = (Word::MAPPED_ONCE, Word::MAPPED_ONCE.add_count(1));
    meta.store(twice);
    assert_eq!(drop_reference(meta, twice.add_count(1)), Dropped::Other);
    assert!(meta.load() == once);
    assert_eq!(drop_reference(meta, twice), Dropped::Last);
    assert!(meta.load() == Word::RESERVED);
    assert_eq!(drop_reference(meta, once), Dropped::WrongState);
    meta.store(once);
    unmap_all(&frames, &[pfn], 0);
}

#[test]
fn the_reference_count_refuses_to_wrap() {
    let frames = TestFrames::new(128, 1);
    let pfn = frames.allocate(0).unwrap().map();
    let full = Word::of(FrameState::Mapped).add_count(u32::MAX - 1);
    frames.metadata[pfn.index()].store(full);
    assert_eq!(
        frames.add_mapping(pfn),
        Err(FrameError::CountOverflow {
            frame: pfn,
            count: u32::MAX - 1
        })
    );
    assert_eq!(frames.mapping_count(pfn), u32::MAX - 1);
    assert!(frames.remove_mapping(pfn, 0).unwrap().is_none());
    frames.add_mapping(pfn).unwrap();

    let table = frames.allocate(0).unwrap().into_page_table();
    frames.metadata[table.index()].store(Word::of(FrameState::PageTable).add_count(u32::MAX - 1));
    assert_eq!(
        frames.table_add_ref(table),
        Err(FrameError::CountOverflow {
            frame: table,
            count: u32::MAX - 1
        })
    );
}

#[test]
fn page_tables_count_parents() {
    let frames = TestFrames::new(128, 1);
    let table = frames.allocate(0).unwrap().into_page_table();
    frames.table_add_ref(table).unwrap();
    assert_eq!(frames.table_ref_count(table), 2);
    assert!(frames.table_remove_ref(table, 0).unwrap().is_none());
    assert_eq!(frames.account().page_tables, 1);
    let retired = frames.table_remove_ref(table, 0).unwrap().unwrap();
    let again = retired.reuse().into_page_table();
    assert_eq!(frames.table_ref_count(again), 1);
    frames.table_remove_ref(again, 0).unwrap().unwrap().free();
}

#[test]
fn a_table_remembers_its_round_and_its_locked_pages_beside_its_lock_and_its_parents() {
    let frames = TestFrames::new(128, 1);
    let table = frames.allocate(0).unwrap().into_page_table();
    assert!(frames.visit_table(table, 5));
    assert!(!frames.visit_table(table, 5));
    let lock = frames.lock_table(table);
    frames.table_add_ref(table).unwrap();
    frames.set_keeps_pages(table, true);
    assert!(frames.visit_table(table, 6), "another round");
    drop(lock);
    drop(frames.lock_table(table));
    assert!(frames.keeps_pages(table) && !frames.visit_table(table, 6));
    frames.set_keeps_pages(table, false);
    assert!(!frames.keeps_pages(table));
    assert_eq!(frames.table_ref_count(table), 2);
    // Rounds come again after a long time; only the low bits are kept.
    assert!(frames.visit_table(table, 7));
    assert!(!frames.visit_table(table, 7 | 1 << 14));
    frames.audit().unwrap();
    assert!(frames.table_remove_ref(table, 0).unwrap().is_none());
    // The next table begins with nothing of it.
    let again = frames
        .table_remove_ref(table, 0)
        .unwrap()
        .unwrap()
        .reuse()
        .into_page_table();
    assert!(!frames.keeps_pages(again) && frames.visit_table(again, 7));
    frames.table_remove_ref(again, 0).unwrap().unwrap().free();
}

#[test]
fn a_pinned_frame_comes_back_when_nothing_maps_it() {
    let frames = TestFrames::new(128, 1);
    let pfn = frames.allocate(0).unwrap().pin();
    frames.add_mapping(pfn).unwrap();
    assert_eq!(
        frames.unpin(pfn, 0).map(drop),
        Err(FrameError::StaysPinned { frame: pfn, count: 1 })
    );
    assert!(frames.remove_mapping(pfn, 0).unwrap().is_none());
    frames.unpin(pfn, 0).unwrap().free();

    let first = frames.allocate_contiguous(3, 0).unwrap().pin();
    assert_eq!(frames.audit().unwrap().pinned, 8);
    for offset in 0..8 {
        frames.unpin(first.offset(offset), 0).unwrap().free();
    }
    assert_eq!(frames.account().pinned, 0);
}

#[test]
fn pinned_ranges_are_rounded_outwards() {
    let frames = TestFrames::with_map(64, [frames(32..64)], 1);
    let bytes = |range: Range<u64>| PhysAddr::new(range.start)..PhysAddr::new(range.end);
    assert_eq!(frames.pin_range(bytes(0x2fff..0x4001)), Ok(3));
    assert_eq!(frames.pin_range(bytes(0x8000..0x8000)), Ok(0));
    assert_eq!(frames.pin_range(PhysAddr::new(0x9000)..PhysAddr::new(0x8000)), Ok(0));
    assert_eq!(frames.pin_range(bytes(0..1)), Ok(1));
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|n| frames.state(Pfn::new(n)) == FrameState::Pinned),
        [true, false, true, true, true, false]
    );
    assert!(frames.pin_range(bytes(0x8000..(1 << 52) - 1)).is_err());
    assert_eq!((frames.account().total, frames.account().pinned), (36, 4));
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn a_mapped_run_is_released_frame_by_frame_and_merges() {
    let frames = TestFrames::new(2048, 1);
    let first = frames.allocate_contiguous(9, 0).unwrap().map();
    assert_eq!(frames.account().mapped, 512);
    let mut order: Vec<u32> = (0..512).collect();
    order.sort_by_key(|n| n.wrapping_mul(2_654_435_761));
    for offset in order {
        frames.remove_mapping(first.offset(offset), 0).unwrap().unwrap().free();
    }
    frames.drain_caches(false);
    assert_eq!(frames.audit().unwrap().free, 2047);
    assert_eq!(frames.allocate_contiguous(10, 0).unwrap().pfn(), Pfn::new(1024));
}

#[test]
fn quarantine_is_first_in_first_out_by_generation() {
    let frames = TestFrames::new(256, 1);
    let mut list = QuarantineList::new(&frames);
    assert!(list.is_empty() && list.oldest_generation().is_none());
    for generation in [5, 5, 6, 9] {
        let pfn = frames.allocate(0).unwrap().map();
        frames
            .remove_mapping(pfn, 0)
            .unwrap()
            .unwrap()
            .quarantine(&mut list, generation);
    }
    let table = frames.allocate(0).unwrap().into_page_table();
    frames
        .table_remove_ref(table, 0)
        .unwrap()
        .unwrap()
        .quarantine(&mut list, 9);
    assert_eq!(
        (
            list.len(),
            list.oldest_generation(),
            frames.audit().unwrap().quarantined
        ),
        (5, Some(5), 5)
    );
    assert_eq!(list.release_up_to(4, 0), 0);
    assert_eq!(list.release_up_to(5, 0), 2);
    assert_eq!(list.release_up_to(8, 0), 1);
    assert_eq!(
        (
            list.len(),
            list.oldest_generation(),
            frames.audit().unwrap().quarantined
        ),
        (2, Some(9), 2)
    );
    assert_eq!(list.release_up_to(9, 0), 2);
    assert_eq!(list.release_up_to(u64::MAX, 0), 0);
    assert!(list.is_empty());
}

#[test]
fn quarantine_generations_wrap() {
    let frames = TestFrames::new(256, 1);
    let mut list = QuarantineList::new(&frames);
    let start = (7 << 32) - 2;
    for generation in start..start + 5 {
        let pfn = frames.allocate(0).unwrap().map();
        frames
            .remove_mapping(pfn, 0)
            .unwrap()
            .unwrap()
            .quarantine(&mut list, generation);
    }
    for generation in start..start + 5 {
        assert_eq!(list.release_up_to(generation - 1, 0), 0);
        assert_eq!(list.release_up_to(generation, 0), 1);
    }
}

#[test]
fn a_dropped_quarantine_returns_its_frames() {
    let frames = TestFrames::new(256, 1);
    let mut list = QuarantineList::new(&frames);
    for pfn in map_all(&frames, 0) {
        frames.remove_mapping(pfn, 0).unwrap().unwrap().quarantine(&mut list, 3);
    }
    assert_eq!((frames.account().quarantined, frames.available()), (255, 0));
    drop(list);
    assert_eq!((frames.audit().unwrap().quarantined, frames.available()), (0, 255));
}

#[test]
fn the_zeroed_pool_fills_to_its_target() {
    let frames = TestFrames::new(256, 1);
    assert!(frames.take_for_zeroing(0).is_none(), "the pool is off at the start");
    frames.set_zeroed_target(10);
    while let Some(frame) = frames.take_for_zeroing(0) {
        frames.put_zeroed(frame);
    }
    assert_eq!(frames.account().zeroed, 10);
    let zeroed = frames.allocate_zeroed(0).unwrap();
    assert_eq!((frames.account().zeroed, frames.account().reserved), (9, 1));
    frames.put_zeroed(zeroed);
    let zeroed = frames.allocate_zeroed(0).unwrap();
    frames.set_zeroed_target(4);
    assert_eq!((frames.zeroed_target(), frames.account().zeroed), (4, 4));
    frames.put_zeroed(zeroed);
    assert_eq!(frames.account().zeroed, 4, "a full pool frees what it is given");
    frames.set_zeroed_target(0);
    assert_eq!(frames.audit().unwrap().zeroed, 0);
    assert!(frames.allocate_zeroed(0).is_none());
}

#[test]
fn the_account_prints_as_one_line() {
    let frames = TestFrames::new(64, 1);
    let line = "free 63 + cached 0 + zeroed 0 + reserved 0 + mapped 0 + page tables 0 + pinned 0 + quarantined 0 = 63 of 63 frames";
    assert_eq!(std::format!("{}", frames.account()), line);
}

#[test]
fn allocations_fail_on_command() {
    let frames = TestFrames::new(64, 1);
    frames.fail_after(2);
    let kept = [frames.allocate(0).unwrap(), frames.allocate(0).unwrap()];
    assert!(frames.allocate(0).is_err());
    assert!(frames.allocate_contiguous(1, 0).is_err());
    assert_eq!(frames.fail_never(), 2);
    frames.fail_once_after(1);
    drop((kept, frames.allocate(0).unwrap()));
    assert!(frames.allocate(0).is_err());
    assert!(frames.allocate(0).is_ok());
    assert_eq!(frames.fail_never(), 1);
    frames.fail_after(0);
    frames.set_zeroed_target(1);
    frames.put_zeroed(
        frames
            .take_for_zeroing(0)
            .expect("zeroing at idle is not an allocation"),
    );
    assert!(frames.allocate_zeroed(0).is_none());
    assert_eq!(frames.fail_never(), 0);
}

#[test]
fn an_audit_finds_what_is_wrong() {
    use crate::frame::Discrepancy;
    let frames = TestFrames::new(64, 1);
    let pfn = frames.allocate(0).unwrap().map();
    let meta = &frames.metadata[pfn.index()];
    let good = meta.load();

    meta.store(Word::RESERVED);
    let found = Discrepancy::Count {
        state: FrameState::Reserved,
        found: 1,
        counter: 0,
    };
    assert_eq!(frames.audit(), Err(found));
    meta.store(Word::TAIL);
    assert_eq!(frames.audit(), Err(Discrepancy::Metadata { frame: pfn }));
    meta.store(Word::block(FrameState::Mapped, 3));
    assert_eq!(frames.audit(), Err(Discrepancy::Block { frame: pfn, order: 3 }));
    meta.store(good);
    assert!(frames.audit().is_ok());

    let cached = frames.allocate(0).unwrap().pfn();
    let cached = &frames.metadata[cached.index()];
    let next = cached.next();
    cached.set_next(crate::frame::meta::NONE);
    assert!(matches!(
        frames.audit(),
        Err(Discrepancy::ListLength {
            list: FrameState::Cached,
            found: 1,
            ..
        })
    ));
    cached.set_next(pfn.number());
    assert_eq!(
        frames.audit(),
        Err(Discrepancy::ListEntry {
            frame: pfn,
            list: FrameState::Cached
        })
    );
    cached.set_next(next);
}
