//! Cases 1 to 14: demand paging.

use core::pin::pin;

use faultline_trace::{FaultClass, Kind};

use super::machine::*;
use crate::*;

const A: u64 = 0x1000_0000;

#[test]
fn case_01_map_lazy_takes_no_frame_and_a_touch_maps_one_page() {
    let world = World::new(64);
    let space = world.space();
    let before = world.free();
    space.map_lazy(at(A), 4 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    assert_eq!(world.free(), before);
    assert_eq!(
        world.fault(&space, A + PAGE_SIZE, Access::Write),
        Ok(FaultOutcome::Resolved(FaultClass::DemandZero))
    );
    assert_eq!(space.get_stats().resident_pages, 1);
    // Three tables and the page.
    assert_eq!(world.free(), before - 4);
    assert!(!space.is_mapped_for(A, Access::Read) && !space.is_mapped_for(A + 2 * PAGE_SIZE, Access::Read));
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(0));
    // A read maps the shared frame of zeros: no frame is taken.
    let before = world.free();
    assert_eq!(world.read(&space, A), Ok(0));
    assert_eq!(world.free(), before);
}

#[test]
fn the_life_of_one_fault_is_this_list_of_events() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), 4 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    world.touch(&space, A, Access::Write).unwrap();
    world.take_events();
    world.fault(&space, A + PAGE_SIZE, Access::Write).unwrap();
    assert_eq!(
        world.take_events(),
        [
            Kind::FaultQueue,
            Kind::FaultServe,
            Kind::FaultFrame,
            Kind::FaultFill,
            Kind::FaultCommit,
            Kind::FaultWake
        ]
    );
}

#[test]
fn case_02_two_faults_on_one_page_take_one_frame_and_both_are_woken() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut first = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    let mut second = pin!(space.handle_page_fault(FaultInfo::user(A + 8, Access::Read)));
    assert!(world.poll(first.as_mut()).is_pending());
    assert!(world.poll(second.as_mut()).is_pending());
    assert_eq!(world.memory.faults_in_flight(), 1);
    world.serve();
    assert_eq!(
        world.poll(first.as_mut()),
        core::task::Poll::Ready(Ok(FaultOutcome::Resolved(FaultClass::DemandZero)))
    );
    assert_eq!(
        world.poll(second.as_mut()),
        core::task::Poll::Ready(Ok(FaultOutcome::Resolved(FaultClass::DemandZero)))
    );
    assert_eq!(space.get_stats().resident_pages, 1);
    assert_eq!(world.memory.stats().coalesced, 1);
}

#[test]
fn forty_waiters_on_one_page_are_all_woken() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut futures: std::vec::Vec<_> = (0..40)
        .map(|i| std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A + i, Access::Write))))
        .collect();
    for future in &mut futures {
        assert!(world.poll(future.as_mut()).is_pending());
    }
    futures.truncate(37);
    world.serve();
    for future in &mut futures {
        assert!(world.poll(future.as_mut()).is_ready());
    }
    assert_eq!(space.get_stats().resident_pages, 1);
}

#[test]
fn case_03_a_fault_on_an_entry_that_allows_it_is_spurious() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    world.touch(&space, A, Access::Write).unwrap();
    let free = world.free();
    world.take_asked();
    assert_eq!(world.fault(&space, A, Access::Write), Ok(FaultOutcome::Spurious));
    assert_eq!(world.free(), free);
    assert_eq!(world.take_asked(), [Asked::Page(A)]);
}

#[test]
fn case_04_unmapping_under_a_queued_fault_gives_the_region_error() {
    let world = World::new(64);
    let space = world.space();
    for with_table in [false, true] {
        space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        if with_table {
            world.touch(&space, A + PAGE_SIZE, Access::Write).unwrap();
        }
        let free = world.free();
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A + 4, Access::Write)));
        assert!(world.poll(fault.as_mut()).is_pending());
        space.unmap(at(A), PAGE_SIZE).unwrap();
        assert_eq!(
            world.run(fault),
            Err(FaultError::NoRegion {
                address: A + 4,
                access: Access::Write
            })
        );
        assert_eq!(world.free(), free);
        space.unmap(at(A), 2 * PAGE_SIZE).unwrap();
    }
}

