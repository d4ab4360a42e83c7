//! The seam to the machine: several CPUs, notifications, stalls, traces and statistics.
#![cfg(not(loom))]

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use common::{Steps, own_waker, park, run, with};
use faultline_executor::{Class, Config, Executor, Hooks, TaskEvent, TaskId, yield_now};

#[test]
fn a_task_runs_on_its_cpu_and_a_sleeping_cpu_is_notified_once() {
    let executor = with(|config| config.cpus = 2);
    let machine = executor.hooks();
    let waker = Arc::new(Mutex::new(None));
    let give = waker.clone();
    let handle = executor
        .spawn_on(1, "remote", Class::User, async move {
            *give.lock().unwrap() = Some(own_waker().await);
            park().await;
            executor.hooks().cpu()
        })
        .unwrap();
    // CPU 1 has never been idle, so nobody tells it.
    assert_eq!(*machine.notified.lock().unwrap(), Vec::<usize>::new());
    assert_eq!(executor.turn(0).polls, 0);
    machine.cpu.store(1, Relaxed);
    assert!(executor.has_work(1));
    assert!(executor.turn(1).idle);
    machine.cpu.store(0, Relaxed);
    let waker = waker.lock().unwrap().take().unwrap();
    waker.wake_by_ref();
    waker.wake_by_ref();
    assert_eq!(std::mem::take(&mut *machine.notified.lock().unwrap()), [1]);
    assert!(executor.has_work(1) && !executor.has_work(0));
    machine.cpu.store(1, Relaxed);
    assert_eq!(executor.turn(1).polls, 1);
    assert_eq!(handle.try_join().unwrap(), Ok(1));
    // The CPU's own interrupt handler needs no notification.
    let handle = executor.spawn_on(1, "local", Class::User, async {}).unwrap();
    assert_eq!(*machine.notified.lock().unwrap(), Vec::<usize>::new());
    assert!(executor.turn(1).idle);
    handle.detach();
}

#[test]
fn real_threads_wake_spawn_and_join_across_cpus() {
    let (cpus, rounds) = (2, if cfg!(miri) { 20 } else { 1_000 });
    let executor = Executor::new(
        Config {
            cpus,
            capacity: 64,
            reserve: 0,
            ..Config::default()
        },
        Threads,
    );
    let work = move |cpu: usize| {
        CPU.set(cpu);
        let other = (cpu + 1) % cpus;
        let handle = executor
            .spawn("pinger", Class::User, async move {
                let mut sum = 0;
                for round in 0..rounds {
                    let remote = executor.spawn_on(other, "ponger", Class::Device, async move {
                        yield_now().await;
                        round
                    });
                    sum += remote.unwrap().await.unwrap();
                }
                sum
            })
            .unwrap();
        while !handle.is_finished() {
            let _ = executor.turn(cpu);
            std::thread::yield_now();
        }
        assert_eq!(handle.try_join().unwrap(), Ok(rounds * (rounds - 1) / 2));
        DONE.fetch_add(1, Relaxed);
        while DONE.load(Relaxed) != cpus {
            let _ = executor.turn(cpu);
            std::thread::yield_now();
        }
    };
    static DONE: AtomicUsize = AtomicUsize::new(0);
    std::thread::scope(|scope| (0..cpus).for_each(|cpu| drop(scope.spawn(move || work(cpu)))));
    assert_eq!(executor.live_tasks(), 0);
}

