//! The list of all objects of a machine, in the order in which the hand comes to them.
//!
//! It is linked through the objects, so it takes no memory, and an object comes and goes in O(1). The lock of the list is
//! taken inside that of a space, and inside no other. No reference is dropped under it, because the last one takes it.

use core::cell::UnsafeCell;
use core::ptr;

use faultline_fallible::{Arc, Weak};

use super::memory_object::MemoryObject;
use crate::sync::Mutex;

/// The place of an object on the list; owned by the list's lock.
pub(super) struct Links(UnsafeCell<Place>);

struct Place {
    /// The object itself; there while it is on the list.
    this: Weak<MemoryObject>,
    previous: *const MemoryObject,
    next: *const MemoryObject,
}

// SAFETY: the place is touched under the list's lock only, by which CPU does not matter; what it points to is shared by
// all CPUs.
unsafe impl Sync for Links {}
// SAFETY: as above.
unsafe impl Send for Links {}

impl Links {
    pub(super) const fn new() -> Self {
        Self(UnsafeCell::new(Place {
            this: Weak::new(),
            previous: ptr::null(),
            next: ptr::null(),
        }))
    }
}

/// Both ends of the list.
struct Ends {
    first: *const MemoryObject,
    last: *const MemoryObject,
}

// SAFETY: the pointers are to objects that are on the list, which leave it, under its lock, before they go.
unsafe impl Send for Ends {}

impl Ends {
    /// Links an object at the end.
    ///
    /// # Safety
    /// The object is not on the list, and lives until it is taken out.
    unsafe fn push(&mut self, object: *const MemoryObject) {
        let previous = core::mem::replace(&mut self.last, object);
        // SAFETY: the list's lock is held, which owns the places; objects on the list are alive, and so is this one.
        unsafe {
            let place = (*object).links.0.get();
            (*place).previous = previous;
            (*place).next = ptr::null();
            match previous.as_ref() {
                Some(previous) => (*previous.links.0.get()).next = object,
                None => self.first = object,
            }
        }
    }

    /// Takes an object out.
    ///
    /// # Safety
    /// The object is on the list.
    unsafe fn take_out(&mut self, object: &MemoryObject) {
        // SAFETY: the list's lock is held, which owns the places; objects on the list are alive.
        unsafe {
            let place = object.links.0.get();
            let (previous, next) = ((*place).previous, (*place).next);
            match previous.as_ref() {
                Some(previous) => (*previous.links.0.get()).next = next,
                None => self.first = next,
            }
            match next.as_ref() {
                Some(next) => (*next.links.0.get()).previous = previous,
                None => self.last = previous,
            }
        }
    }
}

/// All objects of a machine.
pub(crate) struct AllObjects(Mutex<Ends>);

impl Default for AllObjects {
    fn default() -> Self {
        Self(Mutex::new(Ends {
            first: ptr::null(),
            last: ptr::null(),
        }))
    }
}

impl AllObjects {
    /// Puts a new object at the end.
    pub(super) fn add(&self, object: &Arc<MemoryObject>) {
        let this = Arc::downgrade(object);
        let mut ends = self.0.lock();
        // SAFETY: 1. the list's lock is held; 2. the object is new, so nobody else has its place, and it is not listed; 3. it
        // takes itself out before it goes.
        unsafe {
            (*object.links.0.get()).this = this;
            ends.push(&raw const **object);
        }
    }

    /// Takes an object out that is about to go.
    pub(super) fn remove(&self, object: &MemoryObject) {
        let mut ends = self.0.lock();
        // SAFETY: the list's lock is held, and every object is on the list from when it is made.
        unsafe { ends.take_out(object) };
    }

    /// The object behind `object` that is still used, or the first one of all. The caller holds a reference to `object`, so
    /// it is on the list.
    pub(super) fn next(&self, object: Option<&Arc<MemoryObject>>) -> Option<Arc<MemoryObject>> {
        let ends = self.0.lock();
        let mut at = match object {
            // SAFETY: the list's lock owns the place.
            Some(object) => unsafe { (*object.links.0.get()).next },
            None => ends.first,
        };
        // SAFETY: the list's lock is held, and objects on the list are alive.
        while let Some(object) = unsafe { at.as_ref() } {
            // SAFETY: the list's lock owns the place.
            let place = unsafe { &*object.links.0.get() };
            // Whoever drops the last reference waits for the lock, to take the object out.
            if let Some(found) = place.this.upgrade() {
                return Some(found);
            }
            at = place.next;
        }
        None
    }

    /// Moves an object to the end.
    pub(super) fn move_to_end(&self, object: &Arc<MemoryObject>) {
        let mut ends = self.0.lock();
        // SAFETY: 1. the list's lock is held; 2. the caller has a reference, so the object is on the list.
        unsafe {
            ends.take_out(object);
            ends.push(&raw const **object);
        }
    }
}

impl core::fmt::Debug for AllObjects {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("AllObjects")
    }
}
