//! Shared memory: `shmget`, `shmat`, `shmdt`, `shmctl`.
//!
//! A segment is a memory object that is mapped like any other. How often it is attached is how many regions hold the object;
//! a segment that was removed keeps its number until the last of them is gone, and holds no memory itself from then on.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use faultline_fallible::{Arc, Weak};
use faultline_mm::{Backing, MapRequest, MemoryObject, Placement, Protection, RegionFlags};
use linux_raw_sys::general as linux;
use spin::Mutex;
use x86_64::VirtAddr;

use super::{Common, HEAD, RMID, SET, STAT, Table, Thing, command};
use crate::fs::tree::now;
use crate::machine::{self, memory};
use crate::syscall::memory::{hold_limits, place, whole_pages};
use crate::syscall::{Caller, Errno, user};

const READ_ONLY: u32 = 0o10000;
const ROUND: u32 = 0o20000;
const REMAP: u32 = 0o40000;
const EXECUTE: u32 = 0o100_000;

const LOCK: u32 = 11;
const UNLOCK: u32 = 12;

/// The mode bit of a segment that was removed.
const REMOVED: u32 = 0o1000;

/// Bytes of `struct shmid64_ds`.
const SIZE: usize = 112;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// One part in so many of all frames is not for segments, which hold their pages when nobody is left who could be ended for them.
const KEPT: u64 = 2;

/// Pages of all segments.
static PAGES: AtomicU64 = AtomicU64::new(0);

/// All segments.
pub(super) static SEGMENTS: Table<Segment> = Table::new();

/// A segment.
pub(super) struct Segment {
    common: Common,
    size: u64,
    _room: Room,
    object: Weak<MemoryObject>,
    /// Until it is removed.
    held: Mutex<Option<Arc<MemoryObject>>>,
    creator: u32,
    last: AtomicU32,
    attached: AtomicU64,
    detached: AtomicU64,
}

/// A share of the pages that segments may have.
struct Room(u64);

