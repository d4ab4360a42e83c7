//! Pages of objects that leave memory, and come back.

use core::pin::pin;
use core::task::Poll;
use std::boxed::Box;
use std::vec::Vec;

use faultline_fallible::Arc;

use super::disk::Disk;
use super::machine::*;
use super::walk::Walk;
use crate::swap::Left;
use crate::*;

const A: u64 = 0x10_0000;

/// Moves the hand over all objects until a whole round has come to nothing; says which pages left.
fn sweep(world: &World) -> Vec<Left> {
    let mut left = Vec::new();
    let (mut idle, mut steps) = (0, 0);
    while idle < 3 {
        let before = left.len();
        let mut leaving = world.memory.frames.leave();
        let step = world.memory.step_objects(5, Some(&mut leaving), |slot, frame| {
            left.push(Left::Dirty(slot, frame));
            true
        });
        idle = match (step.round, step.dropped + left.len() - before) {
            (true, 0) => idle + 1,
            (_, 0) => idle,
            _ => 0,
        };
        steps += 1;
        assert!(steps < 1000, "the hand does not come round");
    }
    left
}

/// Sweeps, writes what has left, and gives its frames back.
fn page_out(world: &World, disk: &Disk) -> usize {
    let left = sweep(world);
    world.write_out(disk, &left);
    left.len()
}

fn object(world: &World, pages: u64) -> Arc<MemoryObject> {
    let object = MemoryObject::new(world.memory.frames(), pages * PAGE_SIZE).unwrap();
    for page in 0..pages {
        object.write(world.memory, page * PAGE_SIZE, &[page as u8 + 1]).unwrap();
    }
    object
}

fn map(world: &World, object: &Arc<MemoryObject>, private: bool) -> Vas {
    let space = world.space();
    let (object, offset) = (object.clone(), 0);
    let size = object.size();
    let backing = match private {
        true => Backing::Private { object, offset },
        false => Backing::Shared { object, offset },
    };
    space.map_lazy(at(A), size, RW, backing).unwrap();
    space
}

#[test]
fn pages_that_nothing_maps_leave_and_come_back_for_faults_and_reads() {
    let world = World::new(256);
    let disk = world.swap(64);
    let free = world.free();
    let object = object(&world, 8);
    let space = map(&world, &object, false);
    assert_eq!(world.read(&space, A + 2 * PAGE_SIZE), Ok(3));
    assert_eq!(page_out(&world, &disk), 7, "a mapped page stays");
    assert_eq!(object.resident(), 8, "they are still pages of the object");
    assert_eq!(world.memory.object_pages(), (1, 0));
    assert_eq!(world.memory.swap_stats().used, 7);
    // A fault brings a page back, and those that are read with it.
    let mut byte = [0];
    let read = |byte: &mut [u8; 1]| object.read(world.memory, 5 * PAGE_SIZE, byte);
    assert_eq!(read(&mut byte), Err(PageError::NotResident { page: 5 }));
    assert_eq!(world.read(&space, A + 5 * PAGE_SIZE), Ok(6));
    assert_eq!(read(&mut byte), Ok(1));
    assert_eq!(byte, [6]);
    world.write(&space, A + 5 * PAGE_SIZE, 60).unwrap();
    // A write of the kernel to a part of a page needs the rest of it.
    let write = || object.write(world.memory, 7 * PAGE_SIZE + 8, b"x");
    assert_eq!(write(), Err(PageError::NotResident { page: 7 }));
    world.run(world.memory.page_in(&object, 7)).unwrap();
    assert_eq!(write(), Ok(1));
    Walk::of(&world, [&space]).check_counts(&world, core::slice::from_ref(&object));
    // Every page is what it was, however often it leaves.
    drop(space);
    world.memory.leave_spaces();
    for _ in 0..3 {
        page_out(&world, &disk);
        assert_eq!(world.memory.object_pages(), (0, 0));
        for page in 0..8 {
            world.run(world.memory.page_in(&object, page)).unwrap();
            assert_eq!(object.read(world.memory, page * PAGE_SIZE, &mut byte), Ok(1));
            assert_eq!(byte, [if page == 5 { 60 } else { page as u8 + 1 }]);
        }
        assert_eq!(world.memory.swap_stats().used, 0, "a page that is back has no slot");
    }
    page_out(&world, &disk);
    object.punch(0, 4);
    assert_eq!(world.memory.swap_stats().used, 4);
    assert_eq!(object.read(world.memory, 0, &mut byte), Ok(1));
    assert_eq!(byte, [0]);
    drop(object);
    while world.memory.give_back_left(1) {}
    assert_eq!(world.memory.swap_stats().used, 0);
    assert_eq!(world.free(), free);
}

