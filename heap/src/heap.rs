//! Taking, giving and charging.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use spin::Mutex;

use crate::account::{Account, Counter};
use crate::class::{self, CLASSES, COUNT};
use crate::slab::ClassState;
use crate::{LARGEST_ORDER, PAGE};

/// The share that every account has, however little is free.
pub const GUARANTEED: usize = 128 * 1024;

/// The largest run, in bytes.
pub const LARGEST_RUN: usize = PAGE << LARGEST_ORDER;

/// Where runs of pages come from.
///
/// # Safety
/// 1. A run that `take` gave is nobody else's until `give`. It starts at a multiple of its size, and its address is that
///    of [`Pages::base`] plus an offset below 128 GiB, with the provenance of the base.
/// 2. `owner` of a run is nobody else's either, from `take` to `give`.
pub unsafe trait Pages {
    /// The lowest address that a run can have, or one below it.
    fn base(&self) -> *mut u8;

    /// Takes `1 << order` pages of any content.
    fn take(&self, order: u8) -> Option<NonNull<u8>>;

    /// Gives a run back.
    ///
    /// # Safety
    /// `take` gave it, with this order, and nobody uses it any more.
    unsafe fn give(&self, run: NonNull<u8>, order: u8);

    /// A word for each run, where the heap notes whom it is charged to.
    fn owner(&self, run: NonNull<u8>) -> &AtomicU32;

    /// The bytes that can still be taken.
    fn available(&self) -> usize;

    /// The bytes of them that accounts leave for the kernel itself.
    fn reserve(&self) -> usize;
}

/// A heap over `P`. See the [crate's documentation](crate).
pub struct Heap<P> {
    classes: [Mutex<ClassState>; COUNT],
    /// Bytes in runs of their own.
    large: AtomicUsize,
    /// What an account may hold: refreshed when runs come and go.
    share: AtomicUsize,
    accounts: AtomicUsize,
    pages: P,
}

/// What a heap holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use, rounded up to size classes and runs.
    pub used: usize,
    /// Bytes taken from [`Pages`].
    pub held: usize,
    /// Accounts, open ones and those to which something is still charged.
    pub accounts: usize,
}

/// The order of the run for a request that is too large for a slab; `None` if there is no such run.
#[inline]
fn order_of(layout: Layout) -> Option<u8> {
    let bytes = layout.size().max(layout.align());
    if bytes > LARGEST_RUN {
        return None;
    }
    Some(bytes.div_ceil(PAGE).next_power_of_two().trailing_zeros() as u8)
}

impl<P: Pages> Heap<P> {
    /// A heap that holds nothing yet.
    pub const fn new(pages: P) -> Self {
        Self {
            classes: [const { Mutex::new(ClassState::new()) }; COUNT],
            large: AtomicUsize::new(0),
            share: AtomicUsize::new(0),
            accounts: AtomicUsize::new(0),
            pages,
        }
    }

    /// Where the heap's runs come from.
    pub const fn pages(&self) -> &P {
        &self.pages
    }

    /// Takes a block for `layout`, charged to `account`; null if there is none, or the account holds its share.
    #[inline]
    pub fn allocate(&self, layout: Layout, account: Account) -> *mut u8 {
        self.allocate_within(layout, account, 0)
    }

    /// As [`Heap::allocate`], for what is given back soon: an account that holds its share may hold `beyond` bytes more of
    /// it, and half of the reserve is for it too. So a process that has filled its share can still make the calls with
    /// which it gives something back.
    #[cold]
    pub fn allocate_beyond(&self, layout: Layout, account: Account, beyond: usize) -> *mut u8 {
        self.allocate_within(layout, account, beyond)
    }

    #[inline(always)]
    fn allocate_within(&self, layout: Layout, account: Account, beyond: usize) -> *mut u8 {
        let Some(index) = class::of(layout) else {
            return self.allocate_run(layout, account, beyond);
        };
        let size = CLASSES[index].size;
        if !self.may_charge(account, size, beyond) {
            return null_mut();
        }
        let object = self.classes[index].lock().take(&CLASSES[index], account.0);
        let object = match object {
            Some(object) => object,
            None => match self.grow(index, account, beyond) {
                Some(object) => object,
                None => return null_mut(),
            },
        };
        self.charge(account, size);
        object.as_ptr()
    }

