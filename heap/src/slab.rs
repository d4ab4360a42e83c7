//! A slab: equal objects in one run of pages, behind a header.
//!
//! ```text
//! start                                                                        start + slab size
//! | header | owner of 0 | owner of 1 | ... | (rest) | object n-1 | ... | object 1 | object 0 |
//! ```
//!
//! A free object holds the address of the next free one. Objects that were never used are not on that list: `fresh` is
//! the number of the first of them, so that a new slab is ready at once, whatever its size.

use core::ptr::{NonNull, null_mut};

use crate::class::Class;

/// Bytes of a slab's header, without the owners.
pub(crate) const HEADER: usize = size_of::<Slab>();

/// The header.
#[repr(C)]
pub(crate) struct Slab {
    /// Neighbours on the list of slabs with free objects.
    next: *mut Slab,
    previous: *mut Slab,
    free: *mut FreeObject,
    used: u32,
    fresh: u32,
}

struct FreeObject {
    next: *mut FreeObject,
}

/// The slabs of one class that have free objects, and statistics. Its methods get the class, always the same.
pub(crate) struct ClassState {
    first: *mut Slab,
    /// Objects in use.
    pub(crate) used: usize,
    /// Slabs, full ones too.
    pub(crate) slabs: usize,
}

// SAFETY: the pointers lead to slabs, which belong to the class and are reached under its lock only.
unsafe impl Send for ClassState {}

impl ClassState {
    /// A class without a slab.
    pub(crate) const fn new() -> Self {
        Self {
            first: null_mut(),
            used: 0,
            slabs: 0,
        }
    }

    /// Makes a slab of the run at `run`.
    ///
    /// # Safety
    /// The run has the class's order, is aligned to its size and is the caller's, who gives it up.
    pub(crate) unsafe fn add(&mut self, run: NonNull<u8>) {
        let slab = run.cast::<Slab>().as_ptr();
        // SAFETY: the run is larger than the header, aligned, and nobody else's.
        unsafe {
            slab.write(Slab {
                next: null_mut(),
                previous: null_mut(),
                free: null_mut(),
                used: 0,
                fresh: 0,
            });
            self.link(slab);
        }
        self.slabs += 1;
    }

    /// Takes an object for `owner`; `None` if every slab is full.
    #[inline(always)]
    pub(crate) fn take(&mut self, class: &Class, owner: u32) -> Option<NonNull<u8>> {
        let slab = NonNull::new(self.first)?.as_ptr();
        // SAFETY: 1. a slab on the list is alive, has a free object or a fresh one, and is reached under the lock only;
        // 2. a free object is inside the slab, and its first word was written when it was freed; 3. object numbers are
        // below `objects`, for which the run has room.
        unsafe {
            let free = (*slab).free;
            let object = if free.is_null() {
                (*slab).fresh += 1;
                slab.byte_add(class.slab_bytes() - (*slab).fresh as usize * class.size)
                    .cast::<u8>()
            } else {
                (*slab).free = (*free).next;
                free.cast::<u8>()
            };
            (*slab).used += 1;
            self.used += 1;
            Self::owner(slab, class, object).write(owner);
            if (*slab).free.is_null() && (*slab).fresh == class.objects {
                self.unlink(slab);
            }
            Some(NonNull::new_unchecked(object))
        }
    }

    /// Puts an object back. Returns its owner, and the slab's run if nothing is in it any more and another slab has room.
    ///
    /// # Safety
    /// The object came from `take` of this class, with `slab` the run that it is in, and nobody uses it any more.
    #[inline(always)]
    pub(crate) unsafe fn put(
        &mut self,
        class: &Class,
        slab: NonNull<u8>,
        object: NonNull<u8>,
    ) -> (u32, Option<NonNull<u8>>) {
        let slab = slab.cast::<Slab>().as_ptr();
        // SAFETY: as in `take`; the object is large enough for a pointer, and aligned for it.
        unsafe {
            let owner = Self::owner(slab, class, object.as_ptr()).read();
            let free = object.cast::<FreeObject>().as_ptr();
            let was_full = (*slab).free.is_null() && (*slab).fresh == class.objects;
            free.write(FreeObject { next: (*slab).free });
            (*slab).free = free;
            (*slab).used -= 1;
            self.used -= 1;
            if was_full {
                self.link(slab);
            }
            let alone = self.first == slab && (*slab).next.is_null();
            if (*slab).used != 0 || alone {
                return (owner, None);
            }
            self.unlink(slab);
            self.slabs -= 1;
            (owner, NonNull::new(slab.cast()))
        }
    }

    /// The place of an object's owner.
    ///
    /// # Safety
    /// `object` is one of the slab's.
    #[inline(always)]
    unsafe fn owner(slab: *mut Slab, class: &Class, object: *mut u8) -> *mut u32 {
        let number = class.number(slab.addr() + class.slab_bytes() - object.addr());
        // SAFETY: the owners lie behind the header, one for each object.
        unsafe { slab.byte_add(HEADER).cast::<u32>().add(number) }
    }

    /// # Safety
    /// The slab is this class's, alive, and not on the list.
    unsafe fn link(&mut self, slab: *mut Slab) {
        // SAFETY: slabs on the list are alive.
        unsafe {
            (*slab).previous = null_mut();
            (*slab).next = self.first;
            if !self.first.is_null() {
                (*self.first).previous = slab;
            }
        }
        self.first = slab;
    }

    /// # Safety
    /// The slab is on the list.
    unsafe fn unlink(&mut self, slab: *mut Slab) {
        // SAFETY: slabs on the list are alive.
        unsafe {
            let (next, previous) = ((*slab).next, (*slab).previous);
            if previous.is_null() {
                self.first = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }
}
