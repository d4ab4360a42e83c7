//! The memory calls, over [`VirtualAddressSpace`](faultline_mm::VirtualAddressSpace).
//!
//! Argument checks that Linux makes before it looks at the address space are made here; the rest is the space's
//! business, and its errors become numbers in [`errno`](super::errno).

use faultline_fallible::unsize;

use faultline_mm::{
    Access, Advice, Backing, MapRequest, PageRange, PageSource, Placement, Protection, RegionFlags, SharedMemory,
    VasError,
};
use linux_raw_sys::general as linux;
use x86_64::VirtAddr;

use super::{Caller, Errno, user};
use crate::exec::elf::USER_END;
use crate::fs::device::Rule;
use crate::fs::{FileKind, OpenFile};
use crate::machine::{Space, memory};
use crate::process::Process;

pub(super) const PAGE: u64 = 4096;

/// Lowest address that may be mapped at a chosen place (`vm.mmap_min_addr`).
const LOWEST: u64 = 0x1_0000;

const MADV_POPULATE_READ: u64 = 22;
const MADV_POPULATE_WRITE: u64 = 23;

/// A user address; one outside the user half is `bad`.
pub(super) fn address(address: u64, bad: Errno) -> Result<VirtAddr, Errno> {
    if address < USER_END {
        Ok(VirtAddr::new_truncate(address))
    } else {
        Err(bad)
    }
}

fn protection(bits: u64) -> Result<Protection, Errno> {
    let known = linux::PROT_READ | linux::PROT_WRITE | linux::PROT_EXEC;
    let hints = linux::PROT_SEM | linux::PROT_GROWSDOWN | linux::PROT_GROWSUP;
    if bits & !u64::from(known | hints) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(known_protection(bits))
}

/// The protection that the bits say; bits without a meaning are ignored, as `mmap` does.
fn known_protection(bits: u64) -> Protection {
    let mut protection = Protection::empty();
    protection.set(Protection::READ, bits & u64::from(linux::PROT_READ) != 0);
    protection.set(Protection::WRITE, bits & u64::from(linux::PROT_WRITE) != 0);
    protection.set(Protection::EXECUTE, bits & u64::from(linux::PROT_EXEC) != 0);
    protection
}

/// The length rounded up to whole pages.
pub(super) fn whole_pages(length: u64) -> Result<u64, Errno> {
    length
        .checked_next_multiple_of(PAGE)
        .filter(|&size| size <= USER_END)
        .ok_or(Errno::ENOMEM)
}

/// `mmap`.
///
/// # Errors
/// As Linux reports them.
pub fn mmap(process: &Process, space: &Space, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [hint, length, bits, flags, descriptor, offset] = arguments;
    let has = |flag: u32| flags & u64::from(flag) != 0;
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    // A descriptor that is not open comes before everything else that can be wrong, as on Linux.
    let file = if has(linux::MAP_ANONYMOUS) {
        None
    } else {
        Some(process.files().lock().get(descriptor)?)
    };
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    let size = whole_pages(length)?;
    offset.checked_add(size).ok_or(Errno::EOVERFLOW)?;
    let placement = place(hint, size, flags)?;
    if let Placement::FixedNoReplace(wanted) = placement
        && space
            .first_region_above(wanted)
            .is_some_and(|region| region.start() < wanted.as_u64() + size)
    {
        return Err(Errno::EEXIST);
    }
    let protection = known_protection(bits);
    let shared = match flags as u32 & linux::MAP_TYPE {
        linux::MAP_PRIVATE => false,
        linux::MAP_SHARED => true,
        linux::MAP_SHARED_VALIDATE if file.is_some() => true,
        _ => return Err(Errno::EINVAL),
    };
    let backing = match &file {
        Some(file) => file_backing(file, offset, shared, protection)?,
        None if shared => Backing::Shared {
            object: SharedMemory::new(memory().frames(), size)?,
            offset: 0,
        },
        None => Backing::Anonymous,
    };
    let mut properties = RegionFlags::empty();
    properties.set(
        RegionFlags::READ_ONLY,
        shared && file.as_ref().is_some_and(|file| !file.is_writable()),
    );
    properties.set(
        RegionFlags::STACK,
        has(linux::MAP_GROWSDOWN) && matches!(backing, Backing::Anonymous),
    );
    properties.set(RegionFlags::LOCKED, has(linux::MAP_LOCKED));
    let request = MapRequest {
        placement,
        size,
        protection,
        backing,
        flags: properties,
    };
    Ok(space.mmap(request)?.as_u64())
}

