//! The driver against a model of the device: a queue in memory, served as each test wants.

use std::alloc::{Layout, alloc_zeroed};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use faultline_mm::{BlockDevice, Completion, Finished, Segment, Transfers};
use virtio_drivers::PhysAddr as DeviceAddr;
use virtio_drivers::transport::{DeviceType, InterruptStatus};
use x86_64::structures::paging::PhysFrame;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;

/// Memory of the host; physical addresses are its own.
enum Host {}

// SAFETY: 1. the pages are new, zeroed, and never given back; 2. physical addresses are those of the host.
unsafe impl Hal for Host {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (DeviceAddr, NonNull<u8>) {
        let memory = NonNull::new(new_pages(pages)).unwrap();
        (memory.as_ptr() as u64, memory)
    }
    unsafe fn dma_dealloc(_: DeviceAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }
    unsafe fn mmio_phys_to_virt(_: DeviceAddr, _: usize) -> NonNull<u8> {
        unreachable!("the model has no such memory")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> DeviceAddr {
        buffer.cast::<u8>().as_ptr() as u64
    }
    unsafe fn unshare(_: DeviceAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn new_pages(count: usize) -> *mut u8 {
    let layout = Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).unwrap();
    // SAFETY: the layout has a size.
    unsafe { alloc_zeroed(layout) }
}

fn in_memory(address: PhysAddr) -> NonNull<u8> {
    NonNull::new(address.as_u64() as *mut u8).unwrap()
}

/// The device's side.
#[derive(Default)]
struct Device {
    features: u64,
    /// Capacity, greatest piece, most pieces.
    config: [u32; 4],
    status: u32,
    rings: [u64; 3],
    size: u16,
    seen: u16,
    used: u16,
    notified: usize,
    resets: usize,
    disk: Vec<u8>,
}

/// A request as the device finds it.
struct Found {
    head: u16,
    kind: u32,
    sector: usize,
    /// Address and length of each piece of data.
    data: Vec<(u64, usize)>,
    status: u64,
}

impl Device {
    /// The next request, if there is one.
    fn next(&mut self) -> Option<Found> {
        let [descriptors, driver, _] = self.rings;
        // SAFETY: the driver's queue lies there for ever, and the driver does not run meanwhile.
        unsafe {
            let newest = (driver as *const u16).add(1).read_volatile();
            if newest == self.seen {
                return None;
            }
            let slot = usize::from(self.seen % self.size);
            let head = (driver as *const u16).add(2 + slot).read_volatile();
            self.seen = self.seen.wrapping_add(1);
            let mut chain = Vec::new();
            let mut at = Some(head);
            while let Some(index) = at {
                let words = (descriptors as *const [u64; 2]).add(usize::from(index)).read_volatile();
                let (flags, next) = ((words[1] >> 32) as u16, (words[1] >> 48) as u16);
                chain.push((words[0], (words[1] as u32) as usize));
                at = (flags & 1 != 0).then_some(next);
            }
            let (status, 1) = chain.pop().unwrap() else {
                panic!("no status byte")
            };
            let (header, HEADER) = chain.remove(0) else {
                panic!("no header")
            };
            let header = (header as *const Header).read_volatile();
            Some(Found {
                head,
                kind: header.kind,
                sector: header.sector as usize,
                data: chain,
                status,
            })
        }
    }

    /// Does what a request asks for.
    fn serve(&mut self, found: &Found) {
        let mut at = found.sector * 512;
        for &(address, length) in &found.data {
            let disk = &mut self.disk[at..at + length];
            // SAFETY: the driver has said that this memory is the device's.
            let memory = unsafe { core::slice::from_raw_parts_mut(address as *mut u8, length) };
            match found.kind {
                IN => memory.copy_from_slice(disk),
                OUT => disk.copy_from_slice(memory),
                other => panic!("request of kind {other}"),
            }
            at += length;
        }
        let written = if found.kind == IN { at - found.sector * 512 } else { 0 };
        self.answer(found, OK, written as u32 + 1);
    }

    /// Ends a request.
    fn answer(&mut self, found: &Found, status: u8, length: u32) {
        // SAFETY: as above.
        unsafe { (found.status as *mut u8).write_volatile(status) };
        self.put_used(found.head, length);
    }

    fn put_used(&mut self, head: u16, length: u32) {
        let used = self.rings[2];
        // SAFETY: as above.
        unsafe {
            let slot = usize::from(self.used % self.size);
            let element = (used as *mut u32).add(1 + 2 * slot);
            element.write_volatile(head.into());
            element.add(1).write_volatile(length);
            self.used = self.used.wrapping_add(1);
            (used as *mut u16).add(1).write_volatile(self.used);
        }
    }

    fn serve_all(&mut self) -> usize {
        let mut count = 0;
        while let Some(found) = self.next() {
            self.serve(&found);
            count += 1;
        }
        count
    }
}

#[derive(Clone)]
struct Wire(Arc<Mutex<Device>>);

impl Transport for Wire {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.lock().unwrap().features
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        256
    }
    fn notify(&mut self, _: u16) {
        self.0.lock().unwrap().notified += 1;
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.0.lock().unwrap().status)
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let mut device = self.0.lock().unwrap();
        device.resets += usize::from(status.is_empty());
        device.status = status.bits();
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, size: u32, descriptors: DeviceAddr, driver: DeviceAddr, device: DeviceAddr) {
        let mut this = self.0.lock().unwrap();
        (this.size, this.rings) = (size as u16, [descriptors, driver, device]);
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::QUEUE_INTERRUPT
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V, Error> {
        let device = self.0.lock().unwrap();
        let bytes = &device.config.as_bytes()[offset..][..size_of::<V>()];
        Ok(V::read_from_bytes(bytes).unwrap())
    }
    fn write_config_space<V: IntoBytes + Immutable>(&mut self, _: usize, _: V) -> Result<(), Error> {
        Err(Error::Unsupported)
    }
}

const SECTORS: usize = 8 * 256;

/// A driver and its device, and what ended.
struct Bench<const N: usize> {
    driver: Mutex<VirtioBlock<Host, Wire, N>>,
    device: Arc<Mutex<Device>>,
    ended: Mutex<Vec<(u64, TransferResult)>>,
    transfers: Transfers,
}

impl<const N: usize> BlockDevice for Bench<N> {
    fn name(&self) -> &str {
        "model"
    }
    fn sectors(&self) -> u64 {
        SECTORS as u64
    }
    fn start(&self, transfer: Transfer) {
        self.driver.lock().unwrap().push(transfer);
    }
}

impl<const N: usize> Completion for Bench<N> {
    fn finished(&'static self, finished: Finished, result: TransferResult) {
        self.ended.lock().unwrap().push((finished.tag(), result));
    }
}

/// Frames one behind the other.
struct Frames(*mut u8);

impl Frames {
    fn new(count: usize) -> Self {
        Self(new_pages(count))
    }

