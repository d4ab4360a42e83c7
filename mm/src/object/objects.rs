//! What all objects of a machine share: their list, what they have lost, and how many pages they have.

use core::sync::atomic::{AtomicU64, Ordering};

use super::all::AllObjects;
use super::sparse::Left;
use super::state::{Page, PageState};
use crate::frame::FrameAllocator;
use crate::memory::Memory;
use crate::platform::Platform;
use crate::sync::Mutex;

/// A number that goes up and down. It orders nothing: it is read for reports and estimates only, hence `Relaxed`.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    #[inline(always)]
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What all objects of a machine share.
#[derive(Debug)]
pub(crate) struct Objects {
    /// Pages that objects have lost and that are still to be given back.
    pub left: Mutex<Left>,
    /// The objects themselves.
    pub all: AllObjects,
    /// The round that the hand over them makes; none has been at any object in it.
    pub round: AtomicU64,
    /// Resident pages.
    pub resident: Gauge,
    /// Those of them that come from a file on a disk.
    pub from_disk: Gauge,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            left: Mutex::new(Left::new()),
            all: AllObjects::default(),
            round: AtomicU64::new(1),
            resident: Gauge::default(),
            from_disk: Gauge::default(),
        }
    }
}

impl FrameAllocator {
    /// Gives back about `most` frames that objects have lost; says whether some are left.
    pub(crate) fn give_back_left(&self, most: usize) -> bool {
        let mut given = 0;
        let mut left = self.objects.left.lock();
        while given < most {
            match left.give_back_one(self) {
                Some(count) => given += count + 1,
                None => break,
            }
        }
        !left.is_empty()
    }

    /// Gives up what an object has of a page that is in its tree no more.
    pub(super) fn give_back_page(&self, state: PageState) {
        match state.page() {
            // A page in flight belongs to the record of its read.
            Page::Absent | Page::InFlight { slot: None, .. } => {}
            Page::InFlight { slot: Some(slot), .. } | Page::SwappedOut { slot } => {
                if let Some(retired) = self.drop_swap_reference(slot, 0) {
                    retired.free();
                }
            }
            Page::Resident { frame } => {
                self.objects.resident.sub(1);
                if state.is_clean() {
                    self.objects.from_disk.sub(1);
                }
                self.leave_object(frame);
            }
        }
    }
}

impl<P: Platform> Memory<P> {
    /// Gives back about `most` of the frames that objects have lost; says whether some are left. A kernel calls it now and
    /// then until nothing is.
    pub fn give_back_left(&self, most: usize) -> bool {
        self.frames().give_back_left(most)
    }

    /// Pages of objects that are in memory: all, and those of files on a disk.
    #[must_use]
    pub fn object_pages(&self) -> (u64, u64) {
        let objects = &self.frames().objects;
        (objects.resident.get(), objects.from_disk.get())
    }
}
