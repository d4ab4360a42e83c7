//! Pages that leave for the swap area and come back.

use core::pin::pin;
use core::task::Poll;
use std::boxed::Box;
use std::vec::Vec;

use super::cow::check;
use super::disk::Disk;
use super::machine::*;
use crate::swap::{Left, SlotState};
use crate::*;

pub const A: u64 = 0x4000_0000;

/// A space with `pages` written pages from `A` on, page `n` of which starts with `n + 1`.
pub fn written(world: &World, pages: u64) -> Vas {
    let space = world.space();
    space
        .map_lazy(at(A), pages * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    for page in 0..pages {
        world.write(&space, A + page * PAGE_SIZE, page + 1).unwrap();
    }
    space
}

fn slot_of(space: &Vas, page: u64) -> SwapSlot {
    space.swap_slot_of(A + page * PAGE_SIZE).unwrap()
}

fn state_of(world: &World, slot: SwapSlot) -> SlotState {
    world.memory.frames().swap.load(slot).state
}

fn fault(space: &Vas, page: u64, access: Access) -> core::pin::Pin<Box<FaultFuture<'_, Machine>>> {
    Box::pin(space.handle_page_fault(FaultInfo::user(A + page * PAGE_SIZE, access)))
}

#[test]
fn a_page_comes_back_as_it_was() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 8);
    let free = world.free();
    assert_eq!(world.page_out(&disk, &space, A, 8), 8);
    assert_eq!(world.free(), free + 8);
    let stats = space.get_stats();
    assert_eq!((stats.resident_pages, stats.swapped_pages), (0, 8));
    let counts = space.count_pages(PageRange::aligned(at(A), 8 * PAGE_SIZE).unwrap());
    assert_eq!((counts.own, counts.swapped), (0, 8));
    check(&world, &[&space]);
    for page in 0..8 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    let stats = world.memory.swap_stats();
    assert_eq!((stats.slots, stats.used, stats.cached), (64, 8, 8));
    assert_eq!((stats.reads, stats.writes, stats.errors), (8, 8, 0));
    assert_eq!(space.faults_served()[faultline_trace::FaultClass::Swap as usize], 8);
    check(&world, &[&space]);
    drop(space);
    assert_eq!(
        world.memory.swap_stats().used,
        0,
        "a frame that is freed frees its slot"
    );
}

#[test]
fn neighbours_leave_to_neighbours() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 16);
    world.page_out(&disk, &space, A + 4 * PAGE_SIZE, 4);
    world.page_out(&disk, &space, A, 16);
    let slots: Vec<_> = (0..16).map(|page| slot_of(&space, page).number()).collect();
    assert_eq!(slots[4..8], [0, 1, 2, 3]);
    assert!(slots[..4].iter().chain(&slots[8..]).copied().eq(4..16), "{slots:?}");
}

#[test]
fn a_page_that_was_only_read_leaves_again_without_a_write() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 3);
    assert_eq!(world.page_out(&disk, &space, A, 3), 3);
    let slots: Vec<_> = (0..3).map(|page| slot_of(&space, page)).collect();
    for page in 0..3 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    // It may be written to without another fault, because nobody else has it.
    assert!(space.is_mapped_for(A + PAGE_SIZE, Access::Write));
    world.write(&space, A + PAGE_SIZE, 77).unwrap();
    let (left, _) = world.leave(&space, A, 3);
    assert!(
        matches!(left[..], [Left::Clean(_), Left::Dirty(..), Left::Clean(_)]),
        "{left:?}"
    );
    world.write_out(&disk, &left);
    assert_eq!((0..3).map(|page| slot_of(&space, page)).collect::<Vec<_>>(), slots);
    check(&world, &[&space]);
    for (page, value) in [1, 77, 3].into_iter().enumerate() {
        assert_eq!(world.read(&space, A + page as u64 * PAGE_SIZE), Ok(value));
    }
}

