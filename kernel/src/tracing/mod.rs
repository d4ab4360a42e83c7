//! Recording events, and getting them out of the machine.
//!
//! An event costs one test while its category is off. While it is on, the event goes into the [`ring`] of the CPU: a few
//! stores and no lock. What happens to a full block of the ring is the matter of the *sink*:
//!
//! - **Text** ([`text`]): one line an event on COM1. Lines are written between two turns of the executor when the CPU is
//!   idle or the first event has waited for 10 ms, and whenever the block is full; nothing is ever dropped.
//! - **Binary** ([`stream`]): the block itself, with a header in front of it, is handed to a virtio serial port, which
//!   reads it from where it lies. A task of the device class ([`pump`]) sends blocks that fill slowly, takes samples of the
//!   counters and reads commands. If the host falls behind until every block is on its way, the kernel waits, or drops and
//!   counts what it drops, as the configuration says.
//!
//! At the end of a run, and at a panic, everything that was recorded goes out first.

pub mod arguments;
pub mod pump;
mod ring;
mod stream;
mod text;

use core::hint::cold_path;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};

use faultline_executor::TaskEvent;
use faultline_trace::{Category, Kind};

pub use ring::reserve;

use crate::arch::{clock, cpu};
use crate::config::{Config, TraceMode};

/// The categories that are on.
static ON: AtomicU32 = AtomicU32::new(0);

/// What a CPU knows of its own events.
#[derive(Debug)]
#[repr(C)]
pub struct Here {
    /// Where they go.
    words: ring::Words,
    /// Where an event has its kind.
    stamp: Stamp,
    /// Another thread runs than at the last [`emit_skip`].
    switched: AtomicBool,
}

/// What an event has beside its kind and its time, as it stands there: one word for [`ring::push_here`].
#[derive(Debug)]
#[repr(C, align(8))]
struct Stamp {
    /// 0, for the kind.
    kind: u16,
    /// The CPU's number.
    cpu: AtomicU16,
    /// The user thread that runs there, or ran last; 0 for none.
    current: AtomicU32,
}

impl Here {
    /// That of a CPU that has recorded nothing.
    pub const fn new() -> Self {
        Self {
            words: ring::Words::new(),
            stamp: Stamp {
                kind: 0,
                cpu: AtomicU16::new(0),
                current: AtomicU32::new(0),
            },
            switched: AtomicBool::new(false),
        }
    }
}

/// Where full blocks go: a [`TraceMode`].
static SINK: AtomicU8 = AtomicU8::new(TraceMode::Off as u8);

/// Starts what the configuration asks for.
pub fn start(config: &Config) {
    let sink = match config.trace {
        TraceMode::Binary if !stream::start(config.trace_categories, config.trace_full) => TraceMode::Off,
        mode => mode,
    };
    if sink == TraceMode::Off || !ring::start() {
        return;
    }
    SINK.store(sink as u8, Ordering::Relaxed);
    ON.store(config.trace_categories.bits(), Ordering::Relaxed);
    if sink == TraceMode::Binary {
        pump::spawn();
    }
}

/// Switches categories while the machine runs; no effect where nothing is recorded.
pub fn set_categories(categories: Category) {
    if SINK.load(Ordering::Relaxed) != TraceMode::Off as u8 {
        ON.store(categories.bits(), Ordering::Relaxed);
    }
}

/// Whether events of this kind are recorded.
#[inline(always)]
#[must_use]
pub fn is_on(kind: Kind) -> bool {
    ON.load(Ordering::Relaxed) & kind.category().bits() != 0
}

/// Says which thread runs on this CPU; returns the one before.
#[inline(always)]
pub fn set_current(tid: u32) -> u32 {
    let here = &cpu::local().tracing;
    let before = here.stamp.current.load(Ordering::Relaxed);
    if before != tid {
        here.stamp.current.store(tid, Ordering::Relaxed);
        here.switched.store(true, Ordering::Relaxed);
    }
    before
}

/// The user thread that runs on this CPU, or ran last; 0 for none.
pub fn current() -> u32 {
    cpu::local().tracing.stamp.current.load(Ordering::Relaxed)
}

/// Records an event of the current thread that concerns no space and no fault.
#[inline(always)]
pub fn record(kind: Kind, a: u64, b: u64) {
    emit(kind, 0, 0, a, b);
}

/// Records an event of another thread.
#[inline(always)]
pub fn record_for(task: u32, kind: Kind, a: u64, b: u64) {
    if is_on(kind) {
        push_for(kind, task, a, b);
    }
}

/// Records an event of the current thread.
#[inline(always)]
pub fn emit(kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
    if is_on(kind) {
        // A site that is off is a test and a branch that is not taken.
        cold_path();
        ring::push_here(kind, space, fault, a, b);
    }
}

