//! Memory objects with a file: reads in flight, who waits for them, and what comes of errors.

use core::future::Future;
use core::pin::pin;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

use faultline_fallible::{Arc, unsize};

use super::machine::*;
use super::walk::Walk;
use crate::*;

/// What a sector that is read holds, in its first eight bytes; all others hold its low byte.
fn sector_word(sector: u64) -> u64 {
    sector | 0xd15c << 48
}

/// A disk that answers when it is told to.
pub struct TestDisk {
    started: Mutex<Vec<Transfer>>,
    /// Sectors that can't be read.
    bad: Mutex<Vec<u64>>,
}

impl BlockDevice for TestDisk {
    fn name(&self) -> &str {
        "test"
    }
    fn sectors(&self) -> u64 {
        1 << 20
    }
    fn start(&self, transfer: Transfer) {
        self.started.lock().unwrap().push(transfer);
    }
}

impl TestDisk {
    fn new() -> Self {
        Self {
            started: Mutex::default(),
            bad: Mutex::default(),
        }
    }

    /// Answers the transfers that are there, the last first; says how many sectors each had.
    fn answer(&self, world: &World) -> Vec<u64> {
        let transfers = core::mem::take(&mut *self.started.lock().unwrap());
        let mut lengths = Vec::new();
        for transfer in transfers.into_iter().rev() {
            let mut result = transfer.check(self.sectors(), true);
            let mut length = 0;
            for segment in transfer.segments() {
                let to = world.memory.platform().phys_to_virt(segment.frame.start_address());
                for number in 0..u64::from(segment.length) / SECTOR_SIZE {
                    let sector = segment.sector + number;
                    if self.bad.lock().unwrap().contains(&sector) {
                        result = Err(TransferError::Device { sector });
                    }
                    let at = usize::from(segment.offset) + (number * SECTOR_SIZE) as usize;
                    // SAFETY: the piece lies in the frame, which the transfer has.
                    unsafe {
                        to.add(at).write_bytes(sector as u8, SECTOR_SIZE as usize);
                        to.add(at).cast::<u64>().write(sector_word(sector));
                    }
                }
                length += u64::from(segment.length) / SECTOR_SIZE;
            }
            lengths.push(length);
            transfer.complete(result);
        }
        lengths
    }

    fn in_flight(&self) -> usize {
        self.started.lock().unwrap().len()
    }
}

/// A file whose blocks are where its map says, each of so many bytes.
struct TestDiskFile {
    disk: Arc<TestDisk>,
    length: u64,
    block: u64,
    /// Blocks that are elsewhere; `None` is a hole.
    moved: BTreeMap<u64, Option<u64>>,
    damaged: Option<u64>,
}

impl DiskFile for TestDiskFile {
    fn len(&self) -> u64 {
        self.length
    }
    fn device(&self) -> &dyn BlockDevice {
        &*self.disk
    }
    fn locate(&self, page: u64, pieces: &mut Pieces) -> Result<(), LocateError> {
        if self.damaged == Some(page) {
            return Err(LocateError { page });
        }
        for offset in (0..PAGE_SIZE).step_by(self.block as usize) {
            let block = (page * PAGE_SIZE + offset) / self.block;
            let sector = match self.moved.get(&block) {
                Some(None) => continue,
                Some(&Some(sector)) => sector,
                None => block * self.block / SECTOR_SIZE,
            };
            pieces.push(Piece {
                sector,
                offset: offset as u16,
                length: self.block as u16,
            });
        }
        Ok(())
    }
}

const A: u64 = 0x10_0000;

struct Fixture {
    world: World,
    disk: Arc<TestDisk>,
    object: Arc<MemoryObject>,
}