#[test]
fn a_page_comes_back_from_its_frame_while_it_is_written() {
    let world = World::new(256);
    let disk = world.swap(64);
    let object = object(&world, 2);
    let left = sweep(&world);
    assert_eq!(left.len(), 2);
    let space = map(&world, &object, false);
    world.write(&space, A, 100).unwrap();
    assert_eq!(disk.started(), 0);
    // What the write has made of the slot is nobody's page any more.
    world.write_out(&disk, &left);
    world.write(&space, A, 200).unwrap();
    drop(space);
    world.memory.leave_spaces();
    page_out(&world, &disk);
    let space = map(&world, &object, true);
    assert_eq!(
        (world.read(&space, A), world.read(&space, A + PAGE_SIZE)),
        (Ok(200), Ok(2))
    );
    // A private page whose object has lost it is a page like any other: it leaves with what it is now.
    object.resize(PAGE_SIZE);
    while world.memory.give_back_left(1) {}
    world.write(&space, A + PAGE_SIZE, 300).unwrap();
    world.page_out(&disk, &space, A + PAGE_SIZE, 1);
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(300));
    drop(space);
    world.memory.leave_spaces();
}

#[test]
fn spaces_join_on_a_page_that_is_swapped_out_and_errors_reach_all() {
    let world = World::new(256);
    let disk = world.swap(64);
    let object = object(&world, 1);
    page_out(&world, &disk);
    let spaces = [map(&world, &object, false), map(&world, &object, true)];
    disk.fail(SwapSlot::new(0), true);
    for fails in [true, false] {
        disk.fail(SwapSlot::new(0), fails);
        disk.at_once(false);
        let started = disk.started();
        let mut faults: Vec<_> = spaces
            .iter()
            .map(|space| Box::pin(space.handle_page_fault(FaultInfo::user(A, Access::Read))))
            .collect();
        let mut page = pin!(world.memory.page_in(&object, 0));
        for fault in &mut faults {
            assert!(world.poll(fault.as_mut()).is_pending());
        }
        assert!(world.poll(page.as_mut()).is_pending());
        world.serve();
        assert_eq!((disk.started(), disk.waiting()), (started + 1, 1));
        disk.finish_all();
        world.serve();
        for fault in &mut faults {
            match world.poll(fault.as_mut()) {
                Poll::Ready(result) => assert_eq!(result.is_err(), fails, "{result:?}"),
                Poll::Pending => panic!("a fault waits for a read that has ended"),
            }
        }
        assert_eq!(
            world.poll(page.as_mut()).map(|result| result.is_err()),
            Poll::Ready(fails)
        );
    }
    assert_eq!(world.read(&spaces[1], A), Ok(1));
    drop(spaces);
    world.memory.leave_spaces();
}

#[test]
fn a_page_that_was_used_stays_for_a_round_and_a_kernel_page_for_ever() {
    let world = World::new(256);
    let _disk = world.swap(64);
    let kernel = MemoryObject::of_kernel(world.memory.frames()).unwrap();
    kernel.resize(PAGE_SIZE);
    kernel.write(world.memory, 0, b"x").unwrap();
    let object = object(&world, 3);
    let mut rounds = 0;
    let mut left = 0;
    let mut when = Vec::new();
    while rounds < 3 {
        // The page in the middle is read in every round.
        assert_eq!(object.read(world.memory, PAGE_SIZE, &mut [0]), Ok(1));
        let mut leaving = world.memory.frames.leave();
        let step = world.memory.step_objects(8, Some(&mut leaving), |_, _| {
            left += 1;
            true
        });
        if step.round {
            rounds += 1;
            when.push(left);
        }
    }
    assert_eq!(when, [0, 2, 2]);
    assert_eq!(kernel.read(world.memory, 0, &mut [0]), Ok(1));
    // Without a place to leave to, nothing leaves.
    let step = world.memory.step_objects(8, None, |_, _| unreachable!());
    assert_eq!(step.dropped, 0);
}

