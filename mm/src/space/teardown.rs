//! The end of large spaces: in steps, by a task of its own.
//!
//! Whoever drops a space may be anywhere: in a call that failed, in a thread that was killed while it waited, in `execve`.
//! A small space is destroyed on the spot. A large one is put on the machine's list of ending spaces, which takes no
//! memory, and the [teardown task](Memory::teardown) takes it apart piece by piece. Without that task (nobody has polled
//! it) every space is destroyed on the spot.

use core::future::poll_fn;
use core::task::{Poll, Waker};

use faultline_fallible::Arc;

use super::turn::pause;
use super::{Inner, Space, VirtualAddressSpace};
use crate::Memory;
use crate::address::{HUGE_PAGE_SIZE, PageRange, USER_END};
use crate::platform::Platform;

/// A space with no more regions and no more bytes than this is destroyed at once.
const SMALL_REGIONS: usize = 128;
const SMALL_BYTES: u64 = 8 * HUGE_PAGE_SIZE;

/// Spaces that end.
pub(crate) struct EndingSpaces<P: Platform> {
    /// The last one that was put here, which leads to the others.
    first: Option<Arc<Space<P>>>,
    /// How many there are, the one that is being taken apart included.
    count: usize,
    /// How to wake the task; there once it was polled.
    task: Option<Waker>,
}

impl<P: Platform> Default for EndingSpaces<P> {
    fn default() -> Self {
        Self {
            first: None,
            count: 0,
            task: None,
        }
    }
}

impl<P: Platform> VirtualAddressSpace<P> {
    /// Unmaps a bounded front part of what is mapped, from the lowest address on, if one step can't do all; says whether it
    /// did. For a space that nobody runs in any more, before it is destroyed, which is the last step. Needs no memory.
    #[must_use]
    pub fn clear_front(&self) -> bool {
        let mut inner = self.lock();
        let Some((first, _)) = inner.regions.first_above(0).filter(|_| !Self::is_small(&inner)) else {
            return false;
        };
        // From where a table's span starts, whatever regions are in it: so no shared table has to be split.
        let start = first.start() & !(HUGE_PAGE_SIZE - 1);
        let part = self.part(&inner, PageRange::new_unchecked(start, USER_END));
        part.end() < USER_END && self.unmap_range(&mut inner, part).is_ok()
    }

    /// Whether destroying the space takes more than one step.
    fn is_large(&self) -> bool {
        let inner = self.lock();
        !Self::is_small(&inner) && self.part(&inner, PageRange::new_unchecked(0, USER_END)).end() < USER_END
    }

    /// Whether it is known without a look at the tables that one step can do all.
    fn is_small(inner: &Inner<P>) -> bool {
        inner.regions.len() <= SMALL_REGIONS && inner.regions.bytes().all <= SMALL_BYTES
    }
}

impl<P: Platform> Drop for VirtualAddressSpace<P> {
    fn drop(&mut self) {
        if !self.is_large() || !self.memory().end_later(self.core()) {
            self.destroy();
        }
    }
}

impl<P: Platform> Memory<P> {
    /// Puts a space on the list of those that end; false if nobody would take it apart.
    fn end_later(&self, space: &Arc<Space<P>>) -> bool {
        let mut ending = self.ending.lock();
        let Some(task) = ending.task.clone() else { return false };
        let next = ending.first.replace(space.clone());
        space.lock().next_ending = next;
        ending.count += 1;
        drop(ending);
        task.wake();
        true
    }

    /// Spaces that were dropped and are not taken apart yet.
    #[must_use]
    pub fn ending_spaces(&self) -> usize {
        self.ending.lock().count
    }

    /// The task that takes large spaces apart that were dropped: spawn it once. It never ends.
    pub async fn teardown(&'static self) {
        loop {
            let space = poll_fn(|context| {
                let mut ending = self.ending.lock();
                let Some(space) = ending.first.take() else {
                    ending.task = Some(context.waker().clone());
                    return Poll::Pending;
                };
                ending.first = space.lock().next_ending.take();
                Poll::Ready(VirtualAddressSpace { space })
            })
            .await;
            while space.clear_front() {
                pause().await;
            }
            drop(space);
            self.ending.lock().count -= 1;
        }
    }
}
