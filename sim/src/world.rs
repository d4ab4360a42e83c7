//! One simulated machine: its CPUs, its memory, its spaces and the model of them.
//!
//! Everything of a world runs on one thread of the host; the world is found through a thread-local variable, because
//! the hooks of `mm` and `executor` have no other way to it. No borrow of a cell is held where `mm` or `executor` is
//! called, because each call may switch to another virtual CPU.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use faultline_executor::{Executor, JoinHandle, TaskEvent};
use faultline_mm::{Access, FaultMode, Memory, MemoryObject, PAGE_SIZE, VirtualAddressSpace};
use faultline_trace::Kind;

use crate::coverage::Coverage;
use crate::cpu::{self, Cpu};
use crate::disk::Disk;
use crate::machine::{Physical, Virtual};
use crate::model::{Model, Verdicts};
use crate::ramdisk::File;
use crate::random::Random;
use crate::schedule::Chooser;
use crate::script::{Script, Settings, WINDOW, WINDOW_PAGES};
use crate::swap::SwapDisk;
use crate::tlb::Tlb;

/// An address space of the simulated machine.
pub(crate) type Vas = VirtualAddressSpace<Virtual>;

/// What the simulation knows of an address space, beside the model's pages.
#[derive(Default)]
pub(crate) struct SpaceRecord {
    pub vas: Option<Arc<Vas>>,
    /// The process exists, or existed.
    pub taken: bool,
    /// Frame number of its root.
    pub root: u32,
    /// Where the space is in the host's memory, to recognise its lock.
    pub place: (usize, usize),
    /// The CPU that holds its lock.
    pub locked_by: Option<usize>,
    /// Writes of user mode while somebody held the lock.
    pub raced: Vec<(usize, u64)>,
    /// No CPU can hold a translation from before this generation: `flushed` has said so.
    pub flushed: u64,
    /// How often the model of it has changed.
    pub changes: u64,
    /// Threads of it that have not ended.
    pub threads: usize,
}

/// A fault that is under way: how it may end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    pub id: u64,
    pub space: usize,
    pub from: usize,
    pub count: usize,
    pub access: Access,
    pub verdicts: Verdicts,
}

/// What a world counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs of a virtual CPU between two choices.
    pub steps: u64,
    /// Accesses of user mode.
    pub accesses: u64,
    /// Page faults that were answered.
    pub faults: u64,
    /// Accesses through a translation whose flush was under way.
    pub stale: u64,
    /// Flushes.
    pub flushes: u64,
    /// Flushes that dropped nothing that had to go.
    pub superfluous: u64,
    /// Processes that were ended because memory was out.
    pub victims: u64,
    /// Accesses to pages that had left their table, and whose batch was not flushed.
    pub left: u64,
    /// Pages written to the swap area.
    pub written: u64,
    /// Pages read from it.
    pub read: u64,
}

impl Counts {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.accesses += other.accesses;
        self.faults += other.faults;
        self.stale += other.stale;
        self.flushes += other.flushes;
        self.superfluous += other.superfluous;
        self.victims += other.victims;
        self.left += other.left;
        self.written += other.written;
        self.read += other.read;
    }
}

pub(crate) struct World {
    pub script: Arc<Script>,
    pub physical: Physical,
    pub cpus: Vec<Cpu>,
    /// The CPU that runs.
    pub current: Cell<usize>,
    pub clock: Cell<u64>,
    pub tlbs: RefCell<Vec<Tlb>>,
    pub model: RefCell<Model>,
    pub spaces: RefCell<Vec<SpaceRecord>>,
    pub watches: RefCell<Vec<Watch>>,
    pub random: RefCell<Random>,
    pub chooser: RefCell<Chooser>,
    pub disk: Disk,
    pub swap_disk: SwapDisk,
    pub shared: RefCell<Option<faultline_fallible::Arc<MemoryObject>>>,
    pub file: RefCell<Option<faultline_fallible::Arc<File>>>,
    /// The file on the disk.
    pub on_disk: RefCell<Option<faultline_fallible::Arc<MemoryObject>>>,
    pub memory: Cell<Option<&'static Memory<Virtual>>>,
    pub executor: &'static Executor<Virtual>,
    /// By process and thread.
    pub handles: RefCell<BTreeMap<(usize, usize), JoinHandle<()>>>,
    /// Threads that were cancelled.
    pub cancelled: RefCell<BTreeSet<(usize, usize)>>,
    /// Tasks of the kernel.
    pub service: RefCell<Vec<JoinHandle<()>>>,
    pub coverage: RefCell<Coverage>,
    pub counts: Cell<Counts>,
    pub failure: RefCell<Option<String>>,
    /// What happened, if it is to be printed.
    pub events: RefCell<Option<Vec<String>>>,
    /// The last generation of each space, by its id.
    generations: RefCell<BTreeMap<u64, u64>>,
    /// Faults that were queued and not answered.
    pub open_faults: RefCell<BTreeMap<u64, u64>>,
    /// Allocations fail on command.
    pub failing: Cell<bool>,
    /// Every CPU is to come to a place where it holds nothing.
    pub settling: Cell<bool>,
    /// How often a script has said `advance`.
    pub turn: Cell<u64>,
    /// Locks that were released.
    pub unlocks: Cell<u64>,
    next_watch: Cell<u64>,
}

