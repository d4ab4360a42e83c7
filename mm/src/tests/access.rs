//! Case 11: the kernel's accesses to user memory.

use core::pin::pin;
use faultline_fallible::Arc;
use std::string::ToString;
use std::vec::Vec;

use super::machine::*;
use super::walk::Walk;
use crate::*;

const A: u64 = 0x1000_0000;
const PAGE: usize = PAGE_SIZE as usize;

fn lazy(world: &World, pages: u64, protection: Protection) -> Vas {
    let space = world.space();
    space
        .map_lazy(at(A), pages * PAGE_SIZE, protection, Backing::Anonymous)
        .unwrap();
    space
}

#[test]
fn case_11_a_bad_pointer_is_a_typed_error_and_moves_nothing() {
    let world = World::new(64);
    let space = lazy(&world, 1, RW);
    let mut buffer = [7; 16];
    for address in [0, 0x10, A - 16, A + PAGE_SIZE, USER_END, USER_END - 8] {
        let expected = UserCopyError {
            copied: 0,
            cause: FaultError::NoRegion {
                address,
                access: Access::Read,
            },
        };
        assert_eq!(world.run(space.read_user(address, &mut buffer)), Err(expected));
    }
    for address in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff] {
        let error = world.run(space.write_user(address, &buffer)).unwrap_err();
        assert!(matches!(error.cause, FaultError::NonCanonical { .. }), "{error}");
    }
    for address in [0xffff_8000_0000_0000, u64::MAX - 3] {
        let error = world.run(space.write_user(address, &buffer)).unwrap_err();
        assert!(matches!(error.cause, FaultError::KernelAddress { .. }), "{error}");
    }
    assert_eq!(buffer, [7; 16]);
    assert_eq!(world.run(space.read_user(0, &mut [])), Ok(()), "no byte, no error");
    assert_eq!(space.get_stats().resident_pages, 0);
}

#[test]
fn case_11_a_good_lazy_pointer_is_resolved_across_pages() {
    let world = World::new(64);
    let space = lazy(&world, 3, RW);
    let bytes: Vec<u8> = (0..2 * PAGE).map(|index| (index % 251) as u8).collect();
    world.run(space.write_user(A + 2048, &bytes)).unwrap();
    assert_eq!(space.get_stats().resident_pages, 3);
    let mut back = std::vec![0; bytes.len()];
    world.run(space.read_user(A + 2048, &mut back)).unwrap();
    assert_eq!(back, bytes);
    let mut around = [1; 4];
    world.run(space.read_user(A + 2046, &mut around)).unwrap();
    assert_eq!(around, [0, 0, 0, 1]);
}

