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
    // Once when it gets in the queue, then once by the wake and once when it gets in the queue again.
    assert_eq!(steps.take(), ["looks at 0", "looks at 1", "looks at 1", "looks at 2"]);
    assert!(!queue.wake_one());
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
