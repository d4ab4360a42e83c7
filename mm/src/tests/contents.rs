//! Shared memory as the kernel reads and writes it.

use super::machine::*;
use crate::*;

#[test]
fn an_object_is_written_read_and_resized_and_gives_its_frames_back() {
    let world = World::new(64);
    let before = world.account();
    let object = SharedMemory::empty(world.memory.frames()).unwrap();
    assert_eq!(
        object.write(world.memory, 0, b"x"),
        Ok(0),
        "nothing fits into an empty object"
    );
    object.resize(3 * PAGE_SIZE).unwrap();
    assert_eq!(object.resident(), 0);

    // A write ends with its page; the page between the two stays without a frame.
    assert_eq!(object.write(world.memory, PAGE_SIZE - 2, b"abcd"), Ok(2));
    assert_eq!(object.write(world.memory, 2 * PAGE_SIZE, b"cd"), Ok(2));
    assert_eq!(object.resident(), 2);
    let mut bytes = [1; 4];
    assert_eq!(object.read(world.memory, PAGE_SIZE - 2, &mut bytes), 2);
    assert_eq!(&bytes, b"ab\x01\x01");
    assert_eq!(object.read(world.memory, PAGE_SIZE, &mut bytes), 4);
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
    object.resize(PAGE_SIZE).unwrap();
    assert_eq!(object.resident(), 1);
    assert_eq!(world.read(&space, 0x1000_2000), Ok(word));
    assert!(world.read(&space, 0x1000_1000).is_err(), "a page beyond the end");
    object.resize(3 * PAGE_SIZE).unwrap();
    assert_eq!(object.read(world.memory, 2 * PAGE_SIZE, &mut bytes), 4);
    assert_eq!(bytes, [0; 4], "what was cut off does not come back");

    drop(space);
    drop(object);
    world.memory.leave_spaces();
    let after = world.account();
    assert_eq!(after.available(), before.available());
    assert_eq!(after.mapped, before.mapped);
}

#[test]
fn a_write_without_frames_is_refused_and_changes_nothing() {
    let world = World::new(16);
    let object = SharedMemory::empty(world.memory.frames()).unwrap();
    object.resize(16 * PAGE_SIZE).unwrap();
    let mut written = 0;
    while object.write(world.memory, written * PAGE_SIZE, b"x").is_ok() {
        written += 1;
        assert!(written < 16, "more pages than frames");
    }
    assert_eq!(object.resident() as u64, written);
    assert!(object.resize(u64::MAX).is_err());
    assert_eq!(object.size(), 16 * PAGE_SIZE);
}