    /// Takes a slab and an object of it.
    #[cold]
    #[inline(never)]
    fn grow(&self, index: usize, account: Account, beyond: usize) -> Option<NonNull<u8>> {
        let run = self.take_run(CLASSES[index].order, account, beyond)?;
        let mut class = self.classes[index].lock();
        // SAFETY: the run was just taken, with the class's order.
        unsafe { class.add(run) };
        class.take(&CLASSES[index], account.0)
    }

    /// Takes a run of pages; for an account only while the reserve stays.
    fn take_run(&self, order: u8, account: Account, beyond: usize) -> Option<NonNull<u8>> {
        let reserve = match beyond {
            0 => self.pages.reserve(),
            _ => self.pages.reserve() / 2,
        };
        if account != Account::KERNEL && self.pages.available() < reserve + (PAGE << order) {
            return None;
        }
        let run = self.pages.take(order)?;
        self.refresh();
        Some(run)
    }

    #[cold]
    #[inline(never)]
    fn allocate_run(&self, layout: Layout, account: Account, beyond: usize) -> *mut u8 {
        let Some(order) = order_of(layout) else {
            return null_mut();
        };
        if !self.may_charge(account, PAGE << order, beyond) {
            return null_mut();
        }
        let Some(run) = self.take_run(order, account, beyond) else {
            return null_mut();
        };
        self.pages.owner(run).store(account.0, Relaxed);
        self.large.fetch_add(PAGE << order, Relaxed);
        self.charge(account, PAGE << order);
        run.as_ptr()
    }