impl Fixture {
    fn new(frames: u32, length: u64, change: impl FnOnce(&mut TestDiskFile)) -> Self {
        let world = World::new(frames);
        let disk = Arc::try_new(TestDisk::new()).unwrap();
        let mut file = TestDiskFile {
            disk: disk.clone(),
            length,
            block: PAGE_SIZE,
            moved: BTreeMap::new(),
            damaged: None,
        };
        change(&mut file);
        let file = Arc::try_new(file).unwrap();
        let object = MemoryObject::of_file(world.memory, unsize!(file => dyn DiskFile)).unwrap();
        Self { world, disk, object }
    }

    fn private(&self) -> Backing {
        Backing::Private {
            object: self.object.clone(),
            offset: 0,
        }
    }

    fn space(&self, protection: Protection) -> Vas {
        let space = self.world.space();
        space
            .map_lazy(at(A), self.object.size(), protection, self.private())
            .unwrap();
        space
    }

    /// Runs a future to its end, with the disk answering whenever nothing else goes on.
    fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        for _ in 0..1000 {
            if let core::task::Poll::Ready(output) = self.world.poll(future.as_mut()) {
                return output;
            }
            self.world.serve();
            self.disk.answer(&self.world);
        }
        panic!("a future did not end");
    }

    fn read(&self, space: &Vas, page: u64) -> Result<u64, FaultError> {
        let mut bytes = [0; 8];
        self.run(space.read_user(A + page * PAGE_SIZE, &mut bytes))
            .map_err(|error| error.cause)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Ends the test: everything comes back.
    fn end(self, spaces: impl IntoIterator<Item = Vas>) {
        let Self { world, disk, object } = self;
        assert_eq!(disk.in_flight(), 0);
        assert_eq!(world.memory.reads.in_flight(), 0);
        let spaces: Vec<_> = spaces.into_iter().collect();
        Walk::of(&world, &spaces).check_counts(&world, core::slice::from_ref(&object));
        drop(spaces);
        drop(object);
        world.memory.leave_spaces();
        while world.memory.give_back_left(1) {}
        assert_eq!(world.memory.object_pages(), (0, 0));
        assert_eq!(world.account().mapped, 0);
        drop(disk);
    }
}

fn fault_at(page: u64, access: Access) -> FaultInfo {
    FaultInfo::user(A + page * PAGE_SIZE, access)
}

fn word_of(page: u64) -> u64 {
    sector_word(page * 8)
}

#[test]
fn two_spaces_that_fault_on_one_page_of_a_file_share_one_read_and_one_frame() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    let (one, two) = (f.space(R), f.space(RW));
    let mut first = Box::pin(one.handle_page_fault(fault_at(5, Access::Read)));
    let mut second = Box::pin(two.handle_page_fault(fault_at(5, Access::Read)));
    assert!(f.world.poll(first.as_mut()).is_pending());
    assert!(f.world.poll(second.as_mut()).is_pending());
    f.world.serve();
    assert_eq!(f.disk.in_flight(), 1);
    assert_eq!(f.disk.answer(&f.world), [8]);
    f.world.serve();
    for future in [&mut first, &mut second] {
        assert!(f.world.poll(future.as_mut()).is_ready());
    }
    drop((first, second));
    assert_eq!(one.frame_of(A + 5 * PAGE_SIZE), two.frame_of(A + 5 * PAGE_SIZE));
    assert_eq!(f.read(&one, 5), Ok(word_of(5)));
    let stats = f.world.memory.stats();
    assert_eq!((stats.object_misses, stats.device_waits), (1, 2));
    // A write gets a copy, and nobody else sees it.
    f.run(two.write_user(A + 5 * PAGE_SIZE, &7_u64.to_le_bytes())).unwrap();
    assert_eq!((f.read(&one, 5), f.read(&two, 5)), (Ok(word_of(5)), Ok(7)));
    assert_eq!(f.world.memory.object_pages(), (1, 1));
    f.end([one, two]);
}