#[test]
fn unmapping_and_mapping_again_does_not_let_the_old_fault_complete() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    world.touch(&space, A + PAGE_SIZE, Access::Write).unwrap();
    let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(fault.as_mut()).is_pending());
    space.unmap(at(A), PAGE_SIZE).unwrap();
    space.map_lazy(at(A), PAGE_SIZE, R, Backing::Anonymous).unwrap();
    // A new fault on the same page is in flight when the old one is served.
    let mut new = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Read)));
    assert!(world.poll(new.as_mut()).is_pending());
    assert_eq!(
        world.run(fault),
        Err(FaultError::Protection {
            address: A,
            access: Access::Write,
            protection: R
        })
    );
    assert_eq!(world.run(new), Ok(FaultOutcome::Resolved(FaultClass::ZeroPage)));
    assert!(!space.is_mapped_for(A, Access::Write));
}

#[test]
fn case_05_protecting_under_a_queued_fault_is_seen_at_commit() {
    let world = World::new(64);
    let space = world.space();
    for (with_table, protection) in [(false, R), (true, R), (true, NONE), (false, NONE)] {
        space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        if with_table {
            world.touch(&space, A + PAGE_SIZE, Access::Write).unwrap();
        }
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
        assert!(world.poll(fault.as_mut()).is_pending());
        space.protect_region(at(A), 2 * PAGE_SIZE, protection).unwrap();
        assert_eq!(
            world.run(fault),
            Err(FaultError::Protection {
                address: A,
                access: Access::Write,
                protection
            })
        );
        space.unmap(at(A), 2 * PAGE_SIZE).unwrap();
    }
}

#[test]
fn case_06_a_killed_thread_withdraws_its_fault() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    world.touch(&space, A + PAGE_SIZE, Access::Write).unwrap();
    let free = world.free();
    world.take_events();
    {
        let mut fault = std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
        assert!(world.poll(fault.as_mut()).is_pending());
    }
    world.serve();
    assert_eq!(world.take_events(), [Kind::FaultQueue, Kind::FaultCancel]);
    assert_eq!(world.free(), free);
    assert_eq!(world.memory.faults_in_flight(), 0);
    assert_eq!(
        world.fault(&space, A, Access::Write),
        Ok(FaultOutcome::Resolved(FaultClass::DemandZero))
    );
}

#[test]
fn a_withdrawn_fault_can_be_joined_before_the_service_looks() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut first = std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(first.as_mut()).is_pending());
    drop(first);
    assert_eq!(
        world.fault(&space, A, Access::Write),
        Ok(FaultOutcome::Resolved(FaultClass::DemandZero))
    );
}

#[test]
fn case_07_no_commit_into_the_tables_of_a_space_that_is_gone() {
    let world = World::new(64);
    let space = world.space();
    let free = world.free();
    for destroy in [false, true] {
        space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        world.touch(&space, A + PAGE_SIZE, Access::Write).unwrap();
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
        assert!(world.poll(fault.as_mut()).is_pending());
        let expected = if destroy {
            space.destroy();
            FaultError::SpaceGone { address: A }
        } else {
            space.clear_user_space();
            FaultError::NoRegion {
                address: A,
                access: Access::Write,
            }
        };
        assert_eq!(world.run(fault), Err(expected));
    }
    drop(space);
    assert_eq!(world.free(), free + 1);
}

#[test]
fn a_space_dropped_while_its_fault_is_forgotten_loses_nothing() {
    let world = World::new(64);
    let free = world.free();
    let space = world.space();
    space.map_lazy(at(A), 2 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut fault = std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(fault.as_mut()).is_pending());
    drop(fault);
    drop(space);
    assert_eq!(world.free(), free);
    world.serve();
    assert_eq!(world.memory.faults_in_flight(), 0);
}

