//! The text trace: events into a ring, and the ring to the log port.
//!
//! An event costs one test while its category is off. While it is on, the event goes into a ring of the CPU. The ring is
//! written out, one line per event, between two turns of the executor when the CPU is idle or an event has waited for
//! 10 ms, and whenever it is full: lines are complete and in order, and nothing is ever dropped. So the slow serial port
//! seldom stands between the steps of one fault, and a machine that is stopped from outside has said all but its last.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::vec::Vec;
use faultline_executor::TaskEvent;
use faultline_trace::{Category, Event, Kind};
use spin::Mutex;

use crate::arch::clock;
use crate::console::{self, Channel};

/// Events that are kept before they are written out.
const RING: usize = 512;

/// The categories that are on.
static ON: AtomicU32 = AtomicU32::new(0);

/// The user thread that runs, or ran last; 0 for none.
static CURRENT: AtomicU32 = AtomicU32::new(0);

static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

/// Switches categories on.
pub fn start(categories: Category) {
    EVENTS.lock().reserve_exact(RING);
    ON.store(categories.bits(), Ordering::Relaxed);
}

/// Whether events of this kind are recorded.
#[inline(always)]
#[must_use]
pub fn is_on(kind: Kind) -> bool {
    ON.load(Ordering::Relaxed) & kind.category().bits() != 0
}

/// Says which thread runs; returns the one before.
#[inline(always)]
pub fn set_current(tid: u32) -> u32 {
    let before = CURRENT.load(Ordering::Relaxed);
    if before != tid {
        CURRENT.store(tid, Ordering::Relaxed);
    }
    before
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
        push(kind, task, 0, 0, a, b);
    }
}

/// Records an event of the current thread.
#[inline(always)]
pub fn emit(kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
    if is_on(kind) {
        push(kind, CURRENT.load(Ordering::Relaxed), space, fault, a, b);
    }
}

/// Records what the executor says about a task.
#[cold]
pub fn task_event(event: TaskEvent) {
    match event {
        TaskEvent::Spawned { task, class, .. } => record(Kind::TaskSpawn, u64::from(task.index()), class as u64),
        TaskEvent::Woken { task } => record(Kind::TaskWake, u64::from(task.index()), 0),
        _ => {}
    }
}

#[cold]
#[inline(never)]
fn push(kind: Kind, task: u32, space: u64, fault: u64, a: u64, b: u64) {
    let event = Event {
        time: clock::counter(),
        kind,
        cpu: 0,
        task,
        space,
        fault,
        a,
        b,
    };
    let mut events = EVENTS.lock();
    if events.len() >= RING {
        write_out(&mut events);
    }
    events.push(event);
}

/// Writes out what was recorded.
#[inline]
pub fn drain() {
    if ON.load(Ordering::Relaxed) != 0 {
        write_out(&mut EVENTS.lock());
    }
}

/// Between two turns of the executor: writes out what was recorded if the CPU has nothing else to do, or if the first
/// of it has waited for long enough.
#[inline]
pub fn drain_between_turns(idle: bool) {
    if ON.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut events = EVENTS.lock();
    let age = events
        .first()
        .map_or(0, |event| clock::counter().wrapping_sub(event.time));
    if idle || age > clock::counter_hz() / 100 {
        write_out(&mut events);
    }
}

fn write_out(events: &mut Vec<Event>) {
    for event in events.drain(..) {
        console::print(Channel::Log, format_args!("{event}\n"));
    }
}
