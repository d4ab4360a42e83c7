//! The memory calls, over [`VirtualAddressSpace`](faultline_mm::VirtualAddressSpace).
//!
//! Argument checks that Linux makes before it looks at the address space are made here; the rest is the space's
//! business, and its errors become numbers in [`errno`](super::errno).
//!
//! A call on a [short](is_short) range is answered at once, in one step. One on a longer range, or one that finds the space
//! being changed in steps by another ([`Errno::EWAIT`]), becomes a future that waits for its turn and works in steps.

use faultline_fallible::unsize;

use faultline_mm::{
    Backing, HUGE_PAGE_SIZE, MapRequest, MemoryObject, PageRange, PageSource, Placement, Protection, RegionFlags,
    VasError,
};
use linux_raw_sys::general as linux;
use x86_64::VirtAddr;

use super::advice::populate_mapped;
use super::{Caller, Errno};
use crate::exec::elf::USER_END;
use crate::fs::device::Rule;
use crate::fs::{FileKind, OpenFile};
use crate::machine::{Space, memory};
use crate::process::limits::Limit;
use crate::process::{Process, Resource};

pub(super) const PAGE: u64 = 4096;

/// Whether a call on so many bytes takes one step: two last-level tables' worth.
#[inline]
pub(super) const fn is_short(length: u64) -> bool {
    length <= 2 * HUGE_PAGE_SIZE
}

/// Lowest address that may be mapped at a chosen place (`vm.mmap_min_addr`).
const LOWEST: u64 = 0x1_0000;

/// Whether `mmap` can be answered in one step: it makes no page present, and replaces little.
#[inline]
pub(super) fn is_one_step(space: &Space, length: u64, flags: u64) -> bool {
    let waits = u64::from(linux::MAP_POPULATE | linux::MAP_LOCKED);
    flags & waits == 0 && (flags & u64::from(linux::MAP_FIXED) == 0 || is_short(length)) && !space.locks_future()
}

/// A user address; one outside the user half is `bad`.
pub(super) fn address(address: u64, bad: Errno) -> Result<VirtAddr, Errno> {
    if address < USER_END {
        Ok(VirtAddr::new_truncate(address))
    } else {
        Err(bad)
    }
}