#[test]
fn a_fault_waits_for_the_device_and_others_join_it() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 2);
    let child = space.fork().unwrap();
    // So that each has a table of its own.
    world.write(&child, A + PAGE_SIZE, 20).unwrap();
    world.write(&space, A + PAGE_SIZE, 10).unwrap();
    assert_eq!(world.page_out(&disk, &space, A, 1), 1);
    assert_eq!(world.page_out(&disk, &child, A, 1), 0, "one write serves both");
    let slot = slot_of(&space, 0);
    assert_eq!(slot_of(&child, 0), slot);
    assert_eq!(state_of(&world, slot), SlotState::Out);
    check(&world, &[&space, &child]);

    disk.at_once(false);
    let started = disk.started();
    let mut faults = [
        fault(&space, 0, Access::Read),
        fault(&child, 0, Access::Read),
        fault(&space, 0, Access::Read),
        fault(&child, 0, Access::Write),
    ];
    for fault in &mut faults {
        assert!(world.poll(fault.as_mut()).is_pending());
    }
    world.serve();
    assert_eq!(disk.started(), started + 1, "a page is read once");
    assert!(matches!(state_of(&world, slot), SlotState::Reading { .. }));
    assert_eq!(world.memory.faults_in_flight(), 2, "faults of one space share a slot");
    disk.finish_all();
    world.serve();
    for fault in &mut faults {
        assert!(matches!(world.poll(fault.as_mut()), Poll::Ready(Ok(_))));
    }
    drop(faults);
    check(&world, &[&space, &child]);
    world.write(&child, A, 99).unwrap();
    assert_eq!(world.read(&space, A), Ok(1));
    assert_eq!(world.read(&child, A), Ok(99));
    check(&world, &[&space, &child]);
}

#[test]
fn a_killed_fault_leaves_at_once_and_its_page_stays() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    world.page_out(&disk, &space, A, 1);
    let slot = slot_of(&space, 0);
    let free = world.free();
    disk.at_once(false);
    {
        let mut killed = fault(&space, 0, Access::Read);
        assert!(world.poll(killed.as_mut()).is_pending());
        world.serve();
        assert_eq!(disk.waiting(), 1);
    }
    assert_eq!(
        world.memory.faults_in_flight(),
        1,
        "the slot comes back when the device is done"
    );
    disk.finish_all();
    world.serve();
    assert_eq!(world.memory.faults_in_flight(), 0);
    assert_eq!(slot_of(&space, 0), slot);
    assert!(matches!(state_of(&world, slot), SlotState::Cached { .. }));
    check(&world, &[&space]);
    // The frame that was read may go at any time.
    world.memory.frames().drop_cached(slot, 0).unwrap().free();
    assert_eq!(world.free(), free);
    disk.at_once(true);
    assert_eq!(world.read(&space, A), Ok(1));
}

#[test]
fn what_is_unmapped_while_it_is_read_is_gone_when_the_device_is_done() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    let free = world.free();
    world.page_out(&disk, &space, A, 1);
    disk.at_once(false);
    let mut stale = fault(&space, 0, Access::Read);
    assert!(world.poll(stale.as_mut()).is_pending());
    world.serve();
    space.unmap(at(A), PAGE_SIZE).unwrap();
    // The slot is not given to anybody while the device writes to its frame.
    assert_eq!(world.memory.swap_stats().used, 1);
    space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    assert_eq!(world.read(&space, A), Ok(0));
    disk.finish_all();
    world.serve();
    assert_eq!(world.poll(stale.as_mut()), Poll::Ready(Ok(FaultOutcome::Retry)));
    drop(stale);
    assert_eq!(world.memory.swap_stats().used, 0);
    check(&world, &[&space]);
    drop(space);
    // The table went with the page, and came again for the page of zeros.
    assert!(world.free() > free);
}

