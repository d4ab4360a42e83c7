//! Reclaim: what leaves and what stays, in which order, and that nothing is lost on the way.

use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

use super::machine::*;
use super::tlb::{A, Bell};
use crate::frame::Watermarks;
use crate::*;

/// The reclaimer's task, polled while it is woken.
pub struct Task {
    reclaimer: Pin<Box<Reclaimer<super::machine::Machine>>>,
    bell: Arc<Bell>,
    heard: usize,
}

impl Task {
    pub fn new(world: &World) -> Self {
        let bell = Arc::new(Bell::default());
        Waker::from(Arc::clone(&bell)).wake();
        Self {
            reclaimer: Box::pin(world.memory.reclaimer()),
            bell,
            heard: 0,
        }
    }

    /// Polls once; whether it was woken.
    pub fn poll(&mut self) -> bool {
        if self.bell.rings() == self.heard {
            return false;
        }
        self.heard = self.bell.rings();
        let waker = Waker::from(Arc::clone(&self.bell));
        assert!(
            self.reclaimer
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        true
    }

    /// Polls until it sleeps.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.poll() {
                return;
            }
        }
        panic!("the reclaimer comes to no end");
    }
}

const MARKS: Watermarks = Watermarks {
    reserve: 8,
    low: 24,
    high: 48,
};

/// A machine that keeps frames free once it has a swap area.
fn world(frames: u32) -> World {
    World::with(frames, |config| config.watermarks = Some(MARKS), 0)
}

fn page(index: u64) -> u64 {
    A + index * PAGE_SIZE
}

fn range(first: u64, pages: u64) -> PageRange {
    PageRange::aligned(at(page(first)), pages * PAGE_SIZE).unwrap()
}

/// A space with so many pages that were written, each with its own value.
fn written(world: &World, pages: u64) -> Vas {
    let space = world.space();
    space
        .map_lazy(at(A), pages * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    for index in 0..pages {
        world.write(&space, page(index), index + 1).unwrap();
    }
    space
}

fn check(world: &World, space: &Vas, pages: u64) {
    for index in 0..pages {
        assert_eq!(world.read(space, page(index)), Ok(index + 1), "page {index}");
    }
}

fn resident(space: &Vas) -> u64 {
    space.get_stats().resident_pages
}

#[test]
fn pages_leave_in_batches_of_neighbours_and_come_back_as_they_were() {
    let world = World::new(512);
    let disk = world.swap(512);
    let space = written(&world, 200);
    let free = world.free();
    assert_eq!(world.run(space.page_out(range(0, 200))), Ok(()));
    assert_eq!((resident(&space), world.free()), (0, free + 200));
    assert_eq!(disk.started(), 4, "200 pages are four batches");
    assert_eq!(
        (world.memory.swap_stats().used, world.memory.swap_stats().writes),
        (200, 200)
    );
    check(&world, &space, 200);
    // They were read and not written: they leave again without a write.
    let started = disk.started();
    assert_eq!(world.run(space.page_out(range(0, 200))), Ok(()));
    assert_eq!((resident(&space), disk.started()), (0, started));
    check(&world, &space, 200);
    world.write(&space, page(7), 77).unwrap();
    assert_eq!(world.run(space.page_out(range(0, 200))), Ok(()));
    assert_eq!(world.memory.swap_stats().writes, 201, "one page was written to");
    assert_eq!(world.read(&space, page(7)), Ok(77));
    drop(space);
    assert_eq!(world.memory.swap_stats().used, 0);
}

#[test]
fn no_write_starts_before_every_cpu_has_flushed() {
    for pcids in [0, 4] {
        let world = World::with(256, |_| {}, pcids);
        let disk = world.swap(64);
        let mut task = Task::new(&world);
        task.run();
        let space = written(&world, 4);
        world.on_cpu(1);
        world.store(&space, page(0), 1).unwrap();
        world.on_cpu(0);
        let mut out = Box::pin(space.page_out(range(0, 4)));
        let mut poll = || out.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(), Poll::Pending);
        task.run();
        assert_eq!(disk.started(), 0);
        world.on_cpu(1);
        assert!(world.would_store(page(0)), "CPU 1 still writes to the page");
        // What it writes now is not lost.
        world.store(&space, page(0), 99).unwrap();
        world.deliver();
        assert!(!world.would_store(page(0)));
        world.on_cpu(0);
        task.run();
        assert_eq!(disk.started(), 1);
        assert_eq!(poll(), Poll::Ready(Ok(())));
        assert_eq!(world.read(&space, page(0)), Ok(99));
    }
}

