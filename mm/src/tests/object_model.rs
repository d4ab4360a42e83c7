//! Random operations on an object whose pages leave and come back, compared with an array.

use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use std::boxed::Box;
use std::vec::Vec;

use faultline_fallible::Arc;

use super::disk::Disk;
use super::machine::*;
use super::model::Random;
use super::walk::Walk;
use crate::swap::Left;
use crate::*;

const A: u64 = 0x10_0000;
const PAGES: u64 = 24;

struct Model {
    world: World,
    disk: Arc<Disk>,
    object: Arc<MemoryObject>,
    spaces: [Option<Vas>; 2],
    /// What each page starts with.
    values: [u64; PAGES as usize],
    /// What has left, and is not written yet.
    left: Vec<Left>,
    random: Random,
    next: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let world = World::new(512);
        let disk = world.swap(64);
        let object = MemoryObject::new(world.memory.frames(), PAGES * PAGE_SIZE).unwrap();
        Self {
            disk,
            object,
            world,
            spaces: [None, None],
            values: [0; PAGES as usize],
            left: Vec::new(),
            random: Random::new(seed),
            next: 0,
        }
    }

    /// Runs a future to its end; the disk answers one transfer whenever nothing else goes on.
    fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        for _ in 0..1000 {
            if let Poll::Ready(output) = self.world.poll(future.as_mut()) {
                return output;
            }
            self.world.serve();
            if self.disk.waiting() > 0 {
                self.disk.finish(0);
            }
        }
        panic!("a future did not end");
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.random.next() >> 16) % end
    }

    /// A space that shares the object, made if there is none.
    fn space(&mut self, index: usize) -> &Vas {
        let (world, object) = (&self.world, &self.object);
        self.spaces[index].get_or_insert_with(|| {
            let space = world.space();
            let backing = Backing::Shared {
                object: object.clone(),
                offset: 0,
            };
            space.map_lazy(at(A), PAGES * PAGE_SIZE, RW, backing).unwrap();
            space
        })
    }

    fn step(&mut self) {
        let page = self.below(PAGES);
        let index = self.below(2) as usize;
        let slot = page as usize;
        let address = A + page * PAGE_SIZE;
        match self.below(16) {
            0..3 => {
                self.next += 1;
                self.values[slot] = self.next;
                let bytes = self.next.to_le_bytes();
                self.space(index);
                let space = self.spaces[index].as_ref().unwrap();
                self.run(space.write_user(address, &bytes)).unwrap();
            }
            3..6 => {
                let mut bytes = [0; 8];
                self.space(index);
                let space = self.spaces[index].as_ref().unwrap();
                self.run(space.read_user(address, &mut bytes)).unwrap();
                assert_eq!(u64::from_le_bytes(bytes), self.values[slot], "page {page} in a space");
            }
            6..8 => {
                let mut bytes = [0; 8];
                while self
                    .object
                    .read(self.world.memory, page * PAGE_SIZE, &mut bytes)
                    .is_err()
                {
                    self.run(self.world.memory.page_in(&self.object, page)).unwrap();
                }
                assert_eq!(u64::from_le_bytes(bytes), self.values[slot], "page {page}");
            }
            8 => {
                self.next += 1;
                self.values[slot] = self.next;
                let bytes = self.next.to_le_bytes();
                while self.object.write(self.world.memory, page * PAGE_SIZE, &bytes).is_err() {
                    self.run(self.world.memory.page_in(&self.object, page)).unwrap();
                }
            }
            9 => {
                self.spaces[index] = None;
                self.world.memory.leave_spaces();
            }
            10 | 11 => {
                let mut leaving = self.world.memory.frames.leave();
                let left = &mut self.left;
                self.world.memory.step_objects(12, Some(&mut leaving), |slot, frame| {
                    left.push(Left::Dirty(slot, frame));
                    left.len() < 8
                });
            }
            12 => self.write_out(),
            13 if self.spaces.iter().all(Option::is_none) => {
                let end = (page + 1 + self.below(4)).min(PAGES);
                self.object.punch(page, end);
                self.values[slot..end as usize].fill(0);
            }
            // Somebody begins to wait, and leaves.
            13 | 14 => {
                let mut page_in = Box::pin(self.world.memory.page_in(&self.object, page));
                let _ = self.world.poll(page_in.as_mut());
            }
            _ => {
                if self.disk.waiting() > 0 {
                    let waiting = self.disk.waiting() as u64;
                    let which = self.below(waiting);
                    self.disk.finish(which as usize);
                }
            }
        }
        let late = self.below(3) > 0;
        self.disk.at_once(!late);
    }

    fn write_out(&mut self) {
        let left = core::mem::take(&mut self.left);
        self.world.write_out(&self.disk, &left);
    }

    /// Every count is right, and everything comes back.
    fn end(mut self) {
        self.write_out();
        self.disk.finish_all();
        self.world.serve();
        let spaces: Vec<_> = self.spaces.iter_mut().filter_map(Option::take).collect();
        Walk::of(&self.world, &spaces).check_counts(&self.world, core::slice::from_ref(&self.object));
        drop(spaces);
        self.world.memory.leave_spaces();
        drop(self.object);
        while self.world.memory.give_back_left(1) {}
        assert_eq!(self.world.memory.swap_stats().used, 0);
        assert_eq!(self.world.account().mapped, 0);
    }
}

#[test]
fn an_object_whose_pages_come_and_go_is_an_array() {
    for seed in 0..if cfg!(miri) { 2 } else { 200 } {
        let mut model = Model::new(seed);
        for _ in 0..300 {
            model.step();
        }
        model.end();
    }
}
