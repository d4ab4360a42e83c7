//! Advice and questions about what is in memory: `madvise`, `mincore`.

use x86_64::VirtAddr;

use super::turn::pause;
use super::{Inner, Space, VirtualAddressSpace};
use crate::address::{PAGE_SIZE, PageRange};
use crate::backing::Backing;
use crate::entry::{Entry, EntryState};
use crate::error::{FaultError, VasError};
use crate::platform::Platform;
use crate::protection::{Access, FaultInfo};
use crate::region::{Position, Region, RegionFlags, Survey};
use crate::sync::atomic::Ordering;
use crate::tables::Leaf;
use crate::tlb::Change;

/// What [`VirtualAddressSpace::advise`] can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The pages are not needed: their frames go, and the next touch finds fresh content (zeros, or the file's).
    DontNeed,
    /// The pages may go. Served as [`Advice::DontNeed`] at once, which the interface allows.
    Free,
    /// Serve the range by huge pages.
    HugePages,
    /// Serve the range by small pages.
    NoHugePages,
    /// A child of `fork` does not get the range.
    NotInherited,
    /// Takes [`Advice::NotInherited`] back.
    Inherited,
    /// A child of `fork` gets the range empty. For private anonymous memory only.
    WipedInChild,
    /// Takes [`Advice::WipedInChild`] back.
    KeptInChild,
    /// Pages are touched in no order: a page of a file is read alone, and a first write gets one page.
    Random,
    /// Pages are touched in the order of addresses: a first write gets several at once
    /// ([`MemoryConfig::run_ahead`](crate::MemoryConfig::run_ahead)).
    Sequential,
    /// Takes [`Advice::Random`] and [`Advice::Sequential`] back.
    Normal,
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Takes advice on `start..start + size`. [`Advice::DontNeed`] frees after one flush with one bump. Everything is done
    /// under one hold of the lock: a long range is for [`advise_in_steps`](Self::advise_in_steps).
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole; [`VasError::WrongKind`] for device memory, for
    /// [`Advice::WipedInChild`] for any that is not private and anonymous, and for [`Advice::DontNeed`] and [`Advice::Free`]
    /// for locked memory;
    /// [`VasError::TooManyRegions`]; [`VasError::NoKernelMemory`] and [`VasError::OutOfMemory`] as for
    /// [`unmap`](Self::unmap); [`VasError::Busy`]; those of [`PageRange::aligned`]. Nothing has changed then.
    pub fn advise(&self, start: VirtAddr, size: u64, advice: Advice) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let mut inner = self.lock_to_change()?;
        inner.regions.survey(range).covered()?;
        self.advise_range(&mut inner, range, Mark::Advice(advice))
    }

    /// As [`advise`](Self::advise), in steps, with a turn of its own: on whatever is mapped in the range, as `madvise`.
    ///
    /// # Errors
    /// As [`advise`](Self::advise). The first hole is told when everything else is done; after another error what is before
    /// is done.
    pub async fn advise_in_steps(&self, start: VirtAddr, size: u64, advice: Advice) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        match self.mark_in_steps(range, Mark::Advice(advice)).await? {
            Some(address) => Err(VasError::NotMapped { address }),
            None => Ok(()),
        }
    }

    /// Marks `start..start + size` as locked in memory, or not. Nothing is ever swapped out: what is locked is what
    /// [`SpaceStats::locked_bytes`](super::SpaceStats) says, and [`populate`](Self::populate) makes its pages present.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole; [`VasError::TooManyRegions`]; [`VasError::NoKernelMemory`];
    /// [`VasError::Busy`]; those of [`PageRange::aligned`]. Nothing has changed then.
    pub fn set_locked(&self, start: VirtAddr, size: u64, locked: bool) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let mut inner = self.lock_to_change()?;
        inner.regions.survey(range).covered()?;
        self.advise_range(&mut inner, range, Mark::Locked(locked))
    }

    /// As [`set_locked`](Self::set_locked), in steps, with a turn of its own: on whatever is mapped in the range.
    ///
    /// # Errors
    /// As [`set_locked`](Self::set_locked). The first hole is told when everything else is done; after another error what
    /// is before is done.
    pub async fn set_locked_in_steps(&self, range: PageRange, locked: bool) -> Result<(), VasError> {
        match self.mark_in_steps(range, Mark::Locked(locked)).await? {
            Some(address) => Err(VasError::NotMapped { address }),
            None => Ok(()),
        }
    }

    /// Says whether what is mapped from now on is to be locked (`MCL_FUTURE`): the caller of [`mmap`](Self::mmap) looks. A
    /// child of `fork` does not inherit it.
    pub fn set_lock_future(&self, locked: bool) {
        self.core().lock_future.store(locked, Ordering::Relaxed);
    }

    /// Whether what is mapped from now on is to be locked.
    #[inline]
    #[must_use]
    pub fn locks_future(&self) -> bool {
        self.core().lock_future.load(Ordering::Relaxed)
    }

    /// Marks whatever is mapped in a range, in steps; returns the first address that is not.
    async fn mark_in_steps(&self, range: PageRange, mark: Mark) -> Result<Option<u64>, VasError> {
        let turn = self.turn().await?;
        let mut hole = None;
        let mut left = Some(range);
        while let Some(range) = left {
            {
                let mut inner = turn.lock();
                let part = self.part(&inner, range);
                hole = hole.or(self.mark_part(&mut inner, part, mark)?);
                left = Space::<P>::rest(range, part);
            }
            if left.is_some() {
                pause().await;
            }
        }
        Ok(hole)
    }

    /// Touches every page of `start..start + size` as `access` would, waiting where a fault would wait: `MAP_POPULATE`,
    /// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`.
    ///
    /// # Errors
    /// The first page's [`FaultError`] that can't be had.
    pub async fn populate(&self, range: PageRange, access: Access) -> Result<(), FaultError> {
        for page in range.iter() {
            // A fault may end with the advice to look again.
            while !self.is_mapped_for(page, access) {
                self.handle_page_fault(FaultInfo {
                    address: page,
                    access,
                    user: false,
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Calls `f` for each page of `start..start + size` with whether a touch would find it in memory (`mincore`). The lock is
    /// held for a few pages at a time, and never while `f` runs.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole, before any call of `f` unless it came meanwhile; those of
    /// [`PageRange::aligned`].
    pub fn resident(&self, start: VirtAddr, size: u64, mut f: impl FnMut(bool)) -> Result<(), VasError> {
        const PAGES: u64 = 64;
        let range = PageRange::aligned(start, size)?;
        self.lock().regions.survey(range).covered()?;
        for first in (range.start()..range.end()).step_by((PAGES * PAGE_SIZE) as usize) {
            let part = PageRange::new_unchecked(first, range.end().min(first + PAGES * PAGE_SIZE));
            let mut present = 0_u64;
            {
                let inner = self.lock();
                inner.regions.survey(part).covered()?;
                for (index, page) in part.iter().enumerate() {
                    let leaf = inner.root.map_or(Leaf::None, |root| self.memory.leaf(root, page));
                    present |= u64::from(match leaf {
                        Leaf::Own(_, value) | Leaf::Shared(value) | Leaf::Huge(value) => self.is_in_memory(value),
                        Leaf::None => false,
                    }) << index;
                }
            }
            (0..part.pages()).for_each(|index| f(present >> index & 1 != 0));
        }
        Ok(())
    }

    /// Whether an access by user mode would go through without a fault.
    #[must_use]
    pub fn is_mapped_for(&self, address: u64, access: Access) -> bool {
        self.translate_locked(&self.lock(), address, access).is_some()
    }
}

/// What says in which order pages are touched.
const ORDER: RegionFlags = RegionFlags::RANDOM.union(RegionFlags::SEQUENTIAL);

/// What is done to each region of a range.
#[derive(Clone, Copy)]
enum Mark {
    Advice(Advice),
    Locked(bool),
}

impl<P: Platform> Space<P> {
    /// Whether the page of an entry is in a frame.
    fn is_in_memory(&self, value: Entry) -> bool {
        let value = self.settled(value);
        match value.state() {
            EntryState::Present { .. } => true,
            EntryState::Swapped { slot } => self.memory.frames.swap.load(slot).frame().is_some(),
            EntryState::Empty | EntryState::InFlight(_) => false,
        }
    }

    /// Marks whatever is mapped in a part of a range; returns the first address that is not.
    fn mark_part(&self, inner: &mut Inner<P>, part: PageRange, mark: Mark) -> Result<Option<u64>, VasError> {
        let mut hole = None;
        let mut at = part.start();
        while at < part.end()
            && let Some((found, _)) = inner.regions.first_above(at)
            && let Some(range) = found.intersection(PageRange::new_unchecked(at, part.end()))
        {
            if range.start() > at {
                hole = hole.or(Some(at));
            }
            at = range.end();
            self.advise_range(inner, range, mark)?;
        }
        Ok(hole.or((at < part.end()).then_some(at)))
    }

    /// Marks a range that is mapped without a hole.
    fn advise_range(&self, inner: &mut Inner<P>, range: PageRange, mark: Mark) -> Result<(), VasError> {
        let survey = inner.regions.survey(range);
        let advice = match mark {
            Mark::Advice(advice) => advice,
            Mark::Locked(locked) => {
                let to = if locked {
                    RegionFlags::LOCKED
                } else {
                    RegionFlags::empty()
                };
                return self.set_flags(inner, range, &survey, RegionFlags::LOCKED, to);
            }
        };
        if let Some(region) = survey.device(&inner.regions) {
            return Err(VasError::WrongKind {
                operation: "madvise",
                region,
            });
        }
        let none = RegionFlags::empty();
        let (flags, to) = match advice {
            Advice::DontNeed | Advice::Free => {
                if inner.regions.bytes().locked > 0
                    && let Some(region) = inner.first_in(range, |region| region.flags.contains(RegionFlags::LOCKED))
                {
                    return Err(VasError::WrongKind {
                        operation: "discarding locked memory",
                        region,
                    });
                }
                return self.drop_pages(inner, range, survey.first);
            }
            Advice::HugePages => (RegionFlags::HUGE_PAGES, RegionFlags::HUGE_PAGES),
            Advice::NoHugePages => (RegionFlags::HUGE_PAGES, none),
            Advice::NotInherited => (RegionFlags::NOT_INHERITED, RegionFlags::NOT_INHERITED),
            Advice::Inherited => (RegionFlags::NOT_INHERITED, none),
            Advice::WipedInChild => {
                if let Some(region) = inner.first_in(range, |region| !matches!(region.backing, Backing::Anonymous)) {
                    return Err(VasError::WrongKind {
                        operation: "wiping in a child",
                        region,
                    });
                }
                (RegionFlags::WIPED_IN_CHILD, RegionFlags::WIPED_IN_CHILD)
            }
            Advice::KeptInChild => (RegionFlags::WIPED_IN_CHILD, none),
            Advice::Random => (ORDER, RegionFlags::RANDOM),
            Advice::Sequential => (ORDER, RegionFlags::SEQUENTIAL),
            Advice::Normal => (ORDER, none),
        };
        self.set_flags(inner, range, &survey, flags, to)
    }
}

impl<P: Platform> Inner<P> {
    /// The first region that meets a range and is so.
    fn first_in(&self, range: PageRange, is_so: impl Fn(&Region) -> bool) -> Option<PageRange> {
        let mut next = range.start();
        while let Some((found, region)) = self.regions.first_above(next)
            && found.start() < range.end()
        {
            if is_so(region) {
                return Some(found);
            }
            next = found.end();
        }
        None
    }
}

impl<P: Platform> Space<P> {
    pub(super) fn drop_pages(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        first: Option<Position>,
    ) -> Result<(), VasError> {
        let mut change = Change::new();
        if let Some(table) = inner.root.and_then(|root| self.memory.only_table(root, range)) {
            self.revoke_side(inner, range);
            self.clear_part(inner, table, range, &mut change);
            self.finish(inner, change);
            return Ok(());
        }
        let alone = inner.regions.alone_from(range, first);
        let prepared = self.prepare_ends(inner, range, alone, &mut change);
        if prepared.is_ok() {
            self.clear_entries(inner, range, alone, &mut change);
        }
        self.finish(inner, change);
        prepared
    }

    /// Makes those of `flags` that are in `to` hold for a range, and the others not.
    fn set_flags(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        survey: &Survey,
        flags: RegionFlags,
        to: RegionFlags,
    ) -> Result<(), VasError> {
        inner.check_splits(self.memory, range)?;
        inner.regions.prepare_change(range, survey.first)?;
        // A fault in flight was admitted under the old property.
        self.revoke_side(inner, range);
        inner
            .regions
            .update(range, survey.first, |region| region.flags = (region.flags - flags) | to);
        if to == RegionFlags::LOCKED
            && let Some(root) = inner.root
        {
            self.keep_pages(root, range);
        }
        Ok(())
    }
}
