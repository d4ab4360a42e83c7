//! The machine's parts, put together: frames, memory, executor.
//!
//! [`start`] runs once, at the end of start-up. After it, [`memory`] and [`executor`] answer from everywhere. Nothing is
//! ever taken down: what user programs used is gone when they are, which the run's end checks frame by frame.

use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::task::Waker;

use faultline_executor::{Config as ExecutorConfig, Executor, Hooks, Shares, TaskEvent, TaskId};
use faultline_mm::frame::{FrameAllocator, FrameMeta};
use faultline_mm::{Memory, MemoryConfig, Pcid, Platform, VirtualAddressSpace};
use faultline_trace::Kind;
use spin::{Mutex, Once};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::arch::features::{Features, features};
use crate::arch::{self, cpu, smp};
use crate::block;
use crate::config::{Config, FaultMode, PollTime, ServiceTurn};
use crate::heap;
use crate::memory::{BootMemory, phys_to_virt};
use crate::process::{self, Tid, run_time};
use crate::{statistics, tracing};

/// An address space of this machine.
pub type Space = VirtualAddressSpace<Machine>;

/// A fault of this machine.
pub type FaultFuture<'a> = faultline_mm::FaultFuture<'a, Machine>;

/// A wait for other CPUs to drop translations.
pub type Flushed<'a> = faultline_mm::Flushed<'a, Machine>;

/// How many faults can be in flight at once.
const FAULT_SLOTS: usize = 1024;

/// The PCIDs from 1 on; 0 is the kernel's own.
const PCIDS: u16 = 4095;

/// Frames that idle time keeps zeroed, where the zero pool is on.
const ZERO_POOL: u32 = 512;

/// The machine under the address spaces and the executor.
#[derive(Debug)]
pub struct Machine;

// SAFETY: 1. All physical memory is mapped at PHYSICAL_MEMORY for ever, each frame once. 2. The index in a CPU's own block
// is below the same limit, and no poll moves from one CPU to another. 3. `invlpg` and a write to CR3 do what the trait asks: a write without bit 63 drops all translations of its PCID (of
// everything, where there are no PCIDs) that are not global, and user pages never are.
unsafe impl Platform for Machine {
    #[inline(always)]
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        phys_to_virt(address.as_u64())
    }

    #[inline(always)]
    fn cpu(&self) -> usize {
        cpu::index()
    }

    #[inline]
    fn shootdown(&self, cpus: u64) {
        smp::ask_to_flush(cpus);
    }

    #[inline]
    fn invalidate_page(&self, address: VirtAddr) {
        x86_64::instructions::tlb::flush(address);
    }

    #[inline]
    fn load_root(&self, root: PhysFrame, pcid: Pcid, keep: bool) {
        let value = root.start_address().as_u64() | u64::from(pcid.0) | u64::from(keep) << 63;
        // SAFETY: 1. the root maps the kernel half as the template does; 2. the lower half belongs to user mode, which
        // the kernel never touches through it; 3. PCID and bit 63 are zero unless `pcids` says that the processor has
        // PCIDs, and then they are switched on.
        unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
    }

    fn pcids(&self) -> u16 {
        if features().contains(Features::PCID) { PCIDS } else { 0 }
    }

    #[inline(always)]
    fn zero_frame(&self, frame: PhysFrame) {
        let page = self.phys_to_virt(frame.start_address());
        // SAFETY: 1. the pointer is valid for the frame's 4096 bytes and aligned to them; 2. the caller owns the frame; 3.
        // interrupts are off in all kernel code.
        unsafe { arch::pages::zero(page) };
    }

    #[inline]
    fn copy_frame(&self, from: PhysFrame, to: PhysFrame) {
        let (from, to) = (
            self.phys_to_virt(from.start_address()),
            self.phys_to_virt(to.start_address()),
        );
        // SAFETY: 1. both pointers are valid for 4096 bytes, aligned to them, and do not alias; 2. the caller owns `to` and
        // holds a reference to `from`; 3. interrupts are off in all kernel code.
        unsafe { arch::pages::copy(from, to) };
    }

    #[inline(always)]
    fn traces(&self, kind: Kind) -> bool {
        tracing::is_on(kind)
    }

    #[inline(always)]
    fn record(&self, kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
        tracing::push(kind, space, fault, a, b);
    }

    #[inline(always)]
    fn trace(&self, kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
        match kind {
            Kind::TlbSkip => tracing::emit_skip(space, a),
            _ => tracing::emit(kind, space, fault, a, b),
        }
    }
}

