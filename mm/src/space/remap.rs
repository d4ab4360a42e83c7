//! Moving and resizing mappings: `mremap`.

use x86_64::VirtAddr;

use super::map::NO_FRAMES;
use super::turn::pause;
use super::{Inner, Space, VirtualAddressSpace};
use crate::Memory;
use crate::address::{HUGE_PAGE_SIZE, PAGE_SIZE, PageRange};
use crate::entry::{Entry, EntryState};
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
    /// It moves there if that is free, else to wherever there is room.
    Hint(VirtAddr),
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Resizes the mapping at `start` from `old_size` to `new_size` bytes, moving its pages if it must; returns where it
    /// is. No data is copied: entries move. What moves away is flushed, with one bump.
    ///
    /// Everything is done under one hold of the lock: a large mapping is for [`remap_in_steps`](Self::remap_in_steps).
    ///
    /// # Errors
    /// [`VasError::NotMapped`] if the old range is not wholly inside one region; [`VasError::NoRoom`] if it can't grow
    /// in place and must not move; [`VasError::Overlap`] if a fixed target meets the old range;
    /// [`VasError::OutOfMemory`] for the tables of the new place; [`VasError::TooManyRegions`];
    /// [`VasError::NoKernelMemory`]; [`VasError::Busy`]; those of [`PageRange::aligned`]. Nothing has changed then, but for
    /// a fixed target that may have been unmapped.
    pub fn remap(
        &self,
        start: VirtAddr,
        old_size: u64,
        new_size: u64,
        target: RemapTarget,
    ) -> Result<VirtAddr, VasError> {
        let (old, new_size) = check(start, old_size, new_size)?;
        let mut inner = self.lock_to_change()?;
        match inner.plan(self.memory, old, new_size, target)? {
            Plan::Stay => Ok(start),
            Plan::Shrink(tail) => self.unmap_range(&mut inner, tail).map(|()| start),
            Plan::Move { to, replaces } => {
                if replaces {
                    self.unmap_range(&mut inner, to)?;
                }
                self.move_mapping(&mut inner, old, to)?;
                Ok(VirtAddr::new_truncate(to.start()))
            }
        }
    }

    /// As [`remap`](Self::remap), in steps, with a turn of its own; one bump a step. A page is where it was or where it goes,
    /// never both; a fault of another thread in between finds it there, or finds a fresh page, which goes when the page
    /// comes.
    ///
    /// # Errors
    /// As [`remap`](Self::remap). When pages move, all tables are there; if faults have made more of them meanwhile, the
    /// call waits for memory instead of stopping half-way.
    pub async fn remap_in_steps(
        &self,
        start: VirtAddr,
        old_size: u64,
        new_size: u64,
        target: RemapTarget,
    ) -> Result<VirtAddr, VasError> {
        self.remap_with(start, old_size, new_size, target, false).await
    }

    /// Moves the pages of `start..start + size` in steps, with a turn of its own, and leaves their old range mapped, without
    /// them and not locked (`MREMAP_DONTUNMAP`).
    ///
    /// # Errors
    /// As [`remap_in_steps`](Self::remap_in_steps); the target has to be one to which the mapping moves.
    pub async fn remap_and_keep_in_steps(
        &self,
        start: VirtAddr,
        size: u64,
        target: RemapTarget,
    ) -> Result<VirtAddr, VasError> {
        self.remap_with(start, size, size, target, true).await
    }

    async fn remap_with(
        &self,
        start: VirtAddr,
        old_size: u64,
        new_size: u64,
        target: RemapTarget,
        keep: bool,
    ) -> Result<VirtAddr, VasError> {
        let (old, new_size) = check(start, old_size, new_size)?;
        let turn = self.turn().await?;
        let plan = turn.lock().plan(self.memory, old, new_size, target)?;
        let to = match plan {
            Plan::Stay => return Ok(start),
            Plan::Shrink(tail) => return self.unmap_with(&turn, tail).await.map(|()| start),
            Plan::Move { to, replaces } => {
                if replaces {
                    self.unmap_with(&turn, to).await?;
                }
                to
            }
        };
        turn.lock().record_target(old, to)?;
        let mut left = Some(old);
        while let Some(range) = left {
            let result = {
                let mut inner = turn.lock();
                let part = self.part(&inner, range);
                left = Space::<P>::rest(range, part);
                self.prepare_part(&mut inner, part, to.start() + (part.start() - old.start()), to)
            };
            if let Err(error) = result {
                // Nothing has moved, and the target was free.
                self.unmap_with(&turn, to).await?;
                return Err(error);
            }
            pause().await;
        }
        left = Some(old);
        while let Some(range) = left {
            {
                let mut inner = turn.lock();
                let part = self.part(&inner, range);
                let target = to.start() + (part.start() - old.start());
                if self.prepare_part(&mut inner, part, target, to).is_ok() {
                    self.move_part(&mut inner, part, target, to);
                    if keep {
                        inner.unlock_part(part);
                    } else {
                        self.discard(&mut inner, part);
                    }
                    left = Space::<P>::rest(range, part);
                }
            }
            if left.is_some() {
                pause().await;
            }
        }
        Ok(VirtAddr::new_truncate(to.start()))
    }
}

