//! What all address spaces of a machine share: frames, fault slots, TLB state, counters.

use core::ops::Range;

use x86_64::structures::paging::PhysFrame;

use crate::entry::Entry;
use crate::fault::{FaultService, FaultTable};
use crate::frame::{FrameAccount, FrameAllocator, Pfn, Watermarks};
use crate::object::Reads;
use crate::platform::{MAX_CPUS, Platform};
use crate::reclaim::{Batches, Progress};
use crate::space::{AllSpaces, EndingSpaces};
use crate::stats::{Counters, MemoryStats};
use crate::swap::SwapDevice;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, mutant};
use crate::tlb::{CpuTlb, FlushEverywhere};

/// Whether faults go through the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FaultMode {
    /// Every fault is queued to the fault service (the default).
    #[default]
    Queued,
    /// Every fault is left with the CPU whose poll admitted it, until that poll is over. Whoever polls calls, after every
    /// poll, if [`Memory::has_left_fault`]: [`Memory::serve_left_fault`] if nothing else is due, or
    /// [`Memory::queue_left_fault`].
    HandedOff,
    /// The first poll of the fault serves it, and queues it only if it has to wait.
    Inline,
}

/// What [`Memory::new`] is told.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// The top table whose upper 256 entries every space shares. They all have to be present, and the lower ones empty.
    pub kernel_root: PhysFrame,
    /// How many faults can be in flight at once, at most 65,535; further ones wait for a slot.
    pub fault_slots: usize,
    /// Whether faults go through the queue.
    pub fault_mode: FaultMode,
    /// Most regions that a space may have; Linux's `vm.max_map_count` is 65,530.
    pub max_regions: usize,
    /// How many regions, and how many last-level tables or huge pages, one step of a call in steps looks at: what bounds its
    /// time.
    pub step: (usize, u32),
    /// Pages that a first write to anonymous memory gets at most, if those before it came one page after the other; 1 to
    /// switch it off.
    pub run_ahead: u64,
    /// Pages mapped around a fault on a file whose pages are in memory; a power of two, 1 to switch it off.
    pub fault_around: u64,
    /// How many frames are kept free where memory can be reclaimed; by the size of the machine if not given.
    pub watermarks: Option<Watermarks>,
    /// How many reads of files and of swapped pages of objects can be in flight at once; further ones wait for a record.
    pub object_reads: u16,
}

impl MemoryConfig {
    /// 1,024 slots, queued, 65,530 regions, 128 regions or 8 tables a step, no running ahead, 16 pages of fault-around.
    #[must_use]
    pub const fn new(kernel_root: PhysFrame) -> Self {
        Self {
            kernel_root,
            fault_slots: 1024,
            fault_mode: FaultMode::Queued,
            max_regions: 65_530,
            step: (128, 8),
            run_ahead: 1,
            fault_around: 16,
            watermarks: None,
            object_reads: 128,
        }
    }
}

/// What all address spaces of a machine share. It lives for as long as any of them.
pub struct Memory<P: Platform> {
    pub(crate) platform: P,
    pub(crate) frames: FrameAllocator,
    pub(crate) faults: FaultTable<P>,
    pub(crate) tlb: [CpuTlb<P>; MAX_CPUS],
    pub(crate) flushes: FlushEverywhere,
    pub(crate) reclaim: Progress,
    pub(crate) batches: Batches,
    pub(crate) counters: Counters,
    pub(crate) kernel_root: PhysFrame,
    pub(crate) config: MemoryConfig,
    /// The frame of zeros that every untouched page shows to readers.
    pub(crate) zero_frame: Pfn,
    /// Spaces that are being taken apart.
    pub(crate) ending: Mutex<EndingSpaces<P>>,
    /// Reads of files into objects.
    pub(crate) reads: Reads,
    /// The device of the swap area.
    pub(crate) swap: SwapDevice,
    /// Every space.
    pub(crate) spaces: AllSpaces<P>,
    next_space: AtomicU64,
    next_fault: AtomicU64,
}

impl<P: Platform> Memory<P> {
    /// Takes over the frames of a machine. Takes one frame for the shared page of zeros and keeps it.
    ///
    /// # Panics
    /// If there is no frame at all, if `config.fault_slots` is 0 or above 65,535, or if the lower half of the kernel's
    /// root is not empty.
    pub fn new(platform: P, frames: FrameAllocator, config: MemoryConfig) -> Self {
        assert!(
            (1..=usize::from(u16::MAX)).contains(&config.fault_slots),
            "fault slots out of range"
        );
        assert!(
            config.fault_around.is_power_of_two(),
            "fault-around is not a power of two"
        );
        let zero_frame = frames
            .allocate(platform.cpu())
            .expect("a machine has at least one frame")
            .pin();
        platform.zero_frame(zero_frame.frame());
        let memory = Self {
            faults: FaultTable::new(config.fault_slots),
            tlb: core::array::from_fn(|_| CpuTlb::default()),
            flushes: FlushEverywhere::default(),
            reclaim: Progress::default(),
            batches: Batches::new(),
            counters: Counters::default(),
            kernel_root: config.kernel_root,
            ending: Mutex::new(EndingSpaces::default()),
            reads: Reads::new(config.object_reads),
            swap: SwapDevice::new(),
            spaces: AllSpaces::new(),
            next_space: AtomicU64::new(1),
            next_fault: AtomicU64::new(1),
            platform,
            frames,
            config,
            zero_frame,
        };
        let lower = &memory.table(Pfn::from(config.kernel_root))[..256];
        assert!(
            lower.iter().all(|entry| EntryRef(entry).get().is_empty()),
            "the lower half of the kernel's root is not empty"
        );
        memory
    }