#[test]
fn case_10_other_faults_go_on_while_one_waits_for_a_device() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    let space = f.space(R);
    space
        .map_lazy(at(A + MIB), 8 * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    let mut slow = Box::pin(space.handle_page_fault(fault_at(2, Access::Read)));
    assert!(f.world.poll(slow.as_mut()).is_pending());
    f.world.serve();
    for page in 0..8 {
        f.world
            .touch(&space, A + MIB + page * PAGE_SIZE, Access::Write)
            .unwrap();
    }
    assert!(f.world.poll(slow.as_mut()).is_pending());
    f.disk.answer(&f.world);
    assert_eq!(
        f.world.run(slow),
        Ok(FaultOutcome::Read(faultline_trace::FaultClass::File))
    );
    assert_eq!(f.read(&space, 2), Ok(word_of(2)));
    f.end([space]);
}

#[test]
fn pages_of_small_blocks_with_holes_and_a_tail_are_put_together() {
    let length = 2 * PAGE_SIZE + 700;
    let f = Fixture::new(64, length, |file| {
        file.block = 1024;
        file.moved = BTreeMap::from([(1, Some(5000)), (2, None), (4, None), (5, None), (6, None), (7, None)]);
    });
    let mut bytes = std::vec![1; PAGE_SIZE as usize];
    f.run(f.world.memory.page_in(&f.object, 0)).unwrap();
    assert_eq!(f.object.read(f.world.memory, 0, &mut bytes), Ok(4096));
    let word_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(word_at(&bytes, 512), sector_word(1));
    assert_eq!(word_at(&bytes, 1024), sector_word(5000));
    assert_eq!(bytes[2048..3072], [0; 1024]);
    assert_eq!(word_at(&bytes, 3072), sector_word(6));
    // A page without any block needs no device.
    f.run(f.world.memory.page_in(&f.object, 1)).unwrap();
    assert_eq!(f.object.read(f.world.memory, PAGE_SIZE, &mut bytes), Ok(4096));
    assert_eq!(bytes, [0; 4096]);
    // Behind the end of the file are zeros, whatever the block has there.
    f.run(f.world.memory.page_in(&f.object, 2)).unwrap();
    assert_eq!(f.object.read(f.world.memory, 2 * PAGE_SIZE, &mut bytes), Ok(4096));
    assert_eq!(word_at(&bytes, 512), sector_word(17));
    assert_eq!(bytes[699], 17);
    assert_eq!(bytes[700..], [0; 4096 - 700]);
    f.end([]);
}

#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn a_stream_is_read_ahead_of_its_reader() {
    let f = Fixture::new(2048, 100 * PAGE_SIZE, |_| {});
    let memory = f.world.memory;
    let mut waits = 0;
    let mut lengths = Vec::new();
    for page in 0..100 {
        let mut byte = [0; 8];
        while let Err(error) = f.object.read(memory, page * PAGE_SIZE, &mut byte) {
            assert_eq!(error, PageError::NotResident { page });
            waits += 1;
            let mut future = pin!(memory.page_in(&f.object, page));
            while f.world.poll(future.as_mut()).is_pending() {
                lengths.extend(f.disk.answer(&f.world));
            }
        }
        assert_eq!(u64::from_le_bytes(byte), word_of(page));
        // The disk is done before the reader comes to the next page.
        lengths.extend(f.disk.answer(&f.world));
    }
    assert_eq!(waits, 1, "only the first page is waited for");
    assert_eq!(lengths, [4, 8, 24, 32, 32].map(|pages| pages * 8));
    let stats = memory.stats();
    assert_eq!((stats.object_misses, stats.read_ahead), (1, 99));
    f.end([]);
}

#[test]
fn reads_without_order_are_not_read_ahead() {
    let f = Fixture::new(512, 100 * PAGE_SIZE, |_| {});
    for page in [70, 20, 90, 5] {
        f.run(f.world.memory.page_in(&f.object, page)).unwrap();
    }
    assert_eq!(f.object.resident(), 4);
    // Advice does the same for a stream.
    let space = f.space(R);
    space.advise(at(A), 100 * PAGE_SIZE, Advice::Random).unwrap();
    for page in [0, 1, 2] {
        assert_eq!(f.read(&space, page), Ok(word_of(page)));
    }
    assert_eq!(f.object.resident(), 7);
    f.end([space]);
}

