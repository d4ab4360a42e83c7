//! The other CPUs: found in the ACPI tables, started by INIT-SIPI-SIPI, and interrupted by one another.
//!
//! # Start-up
//! [`start`] copies the code of `other_cpus.s` to a page below 1 MiB, which the kernel leaves to this, and sends each CPU of the
//! tables an INIT and two start-up interrupts (Intel SDM volume 3, section 9.4.4.1). The CPU enters 64-bit mode on tables
//! that map the kernel half as the template does, and the first 2 MiB to themselves; then it loads the template, its own
//! descriptor tables and its local APIC, says that it is there, and halts until [`release`] tells it what to run. CPUs are
//! started one after the other, so that one page and one set of start values do.
//!
//! # Interrupts between CPUs
//! There is one vector. Whoever sends it first leaves word of what it wants: a flush in the CPU's own `flush` word, work in
//! a run queue, [`stop`] in a word for all. A CPU that runs kernel code takes the interrupt between two turns of its
//! executor, or when it enters user mode.

use core::arch::global_asm;
use core::hint::spin_loop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use faultline_trace::Kind;
use spin::Once;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PageTable, PageTableFlags, PhysFrame};

use super::cpu::{self, MAX_CPUS};
use super::{alarm, apic, clock, features, paging};
use crate::layout;
use crate::memory::{BootMemory, PAGE, phys_to_virt};
use crate::tracing;

/// Where a CPU starts: a page below 1 MiB, as a start-up interrupt can say only the number of one.
const START_PAGE: u64 = 0x8000;
/// The tables that it starts on: the top-level one, and two that lead to the first 2 MiB.
const START_TABLES: [u64; 3] = [0x9000, 0xa000, 0xb000];
/// The offset of [`StartValues`] in the start page.
const VALUES_AT: usize = 8;

/// What a CPU finds in its start page.
#[repr(C)]
struct StartValues {
    root: u64,
    stack: u64,
    entry: u64,
    index: u64,
}

global_asm!(include_str!("other_cpus.s"), options(att_syntax));

unsafe extern "C" {
    static other_cpu_start: u8;
}

/// What a CPU keeps for the others.
#[derive(Debug)]
pub struct Mailbox {
    /// The number of its local APIC.
    apic: AtomicU32,
    /// Somebody has asked it to drop translations, and it has not begun to.
    flush: AtomicBool,
    /// It stands still, because another CPU has asked for that.
    stands: AtomicBool,
    /// How often the others have interrupted it.
    interrupts: AtomicU64,
    /// Where it was when another CPU failed: its instruction pointer and its stack pointer; 0 until it has said so.
    was_at: [AtomicU64; 2],
}

impl Mailbox {
    /// That of a CPU that was not started.
    pub const fn new() -> Self {
        Self {
            apic: AtomicU32::new(u32::MAX),
            flush: AtomicBool::new(false),
            stands: AtomicBool::new(false),
            interrupts: AtomicU64::new(0),
            was_at: [const { AtomicU64::new(0) }; 2],
        }
    }
}

/// How many CPUs run; the boot CPU is the first.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// The CPU that was started last says here that it is ready, or that it can't be used.
static ANSWER: AtomicU32 = AtomicU32::new(NO_ANSWER);
const NO_ANSWER: u32 = 0;
const READY: u32 = 1;
const UNLIKE: u32 = 2;

/// What the other CPUs run.
static RUN: Once<fn() -> !> = Once::new();

/// Who is called on a CPU that was asked to drop translations.
static FLUSH: Once<fn()> = Once::new();

/// The CPU that wants all others to stand still, or [`NOBODY`].
static STOP: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;

/// How many CPUs run.
#[inline(always)]
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// All CPUs that run, as a bit set.
pub fn all() -> u64 {
    (1 << count()) - 1
}

/// Physical memory, as the ACPI library asks for it.
#[derive(Clone, Copy)]
struct Tables;