#[test]
fn a_page_that_cannot_be_written_stays_and_is_reported_once() {
    let world = World::new(256);
    let disk = world.swap(64);
    for slot in 0..64 {
        disk.fail(SwapSlot::new(slot), true);
    }
    let space = written(&world, 8);
    assert_eq!(world.run(space.page_out(range(0, 8))), Ok(()));
    assert_eq!(world.memory.swap_stats().writes, 0);
    check(&world, &space, 8);
    assert_eq!(world.memory.reclaim_state().leaving, 0);
}

#[test]
fn what_is_locked_or_borrowed_stays() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 8);
    space.set_locked(at(page(2)), 3 * PAGE_SIZE, true).unwrap();
    // The page of zeros belongs to nobody.
    space.map_lazy(at(page(8)), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    world.touch(&space, page(8), Access::Read).unwrap();
    assert_eq!(world.run(space.page_out(range(0, 9))), Ok(()));
    assert_eq!((resident(&space), world.memory.swap_stats().writes), (3, 5));
    assert_eq!(disk.started(), 1);
    check(&world, &space, 8);
}

#[test]
fn a_page_below_a_table_that_many_share_leaves_by_one_write() {
    let world = World::new(512);
    let disk = world.swap(64);
    let parent = written(&world, 16);
    let children: Vec<_> = (0..10).map(|_| parent.fork().unwrap()).collect();
    let free = world.free();
    assert_eq!(world.run(children[3].page_out(range(0, 16))), Ok(()));
    assert_eq!(world.free(), free + 16);
    assert!(parent.shares_table_at(at(A)));
    assert_eq!((disk.started(), world.memory.swap_stats().writes), (1, 16));
    check(&world, &parent, 16);
    for child in &children {
        check(&world, child, 16);
    }
}

#[test]
fn pages_that_another_sharer_of_the_table_has_locked_stay() {
    for fork_first in [false, true] {
        let world = World::new(512);
        world.swap(64);
        let parent = written(&world, 16);
        let lock = || parent.set_locked(at(page(0)), PAGE_SIZE, true).unwrap();
        if !fork_first {
            lock();
        }
        let child = parent.fork().unwrap();
        if fork_first {
            lock();
        }
        assert!(child.shares_table_at(at(A)));
        assert_eq!(world.run(child.page_out(range(0, 16))), Ok(()));
        assert_eq!(resident(&child), 16, "they are the parent's, too");
        drop(parent);
        // The table is the child's alone as soon as it writes.
        world.write(&child, page(0), 1).unwrap();
        assert_eq!(world.run(child.page_out(range(0, 16))), Ok(()));
        assert_eq!(resident(&child), 0);
    }
}

#[test]
fn a_frame_that_two_entries_map_is_free_when_both_have_left() {
    let world = World::new(512);
    world.swap(64);
    let parent = written(&world, 2);
    let child = parent.fork().unwrap();
    // Each has a table of its own, and page 1 in common.
    world.write(&child, page(0), 100).unwrap();
    world.write(&parent, page(0), 1).unwrap();
    let free = world.free();
    assert_eq!(world.run(parent.page_out(range(1, 1))), Ok(()));
    assert_eq!(world.free(), free);
    assert_eq!(world.run(child.page_out(range(1, 1))), Ok(()));
    assert_eq!((world.free(), world.memory.swap_stats().writes), (free + 1, 1));
    check(&world, &parent, 2);
    assert_eq!(world.read(&child, page(1)), Ok(2));
}

#[test]
fn huge_pages_are_split_and_leave() {
    let world = World::new(2048);
    world.swap(1024);
    let space = world.space();
    let start = 2 * MIB * 64;
    space.map_lazy(at(start), 2 * MIB, RW, Backing::Anonymous).unwrap();
    space.advise(at(start), 2 * MIB, Advice::HugePages).unwrap();
    for index in 0..512 {
        world.write(&space, start + index * PAGE_SIZE, index + 1).unwrap();
    }
    assert_eq!(space.get_stats().huge_pages, 1);
    let range = PageRange::aligned(at(start), 2 * MIB).unwrap();
    assert_eq!(world.run(space.page_out(range)), Ok(()));
    assert_eq!((resident(&space), space.get_stats().huge_pages), (0, 0));
    for index in 0..512 {
        assert_eq!(world.read(&space, start + index * PAGE_SIZE), Ok(index + 1));
    }
}

