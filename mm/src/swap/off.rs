//! Switching the swap area off: everything comes back into memory, or stays where it is.
//!
//! First every page on the device is read, in the order of slots; then every space is walked, and every object, and their
//! entries and pages are given the frames. What has a marker, or is in flight, belongs to a read, which ends by itself; what
//! is being written will be in its frame. So the walk is made again until no slot is in use. Nothing leaves meanwhile: no slot is given out.

use core::future::poll_fn;
use core::ops::Range;
use core::task::Poll;

use super::{SlotState, SwapError, SwapSlot};
use crate::Memory;
use crate::platform::Platform;
use crate::space::pause;
use crate::sync::mutant;

/// Slots that are read together.
const WINDOW: u32 = 32;

/// Frames that are left free: for tables, and for faults that are under way.
const RESERVE: u64 = 32;

/// The area is being switched off. Dropping this gives slots out again.
struct Closing<'a, P: Platform>(&'a Memory<P>);

impl<P: Platform> Drop for Closing<'_, P> {
    fn drop(&mut self) {
        self.0.frames.swap.open();
    }
}

impl<P: Platform> Memory<P> {
    /// Switches the swap area off: brings back every page that is swapped out, and forgets the device. Dropping the future
    /// ends the attempt; what has come back stays in memory.
    ///
    /// # Errors
    /// [`SwapError::Off`]; [`SwapError::Closing`] if somebody else is at it; [`SwapError::OutOfMemory`] if not everything
    /// fits into memory; [`SwapError::Unreadable`]. The area is still there then, and nothing is lost.
    pub async fn swap_off(&'static self) -> Result<(), SwapError> {
        let area = &self.frames.swap;
        if area.slots() == 0 {
            return Err(SwapError::Off);
        }
        if !area.close() {
            return Err(SwapError::Closing);
        }
        let closing = Closing(self);
        loop {
            self.read_everything_back().await?;
            let mut at = self.spaces.next(None);
            while let Some(space) = at {
                space.map_cached().await;
                at = self.spaces.next(Some(&space));
            }
            self.take_back_objects().await;
            self.forget_idle_slots().await;
            if self.used_swap_slots() == 0 || mutant!(DetachUsed) {
                break;
            }
            pause().await;
        }
        self.detach_swap();
        self.adjust_watermarks();
        drop(closing);
        Ok(())
    }

    /// Gives objects the frames of their pages.
    async fn take_back_objects(&'static self) {
        let mut at = self.next_object(None);
        while let Some(object) = at {
            let mut from = Some(0);
            while let Some(page) = from {
                from = self.take_back_cached(&object, page, WINDOW as usize);
                pause().await;
            }
            at = self.next_object(Some(&object));
        }
    }

    /// Reads every page that is on the device alone.
    async fn read_everything_back(&'static self) -> Result<(), SwapError> {
        let mut from = 0;
        while let Some(group) = self.frames.swap.next_used_group(from) {
            from = group.end;
            for start in group.clone().step_by(WINDOW as usize) {
                self.read_back(start..group.end.min(start + WINDOW)).await?;
            }
            pause().await;
        }
        Ok(())
    }

    /// Reads some slots together, then each alone that could not be read so.
    async fn read_back(&'static self, window: Range<u32>) -> Result<(), SwapError> {
        let is_out = |number| self.frames.swap.load(SwapSlot::new(number)).state == SlotState::Out;
        if !window.clone().any(is_out) {
            return Ok(());
        }
        self.read_and_wait(window.clone()).await;
        for number in window {
            if is_out(number) {
                let errors = self.swap_stats().errors;
                self.read_and_wait(number..number + 1).await;
                if is_out(number) {
                    let slot = SwapSlot::new(number);
                    let failed = self.swap_stats().errors > errors;
                    return Err(if failed {
                        SwapError::Unreadable { slot }
                    } else {
                        SwapError::OutOfMemory
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads those slots of a window that are on the device alone, as far as there is memory, and waits for all reads in it.
    async fn read_and_wait(&'static self, window: Range<u32>) {
        let mut started = false;
        poll_fn(|context| {
            // Register, then look: a read that ends in between would wake nobody.
            *self.swap.watcher.lock() = Some(context.waker().clone());
            started = started || self.read_swap_ahead(window.clone(), RESERVE);
            let reading = |number| {
                matches!(
                    self.frames.swap.load(SwapSlot::new(number)).state,
                    SlotState::Reading { .. }
                )
            };
            if !started || window.clone().any(reading) {
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Frees the slots of pages that are in frames.
    async fn forget_idle_slots(&'static self) {
        let area = &self.frames.swap;
        let mut from = 0;
        while let Some(group) = area.next_used_group(from) {
            from = group.end;
            for slot in group.map(SwapSlot::new) {
                area.forget_idle(slot);
            }
            pause().await;
        }
    }
}
