//! Shared memory as the kernel reads and writes it.

use super::machine::*;
use crate::*;

#[test]
fn an_object_is_written_read_and_resized_and_gives_its_frames_back() {
    let world = World::new(64);
    let before = world.account();
    let object = MemoryObject::empty(world.memory.frames()).unwrap();
    assert_eq!(
        object.write(world.memory, 0, b"x"),
        Ok(0),
        "nothing fits into an empty object"
    );
    object.resize(3 * PAGE_SIZE);
    assert_eq!(object.resident(), 0);

    // A write ends with its page; the page between the two stays without a frame.
    assert_eq!(object.write(world.memory, PAGE_SIZE - 2, b"abcd"), Ok(2));
    assert_eq!(object.write(world.memory, 2 * PAGE_SIZE, b"cd"), Ok(2));
    assert_eq!(object.resident(), 2);
    let mut bytes = [1; 4];
    assert_eq!(object.read(world.memory, PAGE_SIZE - 2, &mut bytes), Ok(2));
    assert_eq!(&bytes, b"ab\x01\x01");
    assert_eq!(object.read(world.memory, PAGE_SIZE, &mut bytes), Ok(4));
    assert_eq!(bytes, [0; 4]);

    // What a space has mapped it sees, also after the object has been cut off.
    let space = world.space();
    let backing = Backing::Shared {
        object: object.clone(),
        offset: 0,
    };
    space
        .map_lazy(at(0x1000_0000), 3 * PAGE_SIZE, Protection::READ_WRITE, backing)
        .unwrap();
    let word = u64::from_le_bytes(*b"cd\0\0\0\0\0\0");
    assert_eq!(world.read(&space, 0x1000_2000), Ok(word));
    object.resize(PAGE_SIZE);
    assert_eq!(object.resident(), 1);
    assert_eq!(world.read(&space, 0x1000_2000), Ok(word));
    assert!(world.read(&space, 0x1000_1000).is_err(), "a page beyond the end");
    object.resize(3 * PAGE_SIZE);
    assert_eq!(object.read(world.memory, 2 * PAGE_SIZE, &mut bytes), Ok(4));
    assert_eq!(bytes, [0; 4], "what was cut off does not come back");

    drop(space);
    drop(object);
    world.memory.leave_spaces();
    let after = world.account();
    assert_eq!(after.available(), before.available());
    assert_eq!(after.mapped, before.mapped);
}

#[test]
fn a_fault_finds_its_object_when_regions_have_come_and_gone() {
    let world = World::new(64);
    let space = world.space();
    let object = MemoryObject::new(world.memory.frames(), 8 * PAGE_SIZE).unwrap();
    let backing = Backing::Shared {
        object: object.clone(),
        offset: 0,
    };
    let shared = 0x1000_0000;
    space
        .map_lazy(at(shared), 8 * PAGE_SIZE, Protection::READ_WRITE, backing)
        .unwrap();
    let other = |index: u64| at(0x10_0000 + index * 2 * PAGE_SIZE);
    let map = |index: u64| space.map_lazy(other(index), PAGE_SIZE, Protection::READ, Backing::Anonymous);
    let write = |page| world.write(&space, shared + page * PAGE_SIZE, page + 1).unwrap();
    // The region is looked up, then others below it go, then they come: it stands elsewhere each time.
    (0..3).for_each(|index| map(index).unwrap());
    write(0);
    space.unmap(other(1), PAGE_SIZE).unwrap();
    write(1);
    space.unmap(other(0), 6 * PAGE_SIZE).unwrap();
    write(2);
    (0..40).for_each(|index| map(index).unwrap());
    write(3);
    space.unmap(other(0), 80 * PAGE_SIZE).unwrap();
    write(4);
    for page in 0..5 {
        let mut word = [0; 8];
        assert_eq!(object.read(world.memory, page * PAGE_SIZE, &mut word), Ok(8));
        assert_eq!(u64::from_le_bytes(word), page + 1);
    }
}

#[test]
fn a_write_without_frames_is_refused_and_changes_nothing() {
    let world = World::new(16);
    let object = MemoryObject::empty(world.memory.frames()).unwrap();
    object.resize(16 * PAGE_SIZE);
    let mut written = 0;
    while object.write(world.memory, written * PAGE_SIZE, b"x").is_ok() {
        written += 1;
        assert!(written < 16, "more pages than frames");
    }
    assert_eq!(object.resident() as u64, written);
}

#[test]
fn a_large_object_takes_what_was_written_and_finds_it() {
    const FAR: u64 = 1 << 50;
    let world = World::new(1024);
    let before = world.account();
    let object = MemoryObject::empty(world.memory.frames()).unwrap();
    object.resize(FAR * PAGE_SIZE + 1);
    for page in [FAR, 5, 1 << 20, 6, 7, 1 << 35] {
        assert_eq!(
            object.write(world.memory, page * PAGE_SIZE + 1, &[page as u8 + 1]),
            Ok(1)
        );
    }
    assert_eq!(object.resident(), 6);
    let mut byte = [0];
    assert_eq!(object.read(world.memory, 7 * PAGE_SIZE + 1, &mut byte), Ok(1));
    assert_eq!(byte, [8]);
    let mut found = std::vec::Vec::new();
    let mut next = 0;
    while let Some(page) = object.next_resident(next) {
        found.push(page);
        next = page + 1;
    }
    assert_eq!(found, [5, 6, 7, 1 << 20, 1 << 35, FAR]);
    assert_eq!(object.next_absent(0), 0);
    assert_eq!(object.next_absent(5), 8);
    assert_eq!(object.next_absent(FAR), FAR + 1);

    // A hole, its ends within a leaf and within a branch.
    object.punch(6, 1 << 20);
    assert_eq!(object.next_resident(6), Some(1 << 20));
    object.punch(0, 1 << 36);
    assert_eq!(object.next_resident(0), Some(FAR));
    assert_eq!(object.resident(), 1);
    assert_eq!(object.read(world.memory, 5 * PAGE_SIZE + 1, &mut byte), Ok(1));
    assert_eq!(byte, [0]);
    object.resize(0);
    assert_eq!((object.resident(), object.next_resident(0)), (0, None));
    while world.memory.give_back_left(1) {}
    assert_eq!(world.account().available(), before.available());
}

#[test]
fn what_a_large_object_loses_goes_back_piece_by_piece() {
    const PAGES: u64 = 3000;
    let world = World::new(PAGES as u32 + 64);
    let before = world.account();
    let object = MemoryObject::empty(world.memory.frames()).unwrap();
    object.resize(PAGES * PAGE_SIZE);
    for page in 0..PAGES {
        assert_eq!(object.write(world.memory, page * PAGE_SIZE, b"x"), Ok(1));
    }
    assert_eq!(object.next_absent(1), PAGES);
    let full = world.account().available();
    object.resize(PAGE_SIZE);
    assert_eq!(object.resident(), 1);
    let early = world.account().available() - full;
    assert!((1..200).contains(&early), "{early} frames at once");
    let mut pieces = 0;
    let mut available = world.account().available();
    while world.memory.give_back_left(100) {
        pieces += 1;
        let now = world.account().available();
        assert!(now - available < 200, "a piece is bounded");
        available = now;
    }
    assert!(pieces > 10);
    drop(object);
    while world.memory.give_back_left(1) {}
    assert_eq!(world.account().available(), before.available());
}