#[test]
fn case_11_a_copy_says_how_far_it_came() {
    let world = World::new(64);
    let space = lazy(&world, 1, RW);
    let error = world.run(space.write_user(A + PAGE_SIZE - 5, &[1; 10])).unwrap_err();
    let at = A + PAGE_SIZE;
    let cause = |access| FaultError::NoRegion { address: at, access };
    assert_eq!((error.copied, error.cause), (5, cause(Access::Write)));
    let mut buffer = [0; 10];
    let error = world.run(space.read_user(A + PAGE_SIZE - 5, &mut buffer)).unwrap_err();
    assert_eq!((error.copied, error.cause), (5, cause(Access::Read)));
    assert_eq!(buffer, [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
    assert!(error.to_string().contains("after 5 bytes"));
}

#[test]
fn case_11_the_kernel_writes_nothing_that_user_mode_could_not() {
    let world = World::new(64);
    let space = lazy(&world, 4, RW);
    world.write(&space, A, 5).unwrap();
    for protection in [R, NONE, Protection::READ_EXECUTE] {
        space.protect_region(at(A), PAGE_SIZE, protection).unwrap();
        let refused = world.write(&space, A, 6);
        assert!(matches!(refused, Err(FaultError::Protection { .. })), "{protection}");
    }
    space.protect_region(at(A), PAGE_SIZE, NONE).unwrap();
    assert!(matches!(world.read(&space, A), Err(FaultError::Protection { .. })));
    space.protect_region(at(A), PAGE_SIZE, R).unwrap();
    assert_eq!(world.read(&space, A), Ok(5));
}

#[test]
fn case_11_a_kernel_write_breaks_copy_on_write() {
    let world = World::new(64);
    let parent = lazy(&world, 2, RW);
    world.write(&parent, A, 5).unwrap();
    let child = parent.fork().unwrap();
    world.write(&child, A, 6).unwrap();
    world.write(&parent, A + PAGE_SIZE, 7).unwrap();
    assert_eq!((world.read(&parent, A), world.read(&child, A)), (Ok(5), Ok(6)));
    assert_eq!(world.read(&child, A + PAGE_SIZE), Ok(0));
    Walk::of(&world, [&parent, &child]).check_counts(&world, &[]);
}

#[test]
fn case_11_memory_that_goes_away_while_the_call_waits_is_an_error() {
    let world = World::new(64);
    let space = lazy(&world, 2, RW);
    let bytes = [9; 2 * PAGE];
    let mut copy = pin!(space.write_user(A, &bytes));
    assert!(world.poll(copy.as_mut()).is_pending());
    world.serve();
    assert!(world.poll(copy.as_mut()).is_pending(), "the second page");
    space.unmap(at(A + PAGE_SIZE), PAGE_SIZE).unwrap();
    let error = world.run(copy).unwrap_err();
    assert_eq!(error.copied, PAGE);
    assert!(matches!(error.cause, FaultError::NoRegion { .. }));
    // And one that is dropped while it waits withdraws its fault.
    let mut copy = std::boxed::Box::pin(space.write_user(A, &bytes));
    assert!(
        world.poll(copy.as_mut()).is_ready(),
        "the first page was there, the second is not"
    );
    space
        .map_lazy(at(A + PAGE_SIZE), PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    copy.set(space.write_user(A, &bytes));
    assert!(world.poll(copy.as_mut()).is_pending());
    drop(copy);
    world.serve();
    assert_eq!(world.memory.faults_in_flight(), 0);
}

#[test]
fn case_11_strings_end_at_their_zero_wherever_it_is() {
    let world = World::new(64);
    let space = lazy(&world, 2, RW);
    let text: Vec<u8> = (0..600).map(|index| b'a' + (index % 26) as u8).collect();
    let start = A + PAGE_SIZE - 300;
    world.run(space.write_user(start, &text)).unwrap();
    let read = |from, limit| -> Result<_, UserCopyError> {
        let mut buffer = std::vec![0; limit];
        let string = world.run(space.read_user_string(from, &mut buffer))?;
        Ok(string.map(<[u8]>::to_vec))
    };
    assert_eq!(read(start, 4096), Ok(Some(text.clone())));
    assert_eq!(read(start, 600), Ok(None), "no zero within the limit");
    assert_eq!(read(start, 601), Ok(Some(text.clone())));
    assert_eq!(read(start, 0), Ok(None));
    assert_eq!(read(start + 600, 16), Ok(Some(Vec::new())));
    // A string that runs into a hole, and one that ends just before it.
    let end = A + 2 * PAGE_SIZE;
    world.run(space.write_user(end - 4, b"abcd")).unwrap();
    let error = read(end - 4, 100).unwrap_err();
    assert_eq!(error.copied, 4);
    assert!(matches!(error.cause, FaultError::NoRegion { address, .. } if address == end));
    world.run(space.write_user(end - 1, &[0])).unwrap();
    assert_eq!(read(end - 4, 100), Ok(Some(b"abc".to_vec())));
}

#[test]
fn case_11_a_futex_word_is_read_and_changed_under_the_lock() {
    let world = World::new(64);
    let parent = lazy(&world, 1, RW);
    let object = MemoryObject::new(world.memory.frames(), PAGE_SIZE).unwrap();
    let backing = Backing::Shared {
        object: Arc::clone(&object),
        offset: 0,
    };
    let shared = A + MIB;
    parent.map_lazy(at(shared), PAGE_SIZE, RW, backing).unwrap();
    let update = |space: &Vas, address, new| space.update_user_word(address, Access::Write, |_| new);
    assert_eq!(update(&parent, A, Some(1)), None, "a fault has to be resolved first");
    for address in [A, shared] {
        world.touch(&parent, address, Access::Write).unwrap();
        assert_eq!(update(&parent, address, Some(5)).unwrap().0, 0);
        assert_eq!(update(&parent, address, None).unwrap().0, 5);
    }
    assert_eq!(update(&parent, A + 2, None), None, "not aligned");
    assert_eq!(update(&parent, USER_END, None), None);
    let child = parent.fork().unwrap();
    assert_eq!(update(&child, A, Some(6)), None, "copy-on-write is a fault");
    for address in [A, shared] {
        world.touch(&child, address, Access::Write).unwrap();
    }
    world.touch(&parent, shared, Access::Write).unwrap();
    // Shared memory is the same word in both spaces; private memory is not.
    let key = |space: &Vas, address| space.update_user_word(address, Access::Read, |_| None).unwrap().1;
    assert_eq!(key(&child, shared), key(&parent, shared));
    assert_ne!(key(&child, A), key(&parent, A));
    assert_eq!(update(&child, shared, Some(7)).unwrap().0, 5);
    assert_eq!(update(&parent, shared, None).unwrap().0, 7);
}

#[test]
fn case_11_populate_touches_every_page() {
    let world = World::new(64);
    let space = lazy(&world, 5, RW);
    let range = PageRange::aligned(at(A), 5 * PAGE_SIZE).unwrap();
    world.run(space.populate(range, Access::Write)).unwrap();
    assert_eq!(space.get_stats().resident_pages, 5);
    let beyond = PageRange::aligned(at(A + 3 * PAGE_SIZE), 4 * PAGE_SIZE).unwrap();
    let hole = A + 5 * PAGE_SIZE;
    let error = world.run(space.populate(beyond, Access::Read)).unwrap_err();
    assert_eq!(error.address(), hole);
    let mut resident = Vec::new();
    space.map_lazy(at(hole), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    space
        .resident(at(A + 3 * PAGE_SIZE), 3 * PAGE_SIZE, |page| resident.push(page))
        .unwrap();
    assert_eq!(resident, [true, true, false]);
    let refused = space.resident(at(hole), 2 * PAGE_SIZE, |_| unreachable!());
    assert_eq!(
        refused,
        Err(VasError::NotMapped {
            address: hole + PAGE_SIZE
        })
    );
}

#[test]
fn populate_looks_again_after_a_fault_that_asks_for_it() {
    let world = World::new(64);
    let space = lazy(&world, 1, RW);
    let range = PageRange::aligned(at(A), PAGE_SIZE).unwrap();
    let mut populate = pin!(space.populate(range, Access::Write));
    assert!(world.poll(populate.as_mut()).is_pending());
    // The region changes under the fault, and allows it all the same.
    space.advise(at(A), PAGE_SIZE, Advice::DontNeed).unwrap();
    world.run(populate).unwrap();
    assert!(space.is_mapped_for(A, Access::Write));
}

#[test]
fn copies_can_go_to_another_thread() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let world = World::new(64);
    let space = lazy(&world, 1, RW);
    let mut bytes = [0; 8];
    world.run(sendable(space.write_user(A, &[1; 8]))).unwrap();
    world.run(sendable(space.read_user(A, &mut bytes))).unwrap();
    drop(sendable(space.handle_page_fault(FaultInfo::user(A, Access::Read))));
    drop(sendable(space.read_user_string(A, &mut [0; 8])));
    drop(sendable(space.flushed(1)));
    assert_eq!(bytes, [1; 8]);
}