/// Checks the arguments of a remap that do not depend on what is mapped.
fn check(start: VirtAddr, old_size: u64, new_size: u64) -> Result<(PageRange, u64), VasError> {
    let old = PageRange::aligned(start, old_size)?;
    let new_size = new_size.checked_next_multiple_of(PAGE_SIZE).filter(|&size| size > 0);
    Ok((old, new_size.ok_or(VasError::EmptyRange { start: start.as_u64() })?))
}

/// What a remap amounts to.
enum Plan {
    /// It has the new size where it is.
    Stay,
    /// This is unmapped.
    Shrink(PageRange),
    /// It moves there; what is there goes first if it `replaces` it.
    Move { to: PageRange, replaces: bool },
}

impl<P: Platform> Inner<P> {
    /// Decides what a remap amounts to; grows the region where it is, if that is possible and wanted.
    fn plan(
        &mut self,
        memory: &Memory<P>,
        old: PageRange,
        new_size: u64,
        target: RemapTarget,
    ) -> Result<Plan, VasError> {
        let Some((found, region)) = self.regions.find(old.start()) else {
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
        self.check_count(memory, 2 * RegionMap::SPLIT_COST)?;
        if let RemapTarget::Fixed(address) = target {
            let to = PageRange::aligned(address, new_size)?;
            if to.intersection(old).is_some() {
                return Err(VasError::Overlap {
                    wanted: to,
                    existing: old,
                });
            }
            self.regions.prepare_move(old, to)?;
            return Ok(Plan::Move { to, replaces: true });
        }
        if let RemapTarget::Hint(address) = target {
            let to = match PageRange::aligned(address, new_size) {
                Ok(to) if self.regions.first_overlap(to).is_none() => to,
                _ => self.find_gap(new_size)?,
            };
            return Ok(Plan::Move { to, replaces: false });
        }
        if new_size < old.size() {
            return Ok(Plan::Shrink(PageRange::new_unchecked(
                old.start() + new_size,
                old.end(),
            )));
        }
        if new_size == old.size() || self.grow_in_place(old, found, new_size)? {
            return Ok(Plan::Stay);
        }
        if target == RemapTarget::InPlace {
            return Err(VasError::NoRoom { size: new_size });
        }
        let to = self.find_gap(new_size)?;
        Ok(Plan::Move { to, replaces: false })
    }

    /// What stays mapped behind pages that moved is not locked.
    fn unlock_part(&mut self, part: PageRange) {
        let first = self.regions.survey(part).first;
        if self
            .regions
            .find(part.start())
            .is_some_and(|(_, region)| region.flags.contains(RegionFlags::LOCKED))
            && self.regions.prepare_change(part, first).is_ok()
        {
            self.regions
                .update(part, first, |region| region.flags -= RegionFlags::LOCKED);
        }
    }

    /// Records the target of a move, as what `old` is; it is free. What is needed to take `old` out is there then, too.
    fn record_target(&mut self, old: PageRange, to: PageRange) -> Result<(), VasError> {
        self.regions.prepare_move(old, to)?;
        let (found, region) = self
            .regions
            .find(old.start())
            .ok_or(VasError::NotMapped { address: old.start() })?;
        let mut moved = region.clone();
        moved.backing = moved.backing.advanced(old.start() - found.start());
        self.regions.insert(to, moved);
        Ok(())
    }

    /// Extends the region if `old` is its end and the room behind it is free.
    fn grow_in_place(&mut self, old: PageRange, found: PageRange, new_size: u64) -> Result<bool, VasError> {
        if found.end() != old.end() {
            return Ok(false);
        }
        let Ok(grown) = PageRange::covering(VirtAddr::new_truncate(old.start()), new_size) else {
            return Ok(false);
        };
        let more = PageRange::new_unchecked(old.end(), grown.end());
        let limit = self.layout.mmap_end();
        if self.regions.first_overlap(more).is_some() || (old.end() <= limit && more.end() > limit) {
            return Ok(false);
        }
        let Some((_, region)) = self.regions.find(old.start()) else {
            return Ok(false);
        };
        let mut region = region.clone();
        region.backing = region.backing.advanced(old.end() - found.start());
        self.regions.add(more, region)?;
        Ok(true)
    }
}

impl<P: Platform> Space<P> {
    /// Moves the pages of `old` to `to`, which is free and may be longer or shorter.
    fn move_mapping(&self, inner: &mut Inner<P>, old: PageRange, to: PageRange) -> Result<(), VasError> {
        inner.record_target(old, to)?;
        if let Err(error) = self.prepare_part(inner, old, to.start(), to) {
            self.discard(inner, to);
            return Err(error);
        }
        self.move_part(inner, old, to.start(), to);
        // What did not move is unmapped with the old range.
        self.discard(inner, old);
        Ok(())
    }