#[test]
fn a_read_error_reaches_every_waiter_and_loses_no_frame() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    let child = space.fork().unwrap();
    world.page_out(&disk, &space, A, 1);
    world.write(&child, A + PAGE_SIZE, 1).unwrap_err();
    drop(child);
    let child = {
        // The parent's table is its own again: its page leaves, and a child has an entry too.
        world.touch(&space, A, Access::Write).unwrap();
        world.page_out(&disk, &space, A, 1);
        space.fork().unwrap()
    };
    let slot = slot_of(&space, 0);
    let free = world.free();
    disk.fail(slot, true);
    disk.at_once(false);
    let mut faults = [
        fault(&space, 0, Access::Read),
        fault(&space, 0, Access::Write),
        fault(&child, 0, Access::Read),
    ];
    for fault in &mut faults {
        assert!(world.poll(fault.as_mut()).is_pending());
    }
    world.serve();
    disk.finish_all();
    world.serve();
    for fault in &mut faults {
        let result = world.poll(fault.as_mut());
        assert!(
            matches!(result, Poll::Ready(Err(FaultError::ReadFailed { address: A }))),
            "{result:?}"
        );
    }
    drop(faults);
    assert_eq!(world.memory.swap_stats().errors, 1);
    assert!(
        world.free() >= free - 1,
        "the frame is free again; a table may be the child's own now"
    );
    check(&world, &[&space, &child]);
    // Who comes later tries again.
    disk.fail(slot, false);
    disk.at_once(true);
    assert_eq!(world.read(&space, A), Ok(1));
    assert_eq!(world.read(&child, A), Ok(1));
    check(&world, &[&space, &child]);
}

#[test]
fn a_write_error_keeps_the_page() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    disk.fail(SwapSlot::new(0), true);
    world.page_out(&disk, &space, A, 1);
    let slot = slot_of(&space, 0);
    assert!(matches!(state_of(&world, slot), SlotState::Kept { .. }));
    check(&world, &[&space]);
    assert_eq!(world.memory.frames().drop_cached(slot, 0).map(drop), None);
    assert_eq!(world.read(&space, A), Ok(1));
    assert_eq!(world.memory.swap_stats().used, 0);
    check(&world, &[&space]);
    // It goes to another slot.
    disk.fail(SwapSlot::new(0), false);
    assert_eq!(world.page_out(&disk, &space, A, 1), 1);
    assert_eq!(world.read(&space, A), Ok(1));
}

#[test]
fn an_error_of_a_neighbour_is_not_ours() {
    let world = World::new(512);
    let disk = world.swap(64);
    let space = written(&world, 16);
    world.page_out(&disk, &space, A, 16);
    disk.fail(slot_of(&space, 3), true);
    for page in 0..16 {
        let expected = if page == 3 { Err(()) } else { Ok(page + 1) };
        assert_eq!(
            world.read(&space, A + page * PAGE_SIZE).map_err(drop),
            expected,
            "page {page}"
        );
    }
    check(&world, &[&space]);
}

#[test]
fn a_stream_of_faults_reads_ahead_and_waits_for_the_device_a_few_times() {
    let world = World::new(1024);
    let disk = world.swap(256);
    let space = written(&world, 200);
    world.page_out(&disk, &space, A, 200);
    let started = disk.started();
    for page in 0..200 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    let stats = world.memory.swap_stats();
    assert_eq!(stats.reads, 200);
    assert!(stats.read_ahead >= 190, "{stats:?}");
    assert!(disk.started() - started <= 12, "{} transfers", disk.started() - started);
    check(&world, &[&space]);
}