thread_local! {
    static WORLD: Cell<*const World> = const { Cell::new(core::ptr::null()) };
}

/// The world of this thread.
pub(crate) fn world() -> &'static World {
    // SAFETY: `World::enter` stored a pointer to a world that it lends for as long as anything of it runs, and took it
    // away before the world goes; nobody keeps the reference beyond that.
    unsafe { WORLD.get().as_ref().expect("a world runs on this thread") }
}

/// Whether a world runs on this thread.
pub(crate) fn has_world() -> bool {
    !WORLD.get().is_null()
}

/// Something is wrong: the world ends here. Called from a virtual CPU; it does not come back.
pub(crate) fn fail(message: String) -> ! {
    world().failure.borrow_mut().get_or_insert(message);
    cpu::stop()
}

impl World {
    pub fn new(script: Arc<Script>, executor: &'static Executor<Virtual>, record: bool) -> Self {
        let settings = script.settings;
        Self {
            physical: Physical::new(settings.frames),
            cpus: (0..settings.cpus).map(|_| Cpu::default()).collect(),
            current: Cell::new(0),
            clock: Cell::new(0),
            tlbs: RefCell::new((0..settings.cpus).map(|_| Tlb::default()).collect()),
            model: RefCell::default(),
            spaces: RefCell::default(),
            watches: RefCell::default(),
            random: RefCell::new(Random::new(script.schedule.seed)),
            chooser: RefCell::new(Chooser::new(script.schedule, settings.cpus)),
            disk: Disk::default(),
            swap_disk: SwapDisk::default(),
            shared: RefCell::default(),
            file: RefCell::default(),
            on_disk: RefCell::default(),
            memory: Cell::new(None),
            executor,
            handles: RefCell::default(),
            cancelled: RefCell::default(),
            service: RefCell::default(),
            coverage: RefCell::default(),
            counts: Cell::default(),
            failure: RefCell::default(),
            events: RefCell::new(record.then(Vec::new)),
            generations: RefCell::default(),
            open_faults: RefCell::default(),
            failing: Cell::new(false),
            settling: Cell::new(false),
            unlocks: Cell::new(0),
            turn: Cell::new(0),
            next_watch: Cell::new(0),
            script,
        }
    }