    fn frame(&self, index: usize) -> PhysFrame {
        let address = self.0 as u64 + (index * PAGE_SIZE) as u64;
        PhysFrame::from_start_address(PhysAddr::new(address)).unwrap()
    }

    fn bytes(&self, index: usize) -> &[u8] {
        // SAFETY: the page is there for ever, and nobody writes to it while a test looks.
        unsafe { core::slice::from_raw_parts(self.0.add(index * PAGE_SIZE), PAGE_SIZE) }
    }

    fn fill(&self, index: usize, byte: u8) {
        // SAFETY: the page is there for ever, and nobody looks at it meanwhile.
        unsafe { self.0.add(index * PAGE_SIZE).write_bytes(byte, PAGE_SIZE) };
    }
}

impl<const N: usize> Bench<N> {
    fn new(features: Features, config: [u32; 2]) -> &'static Self {
        let device = Arc::new(Mutex::new(Device {
            features: (features | Features::VERSION_1).bits(),
            config: [SECTORS as u32, 0, config[0], config[1]],
            disk: (0..SECTORS * 512).map(|at| (at / 512 + at % 251) as u8).collect(),
            ..Device::default()
        }));
        let driver = VirtioBlock::new(Wire(device.clone()), in_memory).unwrap();
        let bench: &'static Self = Box::leak(Box::new(Self {
            driver: Mutex::new(driver),
            device,
            ended: Mutex::default(),
            transfers: Transfers::new(),
        }));
        bench.transfers.add(400).unwrap();
        bench
    }

    fn plain() -> &'static Self {
        Self::new(Features::empty(), [0; 2])
    }

    fn device(&self) -> std::sync::MutexGuard<'_, Device> {
        self.device.lock().unwrap()
    }

    /// Queues a transfer of these pages: which page of the disk, which frame.
    fn start(&'static self, direction: Direction, tag: u64, frames: &Frames, pages: &[(u64, usize)]) {
        let mut prepared = self.transfers.prepare(direction).unwrap();
        for &(page, frame) in pages {
            prepared.push(Segment::page(8 * page, frames.frame(frame)));
        }
        prepared.start(self, self, tag);
    }

    fn fill(&self) {
        self.driver.lock().unwrap().fill(0);
    }

    /// Completes what is over. Returns everything that ended so far.
    fn collect(&self) -> Vec<(u64, TransferResult)> {
        while let Some((transfer, result)) = { self.driver.lock().unwrap().take() } {
            transfer.complete(result);
        }
        self.ended.lock().unwrap().clone()
    }

    fn notified(&self) -> usize {
        self.device().notified
    }
}

