//! Size classes: the sizes of objects, two between a power of two and the next.
//!
//! An object of a class is aligned to the largest power of two that divides its size, because objects are counted from
//! the end of their slab, which is aligned to the slab's size.

use core::alloc::Layout;

use crate::PAGE;
use crate::slab::HEADER;

/// How many classes there are.
pub const COUNT: usize = 13;

/// The size of each class's objects.
pub const SIZES: [usize; COUNT] = [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];

/// Requests are looked up in steps of this many bytes.
const STEP: usize = 16;

/// What a class is, computed by the compiler.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Bytes of an object.
    pub size: usize,
    /// A slab has `1 << order` pages.
    pub order: u8,
    /// Objects in a slab.
    pub objects: u32,
    /// `offset * reciprocal >> 32` is `offset / size`, for offsets within a slab.
    reciprocal: u64,
}

/// The classes.
pub const CLASSES: [Class; COUNT] = {
    let mut classes = [Class {
        size: 0,
        order: 0,
        objects: 0,
        reciprocal: 0,
    }; COUNT];
    let mut index = 0;
    while index < COUNT {
        let size = SIZES[index];
        // At least seven objects in a slab, so that its header and its rest are a small part.
        let order = if size <= 256 {
            0
        } else if size <= 1024 {
            1
        } else {
            2
        };
        // The header has one word for each object.
        let objects = ((PAGE << order) - HEADER) / (size + 4);
        let reciprocal = (1 << 32) / size as u64 + 1;
        classes[index] = Class {
            size,
            order,
            objects: objects as u32,
            reciprocal,
        };
        index += 1;
    }
    classes
};

/// The class of a request by its size in steps, rounded up.
const BY_STEPS: [u8; crate::LARGEST_OBJECT / STEP + 1] = {
    let mut table = [0; crate::LARGEST_OBJECT / STEP + 1];
    let (mut steps, mut class) = (0, 0);
    while steps < table.len() {
        if steps * STEP > SIZES[class] {
            class += 1;
        }
        table[steps] = class as u8;
        steps += 1;
    }
    table
};

/// The index of the class whose objects fit `layout`; `None` if it is too large for all.
#[inline(always)]
pub const fn of(layout: Layout) -> Option<usize> {
    // A request is never smaller than its alignment here, so that at most the next class is the first that fits.
    let size = if layout.size() < layout.align() {
        layout.align()
    } else {
        layout.size()
    };
    if size > crate::LARGEST_OBJECT {
        return None;
    }
    let class = BY_STEPS[size.div_ceil(STEP)] as usize;
    Some(class + !SIZES[class].is_multiple_of(layout.align()) as usize)
}

impl Class {
    /// The number of the object at `offset` from the end of the slab to the object's start.
    #[inline(always)]
    pub const fn number(&self, offset: usize) -> usize {
        // The first object starts `size` before the end.
        ((offset as u64 * self.reciprocal) >> 32) as usize - 1
    }

    /// Bytes of a slab.
    #[inline(always)]
    pub const fn slab_bytes(&self) -> usize {
        PAGE << self.order
    }
}

// Every object's number is found, and the header ends before the last object.
const _: () = {
    let mut index = 0;
    while index < COUNT {
        let class = CLASSES[index];
        let mut object = 0;
        while object < class.objects as usize {
            assert!(class.number((object + 1) * class.size) == object);
            object += 1;
        }
        assert!(HEADER + class.objects as usize * (4 + class.size) <= class.slab_bytes());
        index += 1;
    }
};