pub(super) fn place(hint: u64, size: u64, flags: u64) -> Result<Placement, Errno> {
    let no_replace = flags & u64::from(linux::MAP_FIXED_NOREPLACE) != 0;
    if no_replace || flags & u64::from(linux::MAP_FIXED) != 0 {
        if !hint.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if hint.checked_add(size).is_none_or(|end| end > USER_END) {
            return Err(Errno::ENOMEM);
        }
        if hint < LOWEST {
            return Err(Errno::EPERM);
        }
        let wanted = VirtAddr::new_truncate(hint);
        return Ok(if no_replace {
            Placement::FixedNoReplace(wanted)
        } else {
            Placement::Fixed(wanted)
        });
    }
    let hint = hint & !(PAGE - 1);
    if hint < LOWEST || hint.checked_add(size).is_none_or(|end| end > USER_END) {
        return Ok(Placement::Any);
    }
    Ok(Placement::Hint(VirtAddr::new_truncate(hint)))
}

/// The backing that a descriptor stands for. A shared mapping of a read-only file shows the file as a private one does,
/// as long as it is never written.
fn file_backing(file: &OpenFile, offset: u64, shared: bool, protection: Protection) -> Result<Backing, Errno> {
    if matches!(file.kind, FileKind::Path) {
        return Err(Errno::EBADF);
    }
    if !file.is_readable() {
        return Err(Errno::EACCES);
    }
    match &file.kind {
        FileKind::Ramdisk(_) if shared && protection.contains(Protection::WRITE) => Err(Errno::EACCES),
        FileKind::Ramdisk(ramdisk) => Ok(Backing::File {
            file: unsize!(ramdisk.clone() => dyn PageSource),
            offset,
        }),
        FileKind::Memory(memory) if shared => {
            if protection.contains(Protection::WRITE) && !file.is_writable() {
                return Err(Errno::EACCES);
            }
            Ok(Backing::Shared {
                object: memory.shared_pages(),
                offset,
            })
        }
        FileKind::Memory(memory) => Ok(Backing::File {
            file: unsize!(memory.clone() => dyn PageSource),
            offset,
        }),
        FileKind::Device(Rule::Zero) if !shared => Ok(Backing::Anonymous),
        _ => Err(Errno::ENODEV),
    }
}

/// `mmap` whose pages are to be there when it returns.
pub async fn mmap_populated(caller: Caller, arguments: [u64; 6]) -> Result<u64, Errno> {
    super::has_headroom()?;
    let start = mmap(&caller.thread.process, &caller.space, arguments)?;
    let access = if arguments[2] & u64::from(linux::PROT_WRITE) != 0 {
        Access::Write
    } else {
        Access::Read
    };
    let range = PageRange::covering(VirtAddr::new_truncate(start), arguments[1])?;
    // The mapping is made; pages that can't be had are faults later.
    let _ = populate(&caller, range, access).await;
    Ok(start)
}

/// Touches every page of a range, letting others run in between.
async fn populate(caller: &Caller, range: PageRange, access: Access) -> Result<(), Errno> {
    const STEP: u64 = 64 * PAGE;
    let mut start = range.start();
    while start < range.end() {
        let step = STEP.min(range.end() - start);
        let part = PageRange::covering(VirtAddr::new_truncate(start), step)?;
        caller.space.populate(part, access).await.map_err(|_| Errno::EFAULT)?;
        faultline_executor::yield_now().await;
        start += step;
    }
    Ok(())
}