#[test]
fn an_error_reaches_every_waiter_of_its_page_and_nobody_else() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    f.disk.bad.lock().unwrap().push(9);
    let free = f.world.free();
    let spaces: Vec<_> = (0..3).map(|_| f.space(R)).collect();
    // The read of page 0 takes pages 1 to 3 along, of which one is bad.
    let mut faults: Vec<_> = [(0, 0), (1, 1), (2, 1)]
        .map(|(space, page): (usize, u64)| Box::pin(spaces[space].handle_page_fault(fault_at(page, Access::Read))))
        .into();
    let mut results = [None; 3];
    while results.iter().any(Option::is_none) {
        for (future, result) in faults.iter_mut().zip(&mut results) {
            if result.is_none()
                && let core::task::Poll::Ready(end) = f.world.poll(future.as_mut())
            {
                *result = Some(end);
            }
        }
        f.world.serve();
        f.disk.answer(&f.world);
    }
    let failed = |page| {
        Some(Err(FaultError::ReadFailed {
            address: A + page * PAGE_SIZE,
        }))
    };
    assert!(matches!(results[0], Some(Ok(_))), "{results:?}");
    assert_eq!(results[1..], [failed(1), failed(1)]);
    drop(faults);
    // Nothing is left of the failed page, and who comes later tries again.
    assert_eq!(f.object.next_absent(0), 1);
    assert!(f.run(f.world.memory.page_in(&f.object, 1)).is_err());
    f.disk.bad.lock().unwrap().clear();
    assert_eq!(f.read(&spaces[1], 1), Ok(word_of(1)));
    assert!(f.world.free() < free);
    f.end(spaces);
}

#[test]
fn a_page_without_a_valid_place_can_not_be_read() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |file| file.damaged = Some(2));
    let space = f.space(R);
    assert_eq!(f.read(&space, 0), Ok(word_of(0)));
    assert_eq!(f.object.next_absent(0), 2, "the read ends before the damaged page");
    let failed = FaultError::ReadFailed {
        address: A + 2 * PAGE_SIZE,
    };
    assert_eq!(f.read(&space, 2), Err(failed));
    assert_eq!(
        f.run(f.world.memory.page_in(&f.object, 2)),
        Err(PageError::ReadFailed { page: 2 })
    );
    f.end([space]);
}

#[test]
fn who_waits_for_a_page_can_leave_at_once_and_the_frame_stays_with_the_device() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    let space = f.space(R);
    {
        let mut fault = pin!(space.handle_page_fault(fault_at(6, Access::Read)));
        assert!(f.world.poll(fault.as_mut()).is_pending());
        f.world.serve();
        let mut page = pin!(f.world.memory.page_in(&f.object, 6));
        assert!(f.world.poll(page.as_mut()).is_pending());
    }
    drop(space);
    let reserved = f.world.account().mapped;
    assert_eq!(reserved, 1, "the frame is the read's");
    assert_eq!(f.disk.answer(&f.world), [8]);
    f.world.serve();
    assert_eq!(f.object.frame_of(6).map(|_| ()), Some(()));
    f.end([]);
}

