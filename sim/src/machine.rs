//! The machine under `mm` and `executor`: physical memory, and the two traits that they ask for.
//!
//! Frames and their metadata lie in one buffer that the probe watches, so every change of a frame's state and of a
//! page-table entry is seen as it happens: a frame that comes free is poisoned, and nobody may be able to reach it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use faultline_executor::{Hooks, TaskEvent};
use faultline_mm::{Access, Entry, FrameMeta, FrameState, Memory, PAGE_SIZE, Pcid, Platform, SwapSlot};
use faultline_probe as probe;
use faultline_trace::Kind;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::tlb::Tables;
use crate::world::{fail, world};

/// What free memory holds.
pub(crate) const POISON: u64 = 0xdead_f4ee_dead_f4ee;

/// Where the kernel's own root is.
pub(crate) const KERNEL_ROOT: u64 = 0x1000;

/// Frames below the first one that the allocator has: frame 0, and the kernel's root.
pub(crate) const RESERVED: u32 = 2;

/// The virtual machine, as `mm` and `executor` see it. All state is in the world of the thread.
#[derive(Debug)]
pub(crate) struct Virtual;

/// Physical memory, and what the simulation knows of each frame.
#[derive(Debug)]
pub(crate) struct Physical {
    base: *mut u8,
    pub frames: u32,
    /// How often each frame was freed.
    epochs: RefCell<Vec<u32>>,
    /// Frames that are free, cached or zeroed.
    pub free: Cell<u64>,
    /// Entries of tables that were present and are not any more.
    pub taken: Cell<u64>,
    /// The swap slot that the marker of a fault stands for, by where the marker is.
    behind_markers: RefCell<BTreeMap<u64, SwapSlot>>,
}

impl Physical {
    fn layout(frames: u32) -> Layout {
        let bytes = frames as usize * (PAGE_SIZE as usize + size_of::<FrameMeta>());
        Layout::from_size_align(bytes, PAGE_SIZE as usize).expect("a small machine")
    }

    pub fn new(frames: u32) -> Self {
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(Self::layout(frames)) };
        assert!(!base.is_null(), "no memory for a machine of {frames} frames");
        Self {
            base,
            frames,
            epochs: RefCell::new(vec![0; frames as usize]),
            free: Cell::new(0),
            taken: Cell::new(0),
            behind_markers: RefCell::default(),
        }
    }

    /// The buffer, for the probe.
    pub fn watched(&self) -> (usize, usize) {
        (self.base.addr(), Self::layout(self.frames).size())
    }

    /// The metadata, for the frame allocator.
    pub fn metadata(&self) -> &'static mut [FrameMeta] {
        let start = self.pointer(u64::from(self.frames) * PAGE_SIZE).cast::<FrameMeta>();
        // SAFETY: 1. the buffer has room for one record for each frame behind the frames, zeroed, and any bytes are a
        // valid record; 2. it is aligned to a page; 3. this is called once, and the allocator is gone before the buffer.
        unsafe { core::slice::from_raw_parts_mut(start, self.frames as usize) }
    }

    fn pointer(&self, offset: u64) -> *mut u8 {
        self.base.wrapping_add(offset as usize)
    }

    /// The word at a physical address.
    pub fn word(&self, address: u64) -> &AtomicU64 {
        assert!(address < u64::from(self.frames) * PAGE_SIZE && address.is_multiple_of(8));
        // SAFETY: 1. the address is inside the buffer and aligned; 2. everything that runs is on this thread, so no
        // access is concurrent.
        unsafe { AtomicU64::from_ptr(self.pointer(address).cast()) }
    }

    /// The two words of a page that scripts use.
    pub fn value(&self, page: u64) -> (u64, u64) {
        let read = |address| self.word(address).load(Ordering::Relaxed);
        (read(page), read(page + PAGE_SIZE - 8))
    }

    /// Writes a value to a page.
    pub fn set_value(&self, page: u64, value: u64) {
        self.word(page).store(value, Ordering::Relaxed);
        self.word(page + PAGE_SIZE - 8)
            .store(second_word(value), Ordering::Relaxed);
    }

    fn poison(&self, frame: u32) {
        let start = self.pointer(u64::from(frame) * PAGE_SIZE).cast::<u64>();
        for index in 0..512 {
            // SAFETY: the frame is inside the buffer.
            unsafe { start.add(index).write(POISON) };
        }
    }

    /// What the allocator says of a frame; `None` inside a block.
    pub fn state(&self, frame: u32) -> Option<FrameState> {
        let address = u64::from(self.frames) * PAGE_SIZE + u64::from(frame) * size_of::<FrameMeta>() as u64;
        // SAFETY: the record of a frame is inside the buffer, and its first word is the state.
        let word = unsafe { self.pointer(address).cast::<u64>().read() };
        state_of(word)
    }

    /// A frame's record has changed.
    fn changed(&self, frame: u32, old: u64, new: u64) {
        let free = |word| {
            matches!(
                state_of(word),
                None | Some(FrameState::Free | FrameState::Cached | FrameState::Zeroed)
            )
        };
        let world = world();
        world.coverage.borrow_mut().frame(old, new);
        match (free(old), free(new)) {
            (false, true) => {
                self.epochs.borrow_mut()[frame as usize] += 1;
                self.free.set(self.free.get() + 1);
                if state_of(new) != Some(FrameState::Zeroed) {
                    self.poison(frame);
                }
                world.check_unreachable(frame);
            }
            (true, false) => self.free.set(self.free.get().saturating_sub(1)),
            _ => {}
        }
    }

    /// A watched word has changed.
    pub fn wrote(&self, address: usize, old: u64, new: u64) {
        let offset = address - self.base.addr();
        let frame = offset / PAGE_SIZE as usize;
        if let Some(record) = offset.checked_sub(self.frames as usize * PAGE_SIZE as usize) {
            if record.is_multiple_of(size_of::<FrameMeta>()) {
                self.changed((record / size_of::<FrameMeta>()) as u32, old, new);
            }
        } else if self.state(frame as u32) == Some(FrameState::PageTable) {
            let mut behind = self.behind_markers.borrow_mut();
            let (before, after) = (Entry::from_bits(old), Entry::from_bits(new));
            if before.is_present() && !after.is_present() {
                self.taken.set(self.taken.get() + 1);
            }
            match after.marker().and(before.named_slot()) {
                Some(slot) => behind.insert(offset as u64, slot),
                None => behind.remove(&(offset as u64)),
            };
            drop(behind);
            world().coverage.borrow_mut().entry(old, new);
        }
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        // SAFETY: made with this layout, and nothing refers to it any more.
        unsafe { dealloc(self.base, Self::layout(self.frames)) };
    }
}

