//! Address spaces.
//!
//! A [`VirtualAddressSpace`] is the owner of a [`Space`]: dropping it destroys the space, tables included, although
//! faults in flight or a CPU that has the root loaded may keep the `Space` itself for a little longer. All calls take
//! `&self`; what they change is behind one short lock, which is never held across an await.

mod access;
mod advise;
mod all;
mod bring_back;
mod brk;
mod clear;
mod fork;
mod layout;
mod lock;
mod map;
mod mmap;
mod part;
mod protect;
mod remap;
mod stats;
mod teardown;
mod turn;
mod unmap;

use core::ops::Deref;
use core::task::Waker;

use faultline_fallible::{Arc, Vec};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

pub use access::{UserBytes, UserCopy};
pub use advise::Advice;
pub(crate) use all::AllSpaces;
pub use layout::Layout;
pub(crate) use lock::Guard;
pub use map::{MappedRegion, RegionView};
pub use mmap::{MapRequest, Placement};
pub use remap::RemapTarget;
pub use stats::{PageCounts, SpaceStats};
pub(crate) use teardown::EndingSpaces;
pub use turn::Turn;
pub(crate) use turn::pause;

use crate::Memory;
use crate::address::PageRange;
use crate::error::VasError;
use crate::fault::slot::{self, Slot, SlotToken};
use crate::fault::{FirstWrites, ParkedFaults};
use crate::frame::{Pfn, QuarantineList};
use crate::memory::MemoryRef;
use crate::platform::Platform;
use crate::region::RegionMap;
use crate::swap::Streams;
use crate::tlb::SpaceTlb;

/// An address space as the page tables, the TLBs and the fault service see it.
pub struct Space<P: Platform> {
    /// Physical address of the top table; 0 before `init` and after `destroy`.
    pub page_table_root: AtomicU64,
    /// Bumped once by every operation that changes present entries.
    pub tlb_generation: AtomicU64,
    pub(crate) id: u64,
    /// What is mapped from now on is to be locked.
    lock_future: AtomicBool,
    pub(crate) memory: MemoryRef<P>,
    pub(crate) tlb: SpaceTlb,
    /// Its place on the list of all spaces.
    links: all::Links<P>,
    /// The last of its faults that wait for a frame; belongs to the lock of the fault lists.
    pub(crate) waiting: AtomicPtr<Slot<P>>,
    pub(crate) inner: Mutex<Inner<P>>,
}

/// What is no address of a span.
pub(crate) const NO_SPAN: u64 = u64::MAX;

/// What the space's lock guards.
pub(crate) struct Inner<P: Platform> {
    pub(crate) root: Option<Pfn>,
    pub(crate) regions: RegionMap,
    pub(crate) layout: Layout,
    /// The last-level table that the last fault found, and the first address of its span; no span has the address
    /// [`NO_SPAN`]. Forgotten with every change to the tables.
    pub(crate) leaf_table: Pfn,
    pub(crate) leaf_span: u64,
    /// First slot of the side list.
    pub(crate) side: u16,
    /// The slot that the space keeps for its faults, or [`slot::NONE`].
    pub(crate) own_slot: u16,
    /// That slot, while it is free.
    pub(crate) spare: Option<SlotToken<P>>,
    /// Faults in flight.
    pub(crate) in_flight: u32,
    /// Pages that come back from swap slots one after the other.
    pub(crate) streams: Streams,
    /// Pages that are written for the first time one after the other.
    pub(crate) first_writes: FirstWrites,
    /// Who changes the space in several steps.
    pub(crate) turns: turn::Turns,
    /// Faults served, by class.
    pub(crate) served: [u64; faultline_trace::FaultClass::ALL.len()],
    pub(crate) quarantine: QuarantineList<'static>,
    /// Other CPUs may hold translations through which references were given up: frames are on hold.
    pub(crate) holds_frames: bool,
    /// Faults that wait until every CPU has flushed.
    pub(crate) parked: ParkedFaults,
    /// Who waits for a flush: up to which generation, the waiter's number, how to wake it.
    pub(crate) flush_waiters: Vec<(u64, u64, Waker)>,
    /// Regions that a [`MappedRegion`] stands for, by the guard's number.
    pub(crate) guards: Vec<(PageRange, u64)>,
    /// The space that ends after this one.
    pub(crate) next_ending: Option<Arc<Space<P>>>,
    /// Numbers guards and waiters.
    pub(crate) next_number: u64,
    pub(crate) _platform: core::marker::PhantomData<fn(P)>,
}

impl<P: Platform> Space<P> {
    /// The top table, if there is one.
    #[inline]
    pub(crate) fn root_frame(&self) -> Option<PhysFrame> {
        match self.page_table_root.load(Ordering::Acquire) {
            0 => None,
            address => Some(PhysFrame::containing_address(PhysAddr::new_truncate(address))),
        }
    }