#[test]
fn nothing_is_read_ahead_when_frames_are_short() {
    let world = World::new(256);
    let disk = world.swap(256);
    let space = written(&world, 150);
    world.page_out(&disk, &space, A, 150);
    let hog = world.space();
    hog.map_lazy(at(A), 200 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    for page in 0..190 {
        world.write(&hog, A + page * PAGE_SIZE, 1).unwrap();
    }
    for page in 0..20 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    assert_eq!(world.memory.swap_stats().read_ahead, 0);
}

#[test]
fn fork_shares_slots_as_it_shares_frames() {
    let world = World::new(512);
    let disk = world.swap(64);
    let space = written(&world, 4);
    world.page_out(&disk, &space, A, 4);
    let children: Vec<_> = (0..5).map(|_| space.fork().unwrap()).collect();
    let slot = slot_of(&space, 2);
    let count = || world.memory.frames().swap.load(slot).count;
    assert_eq!(count(), 1, "one table, one entry");
    for (index, child) in children.iter().enumerate() {
        world.write(child, A, 100 + index as u64).unwrap();
    }
    assert_eq!(count(), 6);
    let all: Vec<_> = children.iter().chain([&space]).collect();
    check(&world, &all);
    for (index, child) in children.iter().enumerate() {
        assert_eq!(world.read(child, A), Ok(100 + index as u64));
        assert_eq!(world.read(child, A + 2 * PAGE_SIZE), Ok(3));
    }
    check(&world, &all);
    drop(children);
    assert_eq!(count(), 1);
    for page in 0..4 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    check(&world, &[&space]);
}

#[test]
fn fork_copies_a_marker_of_a_swapped_page_as_what_it_stands_for() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 2);
    world.page_out(&disk, &space, A, 1);
    let slot = slot_of(&space, 0);
    disk.at_once(false);
    let mut waits = fault(&space, 0, Access::Read);
    assert!(world.poll(waits.as_mut()).is_pending());
    assert_eq!(slot_of(&space, 0), slot, "a marker stands for the slot");
    let child = space.fork().unwrap();
    assert_eq!(slot_of(&child, 0), slot);
    assert_eq!(world.memory.frames().swap.load(slot).count, 2);
    world.serve();
    disk.finish_all();
    disk.at_once(true);
    world.serve();
    assert!(matches!(world.poll(waits.as_mut()), Poll::Ready(Ok(_))));
    drop(waits);
    check(&world, &[&space, &child]);
    for space in [&space, &child] {
        assert_eq!(world.read(space, A), Ok(1));
        assert_eq!(world.read(space, A + PAGE_SIZE), Ok(2));
    }
    check(&world, &[&space, &child]);
}

#[test]
fn fork_that_runs_out_of_memory_gives_every_reference_back() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 4);
    world.page_out(&disk, &space, A, 2);
    disk.at_once(false);
    // With a fault in flight the table is copied, not shared.
    let mut waits = fault(&space, 0, Access::Read);
    assert!(world.poll(waits.as_mut()).is_pending());
    let (child, failures) = world.fail_each(
        || space.fork(),
        |result, _| {
            assert!(matches!(result, Err(VasError::OutOfMemory { .. })));
            assert_eq!(world.memory.frames().swap.load(slot_of(&space, 1)).count, 1);
        },
    );
    assert!(failures >= 4);
    let child = child.unwrap();
    disk.at_once(true);
    world.serve();
    world.serve();
    assert!(matches!(world.poll(waits.as_mut()), Poll::Ready(Ok(_))));
    drop(waits);
    check(&world, &[&space, &child]);
}

#[test]
fn protect_and_remap_keep_what_is_swapped_out() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 4);
    world.page_out(&disk, &space, A, 4);
    space.protect_region(at(A), 4 * PAGE_SIZE, R).unwrap();
    assert_eq!(world.read(&space, A), Ok(1));
    assert!(matches!(world.write(&space, A, 5), Err(FaultError::Protection { .. })));
    space.protect_region(at(A), 4 * PAGE_SIZE, RW).unwrap();
    let to = A + 64 * MIB;
    space
        .remap(at(A), 4 * PAGE_SIZE, 4 * PAGE_SIZE, RemapTarget::Fixed(at(to)))
        .unwrap();
    assert_eq!(space.swap_slot_of(to + PAGE_SIZE), Some(SwapSlot::new(1)));
    check(&world, &[&space]);
    for page in 0..4 {
        assert_eq!(world.read(&space, to + page * PAGE_SIZE), Ok(page + 1));
    }
    check(&world, &[&space]);
}

