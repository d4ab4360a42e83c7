//! `mremap`: growing, moving, moving without unmapping, and mapping again.

use faultline_mm::{Backing, MapRequest, Placement, Protection, RegionFlags, RegionView, RemapTarget, VasError};
use linux_raw_sys::general as linux;
use x86_64::VirtAddr;

use super::Errno;
use super::memory::{PAGE, address, munmap, place, whole_pages};
use crate::exec::elf::USER_END;
use crate::machine::Space;

/// `mremap`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `ENOMEM`, as Linux reports them.
pub fn mremap(space: &Space, start: u64, old: u64, new: u64, flags: u64, target: u64) -> Result<u64, Errno> {
    let (may_move, fixed) = (u64::from(linux::MREMAP_MAYMOVE), u64::from(linux::MREMAP_FIXED));
    let keep = u64::from(linux::MREMAP_DONTUNMAP);
    if flags & !(may_move | fixed | keep) != 0 || !start.is_multiple_of(PAGE) || new == 0 {
        return Err(Errno::EINVAL);
    }
    let (old, new) = (whole_pages(old)?, whole_pages(new)?);
    if flags & keep != 0 && (flags & may_move == 0 || old != new) {
        return Err(Errno::EINVAL);
    }
    // Where the pages are to go, or with MREMAP_DONTUNMAP only a hint, which has to be as sound.
    if flags & (fixed | keep) != 0
        && (flags & may_move == 0
            || !target.is_multiple_of(PAGE)
            || target.checked_add(new).is_none_or(|end| end > USER_END)
            || start < target + new && target < start.saturating_add(old))
    {
        return Err(Errno::EINVAL);
    }
    let to = if flags & fixed != 0 {
        RemapTarget::Fixed(address(target, Errno::EINVAL)?)
    } else if flags & may_move != 0 {
        RemapTarget::MayMove
    } else {
        RemapTarget::InPlace
    };
    let start = address(start, Errno::EFAULT)?;
    if old == 0 {
        return map_again(space, start, new, to);
    }
    if flags & keep != 0 {
        return remap_and_keep(space, start, old, to, target);
    }
    if new <= old && flags & fixed == 0 {
        // Shrinking is unmapping the tail, whatever regions that meets.
        let region = space.first_region_above(start).ok_or(Errno::EFAULT)?;
        if region.start() > start.as_u64() {
            return Err(Errno::EFAULT);
        }
        if new < old {
            munmap(space, start.as_u64() + new, old - new)?;
        }
        return Ok(start.as_u64());
    }
    match space.remap(start, old, new, to) {
        Ok(moved) => Ok(moved.as_u64()),
        Err(VasError::NotMapped { .. }) => Err(Errno::EFAULT),
        Err(VasError::Overlap { .. }) => Err(Errno::EINVAL),
        Err(error) => Err(error.into()),
    }
}

/// Maps what is shared at `start` a second time (`mremap` of a range of size 0).
fn map_again(space: &Space, start: VirtAddr, size: u64, to: RemapTarget) -> Result<u64, Errno> {
    let region = space.find_mapping(start).ok_or(Errno::EFAULT)?;
    if !region.backing.is_shared() {
        return Err(Errno::EINVAL);
    }
    let placement = match to {
        RemapTarget::Fixed(target) => Placement::Fixed(target),
        RemapTarget::MayMove => Placement::Any,
        RemapTarget::InPlace => return Err(Errno::ENOMEM),
    };
    let request = MapRequest {
        placement,
        size,
        protection: region.protection,
        backing: backing_at(&region, start).ok_or(Errno::EINVAL)?,
        flags: region.flags,
    };
    Ok(space.mmap(request)?.as_u64())
}

/// Moves pages and leaves their old range mapped, but without them (`MREMAP_DONTUNMAP`).
fn remap_and_keep(space: &Space, start: VirtAddr, size: u64, to: RemapTarget, hint: u64) -> Result<u64, Errno> {
    let region = space.find_mapping(start).ok_or(Errno::EFAULT)?;
    if start.as_u64() + size > region.range.end() {
        return Err(Errno::EFAULT);
    }
    let left = MapRequest {
        placement: Placement::Fixed(start),
        size,
        protection: region.protection,
        backing: backing_at(&region, start).ok_or(Errno::EINVAL)?,
        flags: region.flags - RegionFlags::LOCKED,
    };
    let (target, chosen) = match to {
        RemapTarget::Fixed(target) => (target, false),
        _ => {
            let mut request = MapRequest::anonymous(size, Protection::empty());
            request.placement = place(hint, size, 0)?;
            (space.mmap(request)?, true)
        }
    };
    if let Err(error) = space.remap(start, size, size, RemapTarget::Fixed(target)) {
        if chosen {
            space.unmap(target, size)?;
        }
        return Err(error.into());
    }
    if let Err(error) = space.mmap(left) {
        // A region too many: back to where everything was.
        space.remap(target, size, size, RemapTarget::Fixed(start))?;
        return Err(error.into());
    }
    Ok(target.as_u64())
}

/// Where the pages from `start` on come from; none for device memory.
fn backing_at(region: &RegionView, start: VirtAddr) -> Option<Backing> {
    let before = start.as_u64() - region.range.start();
    match &region.backing {
        Backing::Anonymous => Some(Backing::Anonymous),
        Backing::Shared { object, offset } => Some(Backing::Shared {
            object: object.clone(),
            offset: offset + before,
        }),
        Backing::File { file, offset } => Some(Backing::File {
            file: file.clone(),
            offset: offset + before,
        }),
        Backing::Physical { .. } => None,
    }
}
