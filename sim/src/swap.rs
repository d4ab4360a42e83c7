//! The swap area: its device, and what has to hold for slots and for pages that have left their tables.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use faultline_mm::{
    Access, BlockDevice, Direction, FrameState, PAGE_SIZE, PageRange, SECTOR_SIZE, Segment, SwapError, SwapSlot,
    Transfer, VasError,
};
use faultline_probe as probe;
use x86_64::VirtAddr;

use crate::model::Page;
use crate::queue::{Queue, frame_of};
use crate::script::{Step, WINDOW_PAGES};
use crate::tlb::Translation;
use crate::world::{Vas, World, address_of, fail, world};

/// What is in memory before the answer to a read.
const UNREAD: u64 = 0xbad;

/// The two words of a page.
type Value = (u64, u64);

/// The device of the swap area.
#[derive(Debug, Default)]
pub(crate) struct SwapDisk {
    /// Each with what its frames held when it began.
    pending: Queue<Vec<Value>>,
    /// What was written to each slot; nothing after a write that failed.
    pages: RefCell<BTreeMap<u32, Value>>,
}

fn slot_of(segment: &Segment) -> SwapSlot {
    SwapSlot::new((segment.sector / (PAGE_SIZE / SECTOR_SIZE)) as u32)
}

fn start_of(segment: &Segment) -> u64 {
    u64::from(frame_of(segment)) * PAGE_SIZE
}

impl SwapDisk {
    /// When the next answer is due.
    pub fn next_due(&self) -> Option<u64> {
        self.pending.next_due()
    }

    fn start(&self, transfer: Transfer) {
        let world = world();
        let reads = transfer.direction() == Direction::Read;
        for segment in transfer.segments() {
            let slot = slot_of(segment);
            for other in self.pending.all().iter() {
                if other.transfer.segments().iter().any(|other| slot_of(other) == slot) {
                    fail(format!("{slot:?} is at the device twice"));
                }
            }
            if reads {
                if !self.pages.borrow().contains_key(&slot.number()) {
                    fail(format!("{slot:?} is read, and nothing was written to it"));
                }
                world.physical.set_value(start_of(segment), UNREAD);
            } else if is_needed(slot) {
                world.check_unwritable(frame_of(segment));
            }
        }
        let before = transfer.segments().iter();
        let before = before.map(|segment| world.physical.value(start_of(segment))).collect();
        if self.pending.add(transfer, before) {
            self.answer();
        }
    }

    /// The interrupt: answers what is due.
    pub fn answer(&self) {
        let world = world();
        while let Some(pending) = self.pending.take_due() {
            let fails = world.random.borrow_mut().chance(world.settings().disk_errors, 16);
            pending.check_frames("the swap device");
            let transfer = &pending.transfer;
            let writes = transfer.direction() == Direction::Write;
            for (segment, &before) in transfer.segments().iter().zip(&pending.with) {
                let (slot, start) = (slot_of(segment), start_of(segment));
                let needed = is_needed(slot);
                let mut pages = self.pages.borrow_mut();
                match pages.get(&slot.number()) {
                    _ if writes && needed && world.physical.value(start) != before => {
                        fail(format!("the page of {slot:?} has changed while it was written"));
                    }
                    _ if writes && fails => drop(pages.remove(&slot.number())),
                    _ if writes => drop(pages.insert(slot.number(), before)),
                    Some(&(value, _)) if !fails => world.physical.set_value(start, value),
                    _ => {}
                }
            }
            world.note(|| {
                let slots: Vec<_> = transfer.segments().iter().map(|part| slot_of(part).number()).collect();
                let what = if writes { "written" } else { "read" };
                format!("swap: {what} {slots:?}{}", if fails { " failed" } else { "" })
            });
            pending.end(fails);
        }
    }
}

/// The device, as `mm` sees it.
struct Device;

impl BlockDevice for Device {
    fn name(&self) -> &str {
        "swap"
    }

    fn sectors(&self) -> u64 {
        u64::from(world().settings().swap) * (PAGE_SIZE / SECTOR_SIZE)
    }

    fn start(&self, transfer: Transfer) {
        world().swap_disk.start(transfer);
    }
}

/// Runs `f` while no other CPU does.
fn undisturbed<R>(f: impl FnOnce() -> R) -> R {
    let left = probe::grant(u32::MAX);
    let result = f();
    probe::grant(left);
    result
}

/// Whether the page of a slot that is being written has to be what it is: the page of an object may have come back since it
/// left, and be written to.
fn is_needed(slot: SwapSlot) -> bool {
    undisturbed(|| world().memory().slot_view(slot)).count > 0
}