/// The complement that stands at the end of a page with this value; a page of zeros has none.
pub(crate) const fn second_word(value: u64) -> u64 {
    if value == 0 { 0 } else { !value }
}

/// The state in a frame's word; `None` inside a block.
pub(crate) fn state_of(word: u64) -> Option<FrameState> {
    Some(match word as u8 {
        0 => FrameState::Absent,
        1 => FrameState::Free,
        2 => FrameState::Cached,
        3 => FrameState::Zeroed,
        4 => FrameState::Reserved,
        5 => FrameState::Mapped,
        6 => FrameState::PageTable,
        7 => FrameState::Pinned,
        8 => FrameState::Quarantined,
        _ => return None,
    })
}

/// Physical memory as a TLB of one space sees it.
pub(crate) struct View<'a> {
    pub physical: &'a Physical,
    /// The content of each page in the model of the space.
    pub content: &'a dyn Fn(u64) -> u32,
}

impl Tables for View<'_> {
    fn entry(&self, table: u32, index: usize) -> Entry {
        let word = self.physical.word(u64::from(table) * PAGE_SIZE + index as u64 * 8);
        let entry = Entry::from_bits(word.load(Ordering::Relaxed));
        if entry.is_present() {
            if entry.frame().number() >= self.physical.frames {
                fail(format!("table {table} has an entry that is none: {entry:?}"));
            }
            word.fetch_or(Entry::ACCESSED, Ordering::Relaxed);
        }
        entry
    }

    fn mark_dirty(&self, table: u32, index: usize) {
        let word = self.physical.word(u64::from(table) * PAGE_SIZE + index as u64 * 8);
        word.fetch_or(Entry::DIRTY, Ordering::Relaxed);
    }

    fn epoch(&self, frame: u32) -> u32 {
        self.physical.epochs.borrow()[frame as usize]
    }

    fn content(&self, page: u64) -> u32 {
        (self.content)(page)
    }
}

impl Physical {
    /// How often a frame was freed.
    pub fn epoch(&self, frame: u32) -> u32 {
        self.epochs.borrow()[frame as usize]
    }

    /// The leaf of an address as the tables say now: the entry, what it maps, and whether writes may go through.
    pub fn leaf(&self, root: u32, address: u64) -> Option<(Entry, u64, bool)> {
        let (mut table, mut writable) = (root, true);
        for level in (1..=4).rev() {
            let index = (address >> (12 + 9 * (level - 1))) & 511;
            let word = self.word(u64::from(table) * PAGE_SIZE + index * 8);
            let entry = Entry::from_bits(word.load(Ordering::Relaxed));
            if !entry.is_present() {
                return None;
            }
            writable &= entry.has(Entry::WRITABLE);
            if level == 1 || entry.has(Entry::HUGE) {
                let mask = (PAGE_SIZE << (9 * (level - 1))) - 1;
                return Some((entry, entry.frame().address().as_u64() + (address & mask), writable));
            }
            table = entry.frame().number();
        }
        None
    }