#[test]
fn a_killed_page_out_is_finished_by_the_reclaimer() {
    let world = World::new(512);
    let disk = world.swap(512);
    let mut task = Task::new(&world);
    task.run();
    let space = written(&world, 100);
    let free = world.free();
    disk.at_once(false);
    {
        let mut out = pin!(space.page_out(range(0, 100)));
        for _ in 0..3 {
            assert!(world.poll(out.as_mut()).is_pending());
        }
    }
    disk.finish_all();
    task.run();
    disk.finish_all();
    task.run();
    assert_eq!(world.memory.reclaim_state().leaving, 0);
    assert!(world.free() > free);
    disk.at_once(true);
    check(&world, &space, 100);
    // Every batch is free again.
    assert_eq!(world.run(space.page_out(range(0, 100))), Ok(()));
}

#[test]
fn the_space_may_end_while_its_pages_are_written() {
    let world = World::new(512);
    let disk = world.swap(512);
    let free = world.free();
    let space = written(&world, 64);
    disk.at_once(false);
    {
        let mut out = pin!(space.page_out(range(0, 64)));
        assert!(world.poll(out.as_mut()).is_pending());
    }
    drop(space);
    assert!(world.free() < free, "the device has the frames");
    disk.finish_all();
    assert_eq!((world.free(), world.memory.swap_stats().used), (free, 0));
}

#[test]
fn the_reclaimer_keeps_frames_free_and_waiting_faults_get_them() {
    let world = world(256);
    let disk = world.swap(1024);
    let mut task = Task::new(&world);
    task.run();
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    for index in 0..600 {
        let mut fault = pin!(space.write_user(page(index), &[1; 8]));
        for _ in 0..100 {
            if world.poll(fault.as_mut()).is_ready() {
                break;
            }
            world.serve();
            task.run();
        }
        assert!(space.is_mapped_for(page(index), Access::Write), "page {index}");
    }
    task.run();
    let available = world.memory.frames().available();
    assert!(available >= u64::from(MARKS.low), "{available} frames are free");
    let stats = world.memory.stats();
    assert!(stats.pages_reclaimed >= 350 && stats.pages_scanned >= stats.pages_reclaimed);
    assert!(disk.started() as u64 == stats.batches_written && stats.batches_written >= 6);
    assert_eq!(world.memory.reclaim_state().fruitless_rounds, 0);
    for index in 0..600 {
        let mut bytes = [0; 8];
        {
            let mut read = pin!(space.read_user(page(index), &mut bytes));
            while world.poll(read.as_mut()).is_pending() {
                world.serve();
                task.run();
            }
        }
        assert_eq!(bytes, [1; 8], "page {index}");
    }
}

/// Fills memory until the reclaimer has work.
fn fill(world: &World, space: &Vas, from: u64) -> u64 {
    let mut index = from;
    while world.memory.frames().available() > u64::from(MARKS.low) - 1 {
        world.write(space, page(index), index + 1).unwrap();
        index += 1;
    }
    index
}

#[test]
fn pages_that_are_accessed_stay_and_others_leave() {
    let world = world(256);
    world.swap(1024);
    let mut task = Task::new(&world);
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut filled = fill(&world, &space, 0);
    for _ in 0..6 {
        task.run();
        // The first ten are accessed all the time; the reclaimer comes again and again.
        for index in 0..10 {
            world.touch(&space, page(index), Access::Read).unwrap();
            world.access(&space, page(index));
        }
        filled = fill(&world, &space, filled);
    }
    let faults = world.memory.stats().total_served();
    for index in 0..10 {
        world.touch(&space, page(index), Access::Read).unwrap();
    }
    assert_eq!(world.memory.stats().total_served(), faults, "they are still there");
}

impl World {
    /// The processor marks a page as accessed.
    fn access(&self, space: &Vas, address: u64) {
        if let crate::tables::Leaf::Own(leaf, _) = self.memory.leaf(space.lock().root.unwrap(), address) {
            leaf.or(Entry::ACCESSED);
        }
    }
}