#[test]
fn calls_that_revoke_a_fault_on_a_swapped_page_keep_the_page() {
    for call in 0..2 {
        let world = World::new(256);
        let disk = world.swap(64);
        let space = written(&world, 1);
        world.page_out(&disk, &space, A, 1);
        disk.at_once(false);
        let mut stale = fault(&space, 0, Access::Read);
        assert!(world.poll(stale.as_mut()).is_pending());
        let mut page = A;
        if call == 0 {
            space.protect_region(at(A), PAGE_SIZE, R).unwrap();
        } else {
            page = A + 64 * MIB;
            let target = RemapTarget::Fixed(at(page));
            space.remap(at(A), PAGE_SIZE, PAGE_SIZE, target).unwrap();
        }
        assert!(space.swap_slot_of(page).is_some());
        world.serve();
        disk.finish_all();
        disk.at_once(true);
        world.serve();
        assert!(world.poll(stale.as_mut()).is_ready());
        drop(stale);
        assert_eq!(world.read(&space, page), Ok(1));
        check(&world, &[&space]);
    }
}

#[test]
fn what_ends_a_mapping_ends_its_slots() {
    type Call = fn(&Vas);
    let calls: [Call; 4] = [
        |space| space.unmap(at(A), 4 * PAGE_SIZE).unwrap(),
        |space| space.advise(at(A), 4 * PAGE_SIZE, Advice::DontNeed).unwrap(),
        |space| space.clear(),
        |space| space.destroy(),
    ];
    for call in calls {
        let world = World::new(256);
        let disk = world.swap(64);
        let space = written(&world, 4);
        world.page_out(&disk, &space, A, 4);
        let _ = world.read(&space, A);
        call(&space);
        assert_eq!(world.memory.swap_stats().used, 0);
        check(&world, &[&space]);
        if space.is_live() && space.find_mapping(at(A)).is_some() {
            assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(0));
        }
    }
}

#[test]
fn remap_page_replaces_a_page_that_is_swapped_out() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    world.page_out(&disk, &space, A, 1);
    let frame = world.memory.zeroed_frame().unwrap();
    space.remap_page(at(A), frame).unwrap();
    assert_eq!(world.read(&space, A), Ok(0));
    assert_eq!(world.memory.swap_stats().used, 0);
    check(&world, &[&space]);
}

#[test]
fn mincore_knows_pages_that_a_touch_finds_in_memory() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 3);
    let left = world.leave(&space, A, 2).0;
    world.write_out(&disk, &left[..1]);
    let mut resident = Vec::new();
    space
        .resident(at(A), 3 * PAGE_SIZE, |page| resident.push(page))
        .unwrap();
    assert_eq!(resident, [false, true, true]);
    world.write_out(&disk, &left[1..]);
}

#[test]
fn a_page_that_is_being_written_comes_back_and_is_copied_before_it_changes() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 1);
    let left = world.leave(&space, A, 1).0;
    let slot = slot_of(&space, 0);
    assert_eq!(world.read(&space, A), Ok(1));
    assert!(!space.is_mapped_for(A, Access::Write), "the device reads the frame");
    world.write(&space, A, 2).unwrap();
    world.write_out(&disk, &left);
    assert_eq!(state_of(&world, slot), SlotState::Free);
    assert_eq!(world.read(&space, A), Ok(2));
    check(&world, &[&space]);
}

#[test]
fn a_full_area_gives_out_slots_of_pages_that_are_in_memory() {
    let world = World::new(256);
    let disk = world.swap(4);
    let space = written(&world, 8);
    world.page_out(&disk, &space, A, 4);
    assert_eq!(world.leave(&space, A + 4 * PAGE_SIZE, 1).1, Err(SwapError::Full));
    check(&world, &[&space]);
    for page in 0..4 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    assert_eq!(world.memory.swap_stats().used, 4);
    assert_eq!(world.page_out(&disk, &space, A + 4 * PAGE_SIZE, 4), 4);
    check(&world, &[&space]);
    // The first four have lost their slots.
    assert_eq!(world.leave(&space, A, 1).1, Err(SwapError::Full));
    for page in 0..8 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    assert_eq!(world.page_out(&disk, &space, A, 4), 4);
    check(&world, &[&space]);
}

