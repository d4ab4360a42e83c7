//! The heap over an arena on the host. Run under Miri as well: `cargo +nightly miri test -p faultline-heap`.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use faultline_heap::{Account, Arena, GUARANTEED, Heap, LARGEST_OBJECT, LARGEST_RUN, PAGE, Pages, class};
use proptest::prelude::*;

/// Memory of the host, given out by an [`Arena`].
struct Memory {
    base: NonNull<u8>,
    layout: Layout,
    reserve: usize,
    arena: Arena,
    owners: Vec<AtomicU32>,
}

// SAFETY: the memory behind `base` is only given out, each page to one at a time.
unsafe impl Sync for Memory {}

/// Pages in front, so that the arena does not start at a large alignment; the first of its own holds its bytes.
const FRONT: usize = 3;

impl Memory {
    fn new(pages: usize, reserve: usize) -> Self {
        let layout = Layout::from_size_align((FRONT + 1 + pages) * PAGE, LARGEST_RUN).unwrap();
        // SAFETY: the layout has a size.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        let arena = Arena::new();
        assert!(arena.take(0).is_none());
        // SAFETY: the memory is the arena's alone.
        unsafe { arena.add(base.add(FRONT * PAGE), (1 + pages) * PAGE) };
        assert_eq!(arena.available(), pages * PAGE);
        Self {
            base,
            layout,
            reserve: reserve * PAGE,
            arena,
            owners: (0..FRONT + 1 + pages).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and the heap is gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: the arena gives each page to one at a time; there is a word for each page.
unsafe impl Pages for Memory {
    fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    fn take(&self, order: u8) -> Option<NonNull<u8>> {
        self.arena.take(order)
    }

    unsafe fn give(&self, run: NonNull<u8>, order: u8) {
        assert!(self.arena.contains(run));
        // SAFETY: the caller's.
        unsafe { self.arena.give(run, order) }
    }

    fn owner(&self, run: NonNull<u8>) -> &AtomicU32 {
        &self.owners[(run.addr().get() - self.base.addr().get()) / PAGE]
    }

    fn available(&self) -> usize {
        self.arena.available()
    }

    fn reserve(&self) -> usize {
        self.reserve
    }
}

fn heap(pages: usize, reserve: usize) -> Heap<Memory> {
    let heap = Heap::new(Memory::new(pages, reserve));
    heap.refresh();
    heap
}

/// A block in use, filled with a byte of its own.
struct Block {
    address: NonNull<u8>,
    layout: Layout,
    account: usize,
    fill: u8,
}

impl Block {
    fn take(heap: &Heap<Memory>, layout: Layout, account: Account, number: usize, fill: u8) -> Option<Self> {
        let address = NonNull::new(heap.allocate(layout, account))?;
        assert!(
            address.addr().get().is_multiple_of(layout.align()),
            "{layout:?} at {address:?}"
        );
        // SAFETY: the block has this layout and is ours.
        unsafe { address.write_bytes(fill, layout.size()) };
        Some(Self {
            address,
            layout,
            account: number,
            fill,
        })
    }

    fn give(self, heap: &Heap<Memory>) {
        // SAFETY: it was taken from this heap with this layout.
        unsafe {
            let bytes = std::slice::from_raw_parts(self.address.as_ptr(), self.layout.size());
            assert!(
                bytes.iter().all(|byte| *byte == self.fill),
                "somebody wrote into a block of {:?}",
                self.layout
            );
            heap.free(self.address, self.layout);
        }
    }
}

fn charge_of(layout: Layout) -> usize {
    match class::of(layout) {
        Some(index) => class::SIZES[index],
        None => layout.size().max(layout.align()).div_ceil(PAGE).next_power_of_two() * PAGE,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize, u8, usize),
    Give(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![6 => 1..300usize, 3 => 300..2100usize, 1 => 2100..20_000usize];
    let take = (size, 0..8u8, 0..3usize).prop_map(|(size, align, account)| Step::Take(size, align, account));
    let step = prop_oneof![3 => take, 2 => any::<usize>().prop_map(Step::Give)];
    prop::collection::vec(step, 1..if cfg!(miri) { 60 } else { 600 })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 100 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Blocks are aligned, nobody else's, and charged to whom they were taken for; at the end all is back.
    #[test]
    fn blocks_are_disjoint_and_charged(steps in steps()) {
        let heap = heap(256, 8);
        let accounts = [Account::KERNEL, heap.open().unwrap(), heap.open().unwrap()];
        let mut charged = [0; 3];
        let mut blocks: Vec<Block> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Take(size, align, account) => {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    if let Some(block) = Block::take(&heap, layout, accounts[account], account, number as u8) {
                        charged[account] += charge_of(layout);
                        blocks.push(block);
                    }
                }
                Step::Give(which) if !blocks.is_empty() => {
                    let block = blocks.swap_remove(which % blocks.len());
                    charged[block.account] -= charge_of(block.layout);
                    block.give(&heap);
                }
                Step::Give(_) => {}
            }
            for number in 1..3 {
                prop_assert_eq!(heap.charged(accounts[number]), charged[number]);
            }
            prop_assert_eq!(heap.usage().used, charged.iter().sum::<usize>() + 2 * 32);
            prop_assert_eq!(heap.usage().held + heap.pages().available(), 256 * PAGE);
        }
        for account in &accounts[1..] {
            // SAFETY: each is closed once.
            unsafe { heap.close(*account) };
        }
        blocks.into_iter().for_each(|block| block.give(&heap));
        let usage = heap.usage();
        prop_assert_eq!((usage.used, usage.accounts), (0, 0));
        prop_assert!(usage.held <= class::CLASSES.iter().map(|class| class.slab_bytes()).sum());
    }
}

/// Takes blocks for `account` until there are no more.
fn fill(heap: &Heap<Memory>, layout: Layout, account: Account) -> Vec<Block> {
    std::iter::from_fn(|| Block::take(heap, layout, account, 0, 1)).collect()
}

#[test]
fn a_hog_ends_with_half_and_the_next_with_half_of_the_rest() {
    let pages = if cfg!(miri) { 256 } else { 1024 };
    let layout = Layout::new::<[u64; 16]>();
    let heap = heap(pages, 16);
    let beyond = heap.pages().available() - 2 * heap.pages().reserve();
    let mut blocks = Vec::new();
    for part in [2, 4, 8] {
        let hog = heap.open().unwrap();
        blocks.extend(fill(&heap, layout, hog));
        let held = heap.charged(hog);
        let right = (beyond / part).max(GUARANTEED);
        // A slab has a header, so that the objects are a little less than the pages.
        assert!(
            held.abs_diff(right) < right / 8,
            "a hog holds {held} bytes where {right} are its share"
        );
        // SAFETY: it is closed once, and nothing is charged to it from now on.
        unsafe { heap.close(hog) };
    }
    // One that holds little has what it needs, and the kernel itself.
    let small = heap.open().unwrap();
    assert_eq!(
        std::iter::from_fn(|| Block::take(&heap, layout, small, 0, 1))
            .take(100)
            .map(|block| blocks.push(block))
            .count(),
        100
    );
    // SAFETY: as above.
    unsafe { heap.close(small) };
    blocks.into_iter().for_each(|block| block.give(&heap));
    assert_eq!((heap.usage().used, heap.usage().accounts), (0, 0));
}

#[test]
fn the_reserve_is_the_kernels() {
    let heap = heap(64, 8);
    let layout = Layout::from_size_align(PAGE, PAGE).unwrap();
    let accounts: Vec<_> = (0..4).map(|_| heap.open().unwrap()).collect();
    let mut blocks: Vec<_> = accounts
        .iter()
        .flat_map(|account| fill(&heap, layout, *account))
        .collect();
    assert_eq!(heap.pages().available(), 8 * PAGE, "the accounts stop at the reserve");
    assert!(heap.allocate(Layout::new::<[u64; 3]>(), accounts[0]).is_null());
    let kernel = fill(&heap, layout, Account::KERNEL);
    assert_eq!((kernel.len(), heap.pages().available()), (8, 0));
    blocks.extend(kernel);
    blocks.into_iter().for_each(|block| block.give(&heap));
    // SAFETY: each is closed once.
    accounts.iter().for_each(|account| unsafe { heap.close(*account) });
    assert_eq!((heap.usage().used, heap.usage().accounts), (0, 0));
}

#[test]
fn what_is_given_back_soon_may_exceed_a_full_share() {
    let heap = heap(256, 16);
    let layout = Layout::new::<[u64; 16]>();
    let hog = heap.open().unwrap();
    let mut blocks = fill(&heap, layout, hog);
    let full = heap.charged(hog);
    assert!(heap.allocate(layout, hog).is_null());
    let beyond: Vec<_> = std::iter::from_fn(|| NonNull::new(heap.allocate_beyond(layout, hog, 32 * 1024))).collect();
    // Each run that comes makes the share smaller by its size.
    let more = heap.charged(hog) - full;
    assert!((8 * 1024..=32 * 1024).contains(&more), "{more} bytes beyond the share");
    for block in beyond {
        // SAFETY: it was taken with this layout, and nobody uses it.
        unsafe { heap.free(block, layout) };
    }
    blocks.drain(..).for_each(|block| block.give(&heap));
    // SAFETY: it is closed once.
    unsafe { heap.close(hog) };
    assert_eq!((heap.usage().used, heap.usage().accounts), (0, 0));
}

#[test]
fn what_is_larger_than_the_largest_run_is_refused() {
    let heap = heap(64, 0);
    for size in [LARGEST_RUN + 1, usize::MAX / 4] {
        assert!(
            heap.allocate(Layout::from_size_align(size, 8).unwrap(), Account::KERNEL)
                .is_null()
        );
    }
    assert_eq!(heap.usage().held, 0);
}

#[test]
fn sizes_grow_in_place_within_their_class() {
    let layout = |size| Layout::from_size_align(size, 8).unwrap();
    for (old, new, fits) in [
        (33, 48, true),
        (33, 49, false),
        (2049, 4096, true),
        (4096, 4097, false),
        (2048, 2049, false),
    ] {
        assert_eq!(Heap::<Memory>::fits_in_place(layout(old), new), fits, "{old} to {new}");
    }
    assert_eq!(LARGEST_OBJECT, 2048);
}

#[test]
fn blocks_are_taken_and_given_on_several_threads() {
    let heap = heap(128, 0);
    let layout = Layout::new::<[u64; 8]>();
    let rounds = if cfg!(miri) { 30 } else { 2000 };
    std::thread::scope(|scope| {
        for fill in 0..3 {
            let heap = &heap;
            scope.spawn(move || {
                let account = heap.open().unwrap();
                let mut kept = Vec::new();
                for round in 0..rounds {
                    kept.extend(Block::take(heap, layout, account, 0, fill));
                    if round % 3 == 0 {
                        kept.swap_remove(0).give(heap);
                    }
                }
                // SAFETY: it is closed once.
                unsafe { heap.close(account) };
                kept.into_iter().for_each(|block| block.give(heap));
            });
        }
    });
    assert_eq!((heap.usage().used, heap.usage().accounts), (0, 0));
    assert_eq!(
        heap.pages()
            .owners
            .iter()
            .map(|owner| owner.load(Ordering::Relaxed))
            .max(),
        Some(0)
    );
}

#[test]
fn runs_of_every_order_merge_again() {
    let pages = (LARGEST_RUN / PAGE) * 2;
    let memory = Memory::new(pages, 0);
    let largest = std::iter::from_fn(|| memory.arena.take(10)).count();
    assert_eq!(
        largest, 1,
        "two lie in the memory, of which the first is cut off at its start"
    );
    for order in [10, 3, 0] {
        let memory = Memory::new(pages, 0);
        let taken: Vec<_> = std::iter::from_fn(|| memory.arena.take(order)).collect();
        for run in &taken {
            assert!(run.addr().get().is_multiple_of(PAGE << order));
        }
        // Every second first, so that neighbours merge late.
        let (odd, even): (Vec<_>, Vec<_>) = taken.iter().enumerate().partition(|(index, _)| index % 2 == 1);
        for (_, run) in odd.into_iter().chain(even) {
            // SAFETY: it was taken with this order, and nobody uses it.
            unsafe { memory.arena.give(*run, order) };
        }
        assert_eq!(memory.arena.available(), pages * PAGE);
        let again: Vec<_> = std::iter::from_fn(|| memory.arena.take(10)).collect();
        assert_eq!(again.len(), largest);
    }
}