/// `munmap`.
///
/// # Errors
/// `EINVAL` for an unaligned start, size 0 or a range outside the user half.
pub fn munmap(space: &Space, start: u64, length: u64) -> Result<u64, Errno> {
    if !start.is_multiple_of(PAGE) || length == 0 || start.checked_add(length).is_none_or(|end| end > USER_END) {
        return Err(Errno::EINVAL);
    }
    space.unmap(address(start, Errno::EINVAL)?, length)?;
    Ok(0)
}

/// `brk`: the new break, or the old one if it could not be moved.
///
/// # Errors
/// None: a refused move is told by the unmoved break.
pub fn brk(space: &Space, wanted: u64) -> Result<u64, Errno> {
    let moved = address(wanted, Errno::ENOMEM)
        .and_then(|wanted| super::has_headroom().map(|()| wanted))
        .and_then(|wanted| Ok(space.brk(Some(wanted))?));
    match moved {
        Ok(end) => Ok(end.as_u64()),
        Err(_) => Ok(space.brk(None)?.as_u64()),
    }
}

/// `mprotect`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EACCES`, as Linux reports them.
pub fn mprotect(space: &Space, start: u64, length: u64, bits: u64) -> Result<u64, Errno> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let size = whole_pages(length)?;
    if start.checked_add(size).is_none() {
        return Err(Errno::ENOMEM);
    }
    let protection = protection(bits)?;
    if start + size > USER_END {
        return Err(Errno::ENOMEM);
    }
    let start = address(start, Errno::ENOMEM)?;
    // What lies before a hole, or before a region that refuses, is changed all the same.
    let mut end = start.as_u64() + size;
    let mut result = Ok(0);
    while end > start.as_u64() {
        let (stop, errno) = match space.protect_region(start, end - start.as_u64(), protection) {
            Ok(()) => break,
            Err(VasError::NotMapped { address }) => (address, Errno::ENOMEM),
            Err(VasError::Forbidden { range, .. }) => (range.start(), Errno::EACCES),
            Err(error) => return Err(error.into()),
        };
        result = Err(errno);
        end = stop;
    }
    result
}

/// Whether an advice asks for pages to be made present, which can wait.
#[must_use]
pub const fn populates(advice: u64) -> bool {
    matches!(advice, MADV_POPULATE_READ | MADV_POPULATE_WRITE)
}