#[test]
fn a_shared_table_is_visited_once_a_round() {
    let world = world(2048);
    world.swap(64);
    let mut task = Task::new(&world);
    task.run();
    let parent = written(&world, 100);
    let _children: Vec<_> = (0..20).map(|_| parent.fork().unwrap()).collect();
    let held: Vec<_> = core::iter::from_fn(|| {
        (world.memory.frames().available() > u64::from(MARKS.low) - 1)
            .then(|| world.memory.frames().allocate(0).unwrap())
    })
    .collect();
    world.memory.frames().call_reclaimer();
    while world.memory.stats().reclaim_rounds < 1 {
        assert!(task.poll());
    }
    assert_eq!(world.memory.stats().pages_scanned, 100);
    drop(held);
}

#[test]
fn nobody_waits_for_a_reclaimer_that_can_free_nothing() {
    let world = world(256);
    world.swap(4);
    let mut task = Task::new(&world);
    assert!(world.memory.reclaim_state().is_possible);
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut faults = Vec::new();
    for index in 0..600 {
        let mut fault = Box::pin(space.handle_page_fault(FaultInfo::user(page(index), Access::Write)));
        let _ = world.poll(fault.as_mut());
        world.serve();
        task.run();
        world.serve();
        if world.poll(fault.as_mut()).is_pending() {
            faults.push(fault);
            break;
        }
    }
    assert_eq!(world.memory.swap_stats().free_slots(), 0);
    assert!(
        world.memory.reclaim_state().is_hopeless(),
        "{:?}",
        world.memory.reclaim_state()
    );
    assert_eq!(world.memory.faults_waiting_for_memory(), 1);
    // Something is unmapped after all.
    space.unmap(at(page(0)), 64 * PAGE_SIZE).unwrap();
    world.serve();
    assert!(world.poll(faults[0].as_mut()).is_ready());
}

impl SwapStats {
    fn free_slots(&self) -> u32 {
        self.slots - self.used
    }
}

#[test]
fn without_anything_to_reclaim_faults_take_every_frame() {
    let world = world(64);
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let mut index = 0;
    while world.free() > 0 {
        world.touch(&space, page(index), Access::Write).unwrap();
        index += 1;
    }
    assert!(world.memory.reclaim_state().is_hopeless());
}

#[test]
fn an_old_shortage_says_nothing_about_a_new_one() {
    let world = world(256);
    world.swap(4);
    let mut task = Task::new(&world);
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    fill(&world, &space, 0);
    task.run();
    assert!(world.memory.reclaim_state().is_hopeless());
    // Everything is free again, and gone before the reclaimer has a turn.
    space.unmap(at(A), 600 * PAGE_SIZE).unwrap();
    world.memory.frames().drain_caches(true);
    let mut held = Vec::new();
    while let Ok(frame) = world.memory.frames().allocate(0) {
        held.push(frame);
    }
    world.memory.ask_reclaimer();
    assert!(!world.memory.reclaim_state().is_hopeless(), "nobody has looked yet");
    task.run();
    assert!(world.memory.reclaim_state().is_hopeless());
}

#[test]
fn cold_pages_leave_first() {
    let world = world(256);
    world.swap(1024);
    let mut task = Task::new(&world);
    task.run();
    let space = world.space();
    space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    let filled = fill(&world, &space, 0);
    world.run(space.cold(range(filled - 40, 40))).unwrap();
    let before = world.memory.stats().pages_reclaimed;
    task.run();
    assert!(world.memory.stats().pages_reclaimed >= before + 24);
    let present = |index: u64| space.is_mapped_for(page(index), Access::Read);
    assert!((0..filled - 40).all(present), "a warm page has left");
    assert!((filled - 40..filled).filter(|&index| !present(index)).count() >= 24);
}