#[test]
fn a_page_that_is_punched_while_it_is_read_is_read_again() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    let space = f.space(R);
    let mut fault = Box::pin(space.handle_page_fault(fault_at(6, Access::Read)));
    assert!(f.world.poll(fault.as_mut()).is_pending());
    f.world.serve();
    let frames = f.world.account().mapped;
    f.object.punch(0, 8);
    assert_eq!(f.world.account().mapped, frames, "the device has the frame");
    // Somebody else comes, and begins a read of his own.
    let mut page = Box::pin(f.world.memory.page_in(&f.object, 6));
    assert!(f.world.poll(page.as_mut()).is_pending());
    assert_eq!(f.disk.in_flight(), 2);
    f.disk.answer(&f.world);
    f.world.serve();
    assert!(f.world.poll(fault.as_mut()).is_ready());
    assert_eq!(f.world.poll(page.as_mut()), core::task::Poll::Ready(Ok(())));
    assert_eq!(f.read(&space, 6), Ok(word_of(6)));
    // The page may also be gone for good before the device is done.
    page = Box::pin(f.world.memory.page_in(&f.object, 2));
    assert!(f.world.poll(page.as_mut()).is_pending());
    f.object.punch(2, 3);
    f.disk.answer(&f.world);
    assert_eq!(f.world.poll(page.as_mut()), core::task::Poll::Pending, "it looks again");
    f.disk.answer(&f.world);
    assert_eq!(f.world.poll(page.as_mut()), core::task::Poll::Ready(Ok(())));
    drop((fault, page));
    f.end([space]);
}

#[test]
fn more_waiters_than_reads_all_come_to_their_pages() {
    const PAGES: u64 = 160;
    let f = Fixture::new(512, 2 * PAGES * PAGE_SIZE, |_| {});
    // Every other page from the end, so that nobody's read takes another's page along.
    let mut futures: Vec<_> = (0..PAGES)
        .map(|number| Box::pin(f.world.memory.page_in(&f.object, 2 * (PAGES - number) - 1)))
        .collect();
    let mut results = std::vec![false; futures.len()];
    let mut rounds = 0;
    while results.iter().any(|done| !done) {
        for (future, done) in futures.iter_mut().zip(&mut results) {
            if !*done && f.world.poll(future.as_mut()).is_ready() {
                *done = true;
            }
        }
        f.disk.answer(&f.world);
        rounds += 1;
        assert!(rounds < 10);
    }
    assert!(rounds > 2, "there are fewer records than that");
    assert_eq!(f.object.resident() as u64, PAGES);
    drop(futures);
    f.end([]);
}

#[test]
fn a_reader_without_a_frame_waits_for_one() {
    let f = Fixture::new(16, 8 * PAGE_SIZE, |_| {});
    let mut hoard = Vec::new();
    while let Ok(frame) = f.world.memory.frames().allocate(0) {
        hoard.push(frame);
    }
    let mut page = Box::pin(f.world.memory.page_in(&f.object, 6));
    f.world.serve();
    assert!(f.world.poll(page.as_mut()).is_pending());
    assert_eq!(f.disk.in_flight(), 0);
    hoard.pop();
    f.world.serve();
    assert!(f.world.poll(page.as_mut()).is_pending());
    assert_eq!(f.disk.answer(&f.world), [8]);
    assert!(f.world.poll(page.as_mut()).is_ready());
    drop((hoard, page));
    f.end([]);
}

#[test]
fn neighbours_that_are_in_memory_are_mapped_with_a_reference_each() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    for page in 2..8 {
        f.run(f.world.memory.page_in(&f.object, page)).unwrap();
    }
    let space = f.space(R);
    assert_eq!(f.read(&space, 5), Ok(word_of(5)));
    assert!(f.world.memory.stats().around >= 4);
    f.end([space]);
}