impl AcpiHandler for Tables {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let place = NonNull::new(phys_to_virt(address as u64).cast()).expect("the kernel half does not begin at 0");
        // SAFETY: all physical memory is mapped there for ever.
        unsafe { PhysicalMapping::new(address, place, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Starts up to `wanted` CPUs in all, as many as the tables that `rsdp` (a physical address) leads to name. Returns how
/// many run, the boot CPU included; why not more is on the log.
///
/// # Safety
/// Runs once, on the boot CPU, when its APIC and its alarm are set up; `rsdp` comes from the firmware.
pub unsafe fn start(rsdp: Option<u64>, wanted: usize, memory: &mut BootMemory) -> usize {
    if wanted <= 1 {
        return 1;
    }
    // SAFETY: the caller's promise.
    match unsafe { find(rsdp) } {
        Err(why) => log::warn!("one CPU: {why}"),
        Ok(others) => {
            let found = others.iter().flatten().count();
            if found + 1 < wanted {
                log::warn!("the machine has {} CPUs, not {wanted}", found + 1);
            }
            // SAFETY: the boot CPU, in ring 0, and nothing else uses memory below 1 MiB.
            unsafe { prepare_start_page() };
            for (index, id) in (1..wanted.min(MAX_CPUS)).zip(others.into_iter().flatten()) {
                paging::map_fresh(layout::stack(index), memory);
                paging::map_fresh(layout::exception_stacks(index), memory);
                // SAFETY: the start page is prepared, and the CPU before has left it.
                if let Err(why) = unsafe { start_one(index, id) } {
                    log::warn!("CPU {index} (APIC {id}) {why}: it is left out, with those behind it");
                    break;
                }
                COUNT.store(index + 1, Ordering::Release);
            }
        }
    }
    count()
}

/// The APIC numbers of the other CPUs that can be started.
///
/// # Safety
/// `rsdp` comes from the firmware, whose tables are what they say.
unsafe fn find(rsdp: Option<u64>) -> Result<[Option<u32>; MAX_CPUS - 1], &'static str> {
    let own = apic::id().ok_or("there is no local APIC")?;
    if !alarm::is_for_each_cpu() {
        return Err("the local APIC's timer stands still");
    }
    let rsdp = rsdp.ok_or("the firmware names no ACPI tables")?;
    // SAFETY: the caller's promise.
    let tables = unsafe { AcpiTables::from_rsdp(Tables, rsdp as usize) }.map_err(|_| "the ACPI tables are damaged")?;
    let madt = tables.find_table::<Madt>().map_err(|_| "no ACPI table lists CPUs")?;
    let madt = madt.get();
    cpu::locals()[0].mailbox.apic.store(own, Ordering::Relaxed);
    let mut others = [None; MAX_CPUS - 1];
    let mut next = others.iter_mut();
    for entry in madt.entries() {
        let (id, flags) = match entry {
            MadtEntry::LocalApic(entry) => (u32::from(entry.apic_id), entry.flags),
            MadtEntry::LocalX2Apic(entry) => (entry.x2apic_id, entry.flags),
            _ => continue,
        };
        // Bit 0: the CPU is there and can be used.
        if flags & 1 != 0
            && id != own
            && apic::can_reach(id)
            && let Some(place) = next.next()
        {
            *place = Some(id);
        }
    }
    Ok(others)
}

/// Writes the start page and its tables.
///
/// # Safety
/// Runs on the boot CPU, in ring 0; the pages at [`START_PAGE`] and of [`START_TABLES`] are used for nothing else.
unsafe fn prepare_start_page() {
    let [root, middle, low] = START_TABLES;
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let table = |address: u64| phys_to_virt(address).cast::<PageTable>();
    // SAFETY: 1. The pages are the caller's, and all physical memory is mapped. 2. The code is one page long. 3. The template
    // is only read.
    unsafe {
        phys_to_virt(START_PAGE).copy_from_nonoverlapping(&raw const other_cpu_start, PAGE as usize);
        let template = &*table(paging::template_root());
        let mut top = PageTable::new();
        for slot in 256..512 {
            top[slot] = template[slot].clone();
        }
        top[0].set_addr(PhysAddr::new(middle), flags);
        table(root).write(top);
        let mut tables = [PageTable::new(), PageTable::new()];
        tables[0][0].set_addr(PhysAddr::new(low), flags);
        tables[1][0].set_addr(PhysAddr::zero(), flags | PageTableFlags::HUGE_PAGE);
        let [upper, lower] = tables;
        table(middle).write(upper);
        table(low).write(lower);
    }
}

/// Starts the CPU whose APIC has number `id` as CPU `index`, and waits until it is ready.
///
/// # Safety
/// The start page is prepared, its stacks are mapped, and no other CPU is starting.
unsafe fn start_one(index: usize, id: u32) -> Result<(), &'static str> {
    /// Between INIT and the first start-up interrupt, between the two, and until the CPU counts as dead.
    const AFTER_INIT: u64 = 10_000_000;
    const BETWEEN: u64 = 200_000;
    const PATIENCE: u64 = 1_000_000_000;
    ANSWER.store(NO_ANSWER, Ordering::Relaxed);
    cpu::locals()[index].mailbox.apic.store(id, Ordering::Relaxed);
    let values = StartValues {
        root: START_TABLES[0],
        stack: layout::stack(index).end,
        entry: enter_other_cpu as *const () as u64,
        index: index as u64,
    };
    // SAFETY: the values' place in the start page is aligned, and nobody reads it but the CPU that is started now.
    unsafe {
        phys_to_virt(START_PAGE)
            .add(VALUES_AT)
            .cast::<StartValues>()
            .write(values)
    };
    apic::send_init(id);
    wait(AFTER_INIT, || false);
    for _ in 0..2 {
        apic::send_startup(id, (START_PAGE >> 12) as u8);
        if wait(BETWEEN, || ANSWER.load(Ordering::Acquire) != NO_ANSWER) {
            break;
        }
    }
    wait(PATIENCE, || ANSWER.load(Ordering::Acquire) != NO_ANSWER);
    match ANSWER.load(Ordering::Acquire) {
        READY => Ok(()),
        UNLIKE => Err("lacks what the boot CPU has"),
        _ => Err("does not start"),
    }
}

/// Waits until `done`, or for that many nanoseconds. Returns whether it is.
fn wait(nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let until = clock::now() + nanoseconds;
    loop {
        if done() {
            return true;
        }
        if clock::now() >= until {
            return false;
        }
        spin_loop();
    }
}

/// Where a CPU arrives in 64-bit mode: on its own stack, with interrupts off and the start page's tables.
extern "C" fn enter_other_cpu(index: usize) -> ! {
    if !features::is_like_boot_cpu() {
        ANSWER.store(UNLIKE, Ordering::Release);
        cpu::halt();
    }
    let root = PhysFrame::containing_address(PhysAddr::new(paging::template_root()));
    // SAFETY: 1. The template maps the whole kernel half as the start tables do. 2. This is CPU `index`, in ring 0, with
    // interrupts off, on its own stack; it has the boot CPU's features.
    unsafe {
        Cr3::write(root, Cr3Flags::empty());
        super::init_other_cpu(index);
    }
    ANSWER.store(READY, Ordering::Release);
    loop {
        if let Some(run) = RUN.get() {
            run();
        }
        cpu::idle();
    }
}

/// Lets the other CPUs run `run`; they call `flush` when they are asked to drop translations.
pub fn release(run: fn() -> !, flush: fn()) {
    FLUSH.call_once(|| flush);
    RUN.call_once(|| run);
    (0..count()).for_each(interrupt);
}

/// Interrupts CPU `index`, unless it is this one.
pub fn interrupt(index: usize) {
    if index != cpu::index() {
        apic::send_interrupt(cpu::locals()[index].mailbox.apic.load(Ordering::Relaxed));
    }
}

/// Asks the CPUs of the bit set to drop translations soon: this one too, if it is among them, between two of its turns.
pub fn ask_to_flush(cpus: u64) {
    let mut rest = cpus & all();
    let (asked, mut interrupted) = (rest, 0);
    while rest != 0 {
        let index = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        // One who was asked already, and has not begun, will see what has changed since.
        if !cpu::locals()[index].mailbox.flush.swap(true, Ordering::AcqRel) {
            interrupted |= 1 << index;
            apic::send_interrupt(cpu::locals()[index].mailbox.apic.load(Ordering::Relaxed));
        }
    }
    tracing::record(Kind::TlbAsk, asked, interrupted);
}

/// Serves an interrupt by another CPU.
pub(super) fn interrupted() {
    let mailbox = &cpu::local().mailbox;
    mailbox
        .interrupts
        .store(mailbox.interrupts.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    if mailbox.flush.load(Ordering::Relaxed)
        && mailbox.flush.swap(false, Ordering::AcqRel)
        && let Some(flush) = FLUSH.get()
    {
        flush();
    }
    if STOP.load(Ordering::Acquire) != NOBODY {
        stand_still();
    }
}

/// Waits until [`resume`].
#[cold]
fn stand_still() {
    let stands = &cpu::local().mailbox.stands;
    stands.store(true, Ordering::Release);
    while STOP.load(Ordering::Acquire) != NOBODY {
        spin_loop();
    }
    stands.store(false, Ordering::Release);
}

/// Lets all other CPUs stand still between two turns of their executors, and waits until they do; while another CPU does so,
/// this one stands still. The caller holds no lock. [`resume`] lets them go on.
pub fn stop() {
    let own = cpu::index();
    while STOP
        .compare_exchange(NOBODY, own, Ordering::AcqRel, Ordering::Relaxed)
        .is_err()
    {
        stand_still();
    }
    for index in others() {
        interrupt(index);
        while !cpu::locals()[index].mailbox.stands.load(Ordering::Acquire) {
            spin_loop();
        }
    }
}

/// Ends [`stop`].
pub fn resume() {
    STOP.store(NOBODY, Ordering::Release);
    for index in others() {
        while cpu::locals()[index].mailbox.stands.load(Ordering::Acquire) {
            spin_loop();
        }
    }
}

/// The CPUs that run, but for this one.
fn others() -> impl Iterator<Item = usize> {
    let own = cpu::index();
    (0..count()).filter(move |&index| index != own)
}

/// How often CPUs were interrupted by others.
pub fn interrupts() -> u64 {
    let each = cpu::locals()
        .iter()
        .map(|local| local.mailbox.interrupts.load(Ordering::Relaxed));
    each.sum()
}

/// Stops all other CPUs at a failure, wherever they are, and gives each one's instruction and stack pointer to `told`; zeros
/// if it does not say. They never go on.
pub fn halt_others(mut told: impl FnMut(usize, u64, u64)) {
    /// Looks at a CPU before it counts as one that does not answer; a look is longer than a nanosecond.
    const PATIENCE: u32 = 50_000_000;
    for index in others() {
        apic::send_nmi_to(cpu::locals()[index].mailbox.apic.load(Ordering::Relaxed));
    }
    for index in others() {
        let [rip, rsp] = &cpu::locals()[index].mailbox.was_at;
        for _ in 0..PATIENCE {
            if rip.load(Ordering::Acquire) != 0 {
                break;
            }
            spin_loop();
        }
        told(index, rip.load(Ordering::Acquire), rsp.load(Ordering::Relaxed));
    }
}

/// Another CPU has failed: says where this one was, and halts for good.
pub(super) fn halt_here(rip: u64, rsp: u64) -> ! {
    let was_at = &cpu::local().mailbox.was_at;
    was_at[1].store(rsp, Ordering::Relaxed);
    was_at[0].store(rip, Ordering::Release);
    cpu::halt()
}