    pub(crate) fn set_root(&self, inner: &mut Inner<P>, root: Option<Pfn>) {
        inner.root = root;
        self.page_table_root
            .store(root.map_or(0, |pfn| pfn.address().as_u64()), Ordering::Release);
    }
}

impl<P: Platform> Drop for Space<P> {
    fn drop(&mut self) {
        self.memory.spaces.remove(self);
        // No CPU has the space any more, so none can hold a translation of it.
        if self.inner.get_mut().holds_frames {
            self.memory.frames.unhold(self.memory.platform.cpu());
        }
    }
}

/// A virtual address space: regions, page tables, faults in flight, TLB generation.
///
/// Dereferences to [`Space`], which holds the two public atomics `page_table_root` and `tlb_generation`.
pub struct VirtualAddressSpace<P: Platform> {
    space: Arc<Space<P>>,
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// An empty space. Takes no frame.
    ///
    /// # Panics
    /// If there is no memory for its record; [`try_new`](Self::try_new) returns an error.
    #[must_use]
    pub fn new(memory: &'static Memory<P>) -> Self {
        Self::try_new(memory).expect("there is memory for an address space")
    }

    /// An empty space. Takes no frame.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    pub fn try_new(memory: &'static Memory<P>) -> Result<Self, VasError> {
        Self::with_layout(memory, Layout::default())
    }

    pub(crate) fn with_layout(memory: MemoryRef<P>, layout: Layout) -> Result<Self, VasError> {
        let inner = Inner {
            root: None,
            regions: RegionMap::default(),
            layout,
            leaf_table: memory.zero_frame,
            leaf_span: NO_SPAN,
            side: slot::NONE,
            own_slot: slot::NONE,
            spare: None,
            in_flight: 0,
            streams: Streams::new(),
            first_writes: FirstWrites::new(),
            turns: turn::Turns::default(),
            served: [0; _],
            quarantine: QuarantineList::new(&memory.frames),
            holds_frames: false,
            parked: ParkedFaults::NONE,
            flush_waiters: Vec::new(),
            guards: Vec::new(),
            next_ending: None,
            next_number: 0,
            _platform: core::marker::PhantomData,
        };
        let space = Space {
            page_table_root: AtomicU64::new(0),
            tlb_generation: AtomicU64::new(1),
            id: memory.next_space_id(),
            lock_future: AtomicBool::new(false),
            memory,
            tlb: SpaceTlb::new(),
            links: all::Links::new(),
            waiting: AtomicPtr::new(core::ptr::null_mut()),
            inner: Mutex::new(inner),
        };
        let space = Arc::try_new(space)?;
        memory.spaces.add(&space);
        Ok(Self { space })
    }

    /// The id of the space, never used again by another.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.space.id
    }

    /// What the spaces of this machine share.
    #[must_use]
    pub fn memory(&self) -> &'static Memory<P> {
        self.space.memory
    }

    #[inline]
    pub(crate) fn core(&self) -> &Arc<Space<P>> {
        &self.space
    }
}

/// A platform whose machine has one memory that everybody means, as a kernel's does.
pub trait GlobalMemory: Platform {
    /// What all spaces of this machine share.
    fn memory() -> &'static Memory<Self>;
}

impl<P: GlobalMemory> Default for VirtualAddressSpace<P> {
    /// An empty space of the machine's one memory, as [`VirtualAddressSpace::new`].
    fn default() -> Self {
        Self::new(P::memory())
    }
}

impl<P: Platform> Deref for VirtualAddressSpace<P> {
    type Target = Space<P>;

    fn deref(&self) -> &Space<P> {
        &self.space
    }
}

impl<P: Platform> core::fmt::Debug for VirtualAddressSpace<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VirtualAddressSpace")
            .field("id", &self.id())
            .field("root", &self.root_frame())
            .field("generation", &self.tlb_generation.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    const fn check<P: Platform>() {
        shareable::<VirtualAddressSpace<P>>();
        shareable::<Memory<P>>();
    }
    let _ = check::<NoPlatform>;
    struct NoPlatform;
    // SAFETY: never called: there is no value of this type.
    unsafe impl Platform for NoPlatform {
        fn phys_to_virt(&self, _: PhysAddr) -> *mut u8 {
            core::ptr::null_mut()
        }
        fn cpu(&self) -> usize {
            0
        }
        fn invalidate_page(&self, _: x86_64::VirtAddr) {}
        fn load_root(&self, _: PhysFrame, _: crate::platform::Pcid, _: bool) {}
    }
};