#[test]
fn case_08_without_memory_faults_wait_and_go_on_after_a_free() {
    let world = World::new(12);
    let space = world.space();
    space.map_lazy(at(A), 64 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut page = 0;
    while world.free() > 0 {
        world.touch(&space, A + page * PAGE_SIZE, Access::Write).unwrap();
        page += 1;
    }
    let mut first = pin!(space.handle_page_fault(FaultInfo::user(A + page * PAGE_SIZE, Access::Write)));
    let mut second = pin!(space.handle_page_fault(FaultInfo::user(A + (page + 1) * PAGE_SIZE, Access::Write)));
    assert!(world.poll(first.as_mut()).is_pending());
    assert!(world.poll(second.as_mut()).is_pending());
    world.serve();
    assert_eq!(world.memory.faults_waiting_for_memory(), 2);
    // A bad address is refused although memory is short.
    assert!(matches!(
        world.fault(&space, 0x10, Access::Read),
        Err(FaultError::NoRegion { .. })
    ));
    space.unmap(at(A), PAGE_SIZE).unwrap();
    world.serve();
    assert!(world.poll(first.as_mut()).is_ready());
    assert!(world.poll(second.as_mut()).is_pending());
    space.unmap(at(A + PAGE_SIZE), PAGE_SIZE).unwrap();
    assert_eq!(world.run(second), Ok(FaultOutcome::Resolved(FaultClass::DemandZero)));
}

#[test]
fn case_09_a_page_never_shows_what_its_frame_held_before() {
    let world = World::new(40);
    let space = world.space();
    for round in 0..8 {
        space.map_lazy(at(A), 16 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        for page in 0..16 {
            let address = A + page * PAGE_SIZE;
            assert_eq!(world.read(&space, address + 8 * page), Ok(0), "round {round}");
            world.write(&space, address + 8 * page, u64::MAX).unwrap();
            assert_eq!(world.read(&space, address + 4088), Ok(0), "round {round}");
        }
        space.unmap(at(A), 16 * PAGE_SIZE).unwrap();
    }
}

#[test]
fn a_page_that_can_not_be_had_is_told_to_every_waiter_and_the_slot_is_free() {
    let world = World::new(64);
    let space = world.space();
    let mut file = TestFile::new(std::vec![7; 4096]);
    file.fails = true;
    space
        .map_lazy(
            at(A),
            2 * PAGE_SIZE,
            R,
            Backing::File {
                file: source(file),
                offset: 0,
            },
        )
        .unwrap();
    let free = world.free();
    let mut first = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Read)));
    let mut second = pin!(space.handle_page_fault(FaultInfo::user(A + 8, Access::Read)));
    assert!(world.poll(first.as_mut()).is_pending() && world.poll(second.as_mut()).is_pending());
    assert_eq!(world.run(first), Err(FaultError::ReadFailed { address: A }));
    assert_eq!(world.run(second), Err(FaultError::ReadFailed { address: A + 8 }));
    assert_eq!(
        world.fault(&space, A + PAGE_SIZE, Access::Read),
        Err(FaultError::BeyondEnd {
            address: A + PAGE_SIZE,
            access: Access::Read
        })
    );
    space.unmap(at(A), 2 * PAGE_SIZE).unwrap();
    assert_eq!(world.free(), free);
}

#[test]
fn case_12_the_same_address_in_two_spaces_is_two_faults() {
    let world = World::new(64);
    let (a, b) = (world.space(), world.space());
    for space in [&a, &b] {
        space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    }
    let mut first = pin!(a.handle_page_fault(FaultInfo::user(A, Access::Write)));
    let mut second = pin!(b.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(first.as_mut()).is_pending() && world.poll(second.as_mut()).is_pending());
    assert_eq!(world.memory.faults_in_flight(), 2);
    assert_eq!(world.run(first), Ok(FaultOutcome::Resolved(FaultClass::DemandZero)));
    assert_eq!(world.run(second), Ok(FaultOutcome::Resolved(FaultClass::DemandZero)));
    world.write(&a, A, 1).unwrap();
    assert_eq!(world.read(&b, A), Ok(0));
}

