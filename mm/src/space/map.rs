//! Making mappings at chosen addresses.

use faultline_fallible::{Arc, Weak};

use arrayvec::ArrayVec;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use super::{Inner, Space, VirtualAddressSpace};
use crate::Memory;
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::backing::{Backing, CachePolicy};
use crate::entry::{Entry, EntryState};
use crate::error::VasError;
use crate::fault::HUGE_ORDER;
use crate::frame::{FrameState, Pfn, ReservedFrame};
use crate::platform::Platform;
use crate::protection::Protection;
use crate::region::{Region, RegionFlags, RegionMap};
use crate::tables::Leaf;
use crate::tlb::Change;

/// A region as a caller sees it.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// Its addresses.
    pub range: PageRange,
    /// What user mode may do.
    pub protection: Protection,
    /// Properties.
    pub flags: RegionFlags,
    /// Where its pages come from.
    pub backing: Backing,
}

/// Out of frames: what a call needed is not known exactly, so the first missing frame is reported.
pub(super) const NO_FRAMES: VasError = VasError::OutOfMemory { needed: 1 };

impl<P: Platform> Inner<P> {
    /// Refuses a range that meets a region, or one region too many.
    pub(crate) fn check_free(&self, memory: &Memory<P>, range: PageRange) -> Result<(), VasError> {
        if let Some(existing) = self.regions.first_overlap(range) {
            return Err(VasError::Overlap {
                wanted: range,
                existing,
            });
        }
        self.check_count(memory, 1)
    }

    /// Refuses an operation that could leave more regions behind than a space may have.
    pub(crate) fn check_count(&self, memory: &Memory<P>, more: usize) -> Result<(), VasError> {
        let limit = memory.config.max_regions;
        if self.regions.len() + more > limit {
            Err(VasError::TooManyRegions { limit })
        } else {
            Ok(())
        }
    }

    /// Refuses a change of what is in `range` if cutting regions at its ends would leave too many behind.
    #[inline]
    pub(crate) fn check_splits(&self, memory: &Memory<P>, range: PageRange) -> Result<(), VasError> {
        self.check_count(memory, RegionMap::SPLIT_COST)
            .or_else(|_| self.check_count(memory, self.regions.cuts(range)))
    }

    pub(crate) fn root(&self) -> Result<Pfn, VasError> {
        self.root.ok_or(VasError::NoTable)
    }

