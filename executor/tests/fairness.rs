//! Nobody starves: self-waking tasks, storms, timers, and low work that high work waits for.
#![cfg(not(loom))]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use common::{Steps, TestExecutor, executor, run, with};
use faultline_executor::{Class, Shares, yield_now};

/// A task that is always runnable, until the flag is set; it counts its polls and lets `cost` nanoseconds pass in each.
fn busy(executor: TestExecutor, class: Class, cost: u64, stop: &Arc<AtomicBool>) -> Arc<AtomicU64> {
    let polls = Arc::new(AtomicU64::new(0));
    let (count, stop) = (polls.clone(), stop.clone());
    executor
        .spawn("busy", class, async move {
            while !stop.load(Relaxed) {
                count.fetch_add(1, Relaxed);
                executor.hooks().advance(cost);
                yield_now().await;
            }
        })
        .unwrap()
        .detach();
    polls
}

#[test]
fn a_self_waking_task_does_not_hold_the_turn() {
    let (executor, stop) = (executor(), Arc::default());
    let polls = busy(executor, Class::FaultService, 0, &stop);
    let turn = executor.turn(0);
    assert_eq!((turn.polls, turn.idle, polls.load(Relaxed)), (64, false, 64));
    assert!(executor.has_work(0));
    stop.store(true, Relaxed);
    run(executor);
}

#[test]
fn every_class_gets_its_share_while_all_others_storm() {
    let shares = Shares::new(8, 4, 2, 1);
    let (executor, stop) = (with(|config| config.shares = shares), Arc::default());
    let polls = Class::ALL.map(|class| [0; 3].map(|_| busy(executor, class, 0, &stop)));
    for _ in 0..12 {
        let turn = executor.turn(0);
        assert_eq!((turn.polls, turn.idle), (shares.budget(), false));
    }
    let polls = polls.map(|class| class.map(|task| task.load(Relaxed)));
    // First-in first-out inside a class: its tasks share what it gets equally. Users share time, and none passes here.
    assert_eq!(polls, [[32, 32, 32], [16, 16, 16], [24, 0, 0], [4, 4, 4]]);
    stop.store(true, Relaxed);
    run(executor);
}

#[test]
fn a_share_of_zero_still_counts_as_one() {
    let (executor, stop) = (with(|config| config.shares = Shares::new(1, 0, 0, 0)), Arc::default());
    let service = busy(executor, Class::FaultService, 0, &stop);
    let idle = busy(executor, Class::Idle, 0, &stop);
    let _ = executor.turn(0);
    assert_eq!((service.load(Relaxed), idle.load(Relaxed)), (1, 1));
    stop.store(true, Relaxed);
    run(executor);
}

#[test]
fn a_one_millisecond_timer_is_on_time_in_a_fault_storm() {
    const MILLISECOND: u64 = 1_000_000;
    const POLL: u64 = 1_000;
    let (executor, stop) = (executor(), Arc::default());
    // Storms in both classes: each poll takes a microsecond.
    let (tasks, ticks) = if cfg!(miri) { (4, 1) } else { (100, 50) };
    for _ in 0..tasks {
        busy(executor, Class::FaultService, POLL, &stop);
        busy(executor, Class::User, POLL, &stop);
    }
    let late = Arc::new(AtomicU64::new(0));
    let (worst, timers) = (late.clone(), executor.timers());
    let ticks = executor
        .spawn("ticks", Class::Device, async move {
            let start = timers.now();
            for tick in 1..=ticks {
                let deadline = start + tick * MILLISECOND;
                timers.sleep_until(deadline).await;
                worst.fetch_max(timers.now() - deadline, Relaxed);
            }
        })
        .unwrap();
    while !ticks.is_finished() {
        let _ = executor.turn(0);
    }
    // One turn to see the timer, and the higher class's share of the next one before the task is polled.
    let bound = u64::from(executor.config().shares.budget()) + 64;
    assert!(late.load(Relaxed) <= bound * POLL, "{} ns late", late.load(Relaxed));
    stop.store(true, Relaxed);
    run(executor);
}

#[test]
fn idle_work_that_the_service_awaits_is_not_starved_by_users() {
    let (executor, stop, steps) = (executor(), Arc::default(), Steps::default());
    busy(executor, Class::User, 0, &stop);
    let zeroing = executor
        .spawn("zeroing", Class::Idle, async {
            for _ in 0..50 {
                yield_now().await;
            }
        })
        .unwrap();
    let log = steps.clone();
    executor
        .spawn("service", Class::FaultService, async move {
            zeroing.await.unwrap();
            log.push("served");
        })
        .unwrap()
        .detach();
    // At its own class the work needs 51 turns; lent the service's class, it is done within the first.
    let _ = executor.turn(0);
    assert_eq!(steps.take(), ["served"]);
    stop.store(true, Relaxed);
    run(executor);
}

#[test]
fn a_hundred_thousand_tasks_are_polled_in_order_in_bounded_turns() {
    let tasks = if cfg!(miri) { 500 } else { 100_000 };
    let executor = with(|config| config.capacity = tasks);
    let order = Arc::new(AtomicU64::new(0));
    for index in 0..u64::from(tasks) {
        let order = order.clone();
        let task = async move { assert_eq!(order.fetch_add(1, Relaxed), index) };
        executor.spawn("task", Class::User, task).unwrap().detach();
    }
    println!("{} bytes per task", executor.bytes_per_task());
    assert!(executor.bytes_per_task() <= 256);
    assert_eq!(executor.live_tasks() as u32, tasks);
    let mut turns = 0;
    while !executor.turn(0).idle {
        turns += 1;
    }
    assert_eq!(turns, (tasks - 1) / 32);
    assert_eq!(executor.live_tasks(), 0);
}