fn protection(bits: u64) -> Result<Protection, Errno> {
    let known = linux::PROT_READ | linux::PROT_WRITE | linux::PROT_EXEC | linux::PROT_SEM;
    if bits & !u64::from(known) != 0 {
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
pub fn whole_pages(length: u64) -> Result<u64, Errno> {
    length
        .checked_next_multiple_of(PAGE)
        .filter(|&size| size <= USER_END)
        .ok_or(Errno::ENOMEM)
}

/// `mmap` in one step.
///
/// # Errors
/// As Linux reports them.
pub fn mmap(process: &Process, space: &Space, arguments: [u64; 6]) -> Result<u64, Errno> {
    let request = map_request(process, space, arguments)?;
    Ok(space.mmap(request)?.as_u64())
}

/// What `mmap` is asked for.
fn map_request(process: &Process, space: &Space, arguments: [u64; 6]) -> Result<MapRequest, Errno> {
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
    if has(linux::MAP_HUGETLB) {
        return Err(huge_pages(flags, file.is_some()));
    }
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    let size = whole_pages(length)?;
    offset.checked_add(size).ok_or(Errno::EOVERFLOW)?;
    if file.is_some() && flags as u32 & linux::MAP_TYPE == linux::MAP_SHARED_VALIDATE && flags & !VALIDATED != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut placement = place(hint, size, flags)?;
    if has(linux::MAP_32BIT) {
        placement = below_2g(placement, size);
    }
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
    if hold_limits(
        process,
        space,
        placement,
        size,
        protection.contains(Protection::WRITE) && !shared,
    )
    .is_err()
    {
        return Err(Errno::ENOMEM);
    }
    let backing = match &file {
        Some(file) => file_backing(file, offset, size, shared, protection)?,
        None if shared => Backing::Shared {
            object: MemoryObject::new(memory().frames(), size)?,
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
    let locked = has(linux::MAP_LOCKED) || space.locks_future();
    if locked && hold_locked(process, space, size).is_err() {
        return Err(Errno::EAGAIN);
    }
    properties.set(RegionFlags::LOCKED, locked);
    Ok(MapRequest {
        placement,
        size,
        protection,
        backing,
        flags: properties,
    })
}

pub fn place(hint: u64, size: u64, flags: u64) -> Result<Placement, Errno> {
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
fn file_backing(
    file: &OpenFile,
    offset: u64,
    size: u64,
    shared: bool,
    protection: Protection,
) -> Result<Backing, Errno> {
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
        FileKind::Mounted(_) if shared && protection.contains(Protection::WRITE) => Err(Errno::EACCES),
        FileKind::Mounted(body) => {
            let object = body.opened().ok_or(Errno::ENODEV)?.clone();
            Ok(match shared {
                true => Backing::Shared { object, offset },
                false => Backing::Private { object, offset },
            })
        }
        FileKind::Memory(memory) if shared => {
            if protection.contains(Protection::WRITE) && !file.is_writable() {
                return Err(Errno::EACCES);
            }
            Ok(Backing::Shared {
                object: memory.mapped_pages(),
                offset,
            })
        }
        FileKind::Memory(memory) => Ok(Backing::Private {
            object: memory.mapped_pages(),
            offset,
        }),
        FileKind::Device(Rule::Zero) if !shared => Ok(Backing::Anonymous),
        FileKind::Device(Rule::Zero) => Ok(Backing::Shared {
            object: MemoryObject::new(memory().frames(), size)?,
            offset: 0,
        }),
        _ => Err(Errno::ENODEV),
    }
}

/// The flags that `MAP_SHARED_VALIDATE` takes: those from before it, the sizes of huge pages included.
const VALIDATED: u64 = (linux::MAP_TYPE
    | linux::MAP_FIXED
    | linux::MAP_ANONYMOUS
    | linux::MAP_32BIT
    | MAP_ABOVE4G
    | linux::MAP_GROWSDOWN
    | linux::MAP_DENYWRITE
    | linux::MAP_EXECUTABLE
    | linux::MAP_LOCKED
    | linux::MAP_NORESERVE
    | linux::MAP_POPULATE
    | linux::MAP_NONBLOCK
    | linux::MAP_STACK
    | linux::MAP_HUGETLB
    | linux::MAP_HUGE_2MB
    | linux::MAP_HUGE_1GB) as u64;

const MAP_ABOVE4G: u32 = 0x80;

/// Where `MAP_32BIT` looks for room, as Linux does.
const LOW: (VirtAddr, VirtAddr) = (VirtAddr::new(0x4000_0000), VirtAddr::new(0x8000_0000));

fn below_2g(placement: Placement, size: u64) -> Placement {
    match placement {
        Placement::Hint(wanted) if wanted.as_u64() + size <= LOW.1.as_u64() => Placement::Hint(wanted),
        Placement::Hint(_) | Placement::Any => Placement::Within(LOW.0, LOW.1),
        fixed => fixed,
    }
}

/// What `MAP_HUGETLB` comes to on a machine that has set no huge pages aside.
fn huge_pages(flags: u64, of_file: bool) -> Errno {
    let size = flags >> linux::MAP_HUGE_SHIFT & u64::from(linux::MAP_HUGE_MASK);
    if of_file || !matches!(size, 0 | 21) {
        Errno::EINVAL
    } else {
        Errno::ENOMEM
    }
}

/// Holds `RLIMIT_AS`, and `RLIMIT_DATA` for what is private and writable. What a fixed mapping replaces does not count.
pub fn hold_limits(
    process: &Process,
    space: &Space,
    placement: Placement,
    size: u64,
    is_data: bool,
) -> Result<(), Errno> {
    let all = process.limits.current(Resource::AS);
    let data = process.limits.current(Resource::DATA);
    if all == Limit::INFINITY && data == Limit::INFINITY {
        return Ok(());
    }
    let replaced = match placement {
        Placement::Fixed(start) => space.mapped_bytes(PageRange::covering(start, size)?),
        _ => 0,
    };
    if space.virtual_bytes().saturating_sub(replaced).saturating_add(size) > all
        || is_data && space.data_bytes().saturating_sub(replaced).saturating_add(size) > data
    {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// Holds `RLIMIT_MEMLOCK`, once a process has set it: a process starts as one that may lock what it likes.
pub(super) fn hold_locked(process: &Process, space: &Space, more: u64) -> Result<(), Errno> {
    let limit = process.limits.current(Resource::MEMLOCK);
    if limit != Limit::first(Resource::MEMLOCK).current && space.locked_bytes().saturating_add(more) > limit {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// Lets the stack of a process grow as far as `RLIMIT_STACK` says.
pub fn hold_stack(process: &Process, space: &Space) {
    /// As far as without a limit.
    const MOST: u64 = 1 << 30;
    let size = process.limits.current(Resource::STACK).min(MOST) & !(PAGE - 1);
    // Sizes up to this one fit below every place of the stack.
    let fits = space.set_stack_size(size.max(PAGE));
    debug_assert!(fits.is_ok());
}

/// `mmap` in its turn, and in steps where it replaces much; pages that are to be there when it returns are made present.
pub async fn mmap_in_turn(caller: Caller, arguments: [u64; 6]) -> Result<u64, Errno> {
    let request = map_request(&caller.thread.process, &caller.space, arguments)?;
    let (size, locked) = (request.size, request.flags.contains(RegionFlags::LOCKED));
    let start = caller.space.mmap_in_steps(request).await?;
    if locked || arguments[3] & u64::from(linux::MAP_POPULATE) != 0 {
        // The mapping is made; pages that can't be had are faults later.
        let _ = populate_mapped(&caller, PageRange::covering(start, size)?).await;
    }
    Ok(start.as_u64())
}

/// The range that `munmap` is given.
fn unmapped(start: u64, length: u64) -> Result<(VirtAddr, u64), Errno> {
    if !start.is_multiple_of(PAGE) || length == 0 || start.checked_add(length).is_none_or(|end| end > USER_END) {
        return Err(Errno::EINVAL);
    }
    Ok((address(start, Errno::EINVAL)?, length))
}

/// `munmap` in one step.
///
/// # Errors
/// `EINVAL` for an unaligned start, size 0 or a range outside the user half.
pub fn munmap(space: &Space, start: u64, length: u64) -> Result<u64, Errno> {
    let (start, length) = unmapped(start, length)?;
    space.unmap(start, length)?;
    Ok(0)
}

/// `munmap` in its turn, in steps.
pub async fn munmap_in_turn(caller: Caller, start: u64, length: u64) -> Result<u64, Errno> {
    let (start, length) = unmapped(start, length)?;
    caller.space.unmap_in_steps(start, length).await?;
    Ok(0)
}

/// Whether the heap may end there: `RLIMIT_DATA` and `RLIMIT_AS`.
fn check_break(process: &Process, space: &Space, wanted: u64) -> Result<VirtAddr, Errno> {
    let more = wanted.saturating_sub(space.brk(None)?.as_u64());
    hold_limits(process, space, Placement::Any, more, true)?;
    address(wanted, Errno::ENOMEM)
}

/// `brk` in one step: the new break, or the old one if it could not be moved.
///
/// # Errors
/// [`Errno::EWAIT`] only: a refused move is told by the unmoved break.
pub fn brk(process: &Process, space: &Space, wanted: u64) -> Result<u64, Errno> {
    let moved = check_break(process, space, wanted).and_then(|wanted| Ok(space.brk(Some(wanted))?));
    match moved {
        Ok(end) => Ok(end.as_u64()),
        Err(Errno::EWAIT) => Err(Errno::EWAIT),
        Err(_) => Ok(space.brk(None)?.as_u64()),
    }
}

/// `brk` in its turn, in steps.
pub async fn brk_in_turn(caller: Caller, wanted: u64) -> Result<u64, Errno> {
    let space = &caller.space;
    let before = space.brk(None)?;
    let Ok(wanted) = check_break(&caller.thread.process, space, wanted) else {
        return Ok(before.as_u64());
    };
    let moved = space.brk_in_steps(wanted).await;
    if moved.is_ok() && space.locks_future() && wanted > before {
        space
            .set_locked_in_steps(PageRange::covering(before, wanted - before)?, true)
            .await?;
        let _ = populate_mapped(&caller, PageRange::covering(before, wanted - before)?).await;
    }
    Ok(space.brk(None)?.as_u64())
}

/// What `mprotect` is given: start, size and protection; `None` for nothing to do.
fn protected(
    process: &Process,
    space: &Space,
    [start, length, bits]: [u64; 3],
) -> Result<Option<(VirtAddr, u64, Protection)>, Errno> {
    let grows = bits & u64::from(linux::PROT_GROWSDOWN | linux::PROT_GROWSUP);
    if grows == u64::from(linux::PROT_GROWSDOWN | linux::PROT_GROWSUP) || !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(None);
    }
    let size = whole_pages(length)?;
    if start.checked_add(size).is_none() {
        return Err(Errno::ENOMEM);
    }
    let protection = protection(bits & !grows)?;
    if start + size > USER_END {
        return Err(Errno::ENOMEM);
    }
    let mut start = address(start, Errno::ENOMEM)?;
    let mut size = size;
    if grows != 0 {
        // The change reaches down to the start of the stack that holds it; nothing grows upwards.
        let found = space.find_mapping(start).ok_or(Errno::ENOMEM)?;
        if grows != u64::from(linux::PROT_GROWSDOWN) || !found.flags.contains(RegionFlags::STACK) {
            return Err(Errno::EINVAL);
        }
        size += start.as_u64() - found.range.start();
        start = VirtAddr::new_truncate(found.range.start());
    }
    if protection.contains(Protection::WRITE) && process.limits.current(Resource::DATA) != Limit::INFINITY {
        hold_writable(process, space, start, size)?;
    }
    Ok(Some((start, size, protection)))
}

/// Holds `RLIMIT_DATA` where private memory becomes writable.
#[cold]
fn hold_writable(process: &Process, space: &Space, start: VirtAddr, size: u64) -> Result<(), Errno> {
    let Some(found) = space.find_mapping(start) else {
        return Ok(());
    };
    let is_data = found.protection.contains(Protection::WRITE) || found.backing.is_shared();
    if !is_data && space.data_bytes().saturating_add(size) > process.limits.current(Resource::DATA) {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// `mprotect` in one step.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EACCES`, as Linux reports them.
pub fn mprotect(process: &Process, space: &Space, arguments: [u64; 3]) -> Result<u64, Errno> {
    let Some((start, size, protection)) = protected(process, space, arguments)? else {
        return Ok(0);
    };
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

/// `mprotect` in its turn, in steps.
pub async fn mprotect_in_turn(caller: Caller, arguments: [u64; 3]) -> Result<u64, Errno> {
    let Some((start, size, protection)) = protected(&caller.thread.process, &caller.space, arguments)? else {
        return Ok(0);
    };
    caller.space.protect_in_steps(start, size, protection).await?;
    Ok(0)
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