    /// Records a region where none is.
    ///
    /// # Errors
    /// [`VasError::NoKernelMemory`].
    #[inline]
    pub(crate) fn record(
        &mut self,
        range: PageRange,
        protection: Protection,
        backing: Backing,
        flags: RegionFlags,
    ) -> Result<(), VasError> {
        let region = Region {
            end: range.end(),
            backing,
            protection,
            flags,
        };
        self.regions.add(range, region)
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Takes a top table, empty but for kernel space, which it maps. Takes one frame.
    ///
    /// # Errors
    /// [`VasError::AlreadyInitialized`] if there is a table; [`VasError::OutOfMemory`]. Nothing leaks.
    pub fn init(&self) -> Result<(), VasError> {
        let mut inner = self.lock();
        if let Some(root) = inner.root {
            return Err(VasError::AlreadyInitialized {
                root: root.address().as_u64(),
            });
        }
        let memory = self.memory;
        let frame = memory.frames.allocate(memory.platform.cpu()).map_err(|_| NO_FRAMES)?;
        // The template's lower half is empty, so the copy needs no zeroing.
        memory.platform.copy_frame(memory.kernel_root, frame.frame());
        let root = memory.to_table(frame);
        self.set_root(&mut inner, Some(root));
        Ok(())
    }

    /// Copies the kernel half of the template into this space's top table. The template's entries are all present from
    /// boot on, so kernel mappings that are made later appear in every space.
    ///
    /// # Errors
    /// [`VasError::NoTable`] before `init`.
    pub fn map_kernel_space(&self) -> Result<(), VasError> {
        let inner = self.lock();
        self.memory.copy_kernel_half(inner.root()?);
        Ok(())
    }

    /// The top table.
    ///
    /// # Errors
    /// [`VasError::NoTable`] before `init` and after `destroy`.
    pub fn get_page_table(&self) -> Result<PhysFrame, VasError> {
        Ok(self.lock().root()?.frame())
    }

    /// Replaces the top table of a space that maps nothing; the old table, if any, is freed after its flush.
    ///
    /// `root` must be zeroed in its lower half; the kernel half is copied into it. Ownership of the frame goes to the
    /// space.
    ///
    /// # Errors
    /// [`VasError::Overlap`] if the space has regions: their tables hang on the old root. The frame is then dropped, and
    /// so returned.
    pub fn set_page_table(&self, root: ReservedFrame<'static>) -> Result<(), VasError> {
        let mut inner = self.lock_to_change()?;
        if let Some((existing, _)) = inner.regions.iter().next() {
            return Err(VasError::Overlap {
                wanted: existing,
                existing,
            });
        }
        let root = root.into_page_table();
        self.memory.copy_kernel_half(root);
        let old = inner.root;
        self.set_root(&mut inner, Some(root));
        if let Some(old) = old {
            let mut change = Change::new();
            change.all();
            self.release_table(&mut inner, old, false);
            self.finish(&mut inner, change);
        }
        Ok(())
    }

    /// Records a region whose pages appear when they are touched. Takes no frame. An unaligned start covers
    /// `start..start + size`, rounded outwards to whole pages.
    ///
    /// # Errors
    /// [`VasError::EmptyRange`], [`VasError::BadRange`], [`VasError::Overlap`], [`VasError::TooManyRegions`],
    /// [`VasError::NoKernelMemory`], [`VasError::Busy`].
    pub fn map_lazy(
        &self,
        start: VirtAddr,
        size: u64,
        protection: Protection,
        backing: Backing,
    ) -> Result<(), VasError> {
        self.map_with(start, size, protection, backing, RegionFlags::empty())
    }

    /// As [`map_lazy`](Self::map_lazy), with properties: a stack that grows, huge pages.
    ///
    /// # Errors
    /// As [`map_lazy`](Self::map_lazy); [`VasError::Unaligned`] for a backing whose offset is not a multiple of 4096;
    /// [`VasError::Forbidden`] for executable device memory, [`VasError::BadFrame`] for device memory that is RAM which
    /// the allocator hands out.
    pub fn map_with(
        &self,
        start: VirtAddr,
        size: u64,
        protection: Protection,
        backing: Backing,
        flags: RegionFlags,
    ) -> Result<(), VasError> {
        let range = PageRange::covering(start, size)?;
        self.check_backing(range, protection, &backing)?;
        let mut inner = self.lock_to_change()?;
        inner.check_free(self.memory, range)?;
        inner.record(range, protection, backing, flags)
    }

    /// Maps a region of anonymous memory at once: record, zeroed frames and entries, all or nothing.
    ///
    /// # Errors
    /// As [`map_lazy`](Self::map_lazy); [`VasError::OutOfMemory`], after which nothing of it is left, tables included;
    /// [`VasError::NoTable`] before `init`.
    pub fn map_region(&self, start: VirtAddr, size: u64, protection: Protection) -> Result<(), VasError> {
        let range = PageRange::covering(start, size)?;
        self.map_now(&mut *self.lock_to_change()?, range, protection)
    }

    fn map_now(&self, inner: &mut Inner<P>, range: PageRange, protection: Protection) -> Result<(), VasError> {
        inner.check_free(self.memory, range)?;
        let root = inner.root()?;
        inner.record(range, protection, Backing::Anonymous, RegionFlags::empty())?;
        for page in range.iter() {
            if let Err(error) = self.fill_page(inner, root, page, protection) {
                self.discard(inner, range);
                return Err(error);
            }
        }
        Ok(())
    }

    /// A zeroed page in a range that was just recorded.
    fn fill_page(&self, inner: &mut Inner<P>, root: Pfn, page: u64, protection: Protection) -> Result<(), VasError> {
        let memory = self.memory;
        let frame = memory.zeroed_frame().map_err(|_| NO_FRAMES)?;
        let mut change = Change::new();
        let entry = self.own_leaf(inner, root, page, &mut change);
        self.finish(inner, change);
        let flags = Entry::flags_for(protection);
        entry.map_err(|_| NO_FRAMES)?.set(Entry::present(frame.map(), flags));
        Ok(())
    }

    /// As [`map_region`](Self::map_region), returning a guard that unmaps the region when it is dropped.
    ///
    /// # Errors
    /// As [`map_region`](Self::map_region).
    pub fn map_region_raii(
        &self,
        start: VirtAddr,
        size: u64,
        protection: Protection,
    ) -> Result<MappedRegion<P>, VasError> {
        let range = PageRange::covering(start, size)?;
        let mut inner = self.lock_to_change()?;
        inner.guards.try_reserve(1)?;
        self.map_now(&mut inner, range, protection)?;
        inner.next_number += 1;
        let guard = inner.next_number;
        inner.guards.try_push((range, guard))?;
        Ok(MappedRegion {
            space: Arc::downgrade(self.core()),
            range,
            guard,
        })
    }

    /// Maps device memory at a chosen address. It is never freed as RAM, never copied by fork, never executable.
    ///
    /// # Errors
    /// As [`map_lazy`](Self::map_lazy); [`VasError::Unaligned`] unless `start` and `base` are multiples of 4096;
    /// [`VasError::BadFrame`] if the range holds RAM that the allocator hands out.
    pub fn map_physical_region(
        &self,
        start: VirtAddr,
        base: PhysAddr,
        size: u64,
        protection: Protection,
        cache: CachePolicy,
    ) -> Result<(), VasError> {
        PageRange::aligned(start, size)?;
        self.map_with(
            start,
            size,
            protection,
            Backing::Physical { base, cache },
            RegionFlags::empty(),
        )
    }

    /// Maps one zeroed page of anonymous memory.
    ///
    /// # Errors
    /// As [`map_region`](Self::map_region); [`VasError::Overlap`] over an existing page.
    pub fn map_page(&self, address: VirtAddr, protection: Protection) -> Result<(), VasError> {
        self.map_region(address, 1, protection)
    }

    /// Maps one page with a frame of the caller's, content as it is. The frame goes to the space; on an error it is
    /// dropped, and so returned to the allocator.
    ///
    /// # Errors
    /// As [`map_page`](Self::map_page).
    pub fn map_page_with_frame(
        &self,
        address: VirtAddr,
        frame: ReservedFrame<'static>,
        protection: Protection,
    ) -> Result<(), VasError> {
        let range = PageRange::covering(address, 1)?;
        let mut inner = self.lock_to_change()?;
        inner.check_free(self.memory, range)?;
        let root = inner.root()?;
        inner.record(range, protection, Backing::Anonymous, RegionFlags::empty())?;
        let mut change = Change::new();
        let entry = self.own_leaf(&mut inner, root, range.start(), &mut change);
        self.finish(&mut inner, change);
        match entry {
            Ok(entry) => {
                entry.set(Entry::present(frame.map(), Entry::flags_for(protection)));
                Ok(())
            }
            Err(_) => {
                self.discard(&mut inner, range);
                Err(NO_FRAMES)
            }
        }
    }

    /// Gives a mapped page another frame. The reference to the old frame goes after its flush; the generation is bumped
    /// once.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] if the page has no frame yet or no region; [`VasError::WrongKind`] inside a huge page or
    /// a region that is not private; [`VasError::OutOfMemory`] if a shared table could not be copied. On an error the
    /// new frame is dropped.
    pub fn remap_page(&self, address: VirtAddr, frame: ReservedFrame<'static>) -> Result<(), VasError> {
        let range = PageRange::covering(address, 1)?;
        let page = range.start();
        let mut inner = self.lock_to_change()?;
        let root = inner.root()?;
        let Some((found, region)) = inner.regions.find(page) else {
            return Err(VasError::NotMapped { address: page });
        };
        if region.backing.is_shared() {
            return Err(VasError::WrongKind {
                operation: "remap_page",
                region: found,
            });
        }
        let flags = Entry::flags_for(region.protection);
        match self.memory.leaf(root, page) {
            Leaf::Own(_, value) | Leaf::Shared(value) if !self.settled(value).is_empty() => {}
            Leaf::Huge(_) => {
                return Err(VasError::WrongKind {
                    operation: "remap_page",
                    region: found,
                });
            }
            _ => return Err(VasError::NotMapped { address: page }),
        }
        let mut change = Change::new();
        let entry = self.own_leaf(&mut inner, root, page, &mut change);
        let entry = match entry {
            Ok(entry) => entry,
            Err(_) => {
                self.finish(&mut inner, change);
                return Err(NO_FRAMES);
            }
        };
        self.revoke_side(&mut inner, range);
        if let EntryState::InFlight(marker) = entry.get().state() {
            self.revoke_marker(entry, marker);
        }
        let before = entry.swap(Entry::present(frame.map(), flags));
        match before.state() {
            EntryState::Present { frame, .. } => {
                if !before.has(Entry::BORROWED) {
                    self.retire(&mut inner, frame);
                }
                change.page(page);
            }
            EntryState::Swapped { slot } => self.memory.drop_swapped(slot),
            EntryState::Empty | EntryState::InFlight(_) => {
                unreachable!("the page was there, and its faults are revoked")
            }
        }
        self.finish(&mut inner, change);
        Ok(())
    }

    /// Maps 2 MiB of zeroed anonymous memory by one entry. Takes 512 contiguous, aligned frames.
    ///
    /// # Errors
    /// [`VasError::Unaligned`] unless `start` is a multiple of 2 MiB; [`VasError::OutOfMemory`] if no aligned run of
    /// frames is free; [`VasError::Overlap`]; [`VasError::NoTable`].
    pub fn map_huge_page(&self, start: VirtAddr, protection: Protection) -> Result<(), VasError> {
        if !start.is_aligned(HUGE_PAGE_SIZE) {
            return Err(VasError::Unaligned {
                address: start.as_u64(),
                alignment: HUGE_PAGE_SIZE,
            });
        }
        let range = PageRange::aligned(start, HUGE_PAGE_SIZE)?;
        let memory = self.memory;
        let mut inner = self.lock_to_change()?;
        inner.check_free(memory, range)?;
        let root = inner.root()?;
        let none = VasError::OutOfMemory { needed: 512 };
        let run = memory
            .frames
            .allocate_contiguous(HUGE_ORDER, memory.platform.cpu())
            .map_err(|_| none)?;
        memory.platform.zero_frames(run.pfn().frame(), 512);
        inner.record(range, protection, Backing::Anonymous, RegionFlags::HUGE_PAGES)?;
        let Ok(entry) = memory.make_level2(root, range.start()) else {
            self.discard(&mut inner, range);
            return Err(none);
        };
        debug_assert!(entry.get().is_empty(), "a table is left where no region is");
        entry.set(Entry::present(run.map(), Entry::flags_for(protection) | Entry::HUGE));
        Ok(())
    }

    /// The region that holds an address: O(log n).
    #[must_use]
    pub fn find_mapping(&self, address: VirtAddr) -> Option<RegionView> {
        let inner = self.lock();
        let (range, region) = inner.regions.find(address.as_u64())?;
        Some(view(range, region))
    }

    /// The first region that ends above an address: O(log n).
    #[must_use]
    pub fn first_region_above(&self, address: VirtAddr) -> Option<PageRange> {
        let inner = self.lock();
        inner.regions.first_above(address.as_u64()).map(|(range, _)| range)
    }

    /// As [`first_region_above`](Self::first_region_above), with what the region is.
    #[must_use]
    pub fn mapping_above(&self, address: VirtAddr) -> Option<RegionView> {
        let inner = self.lock();
        let (range, region) = inner.regions.first_above(address.as_u64())?;
        Some(view(range, region))
    }

    /// How many bytes of a range are mapped. O(regions in it).
    #[must_use]
    pub fn mapped_bytes(&self, range: PageRange) -> u64 {
        let mut at = range.start();
        let mut bytes = 0;
        // The lock is held for one region at a time.
        while at < range.end()
            && let Some(found) = self.first_region_above(VirtAddr::new_truncate(at))
            && let Some(part) = found.intersection(PageRange::new_unchecked(at, range.end()))
        {
            bytes += part.size();
            at = part.end();
        }
        bytes
    }

    /// Calls `f` with each region in the order of addresses. The lock is held for 16 regions at a time, so faults are
    /// not held up for long; regions that come or go meanwhile may be missed.
    pub fn mappings_ref(&self, mut f: impl FnMut(&RegionView)) {
        let mut next = 0;
        loop {
            let mut batch = ArrayVec::<RegionView, 16>::new();
            {
                let inner = self.lock();
                while !batch.is_full()
                    && let Some((range, region)) = inner.regions.first_above(next)
                {
                    next = range.end();
                    batch.push(view(range, region));
                }
            }
            batch.iter().for_each(&mut f);
            if !batch.is_full() {
                return;
            }
        }
    }
}

fn view(range: PageRange, region: &Region) -> RegionView {
    let Region {
        backing,
        protection,
        flags,
        ..
    } = region;
    RegionView {
        range,
        protection: *protection,
        flags: *flags,
        backing: backing.clone(),
    }
}

impl<P: Platform> Space<P> {
    /// Refuses what a backing can't be mapped as.
    pub(super) fn check_backing(
        &self,
        range: PageRange,
        protection: Protection,
        backing: &Backing,
    ) -> Result<(), VasError> {
        let offset = match backing {
            Backing::Anonymous => 0,
            Backing::Shared { offset, .. } | Backing::Private { offset, .. } | Backing::File { offset, .. } => *offset,
            Backing::Physical { base, .. } => base.as_u64(),
        };
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(VasError::Unaligned {
                address: offset,
                alignment: PAGE_SIZE,
            });
        }
        if offset.checked_add(range.size()).is_none() {
            return Err(VasError::BadRange {
                start: offset,
                size: range.size(),
            });
        }
        if let Backing::Physical { base, .. } = *backing {
            if protection.contains(Protection::EXECUTE) {
                return Err(VasError::Forbidden { range, protection });
            }
            return self.check_device(base, range.pages());
        }
        Ok(())
    }

