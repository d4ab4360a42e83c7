//! Advice and questions about memory, and memory that is locked: `madvise`, `mincore`, `msync`, `mlock`.

use faultline_executor::yield_now;
use faultline_mm::{Access, Advice, PageRange, Protection, RegionFlags, USER_END as SPACE_END, VasError};
use linux_raw_sys::general as linux;
use x86_64::VirtAddr;

use super::memory::{PAGE, address, hold_locked, whole_pages};
use super::{Caller, Errno, paging, user};
use crate::exec::elf::USER_END;
use crate::machine::Space;

const MADV_POPULATE_READ: u64 = 22;
const MADV_POPULATE_WRITE: u64 = 23;

/// Regions that are looked at before others run.
const TURN: usize = 256;

/// Touches every page of a range, letting others run in between.
async fn populate(caller: &Caller, range: PageRange, access: Access) -> Result<(), Errno> {
    const STEP: u64 = 64 * PAGE;
    let mut start = range.start();
    while start < range.end() {
        let step = STEP.min(range.end() - start);
        let part = PageRange::covering(VirtAddr::new_truncate(start), step)?;
        caller.space.populate(part, access).await.map_err(|_| Errno::EFAULT)?;
        yield_now().await;
        start += step;
    }
    Ok(())
}

/// Makes present whatever is mapped in a range, as `mlock` does: what is private and writable as if it were written, so that
/// no later write faults.
///
/// # Errors
/// `EFAULT` for memory that can't be touched, when everything else is there.
pub(super) async fn populate_mapped(caller: &Caller, range: PageRange) -> Result<(), Errno> {
    let mut result = Ok(());
    let mut at = range.start();
    let mut looked = 0;
    while at < range.end() {
        looked += 1;
        if looked % TURN == 0 {
            yield_now().await;
        }
        let Some(region) = caller.space.mapping_above(VirtAddr::new_truncate(at)) else {
            break;
        };
        let start = region.range.start().max(at);
        if start >= range.end() {
            break;
        }
        let end = region.range.end().min(range.end());
        at = end;
        let (protection, is_shared) = (region.protection, region.backing.is_shared());
        drop(region);
        let access = if protection.contains(Protection::WRITE) && !is_shared {
            Access::Write
        } else {
            Access::Read
        };
        let done = if protection.allows(access) {
            let part = PageRange::covering(VirtAddr::new_truncate(start), end - start)?;
            populate(caller, part, access).await
        } else {
            Err(Errno::EFAULT)
        };
        result = result.and(done);
    }
    result
}

/// Whether an advice can wait.
#[must_use]
pub fn waits(advice: u64) -> bool {
    populates(advice) || paging::wish(advice).is_some()
}

/// Whether an advice asks for pages to be made present.
const fn populates(advice: u64) -> bool {
    matches!(advice, MADV_POPULATE_READ | MADV_POPULATE_WRITE)
}

/// The advice that the space takes, if it is one that means anything to it; and the range.
fn advised(start: u64, length: u64, advice: u64) -> Result<(Option<Advice>, u64), Errno> {
    let advice = match u32::try_from(advice).map_err(|_| Errno::EINVAL)? {
        linux::MADV_DONTNEED => Some(Advice::DontNeed),
        linux::MADV_HUGEPAGE => Some(Advice::HugePages),
        linux::MADV_NOHUGEPAGE => Some(Advice::NoHugePages),
        linux::MADV_DONTFORK => Some(Advice::NotInherited),
        linux::MADV_DOFORK => Some(Advice::Inherited),
        linux::MADV_WIPEONFORK => Some(Advice::WipedInChild),
        linux::MADV_KEEPONFORK => Some(Advice::KeptInChild),
        linux::MADV_RANDOM => Some(Advice::Random),
        linux::MADV_SEQUENTIAL => Some(Advice::Sequential),
        linux::MADV_NORMAL => Some(Advice::Normal),
        linux::MADV_DONTDUMP | linux::MADV_DODUMP | linux::MADV_MERGEABLE | linux::MADV_UNMERGEABLE => None,
        _ => return Err(Errno::EINVAL),
    };
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let size = length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    start.checked_add(size).ok_or(Errno::EINVAL)?;
    Ok((advice, size))
}