    /// Moves the pages of a part of a mapping to `target` on, as far as `to` reaches. Everything was prepared.
    fn move_part(&self, inner: &mut Inner<P>, part: PageRange, target: u64, to: PageRange) {
        let Some(root) = inner.root else { return };
        let Some(moving) = front(part, target, to) else { return };
        let mut change = Change::new();
        self.revoke_side(inner, part);
        self.revoke_side(inner, PageRange::new_unchecked(target, target + moving.size()));
        // Only where there are tables: a region may be far larger than what is in it.
        self.memory.for_each_level2(root, moving, |start, _| {
            let end = (start + HUGE_PAGE_SIZE).min(moving.end());
            for page in (start.max(moving.start())..end).step_by(PAGE_SIZE as usize) {
                self.move_leaf(inner, root, page, target + (page - part.start()), &mut change);
            }
        });
        self.finish(inner, change);
    }

    /// Makes the source's tables this space's own and the target's exist, for every page of a part that will move.
    fn prepare_part(&self, inner: &mut Inner<P>, part: PageRange, target: u64, to: PageRange) -> Result<(), VasError> {
        let Some(root) = inner.root else { return Ok(()) };
        let mut change = Change::new();
        let alone = inner.regions.alone(part);
        let mut result = self.prepare_ends(inner, part, alone, &mut change);
        if let Some(moving) = front(part, target, to) {
            self.memory.for_each_level2(root, moving, |start, entry2| {
                if result.is_err() || !entry2.get().is_present() {
                    return;
                }
                let (first, next) = (start.max(moving.start()), (start + HUGE_PAGE_SIZE).min(moving.end()));
                // The pages of one source table reach into two target tables at most.
                for page in [
                    first,
                    target + (first - part.start()),
                    target + (next - PAGE_SIZE - part.start()),
                ] {
                    if result.is_ok() {
                        result = self
                            .own_leaf(inner, root, page, &mut change)
                            .map(drop)
                            .map_err(|_| NO_FRAMES);
                    }
                }
            });
        }
        self.finish(inner, change);
        result
    }

    fn move_leaf(&self, inner: &mut Inner<P>, root: Pfn, from: u64, to: u64, change: &mut Change) {
        let Leaf::Own(source, value) = self.memory.leaf(root, from) else {
            return;
        };
        let value = match value.state() {
            EntryState::InFlight(marker) => self.revoke_marker(source, marker),
            EntryState::Empty | EntryState::Swapped { .. } | EntryState::Present { .. } => value,
        };
        if value.is_empty() {
            return;
        }
        let Leaf::Own(target, fresh) = self.memory.leaf(root, to) else {
            unreachable!("the target's table was made for this page");
        };
        if !fresh.is_empty() && self.clear_leaf(inner, target, fresh) {
            change.page(to);
        }
        source.set(Entry::EMPTY);
        if value.is_present() {
            target.set(value.without(Entry::BUSY));
            change.page(from);
        } else {
            // A page in a swap slot: the reference moves along.
            target.set(value);
        }
    }
}

/// The front of a part that has a place in `to`, where it goes to `target` on.
fn front(part: PageRange, target: u64, to: PageRange) -> Option<PageRange> {
    let room = to.end().checked_sub(target).filter(|&room| room > 0)?;
    Some(PageRange::new_unchecked(
        part.start(),
        part.start() + room.min(part.size()),
    ))
}
