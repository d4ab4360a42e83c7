//! Inheritance of classes, and the wait-for graph.
#![cfg(not(loom))]

mod common;

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use common::{Steps, TestExecutor, executor, own_waker, park, run, with};
use faultline_executor::{Class, Event, JoinHandle, Shares, TaskId, yield_now};

/// Spawns a task that yields that often and says when it ends.
fn work(executor: TestExecutor, steps: &Steps, name: &'static str, class: Class, yields: usize) -> JoinHandle<()> {
    let log = steps.clone();
    executor
        .spawn(name, class, async move {
            for _ in 0..yields {
                yield_now().await;
            }
            log.push(name);
        })
        .unwrap()
}

fn graph(executor: TestExecutor) -> Vec<String> {
    executor.waits().to_string().lines().map(String::from).collect()
}

#[test]
fn work_that_a_higher_task_awaits_runs_at_the_class_of_the_waiter() {
    let (executor, steps) = (executor(), Steps::default());
    let awaited = work(executor, &steps, "awaited", Class::Idle, 3);
    work(executor, &steps, "user", Class::User, 2).detach();
    let log = steps.clone();
    executor
        .spawn("service", Class::FaultService, async move {
            log.push("service waits");
            awaited.await.unwrap();
            log.push("service goes on");
        })
        .unwrap()
        .detach();
    run(executor);
    assert_eq!(steps.take(), ["service waits", "awaited", "service goes on", "user"]);
    // One poll of the service before the wait and one after, one of the mover, four of the awaited task.
    assert_eq!(executor.statistics(0).polls, [7, 0, 3, 0]);
}

#[test]
fn a_class_is_taken_back_when_the_wait_ends() {
    let (executor, steps) = (
        with(|config| config.shares = Shares::new(64, 64, 64, 64)),
        Steps::default(),
    );
    let (log, shared) = (steps.clone(), Arc::new(Mutex::new(None)));
    let give = shared.clone();
    let awaited = executor
        .spawn("awaited", Class::Idle, async move {
            *give.lock().unwrap() = Some(own_waker().await);
            for round in 0..3 {
                park().await;
                log.push(format!("awaited {round}"));
            }
        })
        .unwrap();
    run(executor);
    let waker = shared.lock().unwrap().clone().unwrap();
    let waiter = executor.spawn("waiter", Class::Device, awaited).unwrap();
    run(executor);
    let user = |name| work(executor, &steps, name, Class::User, 0).detach();
    user("user 0");
    waker.wake_by_ref();
    run(executor);
    assert_eq!(steps.take(), ["awaited 0", "user 0"]);
    waiter.cancel();
    run(executor);
    user("user 1");
    waker.wake_by_ref();
    run(executor);
    assert_eq!(steps.take(), ["user 1", "awaited 1"]);
    assert_eq!(graph(executor), Vec::<String>::new());
}

#[test]
fn what_a_task_borrows_it_lends_on() {
    let (executor, steps) = (executor(), Steps::default());
    let last = work(executor, &steps, "last", Class::Idle, 1);
    let log = steps.clone();
    let middle = executor
        .spawn("middle", Class::User, async move {
            last.await.unwrap();
            log.push("middle");
        })
        .unwrap();
    run_until_waiting(executor, 1);
    work(executor, &steps, "user", Class::User, 0).detach();
    executor.spawn("first", Class::FaultService, middle).unwrap().detach();
    run(executor);
    assert_eq!(steps.take(), ["last", "middle", "user"]);
}

/// Turns until that many waits are declared, but no further than needed.
fn run_until_waiting(executor: TestExecutor, waits: usize) {
    for _ in 0..3 {
        let mut count = 0;
        assert!(executor.waits().for_each(|_| count += 1));
        if count >= waits {
            return;
        }
        let _ = executor.turn(0);
    }
}