/// `madvise` in one step, but for what [`waits`].
///
/// # Errors
/// `EINVAL`, `ENOMEM`, as Linux reports them.
pub fn madvise(space: &Space, start: u64, length: u64, advice: u64) -> Result<u64, Errno> {
    let (advice, size) = advised(start, length, advice)?;
    let end = start + size;
    if size > 0
        && let Some(advice) = advice
        && let Ok(first) = address(start, Errno::EINVAL)
    {
        match space.advise(first, size, advice) {
            Ok(()) => return Ok(0),
            Err(VasError::NotMapped { .. } | VasError::BadRange { .. } | VasError::WrongKind { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut at = start;
    let mut result = Ok(0);
    // Advice acts on one region after the other, until one does not take it; holes are told at the end.
    while at < end {
        let place = address(at, Errno::ENOMEM).ok();
        let region = place.and_then(|at| space.first_region_above(at));
        let Some(region) = region.filter(|region| region.start() < end) else {
            return Err(Errno::ENOMEM);
        };
        if region.start() > at {
            result = Err(Errno::ENOMEM);
        }
        let from = region.start().max(at);
        at = region.end().min(end);
        if let Some(advice) = advice {
            space.advise(address(from, Errno::EINVAL)?, at - from, advice)?;
        }
    }
    result
}

/// `madvise` in its turn, in steps.
pub async fn madvise_in_turn(caller: Caller, start: u64, length: u64, advice: u64) -> Result<u64, Errno> {
    if populates(advice) {
        return madvise_populate(caller, start, length, advice).await;
    }
    if let Some(wish) = paging::wish(advice) {
        return paging::madvise(caller, start, length, wish).await;
    }
    let (advice, size) = advised(start, length, advice)?;
    if size == 0 {
        return Ok(0);
    }
    let (first, end) = (address(start, Errno::ENOMEM)?, start + size);
    // Beyond the user half nothing is mapped.
    let inside = size.min(SPACE_END - start.min(SPACE_END - PAGE));
    match advice {
        Some(advice) => caller.space.advise_in_steps(first, inside, advice).await?,
        None => check_mapped(&caller.space, start, end).await?,
    }
    if start + inside < end {
        Err(Errno::ENOMEM)
    } else {
        Ok(0)
    }
}

/// The end of what is mapped without a hole from `start` on, at most `end`, letting others run in between.
async fn mapped_until(space: &Space, start: u64, end: u64) -> u64 {
    let mut at = start;
    let mut looked = 0;
    while at < end
        && let Ok(place) = address(at, Errno::ENOMEM)
        && let Some(region) = space.first_region_above(place)
        && region.start() <= at
    {
        at = region.end();
        looked += 1;
        if looked % TURN == 0 {
            yield_now().await;
        }
    }
    at.min(end)
}

/// Whether a range is mapped without a hole, letting others run in between.
async fn check_mapped(space: &Space, start: u64, end: u64) -> Result<(), Errno> {
    match mapped_until(space, start, end).await == end {
        true => Ok(()),
        false => Err(Errno::ENOMEM),
    }
}

/// `madvise` that makes pages present.
async fn madvise_populate(caller: Caller, start: u64, length: u64, advice: u64) -> Result<u64, Errno> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let size = length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(size).ok_or(Errno::EINVAL)?;
    let (access, needed) = if advice == MADV_POPULATE_WRITE {
        (Access::Write, Protection::WRITE)
    } else {
        (Access::Read, Protection::READ)
    };
    let mut at = start;
    while at < end {
        // A hole is ENOMEM, a region that does not allow the access EINVAL, a page that can't be had EFAULT.
        let region = caller
            .space
            .find_mapping(address(at, Errno::ENOMEM)?)
            .ok_or(Errno::ENOMEM)?;
        if !region.protection.contains(needed) {
            return Err(Errno::EINVAL);
        }
        let stop = region.range.end().min(end);
        drop(region);
        populate(
            &caller,
            PageRange::covering(VirtAddr::new_truncate(at), stop - at)?,
            access,
        )
        .await?;
        at = stop;
    }
    Ok(0)
}

/// `mincore`.
pub async fn mincore(caller: Caller, start: u64, length: u64, to: u64) -> Result<u64, Errno> {
    const PART: u64 = 4096;
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let size = whole_pages(length)?;
    if start.checked_add(size).is_none_or(|end| end > USER_END) {
        return Err(Errno::ENOMEM);
    }
    let pages = size / PAGE;
    let mut bytes = user::buffer(pages.min(PART) as usize)?;
    let mut done = 0;
    while done < pages {
        let count = PART.min(pages - done);
        let mut index = 0;
        caller
            .space
            .resident(address(start + done * PAGE, Errno::ENOMEM)?, count * PAGE, |resident| {
                bytes[index] = u8::from(resident);
                index += 1;
            })?;
        user::write(&caller.space, to.wrapping_add(done), &bytes[..count as usize]).await?;
        done += count;
        yield_now().await;
    }
    Ok(0)
}

/// `msync`: there is nothing behind a mapping to write to.
pub async fn msync(caller: Caller, start: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let (later, now) = (u64::from(linux::MS_ASYNC), u64::from(linux::MS_SYNC));
    let invalidate = u64::from(linux::MS_INVALIDATE);
    if flags & !(later | now | invalidate) != 0 || flags & (later | now) == later | now || !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(whole_pages(length)?).ok_or(Errno::ENOMEM)?;
    let mut at = start;
    let mut looked = 0;
    let mut result = Ok(0);
    while at < end {
        looked += 1;
        if looked % TURN == 0 {
            yield_now().await;
        }
        let region = caller.space.mapping_above(address(at, Errno::ENOMEM)?);
        let region = region
            .filter(|region| region.range.start() < end)
            .ok_or(Errno::ENOMEM)?;
        if region.range.start() > at {
            // What lies behind a hole is looked at, too, unless nothing would be written at once.
            result = Err(Errno::ENOMEM);
            if flags == later {
                return result;
            }
        }
        // What is locked can't be made to be read again.
        if flags & invalidate != 0 && region.flags.contains(RegionFlags::LOCKED) {
            return Err(Errno::EBUSY);
        }
        at = region.range.end();
    }
    result
}

/// The pages that `mlock` and `munlock` are given; `None` for none.
fn locked(start: u64, length: u64) -> Result<Option<PageRange>, Errno> {
    let (start, before) = (start & !(PAGE - 1), start % PAGE);
    let size = whole_pages(length.checked_add(before).ok_or(Errno::EINVAL)?)?;
    if size == 0 {
        return Ok(None);
    }
    let range = PageRange::covering(address(start, Errno::ENOMEM)?, size);
    range.map(Some).map_err(|_| Errno::ENOMEM)
}

/// `mlock` and `mlock2`: marks the range, and makes its pages present unless they are to come when they are touched.
pub async fn mlock(caller: Caller, start: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(linux::MLOCK_ONFAULT) != 0 {
        return Err(Errno::EINVAL);
    }
    let Some(range) = locked(start, length)? else {
        return Ok(0);
    };
    hold_locked(&caller.thread.process, &caller.space, range.size())?;
    lock_to_hole(&caller.space, range, true).await?;
    if flags == 0 {
        populate_mapped(&caller, range).await.map_err(|_| Errno::ENOMEM)?;
    }
    Ok(0)
}

/// `munlock`.
pub async fn munlock(caller: Caller, start: u64, length: u64) -> Result<u64, Errno> {
    if let Some(range) = locked(start, length)? {
        lock_to_hole(&caller.space, range, false).await?;
    }
    Ok(0)
}

/// Marks what is mapped up to the first hole.
///
/// # Errors
/// `ENOMEM` if there is a hole.
async fn lock_to_hole(space: &Space, range: PageRange, locked: bool) -> Result<(), Errno> {
    let (start, end) = (range.start(), range.end());
    let stop = mapped_until(space, start, end).await;
    if stop > start {
        let part = PageRange::covering(VirtAddr::new_truncate(start), stop - start)?;
        space.set_locked_in_steps(part, locked).await?;
    }
    match stop == end {
        true => Ok(()),
        false => Err(Errno::ENOMEM),
    }
}

/// All that can be mapped.
fn everything() -> Result<PageRange, Errno> {
    Ok(PageRange::covering(VirtAddr::zero(), SPACE_END)?)
}

/// Marks everything that is mapped.
async fn set_all_locked(space: &Space, locked: bool) -> Result<(), Errno> {
    match space.set_locked_in_steps(everything()?, locked).await {
        // There is always something that is not mapped.
        Ok(()) | Err(VasError::NotMapped { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `mlockall`.
pub async fn mlockall(caller: Caller, flags: u64) -> Result<u64, Errno> {
    let (current, future) = (u64::from(linux::MCL_CURRENT), u64::from(linux::MCL_FUTURE));
    let on_fault = u64::from(linux::MCL_ONFAULT);
    if flags & !(current | future | on_fault) != 0 || flags & (current | future) == 0 {
        return Err(Errno::EINVAL);
    }
    let space = &caller.space;
    if flags & current != 0 {
        let more = space.virtual_bytes().saturating_sub(space.locked_bytes());
        hold_locked(&caller.thread.process, space, more)?;
    }
    space.set_lock_future(flags & future != 0);
    if flags & current != 0 {
        set_all_locked(space, true).await?;
        if flags & on_fault == 0 {
            // What can't be had is a fault later.
            let _ = populate_mapped(&caller, everything()?).await;
        }
    }
    Ok(0)
}

/// `munlockall`.
pub async fn munlockall(caller: Caller) -> Result<u64, Errno> {
    caller.space.set_lock_future(false);
    set_all_locked(&caller.space, false).await?;
    Ok(0)
}