    /// Runs `f` with this world as the thread's.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        WORLD.set(self);
        let result = f();
        WORLD.set(core::ptr::null());
        result
    }

    pub fn settings(&self) -> &Settings {
        &self.script.settings
    }

    pub fn memory(&self) -> &'static Memory<Virtual> {
        self.memory.get().expect("the machine was set up")
    }

    pub fn vas(&self, space: usize) -> Option<Arc<Vas>> {
        self.spaces.borrow()[space].vas.clone()
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Notes what happened, if it is to be printed.
    pub fn note(&self, text: impl FnOnce() -> String) {
        if let Some(events) = &mut *self.events.borrow_mut() {
            let (step, cpu) = (self.counts.get().steps, self.current.get());
            events.push(format!("{step:6} cpu{cpu} {}", text()));
        }
    }

    /// The generation of a space, as far as it was traced.
    pub fn generation_of(&self, id: u64) -> u64 {
        self.generations.borrow().get(&id).copied().unwrap_or(1)
    }

    // What the hooks ask.

    pub fn traced(&self, kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
        self.coverage
            .borrow_mut()
            .event(kind, fault, self.settings().mode != FaultMode::Inline);
        self.note(|| {
            let (first, second) = kind.payload();
            let mut text = format!("{} space={space}", kind.name());
            if fault != 0 {
                text += &format!(" fault={fault}");
            }
            for (name, value) in [(first, a), (second, b)] {
                if !name.is_empty() {
                    text += &format!(" {name}={value:#x}");
                }
            }
            text
        });
        match kind {
            Kind::TlbBump => {
                let before = self.generations.borrow_mut().insert(space, a);
                if before.is_some_and(|before| a != before + 1) {
                    fail(format!(
                        "the generation of space {space} went from {} to {a}",
                        before.unwrap_or(0)
                    ));
                }
            }
            Kind::FaultQueue if self.open_faults.borrow_mut().insert(fault, a).is_some() => {
                fail(format!("fault {fault} was queued twice"));
            }
            Kind::FaultServe | Kind::FaultCommit if !self.open_faults.borrow().contains_key(&fault) => {
                fail(format!("fault {fault} is served although it was answered"));
            }
            Kind::FaultWake | Kind::FaultCancel => {
                // Several waiters may be woken one after the other.
                self.open_faults.borrow_mut().remove(&fault);
            }
            _ => {}
        }
    }

    pub fn task_event(&self, event: TaskEvent) {
        self.coverage.borrow_mut().task(event);
        if let TaskEvent::Polled { .. } = event {
            let polls = &self.cpus[self.current.get()].polls;
            polls.set(polls.get() + 1);
            if polls.get() > self.executor.config().shares.budget() {
                fail("a turn goes on beyond all shares, and passes over due timers".to_owned());
            }
        }
        self.note(|| match event {
            TaskEvent::Spawned { task, name, .. } => format!("task {task} spawned: {name}"),
            TaskEvent::Woken { task } => format!("task {task} woken"),
            TaskEvent::Polled { task } => format!("task {task} polled"),
            TaskEvent::Finished { task } => format!("task {task} finished"),
            TaskEvent::Cancelled { task } => format!("task {task} cancelled"),
        });
    }

    /// A lock was taken, or is free again (`None`).
    pub fn lock_changed(&self, address: usize, by: Option<usize>) {
        let Ok(mut spaces) = self.spaces.try_borrow_mut() else {
            return;
        };
        let found = spaces
            .iter_mut()
            .enumerate()
            .find(|(_, space)| space.place.0 <= address && address < space.place.1);
        let Some((index, space)) = found else { return };
        space.locked_by = by;
        if by.is_some() {
            space.raced.clear();
        }
        drop(spaces);
        let cpu = &self.cpus[self.current.get()];
        if by.is_none() && cpu.calling.get() == Some(index) {
            cpu.hold();
        }
    }

    /// When a device answers next.
    pub fn next_answer(&self) -> Option<u64> {
        self.disk.next_due().into_iter().chain(self.swap_disk.next_due()).min()
    }

    // Interrupts.

    /// Asks CPUs to flush.
    pub fn interrupt(&self, cpus: u64) {
        self.note(|| format!("shootdown of CPUs {cpus:#b}"));
        for (index, cpu) in self.cpus.iter().enumerate() {
            if cpus & (1 << index) != 0 {
                cpu.flush_asked.set(true);
            }
        }
    }

    pub fn notify(&self, cpu: usize) {
        self.note(|| format!("notify CPU {cpu}"));
        self.cpus[cpu].notified.set(true);
    }

    // Faults under way.

    /// Begins to watch how a fault may end.
    pub fn watch(&self, space: usize, from: usize, count: usize, access: Access) -> u64 {
        let id = self.next_watch.get();
        self.next_watch.set(id + 1);
        let mut watch = Watch {
            id,
            space,
            from,
            count,
            access,
            verdicts: Verdicts::default(),
        };
        self.look(&mut watch);
        self.watches.borrow_mut().push(watch);
        id
    }

    fn look(&self, watch: &mut Watch) {
        let model = self.model.borrow();
        for page in watch.from..watch.from + watch.count {
            watch.verdicts.0 |= model.spaces[watch.space].verdict(page, watch.access).0;
        }
    }

    /// Ends a watch: what was possible meanwhile.
    pub fn unwatch(&self, id: u64) -> Verdicts {
        let mut watches = self.watches.borrow_mut();
        let index = watches.iter().position(|watch| watch.id == id);
        index.map_or(Verdicts::default(), |index| watches.swap_remove(index).verdicts)
    }

    /// The model of a space has changed.
    pub fn model_changed(&self, space: usize) {
        self.spaces.borrow_mut()[space].changes += 1;
        let mut watches = self.watches.borrow_mut();
        for watch in watches.iter_mut().filter(|watch| watch.space == space) {
            self.look(watch);
        }
    }
}

/// Where a page of the window is.
pub(crate) const fn address_of(page: usize) -> u64 {
    WINDOW + page as u64 * PAGE_SIZE
}

/// The page of the window that an address is in.
pub(crate) fn page_index(address: u64) -> Option<usize> {
    let index = address.checked_sub(WINDOW)? / PAGE_SIZE;
    (index < WINDOW_PAGES as u64).then_some(index as usize)
}