#[test]
fn more_faults_than_transfers_wait_for_one() {
    let world = World::with(1024, |config| config.fault_slots = 400, 0);
    let disk = world.swap(1024);
    let space = written(&world, 300);
    world.page_out(&disk, &space, A, 300);
    disk.at_once(false);
    // Backwards, so that nothing is read ahead.
    let mut faults: Vec<_> = (0..300).rev().map(|page| fault(&space, page, Access::Read)).collect();
    for fault in &mut faults {
        assert!(world.poll(fault.as_mut()).is_pending());
    }
    let mut done = 0;
    while done < 300 {
        for _ in 0..40 {
            world.serve();
        }
        let waiting = disk.waiting();
        assert!(waiting > 0 && waiting <= 256, "{waiting} transfers are at the disk");
        disk.finish(waiting / 2);
        done += 1;
    }
    for _ in 0..40 {
        world.serve();
    }
    for fault in &mut faults {
        assert!(matches!(world.poll(fault.as_mut()), Poll::Ready(Ok(_))));
    }
    drop(faults);
    check(&world, &[&space]);
}

#[test]
fn a_fault_without_a_frame_waits_and_reads_then() {
    let world = World::new(128);
    let disk = world.swap(64);
    let space = written(&world, 2);
    world.page_out(&disk, &space, A, 2);
    let mut held = Vec::new();
    while let Ok(frame) = world.memory.frames().allocate(0) {
        held.push(frame);
    }
    let mut waits = fault(&space, 0, Access::Read);
    assert!(world.poll(waits.as_mut()).is_pending());
    world.serve();
    assert_eq!(world.memory.faults_waiting_for_memory(), 1);
    assert_eq!(state_of(&world, slot_of(&space, 0)), SlotState::Out);
    held.clear();
    world.serve();
    world.serve();
    assert!(matches!(world.poll(waits.as_mut()), Poll::Ready(Ok(_))));
    drop(waits);
    check(&world, &[&space]);
}

#[test]
fn swap_is_switched_on_once_and_refuses_what_it_cannot_use() {
    let world = World::new(64);
    let disk = |pages| {
        let disk = Disk::new(&world, pages);
        faultline_fallible::unsize!(disk => dyn BlockDevice)
    };
    assert_eq!(world.memory.swap_on(disk(0)), Err(SwapError::TooSmall));
    assert_eq!(world.memory.swap_stats(), SwapStats::default());
    assert_eq!(world.memory.swap_on(disk(8)), Ok(()));
    assert_eq!(world.memory.swap_on(disk(8)), Err(SwapError::AlreadyOn));
    assert_eq!(world.memory.swap_stats().slots, 8);
}

#[test]
fn the_kernels_copies_wait_for_swapped_pages() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 3);
    world.page_out(&disk, &space, A, 3);
    assert!(!space.try_read_user(A, &mut [0; 8]));
    disk.at_once(false);
    let mut bytes = std::vec![0; 2 * PAGE_SIZE as usize + 8];
    {
        let mut copy = pin!(space.read_user(A, &mut bytes));
        for _ in 0..8 {
            if world.poll(copy.as_mut()).is_ready() {
                break;
            }
            world.serve();
            disk.finish_all();
            world.serve();
        }
    }
    for page in 0..3 {
        assert_eq!(bytes[page * PAGE_SIZE as usize], page as u8 + 1);
    }
}

#[test]
fn a_fault_that_waited_for_the_device_says_so() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 2);
    assert_eq!(world.page_out(&disk, &space, A, 2), 2);
    disk.at_once(false);
    let mut first = fault(&space, 1, Access::Read);
    assert!(world.poll(first.as_mut()).is_pending());
    world.serve();
    disk.finish_all();
    world.serve();
    let swap = faultline_trace::FaultClass::Swap;
    assert_eq!(world.poll(first.as_mut()), Poll::Ready(Ok(FaultOutcome::Read(swap))));
    drop(first);
    // It leaves, and comes back from its frame; the fault's slot is the one that has waited before.
    let left = world.leave(&space, A + PAGE_SIZE, 1).0;
    assert!(matches!(left[..], [Left::Clean(_)]), "{left:?}");
    assert_eq!(
        world.run(fault(&space, 1, Access::Read)),
        Ok(FaultOutcome::Resolved(swap))
    );
}