impl World {
    /// A page is about to be written: no CPU may write to it any more.
    fn check_unwritable(&self, frame: u32) {
        for (cpu, tlb) in self.tlbs.borrow().iter().enumerate() {
            let writer = tlb.usable().find(|kept| {
                kept.allows(Access::Write)
                    && kept.size == PAGE_SIZE
                    && kept.entry.frame().number() == frame
                    && kept.epoch == self.physical.epoch(frame)
            });
            if let Some(kept) = writer {
                fail(format!(
                    "frame {frame} is written to the swap area, and CPU {cpu} can write to it at {:#x}",
                    kept.page
                ));
            }
        }
    }

    /// Whether user mode uses a page that may have left its table, and whose batch is not flushed: `None` if not, else
    /// whether what it writes must not be lost, because the page's slot has the frame.
    pub fn has_left(&self, process: usize, page: usize, access: Access, used: &Translation) -> Option<bool> {
        let record = self.model.borrow().page(process, page)?;
        let changed = used.size != PAGE_SIZE
            || !record.protection.allows(access)
            || self.model.borrow().content(process, page) != used.content;
        if changed || !undisturbed(|| self.memory().has_unflushed_pages()) {
            return None;
        }
        let root = self.spaces.borrow()[process].root;
        let frame = used.entry.frame();
        let slot = self.physical.swapped(root, address_of(page));
        let view = slot.map(|(_, slot)| undisturbed(|| self.memory().slot_view(slot)));
        let view = view.filter(|view| view.frame == Some(frame));
        if access == Access::Write && record.copied {
            // It is the page's own, unless the flush of a fork is under way.
            let own = !self.physical.shares_table(root, address_of(page))
                && view.is_some_and(|view| view.count == 1)
                && undisturbed(|| self.memory().frames().mapping_count(frame)) == 1;
            return match own {
                true => Some(true),
                false => self.model.borrow().may_be_dropped(record).then_some(false),
            };
        }
        let settled = self.spaces.borrow()[process].locked_by.is_none() && !self.model.borrow().may_be_dropped(record);
        if access == Access::Write && view.is_none() && settled {
            let entry = self.physical.last_entry(root, address_of(page)).map(|(_, entry)| entry);
            let other = entry.filter(|entry| entry.is_present() && entry.frame() != frame);
            if other.is_some() || slot.is_some() {
                fail(format!(
                    "{access} of page {page} of process {process} goes to frame {frame}, which has left, and is lost: {entry:?}"
                ));
            }
        }
        Some(view.is_some())
    }

    /// What the page of a slot holds.
    fn slot_value(&self, slot: SwapSlot) -> Value {
        let view = self.memory().slot_view(slot);
        let written = self.swap_disk.pages.borrow().get(&slot.number()).copied();
        match (view.frame, written) {
            (Some(frame), _) => self.physical.value(frame.address().as_u64()),
            (None, Some(value)) => value,
            (None, None) => fail(format!("the page of {slot:?} is in no frame, and was not written")),
        }
    }

    /// Every page that is swapped out holds what it should, and every slot counts who names it.
    pub fn check_slots(&self) {
        let memory = self.memory();
        let mut counts = BTreeMap::<u32, u32>::new();
        let mut places = BTreeSet::new();
        for process in 0..self.script.processes.len() {
            let root = {
                let spaces = self.spaces.borrow();
                spaces[process].vas.as_ref().map(|_| spaces[process].root)
            };
            let Some(root) = root.filter(|_| !self.model.borrow().spaces[process].gone) else {
                continue;
            };
            for page in 0..WINDOW_PAGES {
                let Some((place, slot)) = self.physical.swapped(root, address_of(page)) else {
                    continue;
                };
                if places.insert(place) {
                    *counts.entry(slot.number()).or_default() += 1;
                }
                let Some(record) = self.model.borrow().page(process, page) else {
                    fail(format!(
                        "page {page} of process {process} is in {slot:?} and has no region"
                    ));
                };
                let value = self.slot_value(slot);
                if !self.model.borrow().allows_page(record, value) {
                    fail(format!(
                        "page {page} of process {process} is {value:x?} in {slot:?}, and should hold {}",
                        self.model.borrow().expected(record)
                    ));
                }
            }
        }
        memory.each_object_slot(|slot| *counts.entry(slot.number()).or_default() += 1);
        for number in 0..memory.swap_stats().slots {
            let view = memory.slot_view(SwapSlot::new(number));
            let named = counts.remove(&number).unwrap_or(0);
            if view.count != named {
                fail(format!("{named} entries and pages name {:?}: {view:?}", view.slot));
            }
            let Some(frame) = view.frame else { continue };
            // The page of an object may have come back, and be written to, while it is written out for nobody.
            let names = view.count == 0 && !view.is_written || memory.slot_named_by(frame) == Some(view.slot);
            if self.physical.state(frame.number()) != Some(FrameState::Mapped) || !names {
                fail(format!("frame {frame} does not know of its slot: {view:?}"));
            }
            let written = self.swap_disk.pages.borrow().get(&number).copied();
            let value = self.physical.value(frame.address().as_u64());
            if view.is_written && view.count > 0 && written != Some(value) {
                fail(format!(
                    "{value:x?} is in memory, and {written:x?} on the device: {view:?}"
                ));
            }
        }
        if let Some((slot, _)) = counts.first_key_value() {
            fail(format!("entries name slot {slot}, which is not there"));
        }
        if let Some(cpu) = memory.permits().next() {
            fail(format!(
                "CPU {cpu} serves nobody and has a permit to take a frame before others"
            ));
        }
    }

