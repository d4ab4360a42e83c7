//! The allocator: free frames in caches, buddy lists and the zeroed pool, and the ways between them.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use spin::Mutex;
use x86_64::PhysAddr;

use super::buddy::{Buddy, MAX_ORDER};
use super::error::{FrameError, OutOfFrames};
#[cfg(any(test, feature = "fault-injection"))]
use super::inject::Injector;
use super::list::FrameList;
use super::meta::{FrameMeta, FrameState, Word};
use super::pfn::{FRAME_SIZE, Pfn};
use super::tally::Tally;
use super::token::{ReservedFrame, ReservedRun};

/// CPUs that can have a cache of their own.
pub const MAX_CPUS: usize = 64;

/// A cache that grows past this many frames gives [`BATCH`] of them back to the buddy lists.
pub(super) const CACHE_LIMIT: u32 = 64;

/// The order of the number of frames that move between a cache and the buddy lists at once: 32.
const BATCH_ORDER: u8 = 5;
const BATCH: u32 = 1 << BATCH_ORDER;

/// The free frames next to one CPU.
#[derive(Debug)]
pub(super) struct Cache {
    pub list: FrameList,
    /// Frames handed out, less those returned. Wraps; only the sum over all counters means something.
    pub out: u64,
}

/// What one CPU works on, in a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct PerCpu {
    pub cache: Mutex<Cache>,
    pub tally: Tally,
}

/// Every frame of the machine, free or not.
///
/// See the [module documentation](crate::frame) for the states, the guarantees and the costs. All methods take
/// `&self`; the locks inside are held for a bounded number of steps and never across a wake or a call to foreign code.
/// In a kernel, call them with interrupts off.
///
/// Where a method takes `cpu`, it is the index of the CPU that it runs on. Any number gives a right result; the
/// CPU's own makes it a fast one.
#[derive(Debug)]
pub struct FrameAllocator {
    pub(super) metadata: &'static mut [FrameMeta],
    cpu_mask: usize,
    /// Somebody waits for a free frame: the next one that comes free wakes `waker`.
    waiting: AtomicBool,
    waker: AtomicWaker,
    pub(super) total: AtomicU64,
    pub(super) pinned: AtomicU64,
    pub(super) zeroed: Mutex<Cache>,
    zeroed_target: AtomicU32,
    pub(super) buddy: Mutex<Buddy>,
    pub(super) cpus: [PerCpu; MAX_CPUS],
    #[cfg(any(test, feature = "fault-injection"))]
    injector: Injector,
}

impl FrameAllocator {
    /// The number of [`FrameMeta`] that describe all memory below `end`: one for each frame, 16 bytes apiece.
    ///
    /// Memory past 16 TiB is left out.
    pub const fn required_metadata(end: PhysAddr) -> usize {
        let frames = end.as_u64().div_ceil(FRAME_SIZE);
        if frames < u32::MAX as u64 {
            frames as usize
        } else {
            u32::MAX as usize - 1
        }
    }

