//! Moving and resizing mappings: `mremap`.

use x86_64::VirtAddr;

use super::map::NO_FRAMES;
use super::{Inner, Space, VirtualAddressSpace};
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::entry::Entry;
use crate::error::VasError;
use crate::frame::Pfn;
use crate::platform::Platform;
use crate::region::{RegionFlags, RegionMap};
use crate::tables::Leaf;
use crate::tlb::Change;

/// Where a resized mapping may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemapTarget {
    /// It must stay where it is.
    InPlace,
    /// It may move if it can't grow where it is (`MREMAP_MAYMOVE`).
    MayMove,
    /// It moves there; what is mapped there goes (`MREMAP_FIXED`).
    Fixed(VirtAddr),
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Resizes the mapping at `start` from `old_size` to `new_size` bytes, moving its pages if it must; returns where it
    /// is. No data is copied: entries move. What moves away is flushed, with one bump.
    ///
    /// # Errors
    /// [`VasError::NotMapped`] if the old range is not wholly inside one region; [`VasError::NoRoom`] if it can't grow
    /// in place and must not move; [`VasError::Overlap`] if a fixed target meets the old range;
    /// [`VasError::OutOfMemory`] for the tables of the new place; [`VasError::TooManyRegions`]; those of
    /// [`PageRange::aligned`]. Nothing has changed then, but for a fixed target that may have been unmapped.
    pub fn remap(
        &self,
        start: VirtAddr,
        old_size: u64,
        new_size: u64,
        target: RemapTarget,
    ) -> Result<VirtAddr, VasError> {
        let old = PageRange::aligned(start, old_size)?;
        let new_size = new_size.checked_next_multiple_of(PAGE_SIZE).filter(|&size| size > 0);
        let new_size = new_size.ok_or(VasError::EmptyRange { start: start.as_u64() })?;
        let mut inner = self.lock();
        let Some((found, region)) = inner.regions.find(old.start()) else {
            return Err(VasError::NotMapped { address: old.start() });
        };
        if old.end() > found.end() {
            return Err(VasError::NotMapped { address: found.end() });
        }
        if region.flags.intersects(RegionFlags::HEAP) && target != RemapTarget::InPlace {
            return Err(VasError::WrongKind {
                operation: "mremap",
                region: found,
            });
        }
        inner.check_count(self.memory, 2 * RegionMap::SPLIT_COST)?;
        let to = match target {
            RemapTarget::Fixed(address) => {
                let to = PageRange::aligned(address, new_size)?;
                if to.intersection(old).is_some() {
                    return Err(VasError::Overlap {
                        wanted: to,
                        existing: old,
                    });
                }
                self.unmap_range(&mut inner, to)?;
                to
            }
            RemapTarget::InPlace | RemapTarget::MayMove => {
                if new_size <= old.size() {
                    if new_size < old.size() {
                        let tail = PageRange::new_unchecked(old.start() + new_size, old.end());
                        self.unmap_range(&mut inner, tail)?;
                    }
                    return Ok(start);
                }
                if inner.grow_in_place(old, found, new_size) {
                    return Ok(start);
                }
                if target == RemapTarget::InPlace {
                    return Err(VasError::NoRoom { size: new_size });
                }
                inner.find_gap(new_size)?
            }
        };
        self.move_mapping(&mut inner, old, to)?;
        Ok(VirtAddr::new_truncate(to.start()))
    }
}

impl<P: Platform> Inner<P> {
    /// Extends the region if `old` is its end and the room behind it is free.
    fn grow_in_place(&mut self, old: PageRange, found: PageRange, new_size: u64) -> bool {
        if found.end() != old.end() {
            return false;
        }
        let Ok(grown) = PageRange::covering(VirtAddr::new_truncate(old.start()), new_size) else {
            return false;
        };
        let more = PageRange::new_unchecked(old.end(), grown.end());
        let limit = self.layout.mmap_end();
        if self.regions.first_overlap(more).is_some() || (old.end() <= limit && more.end() > limit) {
            return false;
        }
        let Some((_, region)) = self.regions.find(old.start()) else {
            return false;
        };
        let mut region = region.clone();
        region.backing = region.backing.advanced(old.end() - found.start());
        self.regions.insert(more, region);
        true
    }
}

impl<P: Platform> Space<P> {
    /// Moves the pages of `old` to `to`, which is free and may be longer or shorter.
    fn move_mapping(&self, inner: &mut Inner<P>, old: PageRange, to: PageRange) -> Result<(), VasError> {
        let mut change = Change::new();
        let prepared = self.prepare_move(inner, old, to, &mut change);
        if let Err(error) = prepared {
            // Tables that were made at the target hold nothing and belong to no region.
            let alone = inner.regions.alone(to);
            self.free_tables(inner, to, alone, &mut change);
            self.finish(inner, change);
            return Err(error);
        }
        let (found, region) = inner.regions.find(old.start()).expect("the caller found it");
        let mut moved = region.clone();
        moved.backing = moved.backing.advanced(old.start() - found.start());
        self.revoke_side(inner, old);
        if let Some(root) = inner.root {
            // Only where there are tables: a region may be far larger than what is in it.
            let moving = PageRange::new_unchecked(old.start(), old.start() + old.size().min(to.size()));
            self.memory.for_each_level2(root, moving, |start, _| {
                let end = (start + HUGE_PAGE_SIZE).min(moving.end());
                for page in (start.max(moving.start())..end).step_by(PAGE_SIZE as usize) {
                    self.move_leaf(root, page, to.start() + (page - old.start()), &mut change);
                }
            });
        }
        inner.regions.insert(to, moved);
        self.finish(inner, change);
        // What did not move is unmapped with the old range.
        self.discard(inner, old);
        Ok(())
    }

    /// Makes the source's tables this space's own and the target's exist, for every page that will move.
    fn prepare_move(
        &self,
        inner: &mut Inner<P>,
        old: PageRange,
        to: PageRange,
        change: &mut Change,
    ) -> Result<(), VasError> {
        let Some(root) = inner.root else { return Ok(()) };
        let alone = inner.regions.alone(old);
        self.prepare_ends(inner, old, alone, change)?;
        let mut result = Ok(());
        self.memory.for_each_level2(root, old, |start, entry2| {
            if result.is_err() || !entry2.get().is_present() {
                return;
            }
            let (first, next) = (start.max(old.start()), start + HUGE_PAGE_SIZE);
            result = self.own_leaf(inner, root, first, change).map(drop);
            // The pages of one source table reach into two target tables at most.
            for page in [first, next.min(old.end()) - PAGE_SIZE] {
                let target = to.start() + (page - old.start());
                if result.is_ok() && target < to.end() {
                    result = self.own_leaf(inner, root, target, change).map(drop);
                }
            }
        });
        result.map_err(|_| NO_FRAMES)
    }

    fn move_leaf(&self, root: Pfn, from: u64, to: u64, change: &mut Change) {
        let Leaf::Own(source, value) = self.memory.leaf(root, from) else {
            return;
        };
        if value.is_empty() {
            return;
        }
        if !value.is_present() {
            self.revoke_marker(source, value);
            return;
        }
        let Leaf::Own(target, _) = self.memory.leaf(root, to) else {
            unreachable!("the target's table was made for this page");
        };
        source.set(Entry::EMPTY);
        target.set(value.without(Entry::BUSY));
        change.page(from);
    }
}