/// Whether any text is written to it.
struct Found(bool);

impl Write for Found {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 |= !text.trim().is_empty();
        Ok(())
    }
}

impl Hooks for Machine {
    const TRACE_POLLS: bool = false;

    #[inline(always)]
    fn cpu(&self) -> usize {
        cpu::index()
    }

    #[inline]
    fn notify(&self, cpu: usize) {
        smp::interrupt(cpu);
    }

    fn leaves(&self, task: TaskId, to: usize) {
        run_time::leave();
        arch::fpu::save_for_another_cpu();
        statistics::moved(task, to);
    }

    #[inline]
    fn now(&self) -> u64 {
        arch::clock::now()
    }

    #[inline]
    fn poll_clock(&self) -> u32 {
        arch::clock::counter() as u32
    }

    #[inline]
    fn alarm(&self, deadline: u64) {
        arch::alarm::by(arch::clock::counter_at(deadline));
    }

    #[inline]
    fn alarm_in(&self, length: u32) {
        arch::alarm::by(arch::clock::counter() + u64::from(length));
    }

    #[inline]
    fn turn_begins(&self, next_deadline: Option<u64>, left: Option<u32>) {
        if let Some(deadline) = next_deadline {
            self.alarm(deadline);
        }
        if let Some(left) = left {
            self.alarm_in(left);
        }
    }

    #[inline(always)]
    fn holds_users(&self) -> bool {
        holds_users()
    }

    #[cold]
    fn stall(&self, task: TaskId, name: &'static str, length: u32) {
        let microseconds = arch::clock::to_nanoseconds(length.into()) / 1000;
        log::warn!("stall: a poll of task {task} `{name}` took {microseconds} us");
        // Nothing is added where nobody waits: an empty graph says nothing.
        let waits = process::waiting::Waits;
        let mut found = Found(false);
        if write!(found, "{waits}").is_ok() && found.0 {
            log::warn!("stall: who waits for what: {waits}");
        }
    }

    #[cold]
    fn longest_poll(&self, _: TaskId, name: &'static str, _: u32) {
        *LONGEST_POLL.lock() = (name, tracing::current());
    }

    #[inline(always)]
    fn has_left(&self) -> bool {
        started_memory().has_left_fault()
    }

    #[inline(always)]
    fn serve_left(&self, polled: &Waker) -> bool {
        started_memory().serve_left_fault(polled)
    }

    #[inline]
    fn queue_left(&self) {
        memory().queue_left_fault();
    }

    #[inline(always)]
    fn tracing(&self) -> bool {
        tracing::is_on(Kind::TaskWake)
    }

    #[inline(always)]
    fn trace(&self, event: TaskEvent) {
        tracing::task_event(event);
    }
}

/// The name of the task that had the longest poll, and the last user thread by then: the same, if it was a user thread.
static LONGEST_POLL: Mutex<(&str, Tid)> = Mutex::new(("none", 0));

/// Who had the longest poll: the task's name, and the thread's number if it is a user thread.
#[must_use]
pub fn longest_poller() -> (&'static str, Tid) {
    *LONGEST_POLL.lock()
}

/// While a fault waits for a disk, no other thread runs ([`FaultMode::Blocking`]).
static BLOCKS: AtomicBool = AtomicBool::new(false);

/// Whether a fault keeps all threads from running.
#[inline(always)]
pub fn holds_users() -> bool {
    BLOCKS.load(Relaxed) && waits_for_disk()
}

/// Whether a fault is in flight and a disk has something to do. A fault that waits for anything else may wait for a thread.
#[cold]
fn waits_for_disk() -> bool {
    memory().faults_in_flight() > 0 && !block::is_idle()
}

