//! What the executor's own steps cost on this machine (`executor=TASKS`): measured on the kernel's executor, with nothing
//! else runnable, before the first program starts. Under `-icount shift=0` a tick of the counter is one instruction.
//!
//! Each figure is a sum over many rounds after as many for warming up. What reading the counter costs is taken off, so the
//! figures contain the step itself, the turn around it where the name says so, and the polled futures, which do next to
//! nothing.

#![allow(
    clippy::disallowed_types,
    reason = "it runs before the first program, or without one"
)]

use core::future::poll_fn;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use core::task::{Context, Poll, Waker};

use faultline_executor::{Class, JoinHandle, Lock};
use spin::Once;

use crate::arch::{self, clock::counter};
use crate::heap;
use crate::machine::executor;
use crate::startup::Vec;

/// Rounds of each measurement.
const ROUNDS: u64 = 64;

/// Tasks that are spawned, or polled, in one turn: what the default share of the user class lets one turn do.
const BATCH: u64 = 32;

/// The few tasks beside which the many are measured.
const FEW: u32 = 10;

/// When the measured task was last polled.
static POLLED: AtomicU64 = AtomicU64::new(0);
/// Wakers of the tasks that wait.
static WAITING: Lock<Vec<Waker>> = Lock::new(Vec::new());
/// Tasks that wait end with their next poll.
static OVER: AtomicBool = AtomicBool::new(false);

static COSTS: Once<Costs> = Once::new();

/// The figures; ticks of the counter, in hundredths.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Spawn, first poll and finish of a ready future that nobody awaits, 32 a turn.
    pub spawn: u64,
    /// Wake and poll of a task that wakes itself, 32 polls a turn.
    pub wake: u64,
    /// The two wakes and polls of a fault: a user task wakes a service and waits, the service wakes it and waits.
    pub pair: u64,
    /// A turn that finds nothing.
    pub empty_turn: u64,
    /// From the wake of one task of ten to its first instruction.
    pub latency_few: u64,
    /// The same with `tasks` alive.
    pub latency_many: u64,
    /// The many tasks, all of the user class and alive at the same time.
    pub tasks: u32,
    /// Bytes of the kernel's heap that each of them takes.
    pub bytes_per_task: u64,
}

/// The figures, if they were measured.
pub fn get() -> Option<&'static Costs> {
    COSTS.get()
}

/// Measures, with so many tasks alive at the most.
///
/// # Panics
/// If the heap has no room for the tasks, or something else becomes runnable.
pub fn measure(tasks: u32) {
    settle();
    let before = executor().live_tasks();
    COSTS.call_once(|| {
        let (spawn, wake, pair, empty_turn) = (spawn(), wake(), pair(), empty_turn());
        WAITING.lock().reserve_exact(tasks as usize);
        wait_with(FEW);
        let latency_few = latency();
        let before = heap::usage().used;
        wait_with(tasks);
        let taken = heap::usage().used - before;
        Costs {
            spawn,
            wake,
            pair,
            empty_turn,
            latency_few,
            latency_many: latency(),
            tasks,
            bytes_per_task: (taken / (tasks.max(FEW + 1) - FEW) as usize) as u64,
        }
    });
    OVER.store(true, Relaxed);
    core::mem::take(&mut *WAITING.lock()).into_iter().for_each(Waker::wake);
    settle();
    assert_eq!(executor().live_tasks(), before, "a measured task did not end");
}

/// Turns until nothing is runnable.
fn settle() {
    while !executor().turn(arch::cpu::index()).idle {}
}

/// One turn. Returns how many polls it made.
fn turn() -> u64 {
    u64::from(executor().turn(arch::cpu::index()).polls)
}

/// What `step` costs, in hundredths: it is called again and again, and returns each time how often it did what is
/// measured.
fn each(mut step: impl FnMut() -> u64) -> u64 {
    let mut sum = |rounds| {
        let began = counter();
        let count: u64 = (0..rounds).map(|_| step()).sum();
        (counter().wrapping_sub(began) - reading_the_counter(), count)
    };
    sum(ROUNDS);
    let (ticks, count) = sum(ROUNDS);
    100 * ticks / count.max(1)
}

fn reading_the_counter() -> u64 {
    let first = counter();
    counter().wrapping_sub(first)
}

fn spawn() -> u64 {
    let executor = executor();
    each(|| {
        for _ in 0..BATCH {
            let ready = executor.spawn_detached("ready", Class::User, async {});
            ready.expect("there is room for a batch");
        }
        turn();
        BATCH
    })
}

fn wake() -> u64 {
    let waking = poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    let task = executor().spawn("waking", Class::User, waking);
    let task = task.expect("there is room for a task");
    let cost = each(turn);
    task.cancel();
    settle();
    cost
}

fn pair() -> u64 {
    /// The two tasks' wakers, the service's first.
    static PAIR: [Once<Waker>; 2] = [Once::new(), Once::new()];
    let tasks = [(Class::FaultService, 0, 1), (Class::User, 1, 0)].map(|(class, own, other)| {
        let task = poll_fn(move |cx| {
            PAIR[own].call_once(|| cx.waker().clone());
            if let Some(other) = PAIR[other].get() {
                other.wake_by_ref();
            }
            Poll::<()>::Pending
        });
        let task = executor().spawn("one of two", class, task);
        task.expect("there is room for a task")
    });
    let cost = 2 * each(turn);
    tasks.iter().for_each(JoinHandle::cancel);
    settle();
    cost
}

fn empty_turn() -> u64 {
    each(|| {
        black_box(turn());
        1
    })
}

/// Spawns tasks that wait until so many do.
fn wait_with(count: u32) {
    while WAITING.lock().len() < count as usize {
        let mut waits = false;
        let waiting = poll_fn(move |cx: &mut Context<'_>| {
            POLLED.store(counter(), Relaxed);
            if !waits {
                waits = true;
                WAITING.lock().push(cx.waker().clone());
            }
            if OVER.load(Relaxed) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let task = executor().spawn("waiting", Class::User, waiting);
        task.expect("the heap has room for the tasks").detach();
        settle();
    }
}

/// How long it takes from a wake to the poll, for tasks from all over those that wait.
fn latency() -> u64 {
    let wakers = WAITING.lock();
    let mut index = 0;
    let mut latency = 0;
    for _ in 0..ROUNDS {
        index = (index + 7919) % wakers.len();
        let began = counter();
        wakers[index].wake_by_ref();
        turn();
        latency += POLLED.load(Relaxed).wrapping_sub(began) - reading_the_counter();
    }
    100 * latency / ROUNDS
}