    /// Takes over the frames in `usable`, the byte ranges of the memory map that nobody else uses.
    ///
    /// `metadata[n]` describes frame `n`; its former content does not matter. Ranges are rounded inwards to whole
    /// frames, may come in any order and overlap, and are cut at the end of the metadata. Frame 0 is left out, so
    /// that a physical address of zero stays free to mean "none". Everything else is [`FrameState::Absent`]; see
    /// [`pin_range`](Self::pin_range) for RAM that is in use already. The memory of `metadata` itself must not be in
    /// `usable`.
    ///
    /// `cpus` is the number of CPUs, rounded up to a power of two and at most [`MAX_CPUS`].
    ///
    /// Takes about ten instructions for each frame.
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
            let first = range.start.as_u64().div_ceil(FRAME_SIZE).max(1) as usize;
            let end = ((range.end.as_u64() / FRAME_SIZE) as usize).min(length);
            for meta in metadata.get(first..end).unwrap_or_default() {
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
            total: AtomicU64::new(buddy.free()),
            metadata,
            cpu_mask: cpus.clamp(1, MAX_CPUS).next_power_of_two() - 1,
            waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            pinned: AtomicU64::new(0),
            zeroed: Mutex::new(Cache {
                list: FrameList::new(),
                out: 0,
            }),
            zeroed_target: AtomicU32::new(0),
            buddy: Mutex::new(buddy),
            cpus: [const {
                PerCpu {
                    cache: Mutex::new(Cache {
                        list: FrameList::new(),
                        out: 0,
                    }),
                    tally: Tally::new(),
                }
            }; MAX_CPUS],
            #[cfg(any(test, feature = "fault-injection"))]
            injector: Injector::new(),
        }
    }

    /// Gives the metadata back. For tests: a kernel's frames outlive everything.
    pub fn into_metadata(self) -> &'static mut [FrameMeta] {
        self.metadata
    }

    /// The first frame past the end of the memory map.
    #[inline]
    pub fn end(&self) -> Pfn {
        Pfn::new(self.metadata.len() as u32)
    }

    #[inline]
    pub(super) fn cpu(&self, cpu: usize) -> &PerCpu {
        &self.cpus[cpu & self.cpu_mask & (MAX_CPUS - 1)]
    }

    /// The CPUs that have a cache.
    pub(super) fn each_cpu(&self) -> &[PerCpu] {
        &self.cpus[..=self.cpu_mask]
    }

    #[inline]
    pub(super) fn meta(&self, pfn: Pfn) -> Result<&FrameMeta, FrameError> {
        self.metadata.get(pfn.index()).ok_or_else(|| self.foreign(pfn))
    }

    #[cold]
    fn foreign(&self, frame: Pfn) -> FrameError {
        FrameError::Foreign { frame, end: self.end() }
    }

    /// What `pfn` is used for; [`FrameState::Absent`] past the end of the memory map. For errors and diagnostics: the
    /// answer may be old when it arrives, unless the caller owns the frame.
    pub fn state(&self, pfn: Pfn) -> FrameState {
        let Some(meta) = self.metadata.get(pfn.index()) else {
            return FrameState::Absent;
        };
        if let Some(state) = meta.load().state() {
            return state;
        }
        // A tail: the nearest head below it whose block reaches this far tells.
        let head = (1..=MAX_ORDER).find_map(|order| {
            let word = self.metadata[pfn.index() & !((1 << order) - 1)].load();
            if word.order() >= order { word.state() } else { None }
        });
        head.unwrap_or(FrameState::Reserved)
    }

    #[cold]
    pub(super) fn wrong_state(&self, frame: Pfn, expected: FrameState) -> FrameError {
        FrameError::WrongState {
            frame,
            found: self.state(frame),
            expected,
        }
    }

    /// Takes one frame; its content is whatever its last owner left.
    ///
    /// Looks in the CPU's own cache, then the buddy lists, then the other CPUs' caches, then the zeroed pool.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if all of them are empty.
    #[inline]
    pub fn allocate(&self, cpu: usize) -> Result<ReservedFrame<'_>, OutOfFrames> {
        #[cfg(any(test, feature = "fault-injection"))]
        if self.injector.fails() {
            return Err(self.out_of_frames(0));
        }
        let mut cache = self.cpu(cpu).cache.lock();
        if let Some((pfn, meta)) = cache.list.pop(self.metadata) {
            meta.store(Word::RESERVED);
            cache.out = cache.out.wrapping_add(1);
            return Ok(ReservedFrame::new(self, pfn, cpu));
        }
        drop(cache);
        self.allocate_slow(cpu)
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, cpu: usize) -> Result<ReservedFrame<'_>, OutOfFrames> {
        self.take_ordinary(cpu)
            .or_else(|| {
                self.each_cpu()
                    .iter()
                    .find_map(|other| self.take_from(&other.cache, cpu))
            })
            .or_else(|| self.take_from(&self.zeroed, cpu))
            .ok_or_else(|| self.out_of_frames(0))
    }

    /// From the CPU's cache, refilled from the buddy lists if it is empty.
    fn take_ordinary(&self, cpu: usize) -> Option<ReservedFrame<'_>> {
        let mut cache = self.cpu(cpu).cache.lock();
        if cache.list.len() == 0 {
            self.buddy
                .lock()
                .take_singles(self.metadata, BATCH_ORDER, Word::CACHED, &mut cache.list);
        }
        drop(cache);
        self.take_from(&self.cpu(cpu).cache, cpu)
    }

    fn take_from(&self, list: &Mutex<Cache>, cpu: usize) -> Option<ReservedFrame<'_>> {
        let mut cache = list.lock();
        let (pfn, meta) = cache.list.pop(self.metadata)?;
        meta.store(Word::RESERVED);
        cache.out = cache.out.wrapping_add(1);
        Some(ReservedFrame::new(self, pfn, cpu))
    }

    #[cold]
    fn out_of_frames(&self, order: u8) -> OutOfFrames {
        OutOfFrames {
            wanted: 1u32.checked_shl(order.into()).unwrap_or(u32::MAX),
            free: self.available() as u32,
        }
    }

    /// Frames that an allocation of single frames could still take: those in the buddy lists, the caches and the
    /// zeroed pool.
    pub fn available(&self) -> u64 {
        let cached: u64 = self
            .each_cpu()
            .iter()
            .map(|cpu| u64::from(cpu.cache.lock().list.len()))
            .sum();
        let zeroed = u64::from(self.zeroed.lock().list.len());
        cached + zeroed + self.buddy.lock().free()
    }

    /// Takes one frame, or arranges for `cx` to be woken when a frame comes free.
    ///
    /// There is room for one waiter: the task that serves faults. A second one displaces it.
    pub fn poll_allocate(&self, cpu: usize, cx: &mut Context<'_>) -> Poll<ReservedFrame<'_>> {
        if let Ok(frame) = self.allocate(cpu) {
            return Poll::Ready(frame);
        }
        self.set_low_memory_waker(cx.waker());
        // Again: a frame freed before the waker was set has woken nobody.
        match self.allocate(cpu) {
            Ok(frame) => Poll::Ready(frame),
            Err(_) => Poll::Pending,
        }
    }

    /// Wakes `waker` once, when the next frame comes free. Replaces the waker set before.
    ///
    /// A frame that came free before this call wakes nobody, so try to allocate once more after it, as
    /// [`poll_allocate`](Self::poll_allocate) does. Then no frame is missed: whoever frees a frame looks for a waiter
    /// after it has held the lock of the list that the frame is on, and an allocation takes the lock of each list.
    pub fn set_low_memory_waker(&self, waker: &Waker) {
        self.waker.register(waker);
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Wakes the waiter, if there is one, after a frame was put on a list.
    #[inline]
    fn notify(&self) {
        if self.waiting.load(Ordering::Relaxed) {
            self.wake_waiter();
        }
    }

    #[cold]
    #[inline(never)]
    fn wake_waiter(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Puts a reserved frame that the caller owns into the cache.
    #[inline]
    pub(super) fn release(&self, pfn: Pfn, cpu: usize) {
        let mut cache = self.cpu(cpu).cache.lock();
        cache.list.push(self.metadata, pfn, Word::CACHED);
        cache.out = cache.out.wrapping_sub(1);
        if cache.list.len() > CACHE_LIMIT {
            self.drain(&mut cache, BATCH);
        }
        drop(cache);
        self.notify();
    }

    /// Moves up to `count` frames from a cache to the buddy lists.
    #[cold]
    #[inline(never)]
    pub(super) fn drain(&self, cache: &mut Cache, count: u32) {
        let mut buddy = self.buddy.lock();
        for _ in 0..count {
            let Some((pfn, _)) = cache.list.pop(self.metadata) else {
                return;
            };
            buddy.put(self.metadata, pfn.number(), 0);
        }
    }

    /// Moves every cached frame to the buddy lists, where neighbours merge; zeroed frames too if `zeroed` is set.
    pub fn drain_caches(&self, zeroed: bool) {
        for cpu in self.each_cpu() {
            self.drain(&mut cpu.cache.lock(), u32::MAX);
        }
        if zeroed {
            self.drain(&mut self.zeroed.lock(), u32::MAX);
        }
        self.notify();
    }

    /// Takes `1 << order` contiguous frames, aligned to their size. Order 9 is 2 MiB.
    ///
    /// If the buddy lists have no such run, the caches are drained into them, then the zeroed pool, and they are
    /// searched again. Takes at most about [`MAX_ORDER`] steps besides the draining, whatever the order.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`] if there is no such run, or `order` is above [`MAX_ORDER`].
    pub fn allocate_contiguous(&self, order: u8, cpu: usize) -> Result<ReservedRun<'_>, OutOfFrames> {
        #[cfg(any(test, feature = "fault-injection"))]
        if self.injector.fails() {
            return Err(self.out_of_frames(order));
        }
        if order > MAX_ORDER {
            return Err(self.out_of_frames(order));
        }
        if let Some(run) = self.take_run(order, cpu) {
            return Ok(run);
        }
        if self.available() >= 1 << order {
            for zeroed in [false, true] {
                self.drain_caches(zeroed);
                if let Some(run) = self.take_run(order, cpu) {
                    return Ok(run);
                }
            }
        }
        Err(self.out_of_frames(order))
    }

    fn take_run(&self, order: u8, cpu: usize) -> Option<ReservedRun<'_>> {
        let mut buddy = self.buddy.lock();
        let head = buddy.take(self.metadata, order)?;
        self.metadata[head as usize].store(Word::block(FrameState::Reserved, order));
        buddy.out = buddy.out.wrapping_add(1 << order);
        Some(ReservedRun::new(self, Pfn::new(head), order, cpu))
    }

    /// Puts a reserved run that the caller owns into the buddy lists.
    pub(super) fn release_run(&self, head: Pfn, order: u8) {
        let mut buddy = self.buddy.lock();
        buddy.put(self.metadata, head.number(), order);
        buddy.out = buddy.out.wrapping_sub(1 << order);
        drop(buddy);
        self.notify();
    }

    /// Takes a frame whose bytes are all zero, if the pool has one.
    #[inline]
    pub fn allocate_zeroed(&self, cpu: usize) -> Option<ReservedFrame<'_>> {
        #[cfg(any(test, feature = "fault-injection"))]
        if self.injector.fails() {
            return None;
        }
        let mut pool = self.zeroed.lock();
        let (pfn, meta) = pool.list.pop(self.metadata)?;
        meta.store(Word::RESERVED);
        pool.out = pool.out.wrapping_add(1);
        Some(ReservedFrame::new(self, pfn, cpu))
    }

    /// Sets how many zeroed frames the kernel keeps ready; 0, as at the start, switches the pool off. Frames above
    /// the new target go back to the buddy lists.
    pub fn set_zeroed_target(&self, frames: u32) {
        let mut pool = self.zeroed.lock();
        self.zeroed_target.store(frames, Ordering::Relaxed);
        let excess = pool.list.len().saturating_sub(frames);
        self.drain(&mut pool, excess);
        drop(pool);
        self.notify();
    }

    /// The number of zeroed frames that the kernel keeps ready.
    pub fn zeroed_target(&self) -> u32 {
        self.zeroed_target.load(Ordering::Relaxed)
    }

    /// Takes a frame for the kernel to zero when it is idle, and to return with [`put_zeroed`](Self::put_zeroed);
    /// `None` when the pool is full or off, when somebody waits for memory, or when no other frame is free.
    pub fn take_for_zeroing(&self, cpu: usize) -> Option<ReservedFrame<'_>> {
        if self.zeroed.lock().list.len() >= self.zeroed_target() || self.waiting.load(Ordering::Relaxed) {
            return None;
        }
        self.take_ordinary(cpu)
    }

    /// Puts a frame into the pool of zeroed frames. All its bytes must be zero. Frees it instead if the pool is full.
    pub fn put_zeroed(&self, frame: ReservedFrame<'_>) {
        let mut pool = self.zeroed.lock();
        if pool.list.len() >= self.zeroed_target() {
            drop(pool);
            return frame.free();
        }
        pool.list.push(self.metadata, frame.publish(), Word::ZEROED);
        pool.out = pool.out.wrapping_sub(1);
        drop(pool);
        self.notify();
    }

    /// Makes the frames of `range`, rounded outwards, known as RAM that is never handed out: the ramdisk, the kernel
    /// image, the boot information. They can be mapped and count in the total. Returns their number.
    ///
    /// # Errors
    ///
    /// [`FrameError::Foreign`] if the range reaches past the metadata, [`FrameError::WrongState`] with the first frame
    /// that is not [`FrameState::Absent`]. Nothing is pinned then.
    pub fn pin_range(&self, range: Range<PhysAddr>) -> Result<usize, FrameError> {
        let first = Pfn::containing(range.start);
        let end = Pfn::containing(range.end.align_up(FRAME_SIZE));
        if first >= end {
            return Ok(0);
        }
        self.meta(Pfn::new(end.number() - 1))?;
        let frames = &self.metadata[first.index()..end.index()];
        if let Some(taken) = frames.iter().position(|meta| meta.load() != Word::ABSENT) {
            return Err(self.wrong_state(first.offset(taken as u32), FrameState::Absent));
        }
        for meta in frames {
            meta.store(Word::PINNED.with_aux(Word::FOR_EVER));
        }
        self.total.fetch_add(frames.len() as u64, Ordering::Relaxed);
        self.pinned.fetch_add(frames.len() as u64, Ordering::Relaxed);
        Ok(frames.len())
    }

    /// Lets the next `n` allocations succeed and fails all that follow, until [`fail_never`](Self::fail_never).
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn fail_after(&self, n: u64) {
        self.injector.arm(n, u64::MAX);
    }

    /// Lets the next `n` allocations succeed and fails the one that follows, once.
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn fail_once_after(&self, n: u64) {
        self.injector.arm(n, 1);
    }

    /// Ends what [`fail_after`](Self::fail_after) or [`fail_once_after`](Self::fail_once_after) began. Returns the
    /// number of allocations that were made to fail since.
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn fail_never(&self) -> u64 {
        self.injector.disarm()
    }
}
