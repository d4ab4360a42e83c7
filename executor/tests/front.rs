//! What goes before the tasks that wait in a queue: tasks that are handed back, and tasks whose timer is due.
#![cfg(not(loom))]

mod common;

use std::sync::{Arc, Mutex};
use std::task::Waker;

use common::{Steps, TestExecutor, executor, own_waker, park, run, sleeper};
use faultline_executor::Class;

type Mail = Arc<Mutex<Vec<Waker>>>;

/// A service that hands back, one a poll, whoever left a waker in the mail; and its own waker.
fn service(executor: TestExecutor, mail: &Mail) -> Waker {
    let own = Arc::new(Mutex::new(None));
    let (mail, slot) = (mail.clone(), own.clone());
    executor
        .spawn("service", Class::FaultService, async move {
            *slot.lock().unwrap() = Some(own_waker().await);
            loop {
                park().await;
                let next = mail.lock().unwrap().pop();
                if let Some(waker) = next {
                    executor.wake_next(waker);
                }
            }
        })
        .unwrap()
        .detach();
    run(executor);
    let waker = own.lock().unwrap().take();
    waker.unwrap()
}

/// Spawns a task that leaves its waker in the mail `rounds` times, and awaits to be woken.
fn faulting(executor: TestExecutor, name: &'static str, rounds: usize, steps: &Steps, mail: &Mail, service: &Waker) {
    let (steps, mail, service) = (steps.clone(), mail.clone(), service.clone());
    executor
        .spawn(name, Class::User, async move {
            for round in 0..rounds {
                steps.push(format!("{name}{round}"));
                let waker = own_waker().await;
                mail.lock().unwrap().push(waker);
                service.wake_by_ref();
                park().await;
            }
        })
        .unwrap()
        .detach();
}

#[test]
fn a_task_that_is_handed_back_goes_on_before_the_others_of_its_class() {
    let (executor, steps, mail) = (executor(), Steps::default(), Mail::default());
    let service = service(executor, &mail);
    faulting(executor, "a", 3, &steps, &mail, &service);
    faulting(executor, "b", 2, &steps, &mail, &service);
    run(executor);
    assert_eq!(steps.take(), ["a0", "a1", "a2", "b0", "b1"]);
    assert_eq!(executor.live_tasks(), 1);
}

#[test]
fn a_hand_back_from_outside_a_poll_and_one_of_a_foreign_waker_are_ordinary_wakes() {
    let (executor, steps) = (executor(), Steps::default());
    let waker = Arc::new(Mutex::new(None));
    let (slot, log) = (waker.clone(), steps.clone());
    executor
        .spawn("task", Class::User, async move {
            *slot.lock().unwrap() = Some(own_waker().await);
            park().await;
            log.push("woken");
        })
        .unwrap()
        .detach();
    run(executor);
    let waker = waker.lock().unwrap().take().unwrap();
    executor.wake_next(Waker::noop().clone());
    executor.wake_next(waker.clone());
    executor.wake_next(waker);
    run(executor);
    assert_eq!(steps.take(), ["woken"]);
}

#[test]
fn tasks_whose_timers_are_due_go_first_in_the_order_of_their_deadlines() {
    let (executor, steps) = (executor(), Steps::default());
    for (name, deadline) in [("late", 30), ("early", 10), ("middle", 20)] {
        sleeper(executor, &steps, name, deadline);
    }
    run(executor);
    let log = steps.clone();
    executor
        .spawn("ready", Class::User, async move { log.push("ready") })
        .unwrap()
        .detach();
    executor.hooks().advance(100);
    run(executor);
    assert_eq!(steps.take(), ["early", "middle", "late", "ready"]);
}

#[test]
fn a_task_that_is_handed_back_stays_behind_those_whose_timers_are_due() {
    let (executor, steps, mail) = (executor(), Steps::default(), Mail::default());
    let service = service(executor, &mail);
    for name in ["x", "y"] {
        sleeper(executor, &steps, name, 10);
    }
    run(executor);
    let log = steps.clone();
    executor
        .spawn("a", Class::User, async move {
            log.push("a0");
            let waker = own_waker().await;
            mail.lock().unwrap().push(waker);
            service.wake_by_ref();
            // The turn ends with the fault in flight, and the timers are due when the next begins.
            executor.end_turn_soon();
            executor.hooks().advance(100);
            park().await;
            log.push("a1");
        })
        .unwrap()
        .detach();
    run(executor);
    assert_eq!(steps.take(), ["a0", "x", "y", "a1"]);
}

#[test]
fn a_turn_that_is_to_end_soon_ends_after_the_poll_and_counts_what_it_polled() {
    let (executor, steps) = (executor(), Steps::default());
    executor.end_turn_soon();
    for name in ["a", "b"] {
        let log = steps.clone();
        executor
            .spawn(name, Class::User, async move {
                log.push(name);
                executor.end_turn_soon();
            })
            .unwrap()
            .detach();
    }
    let turn = executor.turn(0);
    assert_eq!((turn.polls, turn.idle), (1, false));
    assert_eq!(steps.take(), ["a"]);
    run(executor);
    assert_eq!(steps.take(), ["b"]);
    assert_eq!(executor.statistics(0).polls, [0, 0, 2, 0]);
}