#[test]
fn bytes_go_where_they_belong_and_the_device_is_told_once() {
    let bench = Bench::<256>::plain();
    let frames = Frames::new(8);
    frames.fill(4, 0xab);
    bench.start(Direction::Read, 1, &frames, &[(3, 0), (4, 1), (9, 2)]);
    bench.start(Direction::Write, 2, &frames, &[(20, 4)]);
    bench.start(Direction::Read, 3, &frames, &[(5, 3)]);
    assert_eq!(bench.notified(), 0);
    bench.fill();
    assert_eq!(bench.notified(), 1);
    // The first one has a gap, and is two requests.
    assert_eq!(bench.device().serve_all(), 4);
    assert_eq!(bench.collect(), [(1, Ok(())), (3, Ok(())), (2, Ok(()))]);
    let device = bench.device();
    for (frame, page) in [(0, 3), (1, 4), (2, 9), (3, 5)] {
        assert!(
            frames.bytes(frame) == &device.disk[page * 4096..][..4096],
            "frame {frame}"
        );
    }
    assert!(device.disk[20 * 4096..][..4096].iter().all(|&byte| byte == 0xab));
    assert_eq!(bench.transfers.in_use(), 0);
}

#[test]
fn a_transfer_in_parts_ends_with_its_last_part_in_any_order() {
    let bench = Bench::<256>::plain();
    let frames = Frames::new(8);
    bench.start(Direction::Read, 1, &frames, &[(0, 0), (10, 1), (20, 2)]);
    bench.start(Direction::Read, 2, &frames, &[(30, 3)]);
    bench.fill();
    let found: Vec<_> = core::iter::from_fn(|| bench.device().next()).collect();
    let serve = |index: usize| bench.device().serve(&found[index]);
    serve(2);
    serve(0);
    serve(3);
    assert_eq!(bench.collect(), [(2, Ok(()))]);
    serve(1);
    assert_eq!(bench.collect(), [(2, Ok(())), (1, Ok(()))]);
}

#[test]
fn reads_go_first_and_leave_room_for_a_write() {
    let bench = Bench::<256>::plain();
    let frames = Frames::new(260);
    let scattered: Vec<_> = (0..64).map(|page| (page, 2 * page as usize)).collect();
    bench.start(Direction::Write, 0, &frames, &scattered);
    (1..=100).for_each(|tag| bench.start(Direction::Read, tag, &frames, &[(tag, 200)]));
    bench.fill();
    let kinds: Vec<_> = core::iter::from_fn(|| bench.device().next())
        .map(|found| found.kind)
        .collect();
    let reads = (256 - 66) / 3;
    assert_eq!(kinds.len(), reads + 1);
    assert_eq!(kinds[reads], OUT);
    assert!(kinds[..reads].iter().all(|&kind| kind == IN));
}