#[test]
fn switching_swap_off_brings_the_pages_of_objects_back() {
    let world = World::new(256);
    let disk = world.swap(64);
    let object = object(&world, 40);
    assert_eq!(page_out(&world, &disk), 40);
    world.run(world.memory.swap_off()).unwrap();
    assert_eq!(world.memory.object_pages(), (40, 0));
    let space = map(&world, &object, true);
    for page in 0..40 {
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    drop(space);
    world.memory.leave_spaces();
}

#[test]
fn advice_makes_the_pages_of_an_object_leave_that_nothing_maps() {
    let world = World::new(256);
    let disk = world.swap(64);
    let object = object(&world, 8);
    let spaces = [map(&world, &object, false), map(&world, &object, false)];
    for page in 0..4 {
        assert_eq!(world.read(&spaces[0], A + page * PAGE_SIZE), Ok(page + 1));
    }
    assert_eq!(world.read(&spaces[1], A + 3 * PAGE_SIZE), Ok(4));
    let range = PageRange::covering(at(A), 6 * PAGE_SIZE).unwrap();
    let out = async {
        spaces[0].page_out(range).await.unwrap();
        world.memory.page_out_object(&object, 0..6).await;
    };
    world.run(out);
    // One is mapped by the other space, two are out of the range.
    let slots: Vec<_> = (0..8).map(|page| object.slot_of(page).is_some()).collect();
    assert_eq!(slots, [true, true, true, false, true, true, false, false]);
    assert_eq!(world.memory.object_pages(), (3, 0));
    for page in 0..8 {
        assert_eq!(world.read(&spaces[1], A + page * PAGE_SIZE), Ok(page + 1));
    }
    assert!(disk.started() > 0);
    Walk::of(&world, &spaces).check_counts(&world, core::slice::from_ref(&object));
    let kernel = MemoryObject::of_kernel(world.memory.frames()).unwrap();
    kernel.resize(PAGE_SIZE);
    kernel.write(world.memory, 0, b"x").unwrap();
    world.run(world.memory.page_out_object(&kernel, 0..1));
    assert_eq!(kernel.read(world.memory, 0, &mut [0]), Ok(1));
    drop(spaces);
    world.memory.leave_spaces();
}

#[test]
fn a_hole_is_a_hole_in_every_space() {
    let world = World::new(512);
    let free = world.free();
    let object = object(&world, 40);
    let shared = map(&world, &object, false);
    let private = map(&world, &object, true);
    let child = shared.fork().unwrap();
    child.set_locked(at(A + 4 * PAGE_SIZE), PAGE_SIZE, true).unwrap();
    let spaces = [&shared, &private, &child];
    let word = |page: u64| u64::from(page as u8 + 1);
    for space in spaces {
        for page in 0..8 {
            assert_eq!(world.read(space, A + page * PAGE_SIZE), Ok(word(page)));
        }
    }
    // A copy of its own.
    world.write(&private, A + 5 * PAGE_SIZE, 500).unwrap();
    world.run(world.memory.punch_object(&object, 3..40));
    for space in spaces {
        for page in 0..8 {
            let own = page == 5 && core::ptr::eq(space, &raw const private);
            let expected = match page {
                0..3 => word(page),
                _ if own => 500,
                _ => 0,
            };
            assert_eq!(world.read(space, A + page * PAGE_SIZE), Ok(expected), "page {page}");
        }
    }
    // What is written to the hole is everybody's.
    world.write(&child, A + 4 * PAGE_SIZE, 7).unwrap();
    assert_eq!(world.read(&shared, A + 4 * PAGE_SIZE), Ok(7));
    Walk::of(&world, spaces).check_counts(&world, core::slice::from_ref(&object));
    drop((shared, private, child));
    world.memory.leave_spaces();
    drop(object);
    while world.memory.give_back_left(1) {}
    assert_eq!(world.free(), free);
}

/// A slot that is read ahead is not on the device alone, and not in a frame either: there is nothing to do but to wait.
#[test]
fn a_page_whose_slot_is_read_ahead_is_waited_for() {
    let world = World::new(256);
    let disk = world.swap(64);
    let object = object(&world, 2);
    assert_eq!(page_out(&world, &disk), 2);
    let space = map(&world, &object, false);
    for page in 0..2 {
        let slot = object.slot_of(page).unwrap().number();
        disk.at_once(false);
        assert!(world.memory.read_swap_ahead(slot..slot + 1, 0));
        assert_eq!(disk.waiting(), 1);
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(A + page * PAGE_SIZE, Access::Read)));
        let mut page_in = pin!(world.memory.page_in(&object, page));
        for _ in 0..3 {
            assert!(world.poll(fault.as_mut()).is_pending());
            assert!(world.poll(page_in.as_mut()).is_pending());
            world.serve();
        }
        assert_eq!(disk.waiting(), 1, "nobody reads it twice");
        disk.finish_all();
        world.serve();
        assert!(world.poll(fault.as_mut()).is_ready());
        assert_eq!(world.poll(page_in.as_mut()), Poll::Ready(Ok(())));
        assert_eq!(world.read(&space, A + page * PAGE_SIZE), Ok(page + 1));
    }
    drop(space);
    world.memory.leave_spaces();
}