#[test]
fn case_13_each_wrong_access_has_its_own_error() {
    let world = World::new(64);
    let space = world.space();
    space.map_lazy(at(A), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    space
        .map_lazy(at(A + PAGE_SIZE), PAGE_SIZE, R, Backing::Anonymous)
        .unwrap();
    space
        .map_lazy(at(A + 2 * PAGE_SIZE), PAGE_SIZE, NONE, Backing::Anonymous)
        .unwrap();
    let fault = |address, access| world.fault(&space, address, access).unwrap_err();
    for touched in [false, true] {
        assert!(matches!(fault(A, Access::Execute), FaultError::Protection { .. }));
        assert!(matches!(
            fault(A + PAGE_SIZE, Access::Write),
            FaultError::Protection { protection: R, .. }
        ));
        assert!(matches!(
            fault(A + 2 * PAGE_SIZE, Access::Read),
            FaultError::Protection { .. }
        ));
        if !touched {
            world.touch(&space, A, Access::Write).unwrap();
            world.touch(&space, A + PAGE_SIZE, Access::Read).unwrap();
        }
    }
    assert!(matches!(
        fault(0xffff_8000_0000_0000, Access::Read),
        FaultError::KernelAddress { .. }
    ));
    assert!(matches!(
        fault(0x8000_0000_0000, Access::Read),
        FaultError::NonCanonical { .. }
    ));
    assert!(matches!(fault(USER_END, Access::Read), FaultError::NoRegion { .. }));
    assert_eq!(
        fault(0, Access::Write),
        FaultError::NoRegion {
            address: 0,
            access: Access::Write
        }
    );
}

#[test]
fn case_14_a_stack_grows_to_its_cap_and_keeps_its_guard() {
    let world = World::new(64);
    let space = world.space();
    let top = space.stack_top().as_u64();
    space
        .map_with(
            at(top - PAGE_SIZE),
            PAGE_SIZE,
            RW,
            Backing::Anonymous,
            RegionFlags::STACK,
        )
        .unwrap();
    space.set_stack_size(16 * MIB).unwrap();
    world.touch(&space, top - 3 * PAGE_SIZE, Access::Write).unwrap();
    assert_eq!(space.get_stats().regions, 1);
    let limit = top - 16 * MIB;
    assert_eq!(
        world.fault(&space, limit - 8, Access::Write),
        Err(FaultError::StackLimit {
            address: limit - 8,
            access: Access::Write,
            limit
        })
    );
    // A neighbour keeps a gap of 1 MiB, and is never merged with.
    let neighbour = top - 4 * MIB;
    space
        .map_lazy(at(neighbour - PAGE_SIZE), PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    assert!(matches!(
        world.fault(&space, neighbour, Access::Write),
        Err(FaultError::StackLimit { .. })
    ));
    world.touch(&space, neighbour + MIB, Access::Write).unwrap();
    assert_eq!(space.get_stats().regions, 2);
}

#[test]
fn faults_wait_for_a_slot_when_all_are_taken() {
    let world = World::with(64, |config| config.fault_slots = 2, 0);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut futures: std::vec::Vec<_> = (0..6)
        .map(|page| std::boxed::Box::pin(space.handle_page_fault(FaultInfo::user(A + page * PAGE_SIZE, Access::Write))))
        .collect();
    for future in &mut futures {
        assert!(world.poll(future.as_mut()).is_pending());
    }
    assert_eq!(world.memory.stats().slot_waits, 4);
    drop(futures.remove(3));
    for future in futures {
        assert_eq!(world.run(future), Ok(FaultOutcome::Resolved(FaultClass::DemandZero)));
    }
    assert_eq!(space.get_stats().resident_pages, 5);
}

#[test]
fn inline_mode_serves_in_the_first_poll() {
    let world = World::with(64, |config| config.fault_mode = FaultMode::Inline, 0);
    let space = world.space();
    space.map_lazy(at(A), 8 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let fault = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Write)));
    assert!(world.poll(fault).is_ready());
    assert_eq!(space.faults_served()[FaultClass::DemandZero as usize], 1);
}