#[test]
fn pages_that_are_freed_lazily_are_dropped_unless_they_are_written_again() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 8);
    // Their slots have an older content.
    assert_eq!(world.run(space.page_out(range(0, 8))), Ok(()));
    check(&world, &space, 8);
    for index in 0..8 {
        world.write(&space, page(index), 100 + index).unwrap();
    }
    assert_eq!(world.run(space.free_lazily(range(0, 8))), Ok(()));
    for index in 0..8 {
        assert_eq!(world.read(&space, page(index)), Ok(100 + index), "nothing has gone yet");
    }
    world.write(&space, page(3), 33).unwrap();
    let started = disk.started();
    let free = world.free();
    assert_eq!(world.run(space.page_out(range(0, 8))), Ok(()));
    assert_eq!((world.free(), disk.started()), (free + 8, started + 1));
    for index in 0..8 {
        let expected = if index == 3 { 33 } else { 0 };
        assert_eq!(world.read(&space, page(index)), Ok(expected), "page {index}");
    }
}

#[test]
fn pages_that_will_be_needed_are_read_before() {
    let world = World::new(256);
    let disk = world.swap(64);
    let space = written(&world, 16);
    world.run(space.page_out(range(0, 16))).unwrap();
    let started = disk.started();
    world.run(space.will_need(range(0, 16)));
    assert_eq!(disk.started(), started + 1);
    check(&world, &space, 16);
    assert_eq!(disk.started(), started + 1, "no fault has to read");
}

#[test]
fn a_hole_is_told_when_the_rest_is_done() {
    let world = World::new(256);
    world.swap(64);
    let space = written(&world, 8);
    space.unmap(at(page(3)), PAGE_SIZE).unwrap();
    let hole = Err(VasError::NotMapped { address: page(3) });
    assert_eq!(world.run(space.page_out(range(0, 8))), hole);
    assert_eq!(resident(&space), 0);
    assert_eq!(world.run(space.cold(range(0, 8))), hole);
    assert_eq!(world.run(space.free_lazily(range(0, 8))), hole);
    assert_eq!(world.run(space.page_out(range(4, 4))), Ok(()));
}

/// A machine with a swap area of so many pages, the reclaimer's task, and a space of four pages that were written, to page 0
/// of which CPU 1 can write without a walk.
fn used_elsewhere(slots: u64) -> (World, faultline_fallible::Arc<super::disk::Disk>, Task, Vas) {
    let world = World::new(256);
    let disk = world.swap(slots);
    let mut task = Task::new(&world);
    task.run();
    let space = written(&world, 4);
    world.memory.switch_to(&space);
    world.on_cpu(1);
    world.store(&space, page(0), 1).unwrap();
    world.on_cpu(0);
    (world, disk, task, space)
}

#[test]
fn a_change_of_a_page_that_has_left_is_over_when_its_batch_is_flushed() {
    type Call = fn(&Vas);
    let calls: [Call; 4] = [
        |space| space.unmap(at(page(0)), PAGE_SIZE).unwrap(),
        |space| space.protect_region(at(page(0)), PAGE_SIZE, R).unwrap(),
        |space| space.advise(at(page(0)), PAGE_SIZE, Advice::DontNeed).unwrap(),
        |space| {
            let target = RemapTarget::Fixed(at(page(100)));
            space.remap(at(page(0)), PAGE_SIZE, PAGE_SIZE, target).unwrap();
        },
    ];
    for call in calls {
        let (world, _, mut task, space) = used_elsewhere(64);
        let mut out = pin!(space.page_out(range(0, 4)));
        assert!(world.poll(out.as_mut()).is_pending());
        call(&space);
        let generation = super::tlb::generation(&space);
        let mut flushed = pin!(space.flushed(generation));
        world.on_cpu(1);
        assert!(world.would_store(page(0)));
        world.on_cpu(0);
        assert!(world.poll(flushed.as_mut()).is_pending(), "CPU 1 still uses the page");
        world.on_cpu(1);
        world.deliver();
        assert!(!world.would_store(page(0)));
        world.on_cpu(0);
        assert!(world.poll(flushed.as_mut()).is_ready());
        task.run();
        assert_eq!(world.poll(out.as_mut()), Poll::Ready(Ok(())));
    }
}

