//! The wait queue, and the way from an interrupt handler to a task.
#![cfg(not(loom))]

mod common;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Poll,
};

use common::{Steps, TestExecutor, executor, run};
use faultline_executor::{Class, JoinHandle, WaitQueue};
use futures_util::task::AtomicWaker;

fn waiter(executor: TestExecutor, steps: &Steps, queue: &Arc<WaitQueue>, name: &'static str) -> JoinHandle<()> {
    let (log, queue) = (steps.clone(), queue.clone());
    executor
        .spawn(name, Class::User, async move {
            loop {
                queue.wait().await;
                log.push(name);
            }
        })
        .unwrap()
}

#[test]
fn waiters_are_woken_in_order_one_or_all() {
    let (executor, steps, queue) = (executor(), Steps::default(), Arc::new(WaitQueue::new()));
    assert!(!queue.wake_one());
    let _handles = ["a", "b", "c"].map(|name| waiter(executor, &steps, &queue, name));
    run(executor);
    assert!(queue.wake_one());
    run(executor);
    assert_eq!(steps.take(), ["a"]);
    assert!(queue.wake_one());
    assert!(queue.wake_one());
    run(executor);
    assert_eq!(steps.take(), ["b", "c"]);
    assert_eq!(queue.wake_all(), 3);
    run(executor);
    assert_eq!(steps.take(), ["a", "b", "c"]);
}

#[test]
fn a_wake_of_a_cancelled_waiter_goes_to_the_next() {
    let (executor, steps, queue) = (executor(), Steps::default(), Arc::new(WaitQueue::new()));
    let [a, b, _c] = ["a", "b", "c"].map(|name| waiter(executor, &steps, &queue, name));
    run(executor);
    a.cancel();
    run(executor);
    assert!(queue.wake_one());
    b.cancel();
    run(executor);
    assert_eq!(steps.take(), ["c"]);
}

#[test]
fn waiting_for_a_condition_looks_again_after_each_wake() {
    let (executor, steps, queue) = (executor(), Steps::default(), Arc::new(WaitQueue::new()));
    let value = Arc::new(AtomicU32::new(0));
    let (log, wait, seen) = (steps.clone(), queue.clone(), value.clone());
    let handle = executor
        .spawn("task", Class::User, async move {
            wait.wait_until(|| {
                let now = seen.load(Relaxed);
                log.push(format!("looks at {now}"));
                (now == 2).then_some(now)
            })
            .await
        })
        .unwrap();
    for _ in 0..3 {
        run(executor);
        value.fetch_add(1, Relaxed);
        queue.wake_all();
    }
    run(executor);
    assert_eq!(handle.try_join().unwrap(), Ok(2));
    // Once when it gets in the queue, then once by each wake.
    assert_eq!(steps.take(), ["looks at 0", "looks at 1", "looks at 2"]);
    assert!(!queue.wake_one());
}

#[test]
fn a_wake_of_all_is_handed_on_by_those_it_wakes() {
    const COUNT: usize = 1_000;
    let (executor, steps, queue) = (executor(), Steps::default(), Arc::new(WaitQueue::new()));
    let mut handles: Vec<_> = (0..COUNT).map(|_| waiter(executor, &steps, &queue, "waiter")).collect();
    run(executor);
    let at_once = queue.wake_all();
    assert!((1..COUNT).contains(&at_once), "{at_once}");
    // Who waits from now on is not woken, and a cancelled waiter hands its wake on.
    let late = waiter(executor, &steps, &queue, "late");
    handles.drain(..300).for_each(|handle| handle.cancel());
    run(executor);
    assert_eq!(steps.take(), vec!["waiter"; COUNT - 300]);
    assert_eq!(queue.wake_all(), at_once);
    run(executor);
    assert_eq!(steps.take().iter().filter(|&step| step == "late").count(), 1);
    late.cancel();
}

#[test]
fn a_cancelled_wake_of_all_wakes_nobody_who_came_later() {
    let (executor, steps, queue) = (executor(), Steps::default(), Arc::new(WaitQueue::new()));
    let early = waiter(executor, &steps, &queue, "early");
    run(executor);
    assert_eq!(queue.wake_all(), 1);
    let _late = waiter(executor, &steps, &queue, "late");
    early.cancel();
    run(executor);
    assert_eq!(steps.take(), [""; 0]);
}

#[test]
fn an_interrupt_handler_wakes_a_task_through_a_lock_free_cell() {
    let (executor, steps) = (executor(), Steps::default());
    let device = Arc::new((AtomicWaker::new(), AtomicU32::new(0)));
    let (log, task) = (steps.clone(), device.clone());
    executor
        .spawn("driver", Class::Device, async move {
            loop {
                let events = poll_fn(|cx| {
                    task.0.register(cx.waker());
                    match task.1.swap(0, Relaxed) {
                        0 => Poll::Pending,
                        events => Poll::Ready(events),
                    }
                });
                log.push(format!("{} events", events.await));
            }
        })
        .unwrap()
        .detach();
    run(executor);
    let interrupt = || {
        device.1.fetch_add(1, Relaxed);
        device.0.wake();
    };
    interrupt();
    interrupt();
    assert!(executor.has_work(0));
    run(executor);
    assert_eq!(steps.take(), ["2 events"]);
}