#[test]
fn file_faults_map_neighbours_that_are_in_memory() {
    let world = World::new(64);
    let space = world.space();
    let mut file = TestFile::new((0..20 * 4096u32).map(|i| (i / 4096) as u8).collect());
    for index in 0..20 {
        let mut frame = world.memory.frames().allocate(0).unwrap().pin();
        if index == 5 {
            frame = Pfn::NONE;
        }
        if frame != Pfn::NONE {
            let page = world.memory.platform().phys_to_virt(frame.address());
            // SAFETY: the frame was just taken from the allocator.
            unsafe { page.write_bytes(index as u8, 4096) };
            file.frames[index] = Some(frame.frame());
        }
    }
    space
        .map_lazy(
            at(A),
            20 * PAGE_SIZE,
            RW,
            Backing::File {
                file: source(file),
                offset: 0,
            },
        )
        .unwrap();
    world.touch(&space, A + 3 * PAGE_SIZE, Access::Read).unwrap();
    let mapped = (0..20)
        .filter(|page| space.is_mapped_for(A + page * PAGE_SIZE, Access::Read))
        .count();
    assert_eq!(mapped, 15);
    for page in 0..20 {
        assert_eq!(
            world.read(&space, A + page * PAGE_SIZE),
            Ok(page * 0x0101_0101_0101_0101)
        );
    }
    // A private write copies; the file keeps its content.
    world.write(&space, A + 3 * PAGE_SIZE, 99).unwrap();
    let other = world.space();
    drop(other);
    assert_eq!(world.read(&space, A + 3 * PAGE_SIZE), Ok(99));
    assert_eq!(world.read(&space, A + 3 * PAGE_SIZE + 8), Ok(0x0303_0303_0303_0303));
}

#[test]
fn a_panic_of_a_backing_object_reaches_the_waiter_as_an_error() {
    struct Broken;
    impl PageSource for Broken {
        fn len(&self) -> u64 {
            PAGE_SIZE
        }
        fn resident(&self, _: u64) -> Option<x86_64::structures::paging::PhysFrame> {
            None
        }
        fn fill(&self, _: u64, _: &mut [u8; 4096]) -> Result<(), FillError> {
            panic!("broken on purpose")
        }
    }
    let world = World::new(64);
    let space = world.space();
    space
        .map_lazy(
            at(A),
            PAGE_SIZE,
            R,
            Backing::File {
                file: source(Broken),
                offset: 0,
            },
        )
        .unwrap();
    let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A, Access::Read)));
    assert!(world.poll(fault.as_mut()).is_pending());
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.serve()));
    assert!(served.is_err());
    assert_eq!(
        world.poll(fault),
        core::task::Poll::Ready(Err(FaultError::ReadFailed { address: A }))
    );
    assert_eq!(world.memory.faults_in_flight(), 0);
}

#[test]
fn a_file_in_the_last_pages_of_the_user_half_maps_its_neighbours() {
    let world = World::new(64);
    let space = world.space();
    let mut file = TestFile::new(std::vec![1; 4 * 4096]);
    for index in 0..4 {
        let frame = world.memory.frames().allocate(0).unwrap().pin();
        file.frames[index] = Some(frame.frame());
    }
    let start = USER_END - 4 * PAGE_SIZE;
    let backing = Backing::File {
        file: source(file),
        offset: 0,
    };
    space.map_lazy(at(start), 4 * PAGE_SIZE, R, backing).unwrap();
    world.touch(&space, USER_END - 1, Access::Read).unwrap();
    assert!(space.is_mapped_for(start, Access::Read));
}