#[test]
fn the_holder_of_a_resource_runs_at_the_class_of_its_waiters_until_it_lets_go() {
    let (executor, steps) = (executor(), Steps::default());
    let resource = executor.resource("disk");
    let (log, disk) = (steps.clone(), resource.clone());
    let free = Arc::new(Mutex::new(None));
    let (done, freed) = (free.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let release = freed.clone();
    executor
        .spawn("holder", Class::Idle, async move {
            let held = disk.hold().unwrap();
            for step in 0..3 {
                log.push(format!("holder {step}"));
                yield_now().await;
            }
            drop(held);
            release.store(true, std::sync::atomic::Ordering::Relaxed);
            if let Some(waker) = done.lock().unwrap().take() {
                std::task::Waker::wake(waker);
            }
            log.push("holder released");
            yield_now().await;
            log.push("holder ends");
        })
        .unwrap()
        .detach();
    // The holder takes the resource and yields within the first turn: idle work has a share of 1.
    let _ = executor.turn(0);
    assert_eq!(steps.take(), ["holder 0"]);
    let log = steps.clone();
    executor
        .spawn("waiter", Class::FaultService, async move {
            let wait = std::future::poll_fn(|cx| {
                if freed.load(std::sync::atomic::Ordering::Relaxed) {
                    return std::task::Poll::Ready(());
                }
                *free.lock().unwrap() = Some(cx.waker().clone());
                std::task::Poll::Pending
            });
            resource.wait(wait).await;
            log.push("waiter has it");
        })
        .unwrap()
        .detach();
    work(executor, &steps, "user", Class::User, 0).detach();
    run(executor);
    assert_eq!(
        steps.take(),
        [
            "holder 1",
            "holder 2",
            "holder released",
            "waiter has it",
            "user",
            "holder ends"
        ]
    );
}

#[test]
fn the_graph_names_waits_resources_holders_and_times() {
    let executor = executor();
    let resource = executor.resource("disk");
    let disk = resource.clone();
    let holder = executor
        .spawn("holder", Class::User, async move {
            let _held = disk.hold().unwrap();
            pending::<()>().await;
        })
        .unwrap();
    run(executor);
    executor.hooks().advance(70);
    executor
        .spawn(
            "reader",
            Class::Device,
            async move { resource.wait(pending::<()>()).await },
        )
        .unwrap()
        .detach();
    run(executor);
    executor.hooks().advance(7);
    executor.spawn("joiner", Class::User, holder).unwrap().detach();
    run(executor);
    assert_eq!(
        graph(executor),
        [
            "1.0 reader (device) waits for disk, held by 0.0 holder, since 70 ns",
            "2.0 joiner (user) waits for task 0.0 holder since 77 ns",
        ]
    );
    let mut waits = Vec::new();
    assert!(executor.waits().for_each(|wait| waits.push(wait)));
    assert_eq!(waits[1].holder, Some((TaskId::from_u64(0), "holder")));
}

#[test]
fn a_cycle_is_found_once_and_does_not_confuse_the_classes() {
    let executor = executor();
    let (a, b) = (executor.resource("a"), executor.resource("b"));
    let mut handles = Vec::new();
    for (name, first, second) in [("ab", &a, &b), ("ba", &b, &a)] {
        let (first, second) = (first.clone(), second.clone());
        let task = async move {
            let _held = first.hold().unwrap();
            yield_now().await;
            second.wait(pending::<()>()).await;
        };
        handles.push(executor.spawn(name, Class::User, task).unwrap());
    }
    run(executor);
    let service = a.clone();
    executor
        .spawn("service", Class::FaultService, async move {
            service.wait(pending::<()>()).await
        })
        .unwrap()
        .detach();
    run(executor);
    assert_eq!(
        graph(executor),
        [
            "0.0 ab (fault-service) waits for b, held by 1.0 ba, since 0 ns",
            "1.0 ba (fault-service) waits for a, held by 0.0 ab, since 0 ns",
            "2.0 service (fault-service) waits for a, held by 0.0 ab, since 0 ns",
            "cycle: 0.0 -> 1.0 -> 0.0",
        ]
    );
    let mut cycles = 0;
    assert!(executor.waits().for_each_cycle(|_| cycles += 1));
    assert_eq!(cycles, 1);
    for handle in &handles {
        handle.cancel();
    }
    run(executor);
    assert_eq!(graph(executor), ["2.0 service (fault-service) waits for a since 0 ns"]);
}

#[test]
fn a_wait_for_an_event_names_the_waiter_and_the_event() {
    let executor = executor();
    let pipe = Event {
        kind: "pipe",
        number: Some(26),
    };
    let sleep = Event {
        kind: "sleep",
        number: None,
    };
    let waits = [(pipe, 7), (sleep, 8)].map(|(event, label)| {
        let wait = executor.wait_for(event, label, pending::<()>());
        executor.spawn("user", Class::User, wait).unwrap()
    });
    run(executor);
    let mut seen = Vec::new();
    assert!(executor.waits().for_each(|wait| seen.push((wait.label, wait.event))));
    seen.sort_by_key(|&(label, _)| label);
    assert_eq!(seen, [(7, Some(pipe)), (8, Some(sleep))]);
    let text = graph(executor).join("\n");
    assert!(text.contains("user (user) waits for pipe 0x1a since "), "{text}");
    assert!(text.contains("user (user) waits for sleep since "), "{text}");
    waits.into_iter().for_each(|handle| handle.cancel());
    run(executor);
    assert_eq!(graph(executor), [""; 0]);
}