#[test]
fn clean_pages_are_dropped_when_nothing_maps_them() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    for page in 2..6 {
        f.run(f.world.memory.page_in(&f.object, page)).unwrap();
    }
    let space = f.space(R);
    space.advise(at(A), 8 * PAGE_SIZE, Advice::Random).unwrap();
    assert_eq!(f.read(&space, 3), Ok(word_of(3)));
    space.unmap(at(A + 4 * PAGE_SIZE), 4 * PAGE_SIZE).unwrap();
    // Fault-around has mapped pages 2 and 3.
    assert_eq!(f.world.memory.drop_clean_pages(&f.object, 0..5), None);
    assert_eq!(f.world.memory.object_pages(), (3, 3));
    space.unmap(at(A), 4 * PAGE_SIZE).unwrap();
    let mut rounds = 0;
    while f.world.memory.object_pages().0 > 0 {
        f.world
            .memory
            .step_objects(64, None, |_, _| unreachable!("clean pages leave for no slot"));
        rounds += 1;
        assert!(rounds < 10);
    }
    assert_eq!(f.world.memory.stats().object_drops, 4);
    assert_eq!(f.object.resident(), 0);
    f.run(f.world.memory.page_in(&f.object, 3)).unwrap();
    assert_eq!(f.world.memory.will_need(&f.object, 0, 8), Some(1));
    f.disk.answer(&f.world);
    assert_eq!(f.object.next_absent(0), 4, "pages that are there end a read");
    f.end([space]);
}

#[test]
fn pages_that_nobody_maps_make_room_at_once() {
    let f = Fixture::new(64, 8 * PAGE_SIZE, |_| {});
    for page in 0..6 {
        f.run(f.world.memory.page_in(&f.object, page)).unwrap();
    }
    let space = f.space(R);
    space.advise(at(A), 8 * PAGE_SIZE, Advice::Random).unwrap();
    assert_eq!(f.read(&space, 5), Ok(word_of(5)));
    let mapped = 6 - f.world.memory.drop_cached(64);
    assert!((1..6).contains(&mapped), "{mapped} pages stay, which are mapped");
    assert_eq!(f.world.memory.object_pages(), (mapped as u64, mapped as u64));
    assert_eq!(f.world.memory.drop_cached(64), 0);
    space.unmap(at(A), 8 * PAGE_SIZE).unwrap();
    assert_eq!(f.world.memory.drop_cached(64), mapped);
    f.end([space]);
}

#[test]
fn a_private_mapping_of_memory_shows_the_object_until_it_is_written() {
    let world = World::new(64);
    let object = MemoryObject::new(world.memory.frames(), 3 * PAGE_SIZE).unwrap();
    object.write(world.memory, 0, b"first").unwrap();
    let space = world.space();
    let backing = Backing::Private {
        object: object.clone(),
        offset: 0,
    };
    space.map_lazy(at(A), 4 * PAGE_SIZE, RW, backing).unwrap();
    let word = |text: &[u8; 8]| u64::from_le_bytes(*text);
    assert_eq!(world.read(&space, A), Ok(word(b"first\0\0\0")));
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(0));
    object.write(world.memory, 0, b"other").unwrap();
    object.write(world.memory, PAGE_SIZE, b"late").unwrap();
    assert_eq!(world.read(&space, A), Ok(word(b"other\0\0\0")));
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(word(b"late\0\0\0\0")));
    // Written pages are the space's own: from then on neither sees the other.
    world.write(&space, A, 1).unwrap();
    world.write(&space, A + 2 * PAGE_SIZE, 2).unwrap();
    object.write(world.memory, 0, b"third").unwrap();
    let mut bytes = [0; 8];
    assert_eq!(object.read(world.memory, 0, &mut bytes), Ok(8));
    assert_eq!(&bytes, b"third\0\0\0");
    assert_eq!(object.read(world.memory, 2 * PAGE_SIZE, &mut bytes), Ok(8));
    assert_eq!(bytes, [0; 8]);
    assert_eq!(
        (world.read(&space, A), world.read(&space, A + 2 * PAGE_SIZE)),
        (Ok(1), Ok(2))
    );
    assert!(world.read(&space, A + 3 * PAGE_SIZE).is_err());
    // A child shares with both.
    let child = space.fork().unwrap();
    world.write(&child, A + PAGE_SIZE, 5).unwrap();
    assert_eq!(world.read(&space, A + PAGE_SIZE), Ok(word(b"late\0\0\0\0")));
    Walk::of(&world, [&space, &child]).check_counts(&world, core::slice::from_ref(&object));
    drop((space, child));
    world.memory.leave_spaces();
}
