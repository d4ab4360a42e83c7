//! The semaphore: turns, limits, hand-off and cancellation.
#![cfg(not(loom))]

mod common;

use std::{
    future::{Future, poll_fn},
    task::Poll,
};

use common::{Steps, TestExecutor, executor, park, run};
use faultline_executor::{AcquireError, Class, JoinHandle, Semaphore, Share, yield_now};

/// A task that takes permits, says so, keeps them for one yield and gives them back.
fn user(executor: TestExecutor, steps: &Steps, name: &'static str, share: &Share, count: usize) -> JoinHandle<()> {
    let (log, share) = (steps.clone(), share.clone());
    executor
        .spawn(name, Class::Device, async move {
            let _permit = share.acquire(count).await.unwrap();
            log.push(name);
            yield_now().await;
        })
        .unwrap()
}

#[test]
fn owners_take_turns_and_requests_of_one_owner_are_in_order() {
    let (executor, steps) = (executor(), Steps::default());
    let semaphore = Semaphore::new(1);
    let (a, b, c) = (semaphore.share(1), semaphore.share(1), semaphore.share(1));
    let wanted = [
        ("a0", &a),
        ("a1", &a),
        ("a2", &a),
        ("a3", &a),
        ("b0", &b),
        ("b1", &b),
        ("c0", &c),
    ];
    for (name, share) in wanted {
        user(executor, &steps, name, share, 1).detach();
    }
    run(executor);
    assert_eq!(steps.take(), ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]);
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_share_at_its_limit_delays_nobody() {
    let (executor, steps) = (executor(), Steps::default());
    let semaphore = Semaphore::new(3);
    let (greedy, other) = (semaphore.share(2), semaphore.share(3));
    let held = greedy.try_acquire(2).unwrap();
    user(executor, &steps, "greedy", &greedy, 1).detach();
    user(executor, &steps, "other", &other, 1).detach();
    run(executor);
    assert_eq!(steps.take(), ["other"]);
    assert_eq!((greedy.held(), other.held(), semaphore.available()), (2, 0, 1));
    drop(held);
    run(executor);
    assert_eq!(steps.take(), ["greedy"]);
    assert_eq!(semaphore.available(), 3);
}

#[test]
fn nobody_overtakes_a_large_request() {
    let (executor, steps) = (executor(), Steps::default());
    let semaphore = Semaphore::new(3);
    let (large, small) = (semaphore.share(3), semaphore.share(3));
    let held = small.try_acquire(1).unwrap();
    user(executor, &steps, "large", &large, 3).detach();
    user(executor, &steps, "small", &small, 1).detach();
    run(executor);
    assert_eq!(small.try_acquire(1).unwrap_err(), AcquireError::WouldWait);
    assert_eq!(steps.take(), Vec::<String>::new());
    drop(held);
    run(executor);
    assert_eq!(steps.take(), ["large", "small"]);
    assert_eq!(
        large.try_acquire(4).unwrap_err(),
        AcquireError::TooMany { count: 4, limit: 3 }
    );
}

#[test]
fn a_cancelled_request_leaves_the_queue_and_lets_the_next_go() {
    let (executor, steps) = (executor(), Steps::default());
    let semaphore = Semaphore::new(2);
    let share = semaphore.share(2);
    let held = share.try_acquire(1).unwrap();
    let large = user(executor, &steps, "large", &share, 2);
    user(executor, &steps, "small", &share, 1).detach();
    run(executor);
    assert_eq!(steps.take(), Vec::<String>::new());
    large.cancel();
    run(executor);
    assert_eq!(steps.take(), ["small"]);
    drop(held);
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn permits_that_were_granted_to_a_cancelled_task_go_to_the_next() {
    let (executor, steps) = (executor(), Steps::default());
    let semaphore = Semaphore::new(1);
    let share = semaphore.share(1);
    let held = share.try_acquire(1).unwrap();
    let first = user(executor, &steps, "first", &share, 1);
    user(executor, &steps, "second", &share, 1).detach();
    run(executor);
    drop(held);
    // Granted to the first, which is runnable but not polled yet.
    assert_eq!((share.held(), semaphore.available()), (1, 0));
    first.cancel();
    run(executor);
    assert_eq!(steps.take(), ["second"]);
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn permits_can_be_added_and_forgotten() {
    let (executor, steps) = (executor(), Steps::default());
    let semaphore = Semaphore::new(0);
    let share = semaphore.share(1);
    user(executor, &steps, "waiter", &share, 1).detach();
    run(executor);
    semaphore.add(1);
    run(executor);
    assert_eq!(steps.take(), ["waiter"]);
    share.try_acquire(1).unwrap().forget();
    assert_eq!((semaphore.available(), share.held()), (0, 0));
}

#[test]
fn a_waiting_future_that_is_dropped_unpolled_or_leaked_is_harmless() {
    let executor = executor();
    let semaphore = Semaphore::new(1);
    let share = semaphore.share(1);
    drop(share.acquire(1));
    let held = share.try_acquire(1).unwrap();
    let leaked = share.clone();
    executor
        .spawn("leaky", Class::User, async move {
            let mut acquire = Box::pin(leaked.acquire(1));
            assert!(poll_fn(|cx| Poll::Ready(acquire.as_mut().poll(cx).is_pending())).await);
            std::mem::forget(acquire);
            park().await;
        })
        .unwrap()
        .detach();
    run(executor);
    drop((semaphore, share));
    drop(held);
    run(executor);
}
