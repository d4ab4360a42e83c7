//! What the heap has to do with faults (nothing) and with regions (a bounded number of bytes).

#[path = "common/machine.rs"]
mod machine;

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use faultline_mm::{Access, Advice, Backing, FaultInfo, PAGE_SIZE, Protection, VasError, VirtualAddressSpace};
use machine::machine;
use x86_64::VirtAddr;

/// The system's heap, counted.
struct Counted;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Allocations that still succeed.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.load(Ordering::Relaxed);
        if left == 0 {
            return std::ptr::null_mut();
        }
        if left != usize::MAX {
            LEFT.store(left - 1, Ordering::Relaxed);
        }
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of the trait.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of the trait.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static HEAP: Counted = Counted;

/// The counters are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const START: u64 = 0x4000_0000;

#[test]
fn a_fault_allocates_nothing_from_queue_to_resume() {
    let _alone = ALONE.lock();
    let memory = machine(4096);
    let mut service = pin!(memory.fault_service());
    let space = VirtualAddressSpace::new(memory);
    space.init().expect("a frame is free");
    let size = 1024 * PAGE_SIZE;
    space
        .map_lazy(VirtAddr::new(START), size, Protection::READ_WRITE, Backing::Anonymous)
        .expect("the addresses are free");
    let mut touch = |space: &VirtualAddressSpace<machine::Buffer>, page: u64, access| {
        let mut context = Context::from_waker(Waker::noop());
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(START + page * PAGE_SIZE, access)));
        while fault.as_mut().poll(&mut context).is_pending() {
            assert!(Pin::new(&mut service).poll(&mut context).is_pending());
        }
    };
    // Reads of the frame of zeros, first writes, writes after reads, tables among them.
    let before = CALLS.load(Ordering::Relaxed);
    for page in 0..1024 {
        if page % 2 == 0 {
            touch(&space, page, Access::Read);
        }
        touch(&space, page, Access::Write);
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), before, "a fault used the heap");
    // Copies of what a child shares, its tables among them.
    let child = space.fork().expect("frames are free");
    let before = CALLS.load(Ordering::Relaxed);
    (0..1024).for_each(|page| touch(&child, page, Access::Write));
    assert_eq!(
        CALLS.load(Ordering::Relaxed),
        before,
        "a copy-on-write fault used the heap"
    );
    assert_eq!(child.get_stats().resident_pages, 1024);
}

#[test]
fn a_region_takes_a_bounded_number_of_bytes() {
    let _alone = ALONE.lock();
    const REGIONS: usize = 100_000;
    let space = VirtualAddressSpace::new(machine(64));
    let before = BYTES.load(Ordering::Relaxed);
    // In an order that looks random, and never next to each other.
    for index in 0..REGIONS {
        let place = (index * 7_919) % REGIONS;
        let start = VirtAddr::new(START + 2 * place as u64 * PAGE_SIZE);
        space
            .map_lazy(start, PAGE_SIZE, Protection::READ_WRITE, Backing::Anonymous)
            .expect("the addresses are free");
    }
    let each = (BYTES.load(Ordering::Relaxed) - before) / REGIONS;
    println!("{each} bytes of heap for each of {REGIONS} regions");
    assert!(each <= 96, "{each} bytes of heap for each region");
}

#[test]
fn polls_of_a_finished_fault_do_no_harm() {
    let _alone = ALONE.lock();
    let memory = machine(64);
    let space = VirtualAddressSpace::new(memory);
    space.init().expect("a frame is free");
    let mut context = Context::from_waker(Waker::noop());
    let mut fault = pin!(space.handle_page_fault(FaultInfo::user(START, Access::Read)));
    assert!(matches!(fault.as_mut().poll(&mut context), Poll::Ready(Err(_))));
    assert!(fault.as_mut().poll(&mut context).is_ready());
}

/// Makes a call with no allocation that succeeds, with one, and so on, until it succeeds; says how often it failed.
fn fail_each<T>(mut call: impl FnMut() -> Result<T, VasError>, check: impl Fn()) -> usize {
    for successes in 0.. {
        LEFT.store(successes, Ordering::Relaxed);
        let result = call();
        LEFT.store(usize::MAX, Ordering::Relaxed);
        match result {
            Ok(_) => return successes,
            Err(error) => assert_eq!(error, VasError::NoKernelMemory),
        }
        check();
    }
    unreachable!("a call makes no more than 2^64 allocations")
}

#[test]
fn a_call_without_memory_for_its_regions_changes_nothing() {
    let _alone = ALONE.lock();
    let memory = machine(4096);
    let page = |index: u64| VirtAddr::new(START + index * PAGE_SIZE);
    // Full chunks, and full groups of them, at every place where a region may be cut.
    let mut failures = [0; 5];
    for count in [1, 15, 16, 17, 32, 200, 1024, 1500] {
        let space = VirtualAddressSpace::new(memory);
        space.init().expect("a frame is free");
        for index in 0..count {
            space
                .map_lazy(
                    page(8 * index),
                    5 * PAGE_SIZE,
                    Protection::READ_WRITE,
                    Backing::Anonymous,
                )
                .expect("the addresses are free");
        }
        let picture = || {
            let mut regions = Vec::new();
            space.mappings_ref(|region| regions.push((region.range, region.protection, region.flags)));
            regions
        };
        let mut places = vec![0, count / 2, count - 1];
        places.dedup();
        for middle in places {
            let at = 8 * middle;
            let before = picture();
            let same = || assert_eq!(picture(), before);
            failures[3] += fail_each(
                || space.map_lazy(page(at + 6), PAGE_SIZE, Protection::READ, Backing::Anonymous),
                same,
            );
            let before = picture();
            let same = || assert_eq!(picture(), before);
            failures[0] += fail_each(|| space.unmap(page(at + 1), PAGE_SIZE), same);
            let before = picture();
            let same = || assert_eq!(picture(), before);
            failures[1] += fail_each(|| space.protect_region(page(at + 3), PAGE_SIZE, Protection::READ), same);
            let before = picture();
            let same = || assert_eq!(picture(), before);
            failures[2] += fail_each(|| space.advise(page(at + 3), PAGE_SIZE, Advice::NotInherited), same);
        }
        let before = picture();
        let free = memory.account();
        failures[4] += fail_each(
            || space.fork().map(drop),
            || {
                assert_eq!(picture(), before);
                assert_eq!(memory.account().available(), free.available());
            },
        );
    }
    assert!(failures.iter().all(|&failures| failures > 0), "{failures:?}");
}
