//! Timers, step by step.
#![cfg(not(loom))]

mod common;

use common::{OnDrop, Steps, executor, run, sleeper, with};
use faultline_executor::{Class, Elapsed, yield_now};

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines_and_equal_ones_in_the_order_of_their_sleeps() {
    let (executor, steps) = (executor(), Steps::default());
    for (name, deadline) in [("30a", 30), ("10a", 10), ("20", 20), ("30b", 30), ("10b", 10), ("0", 0)] {
        sleeper(executor, &steps, name, deadline);
    }
    run(executor);
    assert_eq!(steps.take(), ["0"]);
    assert_eq!(executor.turn(0).next_deadline, Some(10));
    executor.hooks().advance(9);
    run(executor);
    assert_eq!(steps.take(), Vec::<String>::new());
    executor.hooks().advance(1);
    assert!(executor.has_work(0));
    run(executor);
    assert_eq!(steps.take(), ["10a", "10b"]);
    executor.hooks().advance(90);
    run(executor);
    assert_eq!(steps.take(), ["20", "30a", "30b"]);
    assert_eq!(executor.turn(0).next_deadline, None);
    assert_eq!(executor.statistics(0).timers_fired, 5);
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    let executor = executor();
    let handle = executor
        .spawn("sleeper", Class::User, executor.timers().sleep(5))
        .unwrap();
    run(executor);
    assert_eq!(executor.turn(0).next_deadline, Some(5));
    handle.cancel();
    run(executor);
    assert_eq!(executor.turn(0).next_deadline, None);
}

#[test]
fn timeout_gives_the_output_or_the_elapsed_error() {
    let (executor, steps) = (executor(), Steps::default());
    let timers = executor.timers();
    let quick = executor
        .spawn("quick", Class::User, timers.timeout(10, async { 1 }))
        .unwrap();
    let guard = OnDrop(steps.clone(), "the slow future is dropped");
    let slow = executor
        .spawn("slow", Class::User, async move {
            let result = timers
                .timeout(10, async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                })
                .await;
            yield_now().await;
            result
        })
        .unwrap();
    run(executor);
    assert_eq!(quick.try_join().unwrap(), Ok(Ok(1)));
    assert_eq!(steps.take(), Vec::<String>::new());
    executor.hooks().advance(10);
    run(executor);
    assert_eq!(slow.try_join().unwrap(), Ok(Err(Elapsed)));
    assert_eq!(steps.take(), ["the slow future is dropped"]);
}

#[test]
fn one_turn_fires_a_bounded_number_of_timers() {
    let executor = with(|config| config.timers_per_turn = 4);
    for _ in 0..10 {
        executor
            .spawn("sleeper", Class::User, executor.timers().sleep(1))
            .unwrap()
            .detach();
    }
    run(executor);
    executor.hooks().advance(1);
    let polls: Vec<_> = (0..3)
        .map(|_| executor.turn(0))
        .map(|turn| (turn.polls, turn.idle))
        .collect();
    assert_eq!(polls, [(4, false), (4, false), (2, true)]);
}