    /// Nobody needs a slot any more: none is used, and the area goes at once.
    pub fn check_swap_end(&self) {
        let memory = self.memory();
        let stats = memory.swap_stats();
        self.count(|counts| {
            counts.written += stats.writes;
            counts.read += stats.reads;
        });
        if stats.used != 0 {
            fail(format!("swap slots were lost: {stats:?}"));
        }
        if stats.slots == 0 {
            return;
        }
        let mut off = pin!(memory.swap_off());
        for _ in 0..1000 {
            if let Poll::Ready(result) = off.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                if let Err(error) = result {
                    fail(format!("an empty swap area can't be switched off: {error}"));
                }
                return;
            }
        }
        fail("switching an empty swap area off comes to no end".to_owned());
    }
}

/// Makes the device the swap area.
pub(crate) fn switch_on() {
    let device = faultline_fallible::Arc::try_new(Device);
    let Ok(device) = device else { return };
    match world()
        .memory()
        .swap_on(faultline_fallible::unsize!(device => dyn BlockDevice))
    {
        Ok(()) | Err(SwapError::AlreadyOn) => {}
        Err(error) => fail(format!("swap can't be switched on: {error}")),
    }
}

async fn switch_off() {
    let result = world().memory().swap_off().await;
    world().note(|| format!("swap off: {result:?}"));
    match result {
        Ok(()) | Err(SwapError::Off | SwapError::Closing | SwapError::OutOfMemory) => {}
        Err(SwapError::Unreadable { .. }) if world().settings().disk_errors > 0 => {}
        Err(error) => fail(format!("swap can't be switched off: {error}")),
    }
}

/// Lets pages be dropped. From each time at which the call lets go of the space's lock, they may hold what they would hold
/// if they were new; what is written until the call is over may be lost.
async fn free_lazily(process: usize, vas: &Vas, page: usize, count: usize, range: PageRange) -> Result<(), VasError> {
    let mut contents = Vec::new();
    let mut future = pin!(vas.free_lazily(range));
    let result = poll_fn(|context| {
        let cpu = &world().cpus[world().current.get()];
        cpu.calling.set(Some(process));
        let poll = future.as_mut().poll(context);
        world().model.borrow_mut().may_drop(process, page, count, &mut contents);
        cpu.go_on();
        poll
    })
    .await;
    world().model.borrow_mut().dropped(&contents);
    result
}

/// A step that is about pages that leave.
pub(crate) async fn perform(process: usize, vas: &Vas, step: Step) {
    let range = |page: usize, count: usize| {
        let start = VirtAddr::new(address_of(page));
        PageRange::aligned(start, count as u64 * PAGE_SIZE).unwrap_or_else(|error| fail(error.to_string()))
    };
    let result = match step {
        Step::PageOut { page, count } => vas.page_out(range(page, count)).await,
        Step::Cold { page, count } => vas.cold(range(page, count)).await,
        Step::Free { page, count } => free_lazily(process, vas, page, count, range(page, count)).await,
        Step::WillNeed { page, count } => {
            vas.will_need(range(page, count)).await;
            Ok(())
        }
        Step::SwapOn => {
            switch_on();
            Ok(())
        }
        Step::SwapOff => {
            switch_off().await;
            Ok(())
        }
        _ => Ok(()),
    };
    // Which pages were mapped at which moment is not known.
    if let Err(error) = result
        && !matches!(error, VasError::NotMapped { .. })
    {
        fail(format!("{step}: {error}"));
    }
}

impl crate::model::Model {
    /// Whether a page may hold these two words.
    fn allows_page(&self, record: Page, (first, second): Value) -> bool {
        self.allows(record, first) && crate::machine::second_word(first) == second
    }
}
