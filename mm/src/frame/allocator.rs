//! The allocator itself: its parts, how it starts, and single frames.

use core::ops::Range;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use x86_64::PhysAddr;

use super::buddy::{Buddy, MAX_ORDER};
use super::error::{FrameError, OutOfFrames};
#[cfg(any(test, feature = "fault-injection"))]
use super::inject::Injector;
use super::limbo::Limbo;
use super::list::{FrameList, lock};
use super::meta::{FrameMeta, FrameState, Word};
use super::pfn::{FRAME_SIZE, Pfn};
use super::tally::Tally;
use super::token::ReservedFrame;
use super::waiter::Waiter;
use super::watermarks::order_of_refill;
use crate::object::Objects;
use crate::swap::SwapArea;

/// The most CPUs that can have a cache of their own.
pub const MAX_CPUS: usize = 64;

/// The order of the number of frames that move between a cache and the buddy lists at once.
const BATCH_ORDER: u8 = 5;
const BATCH: u32 = 1 << BATCH_ORDER;

/// A cache that grows past this many frames gives [`BATCH`] of them back to the buddy lists. An empty one is filled
/// with fewer.
pub(super) const CACHE_LIMIT: u32 = 2 * BATCH;

/// What one CPU works on, in a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct PerCpu {
    pub tally: Tally,
    pub cache: Mutex<FrameList>,
}

const _: () = assert!(size_of::<PerCpu>() == 64);

/// Every frame of the machine, free or not.
///
/// The [module documentation](crate::frame) draws the states and lists the guarantees and the costs.
///
/// All methods take `&self`. The locks inside are held for a bounded number of steps, and never while a waker runs. A
/// kernel calls them with interrupts off, or at least never from an interrupt handler.
///
/// Where a method takes `cpu`, it is the index of the CPU that it runs on. Any number gives a right result; the
/// CPU's own gives a fast one.
#[derive(Debug)]
pub struct FrameAllocator {
    pub(super) cpus: [PerCpu; MAX_CPUS],
    cpu_mask: u32,
    pub(super) metadata: &'static mut [FrameMeta],
    pub(super) waiter: Waiter,
    /// The reclaimer, when it sleeps.
    pub(super) hungry: Waiter,
    pub(super) reserve: AtomicU32,
    pub(super) low: AtomicU32,
    pub(super) high: AtomicU32,
    pub(super) limbo: Limbo,
    pub(super) zeroed: Mutex<FrameList>,
    pub(super) zeroed_target: AtomicU32,
    pub(super) buddy: Mutex<Buddy>,
    pub(super) total: AtomicU64,
    pub(super) pinned: AtomicU64,
    /// What memory objects share.
    pub(crate) objects: Objects,
    /// The slots of the swap area.
    pub(crate) swap: SwapArea,
    #[cfg(any(test, feature = "fault-injection"))]
    pub(super) injector: Injector,
}

impl FrameAllocator {
    /// The number of [`FrameMeta`] that describe all memory below `end`: one for each frame, 16 bytes apiece. The part
    /// of memory past 16 TiB is left out.
    pub const fn required_metadata(end: PhysAddr) -> usize {
        let frames = end.as_u64().div_ceil(FRAME_SIZE);
        if frames < u32::MAX as u64 {
            frames as usize
        } else {
            u32::MAX as usize - 1
        }
    }

    /// Takes over the frames in `usable`: the byte ranges of the memory map that nobody uses.
    ///
    /// `metadata[n]` describes frame `n`; its former content does not matter. The ranges are rounded inwards to whole
    /// frames and cut at the end of the metadata; they may come in any order and overlap. Frame 0 is left out, so
    /// that a physical address of zero stays free to mean "none". Everything else starts as [`FrameState::Absent`];
    /// [`pin_range`](Self::pin_range) makes RAM known that is in use already, such as the memory of `metadata` itself,
    /// which must not be in `usable`.
    ///
    /// `cpus` is the number of CPUs, of which the first [`MAX_CPUS`] get a cache of their own.
    ///
    /// Costs some ten instructions for each frame.
    pub fn new(
        metadata: &'static mut [FrameMeta],
        usable: impl IntoIterator<Item = Range<PhysAddr>>,
        cpus: usize,
    ) -> Self {
        let length = metadata.len().min(u32::MAX as usize - 1);
        let metadata = &mut metadata[..length];
        for meta in metadata.iter_mut() {
            *meta = FrameMeta::new();
        }
        for range in usable {
            let first = range.start.as_u64().div_ceil(FRAME_SIZE).max(1);
            let end = (range.end.as_u64() / FRAME_SIZE).min(length as u64);
            for meta in metadata.get(first as usize..end as usize).unwrap_or_default() {
                meta.store(Word::TAIL);
            }
        }
        let mut buddy = Buddy::new();
        let mut next = 0;
        while let Some(skipped) = metadata[next..].iter().position(|meta| meta.load().is_tail()) {
            let first = next + skipped;
            let run = metadata[first..].iter().position(|meta| !meta.load().is_tail());
            next = run.map_or(length, |run| first + run);
            buddy.put_range(metadata, first as u32, next as u32);
        }
        Self {
            cpus: [const {
                PerCpu {
                    tally: Tally::new(),
                    cache: Mutex::new(FrameList::new()),
                }
            }; MAX_CPUS],
            cpu_mask: cpus.clamp(1, MAX_CPUS).next_power_of_two() as u32 - 1,
            metadata,
            waiter: Waiter::new(),
            hungry: Waiter::new(),
            reserve: AtomicU32::new(0),
            low: AtomicU32::new(0),
            high: AtomicU32::new(0),
            limbo: Limbo::new(),
            zeroed: Mutex::new(FrameList::new()),
            zeroed_target: AtomicU32::new(0),
            total: AtomicU64::new(buddy.free()),
            pinned: AtomicU64::new(0),
            objects: Objects::default(),
            swap: SwapArea::new(),
            buddy: Mutex::new(buddy),
            #[cfg(any(test, feature = "fault-injection"))]
            injector: Injector::new(),
        }
    }

