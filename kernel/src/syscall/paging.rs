//! `madvise` about where pages are: `PAGEOUT`, `COLD`, `FREE`, `WILLNEED` and `REMOVE`.
//!
//! They wait, for a flush or for a disk, and change no region, so that they need no turn. Regions are taken one after the
//! other as they are found; a region that does not take the advice ends the call, holes are told at the end.

use faultline_executor::yield_now;
use faultline_fallible::Arc;
use faultline_mm::{Advice, Backing, MemoryObject, PageRange, RegionFlags, RegionView};
use linux_raw_sys::general as linux;
use x86_64::VirtAddr;

use super::memory::PAGE;
use super::{Caller, Errno};
use crate::exec::elf::USER_END;
use crate::machine::{Space, memory};

/// What is to become of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// They leave, now.
    PageOut,
    /// They leave before others.
    Cold,
    /// They need not be written when they leave.
    Free,
    /// They come.
    WillNeed,
    /// Nobody has them any more.
    Remove,
}

/// What an advice wishes, if it is about where pages are and can wait.
#[must_use]
pub fn wish(advice: u64) -> Option<Wish> {
    match u32::try_from(advice).ok()? {
        linux::MADV_PAGEOUT => Some(Wish::PageOut),
        linux::MADV_COLD => Some(Wish::Cold),
        linux::MADV_FREE => Some(Wish::Free),
        linux::MADV_WILLNEED => Some(Wish::WillNeed),
        linux::MADV_REMOVE => Some(Wish::Remove),
        _ => None,
    }
}

/// `madvise` with such an advice.
pub async fn madvise(caller: Caller, start: u64, length: u64, wish: Wish) -> Result<u64, Errno> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let size = length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(size).ok_or(Errno::EINVAL)?;
    let (mut at, mut result) = (start, Ok(0));
    while at < end {
        let found = (at < USER_END).then(|| caller.space.mapping_above(VirtAddr::new_truncate(at)));
        let Some(region) = found.flatten().filter(|region| region.range.start() < end) else {
            return Err(Errno::ENOMEM);
        };
        if region.range.start() > at {
            result = Err(Errno::ENOMEM);
        }
        let from = region.range.start().max(at);
        at = region.range.end().min(end);
        let range = PageRange::covering(VirtAddr::new_truncate(from), at - from)?;
        check(&region, wish)?;
        follow(&caller.space, region, range, wish).await?;
        yield_now().await;
    }
    result
}

/// Whether a region takes an advice.
fn check(region: &RegionView, wish: Wish) -> Result<(), Errno> {
    let keeps = region.flags.contains(RegionFlags::LOCKED) || matches!(region.backing, Backing::Physical { .. });
    match (wish, &region.backing) {
        (Wish::WillNeed, _) => Ok(()),
        _ if keeps => Err(Errno::EINVAL),
        (Wish::PageOut | Wish::Cold, _) | (Wish::Free, Backing::Anonymous) => Ok(()),
        (Wish::Free, _) | (Wish::Remove, Backing::Anonymous) => Err(Errno::EINVAL),
        (Wish::Remove, Backing::Shared { .. }) if !region.flags.contains(RegionFlags::READ_ONLY) => Ok(()),
        (Wish::Remove, _) => Err(Errno::EACCES),
    }
}

/// Does what is wished with a part of a region. What is unmapped meanwhile is nobody's error.
async fn follow(space: &Space, region: RegionView, range: PageRange, wish: Wish) -> Result<(), Errno> {
    let start = region.range.start();
    let object = match region.backing {
        Backing::Shared { object, offset } | Backing::Private { object, offset } => Some((object, offset)),
        _ => None,
    };
    let pages = |offset: u64| [range.start(), range.end()].map(|at| (offset + (at - start)) / PAGE);
    match (wish, object) {
        (Wish::PageOut, object) => {
            let _ = space.page_out(range).await;
            // What this space had mapped of the object leaves it if no other space has.
            if let Some((object, offset)) = object {
                let [first, end] = pages(offset);
                memory().page_out_object(&object, first..end).await;
            }
        }
        (Wish::Cold, _) => _ = space.cold(range).await,
        (Wish::Free, _) if memory().reclaim_state().is_possible => _ = space.free_lazily(range).await,
        (Wish::Free, _) => {
            // Nothing can leave later: now.
            let first = VirtAddr::new_truncate(range.start());
            let _ = space.advise_in_steps(first, range.size(), Advice::DontNeed).await;
        }
        (Wish::WillNeed, object) => {
            if let Some((object, offset)) = object {
                read(&object, pages(offset)).await;
            }
            space.will_need(range).await;
        }
        (Wish::Remove, Some((object, offset))) => {
            let [first, end] = pages(offset);
            memory().punch_object(&object, first..end).await;
        }
        (Wish::Remove, None) => {}
    }
    Ok(())
}

/// Begins to read pages of an object that are on a disk.
async fn read(object: &Arc<MemoryObject>, [first, end]: [u64; 2]) {
    let mut at = first;
    while let Some(next) = memory().will_need(object, at, end) {
        at = next;
        yield_now().await;
    }
}
