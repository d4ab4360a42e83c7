//! `mremap`: growing, moving, moving without unmapping, and mapping again.

use faultline_mm::{Backing, MapRequest, PageRange, Placement, RegionFlags, RegionView, RemapTarget, VasError};
use linux_raw_sys::general as linux;
use x86_64::VirtAddr;

use super::advice::populate_mapped;
use super::memory::{PAGE, address, hold_limits, is_short, munmap, place, whole_pages};
use super::{Caller, Errno};
use crate::exec::elf::USER_END;
use crate::machine::Space;
use crate::process::Process;

/// A checked `mremap`.
struct Request {
    start: VirtAddr,
    old: u64,
    new: u64,
    to: RemapTarget,
    /// The old range stays mapped, without its pages.
    keep: bool,
}

/// Whether it can be done in one step.
#[inline]
pub(super) fn is_one_step(space: &Space, old: u64, new: u64, flags: u64) -> bool {
    is_short(old) && is_short(new) && flags & u64::from(linux::MREMAP_DONTUNMAP) == 0 && !space.locks_future()
}

fn check([start, old, new, flags, target]: [u64; 5]) -> Result<Request, Errno> {
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
    } else if flags & keep != 0 {
        match place(target, new, 0)? {
            Placement::Hint(wanted) => RemapTarget::Hint(wanted),
            _ => RemapTarget::Hint(VirtAddr::zero()),
        }
    } else if flags & may_move != 0 {
        RemapTarget::MayMove
    } else {
        RemapTarget::InPlace
    };
    Ok(Request {
        start: address(start, Errno::EFAULT)?,
        old,
        new,
        to,
        keep: flags & keep != 0,
    })
}

/// What remains of a shrinking mapping that stays: nothing but its tail to unmap, whatever regions that meets.
fn tail(space: &Space, request: &Request) -> Result<Option<(u64, u64)>, Errno> {
    let Request {
        start, old, new, to, ..
    } = *request;
    if new > old || matches!(to, RemapTarget::Fixed(_) | RemapTarget::Hint(_)) {
        return Ok(None);
    }
    let region = space.first_region_above(start).ok_or(Errno::EFAULT)?;
    if region.start() > start.as_u64() {
        return Err(Errno::EFAULT);
    }
    Ok(Some((start.as_u64() + new, old - new)))
}

/// The result of a remap.
fn moved(result: Result<VirtAddr, VasError>) -> Result<u64, Errno> {
    match result {
        Ok(moved) => Ok(moved.as_u64()),
        Err(VasError::NotMapped { .. }) => Err(Errno::EFAULT),
        Err(VasError::Overlap { .. }) => Err(Errno::EINVAL),
        Err(error) => Err(error.into()),
    }
}

/// `mremap` in one step.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `ENOMEM`, as Linux reports them.
pub fn mremap(process: &Process, space: &Space, arguments: [u64; 5]) -> Result<u64, Errno> {
    let request = check(arguments)?;
    if request.old == 0 {
        return map_again(space, request.start, request.new, request.to);
    }
    if let Some((start, size)) = tail(space, &request)? {
        if size > 0 {
            munmap(space, start, size)?;
        }
        return Ok(request.start.as_u64());
    }
    hold_growth(process, space, &request)?;
    moved(space.remap(request.start, request.old, request.new, request.to))
}

/// `mremap` in its turn, in steps.
pub async fn mremap_in_turn(caller: Caller, arguments: [u64; 5]) -> Result<u64, Errno> {
    let request = check(arguments)?;
    let Request {
        start,
        old,
        new,
        to,
        keep,
    } = request;
    let space = &caller.space;
    if old == 0 {
        return space.in_turn(|space| map_again(space, start, new, to)).await?;
    }
    if let Some((from, size)) = tail(space, &request)? {
        if size > 0 {
            space.unmap_in_steps(VirtAddr::new_truncate(from), size).await?;
        }
        return Ok(start.as_u64());
    }
    hold_growth(&caller.thread.process, space, &request)?;
    if keep {
        let found = space.find_mapping(start).ok_or(Errno::EFAULT)?;
        if matches!(found.backing, Backing::Physical { .. }) {
            return Err(Errno::EINVAL);
        }
        return moved(space.remap_and_keep_in_steps(start, old, to).await);
    }
    let result = moved(space.remap_in_steps(start, old, new, to).await)?;
    let is_locked = |view: RegionView| view.flags.contains(RegionFlags::LOCKED);
    if new > old
        && space
            .find_mapping(VirtAddr::new_truncate(result))
            .is_some_and(is_locked)
    {
        let grown = PageRange::covering(VirtAddr::new_truncate(result + old), new - old)?;
        let _ = populate_mapped(&caller, grown).await;
    }
    Ok(result)
}

/// Holds the limits of the process where a mapping grows.
fn hold_growth(process: &Process, space: &Space, request: &Request) -> Result<(), Errno> {
    let more = if request.keep {
        request.new
    } else {
        request.new.saturating_sub(request.old)
    };
    hold_limits(process, space, Placement::Any, more, false)
}

/// Maps what is shared at `start` a second time (`mremap` of a range of size 0).
fn map_again(space: &Space, start: VirtAddr, size: u64, to: RemapTarget) -> Result<u64, Errno> {
    let region = space.find_mapping(start).ok_or(Errno::EFAULT)?;
    if !region.backing.is_shared() {
        return Err(Errno::EINVAL);
    }
    let placement = match to {
        RemapTarget::Fixed(target) => Placement::Fixed(target),
        RemapTarget::MayMove | RemapTarget::Hint(_) => Placement::Any,
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

/// Where the pages from `start` on come from; none for device memory.
fn backing_at(region: &RegionView, start: VirtAddr) -> Option<Backing> {
    let before = start.as_u64() - region.range.start();
    match &region.backing {
        Backing::Anonymous => Some(Backing::Anonymous),
        Backing::Shared { object, offset } => Some(Backing::Shared {
            object: object.clone(),
            offset: offset + before,
        }),
        Backing::Private { object, offset } => Some(Backing::Private {
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
