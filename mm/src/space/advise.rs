//! Advice and questions about what is in memory: `madvise`, `mincore`.

use x86_64::VirtAddr;

use super::{Inner, Space, VirtualAddressSpace};
use crate::address::PageRange;
use crate::backing::Backing;
use crate::error::{FaultError, VasError};
use crate::platform::Platform;
use crate::protection::{Access, FaultInfo};
use crate::region::{Position, RegionFlags, RegionMap, Survey};
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
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Takes advice on `start..start + size`. [`Advice::DontNeed`] frees after one flush with one bump.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole; [`VasError::WrongKind`] for device memory, and
    /// [`Advice::WipedInChild`] for any that is not private and anonymous;
    /// [`VasError::TooManyRegions`]; [`VasError::OutOfMemory`] as for [`unmap`](Self::unmap); those of
    /// [`PageRange::aligned`].
    pub fn advise(&self, start: VirtAddr, size: u64, advice: Advice) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let mut inner = self.lock();
        let survey = inner.regions.survey(range);
        survey.covered()?;
        if let Some(region) = survey.device(&inner.regions) {
            return Err(VasError::WrongKind {
                operation: "madvise",
                region,
            });
        }
        match advice {
            Advice::DontNeed | Advice::Free => self.drop_pages(&mut inner, range, survey.first),
            Advice::HugePages => self.set_flag(&mut inner, range, &survey, RegionFlags::HUGE_PAGES, true),
            Advice::NoHugePages => self.set_flag(&mut inner, range, &survey, RegionFlags::HUGE_PAGES, false),
            Advice::NotInherited => self.set_flag(&mut inner, range, &survey, RegionFlags::NOT_INHERITED, true),
            Advice::Inherited => self.set_flag(&mut inner, range, &survey, RegionFlags::NOT_INHERITED, false),
            Advice::WipedInChild => {
                if let Some(region) = inner.first_that_is_not_anonymous(range) {
                    return Err(VasError::WrongKind {
                        operation: "wiping in a child",
                        region,
                    });
                }
                self.set_flag(&mut inner, range, &survey, RegionFlags::WIPED_IN_CHILD, true)
            }
            Advice::KeptInChild => self.set_flag(&mut inner, range, &survey, RegionFlags::WIPED_IN_CHILD, false),
        }
    }

    /// Marks `start..start + size` as locked in memory, or not. Accounting only: nothing is ever swapped out.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole; [`VasError::TooManyRegions`]; those of [`PageRange::aligned`].
    pub fn set_locked(&self, start: VirtAddr, size: u64, locked: bool) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let mut inner = self.lock();
        let survey = inner.regions.survey(range);
        survey.covered()?;
        self.set_flag(&mut inner, range, &survey, RegionFlags::LOCKED, locked)
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

    /// Calls `f` for each page of `start..start + size` with whether a touch would find it in memory (`mincore`).
    ///
    /// # Errors
    /// [`VasError::NotMapped`] with the first hole, before any call of `f`; those of [`PageRange::aligned`].
    pub fn resident(&self, start: VirtAddr, size: u64, mut f: impl FnMut(bool)) -> Result<(), VasError> {
        let range = PageRange::aligned(start, size)?;
        let inner = self.lock();
        inner.regions.survey(range).covered()?;
        for page in range.iter() {
            let leaf = inner.root.map_or(Leaf::None, |root| self.memory.leaf(root, page));
            f(match leaf {
                Leaf::Own(_, value) | Leaf::Shared(value) | Leaf::Huge(value) => value.is_present(),
                Leaf::None => false,
            });
        }
        Ok(())
    }

    /// Whether an access by user mode would go through without a fault.
    #[must_use]
    pub fn is_mapped_for(&self, address: u64, access: Access) -> bool {
        self.translate_locked(&self.lock(), address, access).is_some()
    }
}

impl<P: Platform> Inner<P> {
    fn first_that_is_not_anonymous(&self, range: PageRange) -> Option<PageRange> {
        let mut next = range.start();
        while let Some((found, region)) = self.regions.first_above(next)
            && found.start() < range.end()
        {
            if !matches!(region.backing, Backing::Anonymous) {
                return Some(found);
            }
            next = found.end();
        }
        None
    }
}

impl<P: Platform> Space<P> {
    fn drop_pages(&self, inner: &mut Inner<P>, range: PageRange, first: Option<Position>) -> Result<(), VasError> {
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

    fn set_flag(
        &self,
        inner: &mut Inner<P>,
        range: PageRange,
        survey: &Survey,
        flag: RegionFlags,
        set: bool,
    ) -> Result<(), VasError> {
        inner.check_count(self.memory, RegionMap::SPLIT_COST)?;
        // A fault in flight was admitted under the old property.
        self.revoke_side(inner, range);
        inner
            .regions
            .update(range, survey.first, |region| region.flags.set(flag, set));
        Ok(())
    }
}