    /// The machine.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The frame allocator.
    pub fn frames(&self) -> &FrameAllocator {
        &self.frames
    }

    /// Where every frame is: the conservation equation of the whole machine.
    #[must_use]
    pub fn account(&self) -> FrameAccount {
        self.frames.account()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.counters.snapshot()
    }

    /// Faults in flight: slots in use.
    #[must_use]
    pub fn faults_in_flight(&self) -> usize {
        self.faults.in_use()
    }

    /// Kernel memory of a fault that waits, beside its thread's own: its slot and its future.
    #[must_use]
    pub const fn waiting_fault_bytes(&self) -> usize {
        crate::fault::waiting_bytes::<P>()
    }

    /// Faults that wait until a frame is free.
    #[must_use]
    pub fn faults_waiting_for_memory(&self) -> usize {
        self.faults.waiting_for_memory()
    }

    /// The task that serves faults: spawn it once, in the highest class. It never ends.
    pub fn fault_service(&'static self) -> FaultService<P> {
        FaultService::new(self)
    }

    pub(crate) fn next_space_id(&self) -> u64 {
        let id = self.next_space.fetch_add(1, Ordering::Relaxed);
        if mutant!(ReuseId) { 1 + id % 2 } else { id }
    }

    #[inline]
    pub(crate) fn next_fault_id(&self) -> u64 {
        self.next_fault.fetch_add(1, Ordering::Relaxed)
    }

    /// The entries of the page table in `table`.
    #[inline(always)]
    pub(crate) fn table(&self, table: Pfn) -> &[AtomicU64; 512] {
        let base = self.platform.phys_to_virt(table.address()).cast();
        // SAFETY: 1. `phys_to_virt` is valid for the whole frame, which is 512 words; 2. every frame given here holds a
        // page table: a root, or the frame of a present entry of level 4 to 2 that does not map a page; 3. tables are
        // accessed through atomics only, so concurrent access (also by the processor) is no data race.
        unsafe { &*base }
    }

    /// Entry `index` of the page table in `table`.
    #[inline(always)]
    pub(crate) fn entry(&self, table: Pfn, index: usize) -> EntryRef<'_> {
        EntryRef(&self.table(table)[index])
    }

    /// Calls `f` with each entry of the page table in `table` with these indices that is not empty, and with its index.
    #[inline(always)]
    pub(crate) fn for_each_used<'a>(
        &'a self,
        table: Pfn,
        indices: Range<usize>,
        mut f: impl FnMut(usize, EntryRef<'a>, Entry),
    ) {
        let first = indices.start;
        for (offset, word) in self.table(table)[indices].iter().enumerate() {
            let value = EntryRef(word).get();
            if !value.is_empty() {
                f(first + offset, EntryRef(word), value);
            }
        }
    }
}

/// One entry of a page table, where it stands.
#[derive(Clone, Copy)]
pub(crate) struct EntryRef<'a>(pub(crate) &'a AtomicU64);

impl EntryRef<'_> {
    #[inline(always)]
    pub(crate) fn get(self) -> Entry {
        Entry::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Release: the content of the frame, or of the table below, is visible to whoever sees the entry.
    #[inline(always)]
    pub(crate) fn set(self, entry: Entry) {
        self.0.store(entry.bits(), Ordering::Release);
    }

    /// Sets bits of a present entry, keeping what the processor writes meanwhile.
    #[inline]
    pub(crate) fn or(self, bits: u64) {
        self.0.fetch_or(bits, Ordering::Relaxed);
    }

    /// Clears bits of a present entry, keeping what the processor writes meanwhile.
    #[inline]
    pub(crate) fn and_not(self, bits: u64) {
        self.0.fetch_and(!bits, Ordering::Relaxed);
    }

    /// Adds to a field of a present entry that does not overflow, keeping what the processor writes meanwhile.
    #[inline]
    pub(crate) fn add(self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Replaces a present entry that the processor may be marking accessed or dirty meanwhile.
    #[inline]
    pub(crate) fn swap(self, entry: Entry) -> Entry {
        Entry::from_bits(self.0.swap(entry.bits(), Ordering::AcqRel))
    }
}

/// A reference to the shared state of a machine's memory.
pub(crate) type MemoryRef<P> = &'static Memory<P>;