static MEMORY: Once<Memory<Machine>> = Once::new();

static EXECUTOR: Once<&'static Executor<Machine>> = Once::new();

/// The machine's memory.
///
/// # Panics
/// Before [`start`].
#[inline]
pub fn memory() -> &'static Memory<Machine> {
    MEMORY.get().expect("the machine was started")
}

/// The machine's memory, for the executor's hooks.
#[inline(always)]
fn started_memory() -> &'static Memory<Machine> {
    debug_assert!(MEMORY.get().is_some(), "the executor is made after the memory");
    // SAFETY: an executor exists, and `start` makes it after the memory.
    unsafe { MEMORY.get_unchecked() }
}

/// The machine's executor.
///
/// # Panics
/// Before [`start`].
#[inline]
pub fn executor() -> &'static Executor<Machine> {
    EXECUTOR.get().expect("the machine was started")
}

/// Gives the memory that is left to the frame allocator, and makes memory and executor.
///
/// # Panics
/// If memory is too small for the frame allocator's own records.
pub fn start(mut boot: BootMemory, config: &Config) {
    let end = boot.ranges().last().map_or(0, |range| range.end);
    let count = FrameAllocator::required_metadata(PhysAddr::new(end));
    let Some(records) = boot.carve((count * size_of::<FrameMeta>()) as u64) else {
        panic!("too little memory: no room for the records of {count} frames")
    };
    let records = phys_to_virt(records.start).cast::<FrameMeta>();
    // SAFETY: 1. the range was just carved for `count` records, and is mapped for ever; 2. each is written before the
    // slice is made; 3. nobody else knows the range.
    let records = unsafe {
        for index in 0..count {
            records.add(index).write(FrameMeta::new());
        }
        core::slice::from_raw_parts_mut(records, count)
    };
    let usable = boot
        .ranges()
        .iter()
        .map(|range| PhysAddr::new(range.start)..PhysAddr::new(range.end));
    let frames = FrameAllocator::new(records, usable, smp::count());
    if config.zero_pool {
        frames.set_zeroed_target(ZERO_POOL);
    }
    let kernel_root = PhysFrame::containing_address(PhysAddr::new(arch::paging::template_root()));
    let mut settings = MemoryConfig::new(kernel_root);
    settings.fault_slots = FAULT_SLOTS;
    settings.run_ahead = config.run_ahead.into();
    settings.fault_mode = match config.fault {
        FaultMode::Queued if config.service == ServiceTurn::Last => faultline_mm::FaultMode::Queued,
        FaultMode::Queued => faultline_mm::FaultMode::HandedOff,
        FaultMode::Inline | FaultMode::Blocking => faultline_mm::FaultMode::Inline,
    };
    BLOCKS.store(config.fault == FaultMode::Blocking, Relaxed);
    MEMORY.call_once(|| Memory::new(Machine, frames, settings));
    heap::use_frames(memory().frames());
    let stall = match config.stall {
        0 => u32::MAX,
        milliseconds => {
            let ticks = arch::clock::counter_hz() / 1000 * u64::from(milliseconds);
            u32::try_from(ticks).unwrap_or(u32::MAX)
        }
    };
    let slice = u32::try_from(arch::clock::counter_hz() / 1000 * u64::from(config.slice)).unwrap_or(u32::MAX);
    // One thread a turn, where its fault may keep the others from running.
    let shares = match config.fault {
        FaultMode::Blocking => Shares::new(64, 32, 1, 1),
        FaultMode::Queued | FaultMode::Inline => ExecutorConfig::default().shares,
    };
    EXECUTOR.call_once(|| {
        Executor::new(
            ExecutorConfig {
                cpus: smp::count(),
                balance: true,
                shares,
                stall,
                slice,
                ..ExecutorConfig::default()
            },
            Machine,
        )
    });
    if config.polls == PollTime::Kernel {
        arch::time_stays(|counts| executor().discount(counts));
    }
}

/// Frames in all, and frames that are free.
#[must_use]
pub fn frame_totals() -> (u64, u64) {
    let account = memory().account();
    (account.total, account.available())
}