#[test]
fn all_of_many_transfers_end_whatever_the_queue_holds() {
    let bench = Bench::<16>::new(Features::SEG_MAX, [0, 126]);
    let frames = Frames::new(128);
    let (even, odd): (Vec<_>, Vec<_>) = (0..128)
        .map(|page| (page, page as usize))
        .partition(|(page, _)| page % 2 == 0);
    for tag in 0..60 {
        let direction = if tag % 3 == 0 {
            Direction::Write
        } else {
            Direction::Read
        };
        bench.start(direction, tag, &frames, if tag % 2 == 0 { &even } else { &odd });
    }
    let mut rounds = 0;
    while bench.collect().len() < 60 {
        bench.fill();
        assert!(bench.device().serve_all() > 0, "a round without a request");
        rounds += 1;
    }
    // A segment a request, some five requests a round.
    assert!((500..2000).contains(&rounds), "{rounds} rounds");
    assert!(bench.collect().iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn limits_of_the_device_are_kept() {
    let bench = Bench::<256>::new(Features::SEG_MAX | Features::SIZE_MAX, [8192, 3]);
    let frames = Frames::new(16);
    let pages: Vec<_> = (0..16).map(|page| (page, page as usize)).collect();
    bench.start(Direction::Read, 0, &frames, &pages);
    bench.fill();
    let shapes: Vec<_> = core::iter::from_fn(|| bench.device().next())
        .map(|found| found.data.iter().map(|&(_, length)| length).collect::<Vec<_>>())
        .collect();
    assert_eq!(shapes, [[8192; 3].to_vec(), [8192; 3].to_vec(), [8192; 2].to_vec()]);
}

#[test]
fn errors_and_short_answers_fail_their_transfer_alone() {
    let bench = Bench::<256>::plain();
    let frames = Frames::new(8);
    (0..5).for_each(|tag| bench.start(Direction::Read, tag, &frames, &[(10 * tag, 0), (10 * tag + 2, 1)]));
    bench.start(Direction::Write, 5, &frames, &[(90, 2)]);
    bench.fill();
    let found: Vec<_> = core::iter::from_fn(|| bench.device().next()).collect();
    for (index, found) in found.iter().enumerate() {
        let mut device = bench.device();
        match index {
            1 => device.answer(found, 1, 4097),
            2 => device.answer(found, OK, 4096),
            4 => device.answer(found, UNWRITTEN, 4097),
            7 => device.answer(found, 2, 1),
            10 => device.answer(found, OK, 0),
            _ => device.serve(found),
        }
    }
    let failed = |sector| Err(TransferError::Device { sector });
    let expected = [
        (0, failed(16)),
        (1, failed(80)),
        (2, failed(160)),
        (3, failed(8 * 32)),
        (4, Ok(())),
        (5, failed(720)),
    ];
    assert_eq!(bench.collect(), expected);
}

#[test]
fn a_device_that_is_silent_is_reset_before_its_frames_come_back() {
    let bench = Bench::<256>::plain();
    let frames = Frames::new(128);
    let scattered: Vec<_> = (0..64).map(|page| (page, 2 * page as usize)).collect();
    for tag in 0..4 {
        let direction = if tag < 2 { Direction::Write } else { Direction::Read };
        bench.start(direction, tag, &frames, &scattered);
    }
    bench.driver.lock().unwrap().fill(77);
    assert_eq!(bench.driver.lock().unwrap().oldest(), Some(77));
    let resets = bench.device().resets;
    bench.driver.lock().unwrap().give_up();
    assert_eq!(bench.device().resets, resets + 1);
    let mut ended = bench.collect();
    ended.sort_by_key(|(tag, _)| *tag);
    assert_eq!(ended, [0, 1, 2, 3].map(|tag| (tag, Err(TransferError::Timeout))));
    // Nothing goes to it any more.
    let told = bench.notified();
    bench.start(Direction::Read, 4, &frames, &[(0, 0)]);
    bench.fill();
    assert_eq!(bench.collect().len(), 5);
    assert_eq!(bench.notified(), told);
    assert_eq!(bench.transfers.in_use(), 0);
}

#[test]
fn answers_that_nobody_asked_for_and_a_needed_reset_end_the_device() {
    for wrong in [None, Some(7), Some(9999)] {
        let bench = Bench::<256>::plain();
        let frames = Frames::new(4);
        bench.start(Direction::Read, 0, &frames, &[(0, 0)]);
        bench.fill();
        match wrong {
            Some(head) => bench.device().put_used(head, 4097),
            None => bench.device().status |= DeviceStatus::DEVICE_NEEDS_RESET.bits(),
        }
        bench.driver.lock().unwrap().check_status();
        assert_eq!(bench.collect(), [(0, Err(TransferError::Device { sector: 0 }))]);
        assert_eq!(bench.driver.lock().unwrap().death(), Some(DeathOf::Broken));
        assert_eq!(bench.device().status, 0);
    }
}

#[test]
fn a_read_only_device_says_so_and_an_old_one_is_refused() {
    assert!(
        Bench::<256>::new(Features::RO, [0; 2])
            .driver
            .lock()
            .unwrap()
            .is_read_only()
    );
    assert!(!Bench::<256>::plain().driver.lock().unwrap().is_read_only());
    let device = Arc::new(Mutex::new(Device::default()));
    let refused = VirtioBlock::<Host, Wire, 256>::new(Wire(device), in_memory);
    assert_eq!(refused.err(), Some(Error::Unsupported));
}