#[test]
fn a_fault_waits_until_no_other_cpu_can_write_to_the_page() {
    for access in [Access::Read, Access::Write] {
        let (world, _, mut task, space) = used_elsewhere(64);
        let mut out = pin!(space.page_out(range(0, 4)));
        assert!(world.poll(out.as_mut()).is_pending());
        let mut fault = Box::pin(space.handle_page_fault(FaultInfo::user(page(0), access)));
        for _ in 0..3 {
            assert!(world.poll(fault.as_mut()).is_pending());
            world.serve();
            task.run();
        }
        assert!(!space.is_mapped_for(page(0), Access::Read));
        world.on_cpu(1);
        world.store(&space, page(0), 99).unwrap();
        world.deliver();
        world.on_cpu(0);
        task.run();
        world.serve();
        assert!(world.run(fault).is_ok());
        assert_eq!(world.poll(out.as_mut()), Poll::Ready(Ok(())));
        world.touch(&space, page(0), access).unwrap();
        assert_eq!(world.read(&space, page(0)), Ok(99), "what CPU 1 has written is lost");
    }
}

#[test]
fn switching_off_maps_no_page_that_another_cpu_can_write_to() {
    let (world, _, mut task, space) = used_elsewhere(64);
    let mut out = pin!(space.page_out(range(0, 4)));
    assert!(world.poll(out.as_mut()).is_pending());
    let mut off = pin!(world.memory.swap_off());
    for _ in 0..100 {
        assert!(world.poll(off.as_mut()).is_pending());
    }
    assert!(!space.is_mapped_for(page(0), Access::Read));
    world.on_cpu(1);
    world.deliver();
    world.on_cpu(0);
    task.run();
    assert_eq!(world.run(off), Ok(()));
    assert_eq!(world.poll(out.as_mut()), Poll::Ready(Ok(())));
    check(&world, &space, 4);
}

#[test]
fn a_batch_in_which_nothing_could_leave_ends_too() {
    let (world, disk, mut task, space) = used_elsewhere(1);
    {
        let mut out = pin!(space.page_out(range(3, 1)));
        assert!(world.poll(out.as_mut()).is_pending());
        world.deliver_all();
        task.run();
        assert_eq!(world.poll(out.as_mut()), Poll::Ready(Ok(())));
    }
    let mut out = pin!(space.page_out(range(0, 3)));
    world.on_cpu(1);
    world.store(&space, page(0), 1).unwrap();
    world.on_cpu(0);
    assert!(world.poll(out.as_mut()).is_pending());
    world.on_cpu(1);
    world.deliver();
    world.on_cpu(0);
    task.run();
    assert_eq!(world.poll(out.as_mut()), Poll::Ready(Ok(())));
    assert_eq!((resident(&space), disk.started()), (3, 1));
}

#[test]
fn the_reclaimer_sleeps_where_nothing_can_be_freed() {
    for cpus in [1, 2] {
        let world = world(256);
        world.swap(4);
        let mut task = Task::new(&world);
        let space = world.space();
        space.map_lazy(at(A), 600 * PAGE_SIZE, RW, Backing::Anonymous).unwrap();
        // Fewer frames are free than the low watermark, but nobody has to wait for one.
        fill(&world, &space, 0);
        let mut polls = 0;
        loop {
            if cpus > 1 {
                world.on_cpu(1);
                world.memory.switch_to(&space);
                world.on_cpu(0);
            }
            let polled = task.poll();
            world.deliver_all();
            if !polled && !task.poll() {
                break;
            }
            polls += 1;
            assert!(polls < 1000, "the reclaimer goes round for ever");
        }
        let rounds = world.memory.stats().reclaim_rounds;
        assert!(rounds >= 2 && world.memory.reclaim_state().is_hopeless());
        for _ in 0..20 {
            // Somebody takes one of the last frames, and gives it back.
            let held: Vec<_> = (0..4).map(|_| world.memory.frames().allocate(0).unwrap()).collect();
            drop(held);
            world.memory.frames().drain_caches(true);
            task.run();
        }
        assert_eq!(world.memory.stats().reclaim_rounds, rounds, "nothing has changed");
        // A fault that waits asks again.
        world.memory.ask_reclaimer();
        task.run();
        assert!(world.memory.stats().reclaim_rounds > rounds);
        // And with slots that are free again, something can leave.
        let out = (0..600).find(|&index| space.swap_slot_of(page(index)).is_some());
        space.unmap(at(page(out.unwrap())), PAGE_SIZE).unwrap();
        let freed = world.memory.stats().pages_reclaimed;
        world.memory.frames().call_reclaimer();
        for _ in 0..3 {
            task.run();
            world.deliver_all();
        }
        assert_eq!(world.memory.stats().pages_reclaimed, freed + 1, "with {cpus} CPUs");
    }
}
