//! Runs of pages from one piece of memory: the heap before there is a frame allocator, and its stock when frames are
//! short.
//!
//! A binary buddy allocator. A free run holds the links of its list in its first bytes; one byte for each page, at the
//! start of the memory, says of which order the free run is that starts there.

use core::ptr::{NonNull, null_mut};

use spin::Mutex;

use crate::{LARGEST_ORDER, PAGE};

const ORDERS: usize = LARGEST_ORDER as usize + 1;

/// In the byte of a page where no free run starts.
const TAKEN: u8 = u8::MAX;

/// The arena. Empty until [`Arena::add`].
pub struct Arena(Mutex<State>);

struct FreeRun {
    next: *mut FreeRun,
    previous: *mut FreeRun,
}

struct State {
    /// The first page.
    base: *mut u8,
    pages: usize,
    /// The byte of each page.
    orders: *mut u8,
    first: [*mut FreeRun; ORDERS],
    free: usize,
}

// SAFETY: the pointers lead into memory that the arena owns.
unsafe impl Send for State {}

impl Arena {
    /// An arena without memory.
    pub const fn new() -> Self {
        Self(Mutex::new(State {
            base: null_mut(),
            pages: 0,
            orders: null_mut(),
            first: [null_mut(); ORDERS],
            free: 0,
        }))
    }

    /// Gives the arena its memory. The first pages of it hold the bytes of all pages.
    ///
    /// # Safety
    /// `memory` is valid for `bytes`, aligned to a page, and the arena's alone from now on. It is called once.
    pub unsafe fn add(&self, memory: NonNull<u8>, bytes: usize) {
        let pages = bytes / PAGE;
        let own = pages.div_ceil(PAGE);
        let mut state = self.0.lock();
        state.base = memory.as_ptr();
        state.pages = pages;
        state.orders = memory.as_ptr();
        // SAFETY: the memory has a byte for each page, in pages that are not given out.
        unsafe { memory.write_bytes(TAKEN, pages) };
        for page in own..pages {
            state.put(page, 0);
        }
    }

    /// Takes `1 << order` pages, aligned to their size.
    pub fn take(&self, order: u8) -> Option<NonNull<u8>> {
        let mut state = self.0.lock();
        let mut size = (order..=LARGEST_ORDER).find(|size| !state.first[usize::from(*size)].is_null())?;
        let page = state.page_of(state.first[usize::from(size)].cast());
        state.unlink(page, size);
        while size > order {
            size -= 1;
            state.link(page + (1 << size), size);
        }
        state.free -= 1 << order;
        NonNull::new(state.run(page).cast())
    }

    /// Gives a run back.
    ///
    /// # Safety
    /// `take` of this arena gave it, with this order, and nobody uses it any more.
    pub unsafe fn give(&self, run: NonNull<u8>, order: u8) {
        let mut state = self.0.lock();
        let page = state.page_of(run.as_ptr());
        state.put(page, order);
    }

    /// Whether the run is one of this arena's.
    pub fn contains(&self, run: NonNull<u8>) -> bool {
        let state = self.0.lock();
        run.addr().get().wrapping_sub(state.base.addr()) < state.pages * PAGE
    }

    /// Bytes that are free.
    pub fn available(&self) -> usize {
        self.0.lock().free * PAGE
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn page_of(&self, run: *mut u8) -> usize {
        (run.addr() - self.base.addr()) / PAGE
    }

    fn run(&self, page: usize) -> *mut FreeRun {
        // The arena starts at a page, so the pointer is aligned.
        self.base.wrapping_add(page * PAGE).cast()
    }

    /// The page whose run of this order is the other half of one of the next order; `None` if it is outside.
    fn buddy(&self, page: usize, order: u8) -> Option<usize> {
        let number = self.base.addr() / PAGE + page;
        (number ^ 1 << order)
            .checked_sub(self.base.addr() / PAGE)
            .filter(|buddy| *buddy < self.pages)
    }

    /// Frees a run, and merges it with its buddies as far as they are free.
    fn put(&mut self, mut page: usize, mut order: u8) {
        self.free += 1 << order;
        while order < LARGEST_ORDER
            && let Some(buddy) = self.buddy(page, order)
            // SAFETY: there is a byte for each page.
            && unsafe { *self.orders.add(buddy) } == order
        {
            self.unlink(buddy, order);
            page = page.min(buddy);
            order += 1;
        }
        self.link(page, order);
    }

    fn link(&mut self, page: usize, order: u8) {
        let (run, first) = (self.run(page), &mut self.first[usize::from(order)]);
        // SAFETY: 1. the run is free, so its memory is the arena's; 2. there is a byte for each page.
        unsafe {
            run.write(FreeRun {
                next: *first,
                previous: null_mut(),
            });
            if !first.is_null() {
                (**first).previous = run;
            }
            *self.orders.add(page) = order;
        }
        *first = run;
    }

    fn unlink(&mut self, page: usize, order: u8) {
        let run = self.run(page);
        // SAFETY: the run is free and on the list of its order, and so are its neighbours there.
        unsafe {
            let FreeRun { next, previous } = run.read();
            if previous.is_null() {
                self.first[usize::from(order)] = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
            *self.orders.add(page) = TAKEN;
        }
    }
}