    /// Refuses RAM that the allocator hands out, and frames that an entry can't hold.
    #[cold]
    fn check_device(&self, base: PhysAddr, pages: u64) -> Result<(), VasError> {
        let bad = |address, reason| Err(VasError::BadFrame { address, reason });
        let end = base.as_u64() + pages * PAGE_SIZE;
        if end > Pfn::NONE.address().as_u64() {
            return bad(base.as_u64(), "it is beyond the physical addresses that entries hold");
        }
        for address in (base.as_u64()..end).step_by(PAGE_SIZE as usize) {
            let frame = Pfn::containing(PhysAddr::new_truncate(address));
            if !matches!(self.memory.frames.state(frame), FrameState::Absent | FrameState::Pinned) {
                return bad(address, "it is RAM that the allocator hands out");
            }
        }
        Ok(())
    }
}

impl<P: Platform> Memory<P> {
    /// Copies the kernel half of the template.
    fn copy_kernel_half(&self, root: Pfn) {
        let template = Pfn::from(self.kernel_root);
        for slot in 256..512 {
            self.entry(root, slot).set(self.entry(template, slot).get());
        }
    }
}

/// A region that is unmapped when this guard is dropped.
///
/// The guard remembers which mapping it stands for: if the region was unmapped by hand, or something else was mapped
/// there since, or the space is gone, dropping it does nothing.
#[must_use = "the region is unmapped when the guard is dropped"]
#[derive(Debug)]
pub struct MappedRegion<P: Platform> {
    space: Weak<Space<P>>,
    range: PageRange,
    guard: u64,
}

impl<P: Platform> MappedRegion<P> {
    /// Its addresses.
    #[must_use]
    pub fn range(&self) -> PageRange {
        self.range
    }
}

impl<P: Platform> Drop for MappedRegion<P> {
    fn drop(&mut self) {
        let Some(space) = self.space.upgrade() else { return };
        let mut inner = space.lock();
        if inner.guards.iter().any(|&(_, guard)| guard == self.guard) && !inner.is_being_changed() {
            // Only a table shared with a forked child can need memory here. Without it, and while a call changes the space
            // in steps, the region stays until the space ends, and nothing else is lost.
            let _ = space.unmap_range(&mut inner, self.range);
        }
    }
}