    /// Gives the metadata back, for a test to free. A kernel's frames outlive everything.
    pub fn into_metadata(self) -> &'static mut [FrameMeta] {
        self.metadata
    }

    /// The first frame past the end of the memory map.
    #[inline]
    pub fn end(&self) -> Pfn {
        Pfn::new(self.metadata.len() as u32)
    }

    /// The index of the cache that `cpu` uses.
    #[inline]
    pub(super) fn cpu_index(&self, cpu: usize) -> u32 {
        cpu as u32 & self.cpu_mask
    }

    #[inline]
    pub(super) fn cpu(&self, index: u32) -> &PerCpu {
        &self.cpus[index as usize % MAX_CPUS]
    }

    /// Whether more than one CPU takes and frees frames.
    #[inline]
    pub fn has_several_cpus(&self) -> bool {
        self.cpu_mask != 0
    }

    /// The CPUs that have a cache.
    pub(super) fn each_cpu(&self) -> &[PerCpu] {
        &self.cpus[..=self.cpu_mask as usize]
    }

    #[inline]
    pub(super) fn meta(&self, pfn: Pfn) -> Result<&FrameMeta, FrameError> {
        match self.metadata.get(pfn.index()) {
            Some(meta) => Ok(meta),
            None => Err(FrameError::Foreign {
                frame: pfn,
                end: self.end(),
            }),
        }
    }

    /// What `pfn` is used for; [`FrameState::Absent`] past the end of the memory map.
    ///
    /// For errors and diagnostics: unless the caller owns the frame, the answer may be old when it arrives.
    #[cold]
    pub fn state(&self, pfn: Pfn) -> FrameState {
        let Some(meta) = self.metadata.get(pfn.index()) else {
            return FrameState::Absent;
        };
        if let Some(state) = meta.load().state() {
            return state;
        }
        // A tail: the head of its block tells, the nearest below it whose order reaches this far.
        let head = (1..=MAX_ORDER).find_map(|order| {
            let word = self.metadata[pfn.index() & !((1 << order) - 1)].load();
            if word.order() >= order { word.state() } else { None }
        });
        head.unwrap_or(FrameState::Free)
    }

    #[inline]
    pub(super) fn wrong_state(&self, frame: Pfn, expected: FrameState) -> FrameError {
        FrameError::WrongState {
            frame,
            found: self.state(frame),
            expected,
        }
    }

    /// Takes one frame. Its content is whatever its last owner left.
    ///
    /// Looks in the CPU's own cache, then the buddy lists, then the other CPUs' caches, then the zeroed pool.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if all of them are empty.
    #[inline]
    pub fn allocate(&self, cpu: usize) -> Result<ReservedFrame<'_>, OutOfFrames> {
        self.allocate_leaving(0, cpu)
    }

    /// As [`allocate`](Self::allocate), but leaves the [reserve](super::Watermarks).
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if no more is left.
    #[inline]
    pub fn allocate_for_fault(&self, cpu: usize) -> Result<ReservedFrame<'_>, OutOfFrames> {
        self.allocate_leaving(u32::MAX, cpu)
    }

    /// Takes one frame; leaves as many in the buddy lists as `left` says, but not more than the reserve.
    #[inline]
    fn allocate_leaving(&self, left: u32, cpu: usize) -> Result<ReservedFrame<'_>, OutOfFrames> {
        #[cfg(any(test, feature = "fault-injection"))]
        if self.injector.fails() {
            return Err(self.out_of_frames(0));
        }
        let cpu = self.cpu_index(cpu);
        let taken = lock(&self.cpu(cpu).cache).take(self.metadata);
        if let Some((pfn, meta)) = taken {
            return Ok(ReservedFrame::new(self, meta, pfn, cpu));
        }
        let pfn = self.allocate_slow(left, cpu);
        match self.metadata.get(pfn.index()) {
            Some(meta) => Ok(ReservedFrame::new(self, meta, pfn, cpu)),
            None => Err(self.out_of_frames(0)),
        }
    }

    /// Returns a reserved frame, or [`Pfn::NONE`].
    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, left: u32, cpu: u32) -> Pfn {
        let left = left.min(self.reserve.load(Ordering::Relaxed));
        let lists = self.each_cpu().iter().map(|other| &other.cache).chain([&self.zeroed]);
        self.take_ordinary(left, cpu)
            .or_else(|| lists.into_iter().find_map(|list| lock(list).take(self.metadata)))
            .map_or(Pfn::NONE, |(pfn, _)| pfn)
    }

    /// Reserves a frame from the CPU's cache, which is refilled from the buddy lists if it is empty; `left` frames are left
    /// there.
    pub(super) fn take_ordinary(&self, left: u32, cpu: u32) -> Option<(Pfn, &FrameMeta)> {
        let mut cache = lock(&self.cpu(cpu).cache);
        if cache.len() > 0 {
            return cache.take(self.metadata);
        }
        let mut buddy = lock(&self.buddy);
        if let Some(order) = order_of_refill(buddy.free(), left, BATCH_ORDER) {
            buddy.take_singles(self.metadata, order, Word::CACHED, &mut cache);
        }
        let free = buddy.free();
        drop(buddy);
        let taken = cache.take(self.metadata);
        let more = cache.len() > 0;
        drop(cache);
        if free < u64::from(self.low.load(Ordering::Relaxed)) {
            self.call_reclaimer();
        }
        if more {
            // A fault that waits may take what others have left in the cache, though not what they have left in the lists.
            self.waiter.notify();
        }
        taken
    }

    #[cold]
    pub(super) fn out_of_frames(&self, order: u8) -> OutOfFrames {
        OutOfFrames {
            wanted: 1u32.checked_shl(order.into()).unwrap_or(u32::MAX),
            free: self.available() as u32,
        }
    }

    /// The frames that single allocations can still take: those in the caches, the zeroed pool and the buddy lists.
    /// Takes each of their locks in turn.
    pub fn available(&self) -> u64 {
        let (single, blocks) = self.count_free();
        single + blocks
    }

    /// The free frames in the caches and the zeroed pool, and those in the buddy lists.
    pub(super) fn count_free(&self) -> (u64, u64) {
        let cached: u64 = self
            .each_cpu()
            .iter()
            .map(|cpu| u64::from(lock(&cpu.cache).len()))
            .sum();
        let zeroed = u64::from(lock(&self.zeroed).len());
        (cached + zeroed, lock(&self.buddy).free())
    }

    /// Puts a reserved frame that the caller owns into the cache.
    #[inline]
    pub(super) fn release(&self, pfn: Pfn, meta: &FrameMeta, cpu: u32) {
        let mut cache = lock(&self.cpu(cpu).cache);
        cache.put(pfn, meta, Word::CACHED);
        if cache.len() > CACHE_LIMIT {
            self.drain(&mut cache, BATCH);
        }
        drop(cache);
        self.waiter.notify();
    }

    /// As [`release`](Self::release) for each frame that `next` yields, with the lock taken once. Returns their number.
    pub(super) fn release_each<'m>(&self, cpu: u32, mut next: impl FnMut() -> Option<(Pfn, &'m FrameMeta)>) -> usize {
        let mut released = 0;
        let mut cache = lock(&self.cpu(cpu).cache);
        while let Some((pfn, meta)) = next() {
            cache.put(pfn, meta, Word::CACHED);
            released += 1;
            if cache.len() > CACHE_LIMIT {
                self.drain(&mut cache, BATCH);
            }
        }
        drop(cache);
        self.waiter.notify();
        released
    }

    /// Moves up to `count` frames from a list to the buddy lists. The caller notifies the waiter when it has released
    /// the list's lock.
    #[cold]
    #[inline(never)]
    pub(super) fn drain(&self, list: &mut FrameList, count: u32) {
        lock(&self.buddy).put_singles(self.metadata, count, list);
    }

    /// Moves every cached frame to the buddy lists, where neighbours merge; zeroed frames too if `zeroed` is set.
    pub fn drain_caches(&self, zeroed: bool) {
        for cpu in self.each_cpu() {
            self.drain(&mut lock(&cpu.cache), u32::MAX);
        }
        if zeroed {
            self.drain(&mut lock(&self.zeroed), u32::MAX);
        }
        self.waiter.notify();
    }
}