/// `madvise`, but for what [`populates`].
///
/// # Errors
/// `EINVAL`, `ENOMEM`, as Linux reports them.
pub fn madvise(space: &Space, start: u64, length: u64, advice: u64) -> Result<u64, Errno> {
    let advice = match u32::try_from(advice).map_err(|_| Errno::EINVAL)? {
        linux::MADV_DONTNEED => Some(Advice::DontNeed),
        linux::MADV_FREE => Some(Advice::Free),
        linux::MADV_HUGEPAGE => Some(Advice::HugePages),
        linux::MADV_NOHUGEPAGE => Some(Advice::NoHugePages),
        linux::MADV_DONTFORK => Some(Advice::NotInherited),
        linux::MADV_DOFORK => Some(Advice::Inherited),
        linux::MADV_WIPEONFORK => Some(Advice::WipedInChild),
        linux::MADV_KEEPONFORK => Some(Advice::KeptInChild),
        linux::MADV_NORMAL
        | linux::MADV_RANDOM
        | linux::MADV_SEQUENTIAL
        | linux::MADV_WILLNEED
        | linux::MADV_DONTDUMP
        | linux::MADV_DODUMP
        | linux::MADV_MERGEABLE
        | linux::MADV_UNMERGEABLE
        | linux::MADV_COLD
        | linux::MADV_PAGEOUT => None,
        _ => return Err(Errno::EINVAL),
    };
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let size = length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(size).ok_or(Errno::EINVAL)?;
    super::has_headroom()?;
    if size > 0
        && let Some(advice) = advice
        && let Ok(first) = address(start, Errno::EINVAL)
    {
        match space.advise(first, size, advice) {
            Ok(()) => return Ok(0),
            Err(VasError::NotMapped { .. } | VasError::BadRange { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut at = start;
    let mut result = Ok(0);
    // Advice acts on what is mapped; holes are told at the end.
    while at < end {
        let stop = mapped_until(space, at, end);
        if stop > at {
            if let Some(advice) = advice {
                space.advise(address(at, Errno::EINVAL)?, stop - at, advice)?;
            }
            at = stop;
            continue;
        }
        result = Err(Errno::ENOMEM);
        let next = address(at, Errno::ENOMEM)
            .ok()
            .and_then(|at| space.first_region_above(at));
        match next {
            Some(next) => at = next.start(),
            None => break,
        }
    }
    result
}

/// The end of what is mapped without a hole from `start` on, at most `end`.
fn mapped_until(space: &Space, start: u64, end: u64) -> u64 {
    let mut at = start;
    while at < end
        && let Ok(place) = address(at, Errno::ENOMEM)
        && let Some(region) = space.first_region_above(place)
        && region.start() <= at
    {
        at = region.end();
    }
    at.min(end)
}

/// `madvise` that makes pages present.
pub async fn madvise_populate(caller: Caller, start: u64, length: u64, advice: u64) -> Result<u64, Errno> {
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
        faultline_executor::yield_now().await;
    }
    Ok(0)
}

/// `msync`: there is nothing behind a mapping to write to.
///
/// # Errors
/// `EINVAL` for wrong flags or an unaligned start, `ENOMEM` for a hole.
pub fn msync(space: &Space, start: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let (later, now) = (u64::from(linux::MS_ASYNC), u64::from(linux::MS_SYNC));
    if flags & !(later | now | u64::from(linux::MS_INVALIDATE)) != 0
        || flags & (later | now) == later | now
        || !start.is_multiple_of(PAGE)
    {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(whole_pages(length)?).ok_or(Errno::ENOMEM)?;
    if mapped_until(space, start, end) < end {
        return Err(Errno::ENOMEM);
    }
    Ok(0)
}

/// `mlock` and `munlock`: nothing is ever swapped out, so this only keeps the account.
///
/// # Errors
/// `ENOMEM` for a hole.
pub fn lock_range(space: &Space, start: u64, length: u64, locked: bool) -> Result<u64, Errno> {
    let (start, before) = (start & !(PAGE - 1), start % PAGE);
    let size = whole_pages(length.checked_add(before).ok_or(Errno::EINVAL)?)?;
    if size > 0 {
        super::has_headroom()?;
        space.set_locked(address(start, Errno::ENOMEM)?, size, locked)?;
    }
    Ok(0)
}

/// `mlockall`: what is mapped now is accounted as locked; what is mapped later is not.
///
/// # Errors
/// `EINVAL` for flags that mean nothing; `ENOMEM`.
pub fn lock_all(space: &Space, flags: u64) -> Result<u64, Errno> {
    let (current, future) = (u64::from(linux::MCL_CURRENT), u64::from(linux::MCL_FUTURE));
    let known = current | future | u64::from(linux::MCL_ONFAULT);
    if flags & !known != 0 || flags & (current | future) == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & current != 0 {
        set_all_locked(space, true)?;
    }
    Ok(0)
}

/// `munlockall`.
///
/// # Errors
/// `ENOMEM`.
pub fn unlock_all(space: &Space) -> Result<u64, Errno> {
    set_all_locked(space, false)?;
    Ok(0)
}

fn set_all_locked(space: &Space, locked: bool) -> Result<(), Errno> {
    super::has_headroom()?;
    let mut next = VirtAddr::zero();
    while let Some(region) = space.first_region_above(next) {
        let start = VirtAddr::new_truncate(region.start());
        space.set_locked(start, region.size(), locked)?;
        next = start + region.size();
    }
    Ok(())
}

/// The shared object behind a user address, by its number, and the offset in it.
#[must_use]
pub fn shared_object(space: &Space, place: u64) -> Option<(u64, u64)> {
    let region = space.find_mapping(address(place, Errno::EFAULT).ok()?)?;
    match region.backing {
        Backing::Shared { object, offset } => Some((object.id(), offset + (place - region.range.start()))),
        _ => None,
    }
}