    /// Gives a block back.
    ///
    /// # Safety
    /// [`Heap::allocate`] gave it for this layout, and nobody uses it any more.
    #[inline]
    pub unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        let Some(index) = class::of(layout) else {
            // SAFETY: the caller's.
            return unsafe { self.free_run(block, layout) };
        };
        let class = &CLASSES[index];
        let slab = block.as_ptr().map_addr(|address| address & !(class.slab_bytes() - 1));
        // SAFETY: the block is in the run that starts at the multiple of the class's size below it, and comes from there.
        let (owner, empty) = unsafe {
            let slab = NonNull::new_unchecked(slab);
            self.classes[index].lock().put(class, slab, block)
        };
        if let Some(run) = empty {
            // SAFETY: the slab was taken off its class, and nothing is in it.
            unsafe { self.give_run(run, class.order) };
        }
        self.uncharge(Account(owner), class.size);
    }

    #[cold]
    #[inline(never)]
    unsafe fn free_run(&self, run: NonNull<u8>, layout: Layout) {
        let Some(order) = order_of(layout) else { return };
        let owner = self.pages.owner(run).load(Relaxed);
        self.large.fetch_sub(PAGE << order, Relaxed);
        // SAFETY: the caller's; the run was taken with the order that the layout asks for.
        unsafe { self.give_run(run, order) };
        self.uncharge(Account(owner), PAGE << order);
    }

    /// # Safety
    /// As [`Pages::give`].
    #[cold]
    unsafe fn give_run(&self, run: NonNull<u8>, order: u8) {
        // SAFETY: the caller's.
        unsafe { self.pages.give(run, order) };
        self.refresh();
    }

    /// Whether a block for `layout` has room for `size` bytes too, with the same alignment: then it can grow or shrink in
    /// its place.
    #[inline]
    pub fn fits_in_place(layout: Layout, size: usize) -> bool {
        let Ok(new) = Layout::from_size_align(size, layout.align()) else {
            return false;
        };
        match (class::of(layout), class::of(new)) {
            (Some(old), Some(new)) => old == new,
            (None, None) => order_of(layout).is_some_and(|order| order_of(new) == Some(order)),
            _ => false,
        }
    }

    /// Opens an account, with nothing charged to it; `None` if there is no memory. [`Heap::close`] it in the end.
    pub fn open(&self) -> Option<Account> {
        const LAYOUT: Layout = Layout::new::<Counter>();
        let counter = NonNull::new(self.allocate(LAYOUT, Account::KERNEL))?.cast::<Counter>();
        // SAFETY: the block has the layout of a counter, and is nobody else's.
        unsafe { counter.write(Counter::new()) };
        self.accounts.fetch_add(1, Relaxed);
        let offset = counter.addr().get() - self.pages.base().addr();
        Some(Account((offset / size_of::<Counter>()) as u32))
    }

    /// Ends an account: nothing may be charged to it from now on. What is charged to it stays so.
    ///
    /// # Safety
    /// [`Heap::open`] gave it, and it is closed once.
    pub unsafe fn close(&self, account: Account) {
        if account != Account::KERNEL && self.counter(account).close() {
            self.end(account);
        }
    }

    /// The bytes charged to an account; 0 for the kernel's own.
    pub fn charged(&self, account: Account) -> usize {
        if account == Account::KERNEL {
            0
        } else {
            self.counter(account).bytes()
        }
    }

    #[inline(always)]
    fn counter(&self, account: Account) -> &Counter {
        let offset = account.0 as usize * size_of::<Counter>();
        // SAFETY: 1. an account that is not the kernel's is the address of a counter; 2. it is alive, because it is open,
        // or something is charged to it.
        unsafe { &*self.pages.base().add(offset).cast::<Counter>() }
    }

    /// Whether `bytes` more are within the account's share.
    pub fn has_room(&self, account: Account, bytes: usize) -> bool {
        self.may_charge(account, bytes, 0)
    }

    #[inline(always)]
    fn may_charge(&self, account: Account, bytes: usize, beyond: usize) -> bool {
        account == Account::KERNEL
            || self.counter(account).bytes() + bytes <= self.share.load(Relaxed).max(GUARANTEED)
            || self.may_charge_now(account, bytes, beyond)
    }

    /// The share that was noted may be old.
    #[cold]
    #[inline(never)]
    fn may_charge_now(&self, account: Account, bytes: usize, beyond: usize) -> bool {
        self.refresh();
        self.counter(account).bytes() + bytes <= self.share.load(Relaxed).max(GUARANTEED) + beyond
    }

    #[inline(always)]
    fn charge(&self, account: Account, bytes: usize) {
        if account != Account::KERNEL {
            self.counter(account).charge(bytes);
        }
    }

    #[inline(always)]
    fn uncharge(&self, account: Account, bytes: usize) {
        if account != Account::KERNEL && self.counter(account).uncharge(bytes) {
            self.end(account);
        }
    }

    /// Frees an account that is over.
    #[cold]
    #[inline(never)]
    fn end(&self, account: Account) {
        self.accounts.fetch_sub(1, Relaxed);
        let counter = NonNull::from(self.counter(account)).cast::<u8>();
        // The pointer comes from the base, as blocks do, and not from the reference.
        let offset = counter.addr().get() - self.pages.base().addr();
        // SAFETY: the counter was allocated by `open` with this layout; whoever brought it to zero is the last user.
        unsafe {
            let block = NonNull::new_unchecked(self.pages.base().add(offset));
            self.free(block, Layout::new::<Counter>());
        }
    }

    /// Notes the share anew.
    pub fn refresh(&self) {
        let beyond = self.pages.available().saturating_sub(2 * self.pages.reserve());
        self.share.store(beyond, Relaxed);
    }

    /// What the heap holds. Takes each class's lock in turn.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            used: self.large.load(Relaxed),
            held: self.large.load(Relaxed),
            accounts: self.accounts.load(Relaxed),
        };
        for (state, class) in self.classes.iter().zip(&CLASSES) {
            let state = state.lock();
            usage.used += state.used * class.size;
            usage.held += state.slabs * class.slab_bytes();
        }
        usage
    }
}