/// Records that a space is entered with nothing to flush, if another thread than before enters it. That a thread comes
/// back to what it has left would be said after each of its faults and calls; the samples count that too.
#[inline(always)]
pub fn emit_skip(space: u64, generation: u64) {
    let switched = &cpu::local().tracing.switched;
    if is_on(Kind::TlbSkip) && switched.load(Ordering::Relaxed) {
        switched.store(false, Ordering::Relaxed);
        push(Kind::TlbSkip, space, 0, generation, 0);
    }
}

/// Records an event of the current thread, of which [`is_on`] has said that it is to be recorded.
#[inline(always)]
pub fn push(kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
    cold_path();
    ring::push_here(kind, space, fault, a, b);
}

/// Records what the executor says about a task. In line, so that an event that is not recorded is nothing.
#[inline(always)]
pub fn task_event(event: TaskEvent) {
    match event {
        TaskEvent::Spawned { task, class, .. } => {
            ring::push_here(Kind::TaskSpawn, 0, 0, u64::from(task.index()), class as u64);
        }
        // Whoever queues a fault wakes the service, and whoever has served one wakes its waiter: the event before says so.
        TaskEvent::Woken { task } if !ring::last_is([Kind::FaultQueue, Kind::FaultWake]) => {
            ring::push_here(Kind::TaskWake, 0, 0, u64::from(task.index()), 0);
        }
        _ => {}
    }
}

/// Records that a process runs the program of this name.
pub fn name(task: u32, name: &[u8]) {
    let mut word = [0; 16];
    let length = name.len().min(word.len());
    word[..length].copy_from_slice(&name[..length]);
    let value = u128::from_le_bytes(word);
    record_for(task, Kind::TaskName, value as u64, (value >> 64) as u64);
}

#[cold]
#[inline(never)]
fn push_for(kind: Kind, task: u32, a: u64, b: u64) {
    if !ring::push(kind, task, 0, 0, a, b) && make_room() {
        ring::push(kind, task, 0, 0, a, b);
    }
}

/// The ring's block is full, or there is none: makes room. Returns whether there is room now.
#[cold]
fn make_room() -> bool {
    match SINK.load(Ordering::Relaxed) {
        sink if sink == TraceMode::Text as u8 => {
            text::write_out();
            true
        }
        sink if sink == TraceMode::Binary as u8 => stream::exchange(),
        _ => false,
    }
}

/// How long an event waits at the most before it is on its way, in nanoseconds, as text and in a binary trace.
const TEXT_AGE: u64 = 10_000_000;
const BINARY_AGE: u64 = 20_000_000;

/// How long this CPU's oldest event has waited, in nanoseconds; 0 if there is none.
fn age() -> u64 {
    clock::to_nanoseconds(ring::first_time().map_or(0, |first| clock::counter().wrapping_sub(first)))
}

/// Between two turns of the executor: writes text out if the CPU has nothing else to do, or if the first event has waited
/// for long enough. A binary trace is looked after by the [`pump`] on its CPU, and here on the others.
#[inline]
pub fn drain_between_turns(idle: bool) {
    let sink = SINK.load(Ordering::Relaxed);
    if sink == TraceMode::Text as u8 {
        if idle || age() > TEXT_AGE {
            text::write_out();
        }
    } else if sink == TraceMode::Binary as u8 && cpu::index() > 0 && age() > BINARY_AGE {
        stream::flush();
    }
}

/// When this CPU has to look after its events although it has nothing to do, on the clock of [`clock::now`].
pub fn drain_by() -> Option<u64> {
    let waits =
        SINK.load(Ordering::Relaxed) == TraceMode::Binary as u8 && cpu::index() > 0 && ring::first_time().is_some();
    waits.then(|| clock::now() + BINARY_AGE)
}

/// At the end of a run, when the other CPUs stand still: sends everything, and stops recording.
pub fn finish() {
    if SINK.load(Ordering::Relaxed) == TraceMode::Binary as u8 {
        pump::sample();
    }
    ON.store(0, Ordering::Relaxed);
    match SINK.swap(TraceMode::Off as u8, Ordering::Relaxed) {
        sink if sink == TraceMode::Text as u8 => text::write_out_all(),
        sink if sink == TraceMode::Binary as u8 => stream::finish(),
        _ => {}
    }
}

/// At a panic: sends everything that was recorded, whoever holds what.
///
/// # Safety
/// The kernel is about to end, and no other code runs again.
pub unsafe fn last_words() {
    ON.store(0, Ordering::Relaxed);
    match SINK.swap(TraceMode::Off as u8, Ordering::Relaxed) {
        sink if sink == TraceMode::Text as u8 => text::write_out_all(),
        // SAFETY: the caller's promise.
        sink if sink == TraceMode::Binary as u8 => unsafe { stream::last_words() },
        _ => {}
    }
}
