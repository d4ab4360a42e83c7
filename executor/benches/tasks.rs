//! What spawning, waking and polling cost on the host, in time: `cargo bench -p faultline-executor`.
//!
//! The same steps in instructions: the example `cost` on the host, and `cargo run -- executor` in the kernel.

use std::future::{pending, poll_fn};
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faultline_executor::{Class, Config, Executor, Hooks};

/// Tasks that one turn polls: the share of the user class.
const BATCH: u64 = 32;

/// A machine without a clock.
struct Machine;

impl Hooks for Machine {
    fn now(&self) -> u64 {
        0
    }
}

fn executor(tasks: u32) -> &'static Executor<Machine> {
    let config = Config {
        capacity: tasks + 64,
        reserve: tasks + 64,
        ..Config::default()
    };
    Executor::new(config, Machine)
}

/// Spawns a task that never ends, polls it once, and returns its waker.
fn waiting(executor: &'static Executor<Machine>) -> Waker {
    let place = Arc::new(Mutex::new(None));
    let slot = place.clone();
    let future = poll_fn(move |cx| {
        slot.lock().unwrap().get_or_insert_with(|| cx.waker().clone());
        Poll::<()>::Pending
    });
    executor.spawn_detached("waiting", Class::User, future).unwrap();
    let _ = executor.turn(0);
    let waker = place.lock().unwrap().take();
    waker.expect("the task was polled")
}

fn spawn(criterion: &mut Criterion) {
    let executor = executor(64);
    let mut group = criterion.benchmark_group("32 a turn");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("spawn, first poll and finish of a ready future", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                executor.spawn_detached("ready", Class::User, async {}).unwrap();
            }
            black_box(executor.turn(0))
        });
    });
    group.bench_function("the same with a join handle that takes the output", |bencher| {
        bencher.iter(|| {
            let handles: [_; BATCH as usize] =
                std::array::from_fn(|index| executor.spawn("ready", Class::User, async move { index }).unwrap());
            let turn = executor.turn(0);
            for handle in handles {
                assert!(black_box(handle.try_join()).is_ok());
            }
            turn
        });
    });
    group.finish();
}

fn wake(criterion: &mut Criterion) {
    let executor = executor(64);
    let waking = poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    executor.spawn_detached("waking", Class::User, waking).unwrap();
    let mut group = criterion.benchmark_group("32 a turn");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("wake and poll of a task that wakes itself", |bencher| {
        bencher.iter(|| black_box(executor.turn(0)));
    });
    group.finish();
}

fn wake_among(criterion: &mut Criterion) {
    for tasks in [10, 100_000] {
        let executor = executor(tasks);
        for _ in 1..tasks {
            executor.spawn_detached("other", Class::User, pending::<()>()).unwrap();
        }
        while !executor.turn(0).idle {}
        let waker = waiting(executor);
        criterion.bench_function(&format!("wake and turn, {tasks} tasks alive"), |bencher| {
            bencher.iter(|| {
                waker.wake_by_ref();
                black_box(executor.turn(0))
            });
        });
    }
}

fn timers(criterion: &mut Criterion) {
    let executor = executor(10_000);
    for deadline in 1..=10_000u64 {
        let sleep = executor.timers().sleep_until(u64::MAX - deadline);
        executor.spawn_detached("sleeping", Class::User, sleep).unwrap();
    }
    while !executor.turn(0).idle {}
    criterion.bench_function("start and stop a timer among 10,000", |bencher| {
        bencher.iter(|| {
            let sleep = executor.timers().sleep_until(u64::MAX / 2);
            let handle = executor.spawn("sleeping", Class::User, sleep).unwrap();
            let _ = executor.turn(0);
            handle.cancel();
            black_box(executor.turn(0))
        });
    });
}

criterion_group!(benches, spawn, wake, wake_among, timers);
criterion_main!(benches);