    /// Whether other spaces share the last-level table of an address.
    pub fn shares_table(&self, root: u32, address: u64) -> bool {
        self.entry_of_level(2, root, address)
            .is_some_and(|(_, entry)| entry.has(Entry::PRESENT | Entry::SHARED))
    }

    /// The entry of a page of 4 KiB, present or not, and where it is; `None` without a table for it.
    pub fn last_entry(&self, root: u32, address: u64) -> Option<(u64, Entry)> {
        self.entry_of_level(1, root, address)
    }

    fn entry_of_level(&self, last: u32, root: u32, address: u64) -> Option<(u64, Entry)> {
        let mut table = root;
        for level in (1..=4).rev() {
            let index = (address >> (12 + 9 * (level - 1))) & 511;
            let place = u64::from(table) * PAGE_SIZE + index * 8;
            let entry = Entry::from_bits(self.word(place).load(Ordering::Relaxed));
            if level == last {
                return Some((place, entry));
            }
            if !entry.is_present() || entry.has(Entry::HUGE) {
                return None;
            }
            table = entry.frame().number();
        }
        None
    }

    /// The swap slot that an entry names, or that its marker stands for, and where the entry is.
    pub fn swapped(&self, root: u32, address: u64) -> Option<(u64, SwapSlot)> {
        let (place, entry) = self.last_entry(root, address)?;
        let slot = match entry.marker() {
            Some(_) => self.behind_markers.borrow().get(&place).copied(),
            None => entry.named_slot(),
        };
        Some((place, slot?))
    }

    /// Whether the tables allow an access now, and to which physical page.
    pub fn allows(&self, root: u32, page: u64, access: Access) -> Option<u64> {
        let (entry, physical, writable) = self.leaf(root, page)?;
        (entry.allows(access) && (access != Access::Write || writable)).then_some(physical)
    }
}

// SAFETY: 1. the buffer backs every frame of the allocator, and no two share bytes; 2. the current virtual CPU is below
// MAX_CPUS, and a CPU runs on one coroutine, so what does not await stays on it; 3. the TLBs drop what the calls cover.
unsafe impl Platform for Virtual {
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        let physical = &world().physical;
        let address = address.as_u64();
        if address >= u64::from(physical.frames) * PAGE_SIZE {
            fail(format!("{address:#x} is beyond physical memory"));
        }
        physical.pointer(address)
    }

    fn cpu(&self) -> usize {
        world().current.get()
    }

    fn invalidate_page(&self, address: VirtAddr) {
        probe::point();
        world().invalidate(address.as_u64());
        probe::point();
    }

    fn load_root(&self, root: PhysFrame, pcid: Pcid, keep: bool) {
        probe::point();
        let root = (root.start_address().as_u64() / PAGE_SIZE) as u32;
        world().load_root(root, pcid.0, keep);
        probe::point();
    }

    fn pcids(&self) -> u16 {
        world().settings().pcids
    }

    fn shootdown(&self, cpus: u64) {
        probe::point();
        world().interrupt(cpus);
    }

    fn zero_frame(&self, frame: PhysFrame) {
        let start = self.phys_to_virt(frame.start_address());
        for half in 0..2 {
            // SAFETY: the pointer is valid for 4096 bytes, and the caller owns the frame.
            unsafe { start.add(half * 2048).write_bytes(0, 2048) };
            probe::point();
        }
    }

    fn copy_frame(&self, from: PhysFrame, to: PhysFrame) {
        let from = self.phys_to_virt(from.start_address());
        let to = self.phys_to_virt(to.start_address());
        for half in 0..2 {
            // SAFETY: both pointers are valid for 4096 bytes and do not alias; the caller owns `to`.
            unsafe { from.add(half * 2048).copy_to_nonoverlapping(to.add(half * 2048), 2048) };
            probe::point();
        }
    }

    fn trace(&self, kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
        world().traced(kind, space, fault, a, b);
        probe::point();
    }
}

/// The memory of the world, while there is one.
fn memory() -> Option<&'static Memory<Virtual>> {
    world().memory.get()
}

impl Hooks for Virtual {
    // The longest poll is remembered from one world to the next, which would make the second depend on the first.
    const MEASURE_POLLS: bool = false;

    fn now(&self) -> u64 {
        world().clock.get()
    }

    fn cpu(&self) -> usize {
        world().current.get()
    }

    fn notify(&self, cpu: usize) {
        world().notify(cpu);
    }

    fn has_left(&self) -> bool {
        memory().is_some_and(Memory::has_left_fault)
    }

    fn serve_left(&self, polled: &Waker) -> bool {
        memory().is_some_and(|memory| memory.serve_left_fault(polled))
    }

    fn queue_left(&self) {
        if let Some(memory) = memory() {
            memory.queue_left_fault();
        }
    }

    fn tracing(&self) -> bool {
        true
    }

    fn trace(&self, event: TaskEvent) {
        world().task_event(event);
    }
}
