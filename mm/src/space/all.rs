//! The list of all spaces of a machine, for who has to look at every one: reclaim, and the end of a swap area.
//!
//! It is linked through the spaces, so it takes no memory, and a space comes and goes in O(1). A space is on it from when
//! it is made until its last reference goes, [destroyed](super::VirtualAddressSpace::destroy) or not. The lock of the list
//! is taken inside no other, and no reference is dropped under it, because the last one takes it.

use core::cell::UnsafeCell;
use core::ptr;

use faultline_fallible::{Arc, Weak};

use super::Space;
use crate::Memory;
use crate::platform::Platform;
use crate::sync::Mutex;

/// The place of a space on the list; owned by the list's lock.
pub(crate) struct Links<P: Platform>(UnsafeCell<Place<P>>);

struct Place<P: Platform> {
    /// The space itself; there while it is on the list.
    this: Weak<Space<P>>,
    previous: *const Space<P>,
    next: *const Space<P>,
}

// SAFETY: the place is touched under the list's lock only, by which CPU does not matter; what it points to is shared by
// all CPUs.
unsafe impl<P: Platform> Sync for Links<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Send for Links<P> {}

impl<P: Platform> Links<P> {
    pub(super) fn new() -> Self {
        Self(UnsafeCell::new(Place {
            this: Weak::new(),
            previous: ptr::null(),
            next: ptr::null(),
        }))
    }
}

/// Both ends of the list.
struct Ends<P: Platform> {
    first: *const Space<P>,
    last: *const Space<P>,
    count: usize,
}

// SAFETY: the pointers are to spaces that are on the list, which leave it, under its lock, before they go.
unsafe impl<P: Platform> Send for Ends<P> {}

/// All spaces of a machine, in the order in which they were made.
pub(crate) struct AllSpaces<P: Platform>(Mutex<Ends<P>>);

impl<P: Platform> AllSpaces<P> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Ends {
            first: ptr::null(),
            last: ptr::null(),
            count: 0,
        }))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().count
    }

    /// Puts a new space at the end.
    pub(super) fn add(&self, space: &Arc<Space<P>>) {
        let this = Arc::downgrade(space);
        let pointer: *const Space<P> = &raw const **space;
        let mut ends = self.0.lock();
        let previous = core::mem::replace(&mut ends.last, pointer);
        // SAFETY: 1. the list's lock is held; 2. the space is new, so nobody else has its place.
        unsafe {
            *space.links.0.get() = Place {
                this,
                previous,
                next: ptr::null(),
            }
        };
        // SAFETY: the list's lock is held, and spaces on the list are alive.
        match unsafe { previous.as_ref() } {
            // SAFETY: the list's lock owns the place.
            Some(previous) => unsafe { (*previous.links.0.get()).next = pointer },
            None => ends.first = pointer,
        }
        ends.count += 1;
    }

    /// Takes a space out that is about to go; harmless if it never was on the list.
    pub(super) fn remove(&self, space: &Space<P>) {
        let mut ends = self.0.lock();
        // SAFETY: the list's lock owns the place.
        let place = unsafe { &mut *space.links.0.get() };
        let (previous, next) = (place.previous, place.next);
        if previous.is_null() && !ptr::eq(ends.first, space) {
            return;
        }
        // SAFETY: the list's lock is held, and spaces on the list are alive; it owns their places.
        unsafe {
            match previous.as_ref() {
                Some(previous) => (*previous.links.0.get()).next = next,
                None => ends.first = next,
            }
            match next.as_ref() {
                Some(next) => (*next.links.0.get()).previous = previous,
                None => ends.last = previous,
            }
        }
        ends.count -= 1;
    }

    /// The space that was made after `space` and is still used, or the first one of all. The caller holds a reference to
    /// `space`, so it is still on the list.
    pub(crate) fn next(&self, space: Option<&Arc<Space<P>>>) -> Option<Arc<Space<P>>> {
        let ends = self.0.lock();
        let mut at = match space {
            // SAFETY: the list's lock owns the place.
            Some(space) => unsafe { (*space.links.0.get()).next },
            None => ends.first,
        };
        // SAFETY: the list's lock is held, and spaces on the list are alive.
        while let Some(space) = unsafe { at.as_ref() } {
            // SAFETY: the list's lock owns the place.
            let place = unsafe { &*space.links.0.get() };
            // Whoever drops the last reference waits for the lock, to take the space out.
            if let Some(found) = place.this.upgrade() {
                return Some(found);
            }
            at = place.next;
        }
        None
    }
}

impl<P: Platform> Memory<P> {
    /// Spaces that are in use, or whose last reference has still to go.
    #[must_use]
    pub fn spaces(&self) -> usize {
        self.spaces.count()
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use crate::tests::machine::*;

    fn ids(world: &World) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut at = world.memory.spaces.next(None);
        while let Some(space) = at {
            ids.push(space.id);
            at = world.memory.spaces.next(Some(&space));
        }
        ids
    }

    #[test]
    fn spaces_are_listed_in_the_order_in_which_they_were_made() {
        let world = World::new(64);
        assert_eq!(ids(&world), []);
        let mut spaces: Vec<_> = (0..5).map(|_| world.space()).collect();
        let all: Vec<_> = spaces.iter().map(|space| space.id()).collect();
        assert_eq!(ids(&world), all);
        for (gone, left) in [(2, 4), (0, 3), (2, 2)] {
            drop(spaces.remove(gone));
            assert_eq!(ids(&world), spaces.iter().map(|space| space.id()).collect::<Vec<_>>());
            assert_eq!(world.memory.spaces(), left);
        }
        let child = spaces[0].fork().unwrap();
        assert_eq!(ids(&world).last(), Some(&child.id()));
        drop(spaces);
        assert_eq!(ids(&world), [child.id()]);
        drop(child);
        assert_eq!(world.memory.spaces(), 0);
    }

    #[test]
    fn a_walk_goes_on_from_a_space_that_has_ended() {
        let world = World::new(64);
        let mut spaces: Vec<_> = (0..3).map(|_| world.space()).collect();
        let last = spaces[2].id();
        let second = world.memory.spaces.next(Some(spaces[0].core())).unwrap();
        drop(spaces.remove(1));
        assert_eq!(world.memory.spaces(), 3);
        assert_eq!(world.memory.spaces.next(Some(&second)).unwrap().id, last);
        drop(second);
        assert_eq!(world.memory.spaces(), 2);
    }
}