impl Room {
    fn new(pages: u64) -> Result<Self, Errno> {
        let (total, _) = machine::frame_totals();
        let add = |all: u64| all.checked_add(pages).filter(|&all| all <= total - total / KEPT);
        let added = PAGES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.map(|_| Self(pages)).map_err(|_| Errno::ENOSPC)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        PAGES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Thing for Segment {
    fn common(&self) -> &Common {
        &self.common
    }
}

impl Segment {
    /// How many regions show it.
    fn attachments(&self) -> usize {
        self.object.strong_count() - usize::from(self.held.lock().is_some())
    }

    fn is_removed(&self) -> bool {
        self.common.mode.load(Ordering::Relaxed) & REMOVED != 0
    }
}

/// The segment of a number. One that was removed and is not attached any more is gone.
fn find(number: u64) -> Result<Arc<Segment>, Errno> {
    let segment = SEGMENTS.find(number)?;
    if segment.is_removed() && segment.attachments() == 0 {
        drop(SEGMENTS.remove(&segment));
        return Err(Errno::EINVAL);
    }
    Ok(segment)
}

/// `shmget`.
///
/// # Errors
/// `EINVAL` for a size that can't be, or larger than that of the segment; `ENOENT`, `EEXIST`, `ENOSPC`, `ENOMEM`.
pub fn shmget(caller: &Caller, key: u64, size: u64, flags: u64) -> Result<u64, Errno> {
    let check = |segment: &Segment| {
        if size > segment.size {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    };
    let make = |common| {
        if size == 0 {
            return Err(Errno::EINVAL);
        }
        let room = Room::new(whole_pages(size)? / PAGE)?;
        let object = MemoryObject::new(memory().frames(), whole_pages(size)?)?;
        Ok(Segment {
            common,
            size,
            _room: room,
            object: Arc::downgrade(&object),
            held: Mutex::new(Some(object)),
            creator: caller.thread.process.pid,
            last: AtomicU32::new(0),
            attached: AtomicU64::new(0),
            detached: AtomicU64::new(0),
        })
    };
    SEGMENTS.get(key as i32, flags as u32, check, make)
}

/// `shmat`.
///
/// # Errors
/// `EINVAL` for no segment, or an address that is not on a page or taken; `ENOMEM`.
pub async fn shmat(caller: Caller, number: u64, address: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    let segment = find(number)?;
    let object = segment.object.upgrade().ok_or(Errno::EINVAL)?;
    let size = whole_pages(segment.size)?;
    let start = if flags & ROUND != 0 {
        address & !(PAGE - 1)
    } else {
        address
    };
    let placement = match start {
        0 if flags & REMAP != 0 => return Err(Errno::EINVAL),
        0 => Placement::Any,
        _ if !start.is_multiple_of(PAGE) => return Err(Errno::EINVAL),
        _ => {
            let fixed = if flags & REMAP != 0 {
                linux::MAP_FIXED
            } else {
                linux::MAP_FIXED_NOREPLACE
            };
            place(start, size, u64::from(fixed)).map_err(|_| Errno::EINVAL)?
        }
    };
    let process = &caller.thread.process;
    hold_limits(process, &caller.space, placement, size, false)?;
    let mut protection = Protection::READ;
    protection.set(Protection::WRITE, flags & READ_ONLY == 0);
    protection.set(Protection::EXECUTE, flags & EXECUTE != 0);
    let mut properties = RegionFlags::empty();
    properties.set(RegionFlags::READ_ONLY, flags & READ_ONLY != 0);
    properties.set(RegionFlags::LOCKED, caller.space.locks_future());
    let request = MapRequest {
        placement,
        size,
        protection,
        backing: Backing::Shared { object, offset: 0 },
        flags: properties,
    };
    let start = caller
        .space
        .mmap_in_steps(request)
        .await
        .map_err(|error| match error.into() {
            Errno::EEXIST => Errno::EINVAL,
            errno => errno,
        })?;
    segment.attached.store(now(), Ordering::Relaxed);
    segment.last.store(process.pid, Ordering::Relaxed);
    Ok(start.as_u64())
}

/// `shmdt`.
///
/// # Errors
/// `EINVAL` where no segment is attached.
pub async fn shmdt(caller: Caller, address: u64) -> Result<u64, Errno> {
    if !address.is_multiple_of(PAGE) || address >= crate::exec::elf::USER_END {
        return Err(Errno::EINVAL);
    }
    let start = VirtAddr::new_truncate(address);
    let mapped = caller
        .space
        .find_mapping(start)
        .filter(|found| found.range.start() == address);
    let object = match mapped.map(|found| found.backing) {
        Some(Backing::Shared { object, offset: 0 }) => object,
        _ => return Err(Errno::EINVAL),
    };
    let segment = {
        let entries = SEGMENTS.0.lock();
        let found = entries
            .things
            .values()
            .find(|segment| core::ptr::eq(segment.object_address(), Arc::as_ptr(&object)));
        found.cloned().ok_or(Errno::EINVAL)?
    };
    drop(object);
    caller.space.unmap_in_steps(start, whole_pages(segment.size)?).await?;
    segment.detached.store(now(), Ordering::Relaxed);
    segment.last.store(caller.thread.process.pid, Ordering::Relaxed);
    if segment.is_removed() && segment.attachments() == 0 {
        drop(SEGMENTS.remove(&segment));
    }
    Ok(0)
}

impl Segment {
    fn object_address(&self) -> *const MemoryObject {
        self.object
            .upgrade()
            .map_or(core::ptr::null(), |object| Arc::as_ptr(&object))
    }
}

/// `shmctl`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub async fn shmctl(caller: Caller, number: u64, operation: u64, address: u64) -> Result<u64, Errno> {
    let operation = command(operation);
    if !matches!(operation, RMID | SET | STAT | LOCK | UNLOCK) {
        return Err(Errno::EINVAL);
    }
    let segment = find(number)?;
    match operation {
        STAT => {
            let mut bytes = [0; SIZE];
            segment.common.write(&mut bytes[..HEAD]);
            let times = [&segment.attached, &segment.detached, &segment.common.changed];
            let times = times.map(|time| time.load(Ordering::Relaxed));
            let people = u64::from(segment.last.load(Ordering::Relaxed)) << 32 | u64::from(segment.creator);
            let words = [
                segment.size,
                times[0],
                times[1],
                times[2],
                people,
                segment.attachments() as u64,
            ];
            for (to, word) in bytes[HEAD..].chunks_exact_mut(8).zip(words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            user::write(&caller.space, address, &bytes).await?;
        }
        SET => {
            let mut bytes = [0; HEAD];
            user::read(&caller.space, address, &mut bytes).await?;
            segment.common.set(&bytes);
        }
        RMID => {
            segment.common.mode.fetch_or(REMOVED, Ordering::Relaxed);
            SEGMENTS.forget_key(&segment);
            let held = segment.held.lock().take();
            drop(held);
            if segment.attachments() == 0 {
                drop(SEGMENTS.remove(&segment));
            }
        }
        // Its pages are as good as others.
        _ => {}
    }
    Ok(0)
}