thread_local! {
    static CPU: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Threads are CPUs.
struct Threads;

impl Hooks for Threads {
    fn now(&self) -> u64 {
        0
    }

    fn cpu(&self) -> usize {
        CPU.get()
    }
}

#[test]
fn an_idle_cpu_is_given_a_task_that_waits_elsewhere() {
    let executor = with(|config| {
        config.cpus = 3;
        config.balance = true;
    });
    let machine = executor.hooks();
    let where_it_runs = |place: &Arc<Mutex<Vec<usize>>>| {
        let place = place.clone();
        async move {
            for _ in 0..4 {
                place.lock().unwrap().push(executor.hooks().cpu());
                yield_now().await;
            }
        }
    };
    // CPUs 1 and 2 have nothing to do.
    for cpu in [1, 2] {
        machine.cpu.store(cpu, Relaxed);
        assert!(executor.turn(cpu).idle);
    }
    machine.cpu.store(0, Relaxed);
    let places: Vec<Arc<Mutex<Vec<usize>>>> = (0..3).map(|_| Arc::default()).collect();
    for place in &places {
        executor
            .spawn("worker", Class::User, where_it_runs(place))
            .unwrap()
            .detach();
    }
    // A service stays, however idle the others are.
    let service = Arc::default();
    executor
        .spawn("service", Class::Device, where_it_runs(&service))
        .unwrap()
        .detach();
    let _ = executor.turn(0);
    let mut notified = std::mem::take(&mut *machine.notified.lock().unwrap());
    notified.sort_unstable();
    assert_eq!(notified, [1, 2], "each was given one");
    for cpu in [1, 2, 0] {
        machine.cpu.store(cpu, Relaxed);
        while !executor.turn(cpu).idle {}
    }
    let mut homes: Vec<_> = places.iter().map(|place| place.lock().unwrap().clone()).collect();
    homes.sort();
    assert_eq!(homes, [[0; 4], [1; 4], [2; 4]]);
    assert_eq!(*service.lock().unwrap(), [0; 4]);
    assert_eq!(executor.live_tasks(), 0);
}

#[test]
fn a_poll_over_the_limit_is_reported_with_the_name_of_its_task() {
    let executor = with(|config| config.stall = 100);
    let take = |time| async move {
        executor.hooks().advance(time);
    };
    executor.spawn("quick", Class::User, take(100)).unwrap().detach();
    let slow = executor.spawn("slow", Class::User, take(101)).unwrap();
    executor.spawn("slower", Class::Idle, take(500)).unwrap().detach();
    run(executor);
    // Time between two turns is no poll's.
    executor.hooks().advance(1_000);
    executor
        .spawn("after the rest", Class::User, take(50))
        .unwrap()
        .detach();
    run(executor);
    let stalls = executor.hooks().stalls.lock().unwrap().clone();
    assert_eq!(stalls.len(), 2);
    assert_eq!(stalls[0], (slow.id(), "slow", 101));
    assert_eq!((stalls[1].1, stalls[1].2), ("slower", 500));
    let statistics = executor.statistics(0);
    assert_eq!((statistics.longest_poll, statistics.stalls), (500, 2));
}

#[test]
fn what_is_discounted_is_no_part_of_a_poll() {
    let executor = with(|_| {});
    let take = |time: u64, discounted: u32| async move {
        executor.hooks().advance(time);
        executor.discount(discounted);
    };
    for (name, time, discounted) in [
        ("long", 1_000, 0),
        ("in user mode", 5_000, 4_990),
        ("longer", 3_000, 1_500),
    ] {
        executor
            .spawn(name, Class::User, take(time, discounted))
            .unwrap()
            .detach();
    }
    run(executor);
    assert_eq!(
        *executor.hooks().longest.lock().unwrap(),
        [("long", 1_000), ("longer", 1_500)]
    );
    assert_eq!(executor.statistics(0).longest_poll, 1_500);
}

#[test]
fn a_cancelled_task_that_is_slow_to_clean_up_stalls_under_its_name() {
    struct Slow(common::TestExecutor);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.hooks().advance(200);
        }
    }
    let executor = with(|config| config.stall = 100);
    let guard = Slow(executor);
    let handle = executor
        .spawn("cleaner", Class::User, async move {
            let _guard = guard;
            park().await;
        })
        .unwrap();
    run(executor);
    handle.cancel();
    run(executor);
    assert_eq!(
        *executor.hooks().stalls.lock().unwrap(),
        [(handle.id(), "cleaner", 200)]
    );
}

#[test]
fn statistics_count_turns_polls_and_timers() {
    let executor = with(|_| {});
    executor.spawn("user", Class::User, yield_now()).unwrap().detach();
    executor
        .spawn("device", Class::Device, executor.timers().sleep(5))
        .unwrap()
        .detach();
    run(executor);
    executor.hooks().advance(5);
    assert_eq!(executor.advance_timers(5), 1);
    assert_eq!(executor.advance_timers(5), 0);
    run(executor);
    run(executor);
    let statistics = executor.statistics(0);
    assert_eq!((statistics.turns, statistics.idle_turns), (3, 3));
    assert_eq!((statistics.polls, statistics.timers_fired), ([0, 2, 2, 0], 1));
}

/// A machine that traces.
#[derive(Default)]
struct Traced(Steps, AtomicU64);

impl Hooks for Traced {
    fn now(&self) -> u64 {
        0
    }

    fn tracing(&self) -> bool {
        self.1.load(Relaxed) != 0
    }

    fn trace(&self, event: TaskEvent) {
        self.0.push(match event {
            TaskEvent::Spawned { task, name, class } => format!("spawn {task} {name} {}", class.name()),
            TaskEvent::Woken { task } => format!("wake {task}"),
            TaskEvent::Polled { task } => format!("poll {task}"),
            TaskEvent::Finished { task } => format!("finish {task}"),
            TaskEvent::Cancelled { task } => format!("cancel {task}"),
        });
    }
}

#[test]
fn the_trace_has_every_step_of_a_task_when_it_is_on() {
    let executor = Executor::new(
        Config {
            reserve: 0,
            ..Config::default()
        },
        Traced::default(),
    );
    executor.spawn("silent", Class::User, async {}).unwrap().detach();
    while !executor.turn(0).idle {}
    executor.hooks().1.store(1, Relaxed);
    let handle = executor.spawn("a", Class::User, yield_now()).unwrap();
    let cancelled = executor.spawn("b", Class::User, std::future::pending::<()>()).unwrap();
    while !executor.turn(0).idle {}
    cancelled.cancel();
    cancelled.cancel();
    while !executor.turn(0).idle {}
    let (a, b) = (handle.id(), cancelled.id());
    assert_eq!(
        executor.hooks().0.take(),
        [
            format!("spawn {a} a user"),
            format!("spawn {b} b user"),
            format!("poll {a}"),
            format!("wake {a}"),
            format!("poll {a}"),
            format!("finish {a}"),
            format!("poll {b}"),
            format!("wake {b}"),
            format!("poll {b}"),
            format!("cancel {b}"),
        ]
    );
    assert_eq!(TaskId::from_u64(a.as_u64()), a);
}
