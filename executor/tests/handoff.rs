//! What a poll leaves with the CPU is done when the poll is over, and the task goes on without having been queued; unless
//! something else is due first.
#![cfg(not(loom))]

mod common;

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use common::{OnDrop, Steps};
use faultline_executor::{Class, Config, Executor, Hooks, JoinHandle};

/// What is left with the CPU: told the waker of the task that has left it, it says whether that task can go on.
type Work = Box<dyn FnOnce(&Waker) -> bool + Send>;

/// A machine where a poll can leave one piece of work. A service does the work that is queued.
#[derive(Default)]
struct Machine {
    clock: AtomicU64,
    left: Mutex<Option<Work>>,
    queue: Mutex<Vec<Work>>,
    service: Mutex<Option<Waker>>,
}

impl Hooks for Machine {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn has_left(&self) -> bool {
        self.left.lock().unwrap().is_some()
    }

    fn serve_left(&self, polled: &Waker) -> bool {
        let work = self.left.lock().unwrap().take();
        work.is_some_and(|work| work(polled))
    }

    fn queue_left(&self) {
        self.queue.lock().unwrap().extend(self.left.lock().unwrap().take());
        if let Some(service) = &*self.service.lock().unwrap() {
            service.wake_by_ref();
        }
    }
}

type TestExecutor = &'static Executor<Machine>;

/// An executor with a service for what is queued, which says so.
fn executor(steps: &Steps) -> TestExecutor {
    let config = Config {
        capacity: 256,
        reserve: 0,
        slice: 1000,
        ..Config::default()
    };
    let executor = Executor::new(config, Machine::default());
    let steps = steps.clone();
    let service = poll_fn(move |context| {
        *executor.hooks().service.lock().unwrap() = Some(context.waker().clone());
        for work in executor.hooks().queue.lock().unwrap().drain(..) {
            steps.push("service");
            work(Waker::noop());
        }
        Poll::<()>::Pending
    });
    executor
        .spawn("service", Class::FaultService, service)
        .unwrap()
        .detach();
    run(executor);
    executor
}

fn run(executor: TestExecutor) {
    while !executor.turn(0).idle {}
}

/// Leaves work with the CPU that says `served NAME`, takes `time`, and is all that the task waits for; ready when it was
/// done.
async fn leave(executor: TestExecutor, steps: &Steps, name: &'static str, time: u64) {
    let done = Arc::new(AtomicBool::new(false));
    let mut waits = false;
    poll_fn(|context| {
        if done.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        if !waits {
            waits = true;
            let (steps, done, waker) = (steps.clone(), done.clone(), context.waker().clone());
            *executor.hooks().left.lock().unwrap() = Some(Box::new(move |polled| {
                steps.push(format!("served {name}"));
                executor.hooks().clock.fetch_add(time, Ordering::Relaxed);
                done.store(true, Ordering::Relaxed);
                let goes_on = waker.will_wake(polled);
                if !goes_on {
                    waker.wake();
                }
                goes_on
            }));
        }
        Poll::Pending
    })
    .await;
    steps.push(name);
}

/// Spawns a user task that leaves work so many times.
fn faulting(executor: TestExecutor, steps: &Steps, name: &'static str, times: usize, time: u64) {
    let steps = steps.clone();
    let task = async move {
        for _ in 0..times {
            leave(executor, &steps, name, time).await;
        }
    };
    executor.spawn(name, Class::User, task).unwrap().detach();
}

fn logs(executor: TestExecutor, steps: &Steps, name: &'static str, class: Class) {
    let steps = steps.clone();
    let task = async move { steps.push(name) };
    executor.spawn(name, class, task).unwrap().detach();
}

#[test]
fn work_is_done_in_the_same_turn_and_its_task_goes_on() {
    let steps = Steps::default();
    let executor = executor(&steps);
    faulting(executor, &steps, "a", 2, 1);
    let turn = executor.turn(0);
    assert_eq!(steps.take(), ["served a", "a", "served a", "a"]);
    assert_eq!(
        turn.polls, 3,
        "each time that the task goes on counts against the share of its class"
    );
    assert_eq!(executor.live_tasks(), 1);
}

#[test]
fn a_task_of_a_class_above_goes_first() {
    let steps = Steps::default();
    let executor = executor(&steps);
    let log = steps.clone();
    let task = async move {
        logs(executor, &log, "device", Class::Device);
        leave(executor, &log, "a", 1).await;
    };
    executor.spawn("a", Class::User, task).unwrap().detach();
    run(executor);
    assert_eq!(steps.take(), ["service", "served a", "device", "a"]);
}

#[test]
fn who_was_woken_meanwhile_has_the_turn_that_is_due() {
    let steps = Steps::default();
    let executor = executor(&steps);
    let log = steps.clone();
    let task = async move {
        logs(executor, &log, "b", Class::User);
        // The turn of the task goes on: it is not the others' turn because its work was done.
        leave(executor, &log, "a", 1).await;
        // Now it is over.
        leave(executor, &log, "a", 2000).await;
    };
    executor.spawn("a", Class::User, task).unwrap().detach();
    run(executor);
    assert_eq!(steps.take(), ["served a", "a", "served a", "b", "a"]);
}

#[test]
fn the_turn_of_a_task_ends_although_its_work_is_always_done() {
    let steps = Steps::default();
    let executor = executor(&steps);
    for name in ["a", "b"] {
        faulting(executor, &steps, name, 6, 400);
    }
    run(executor);
    let order = steps.take();
    let first_b = order.iter().position(|step| step.contains('b')).unwrap();
    let last_a = order.iter().rposition(|step| step.contains('a')).unwrap();
    assert!(first_b < last_a, "{order:?}");
    assert_eq!(order.iter().filter(|step| *step == "a" || *step == "b").count(), 12);
}

#[test]
fn due_timers_are_not_passed_over() {
    let steps = Steps::default();
    let executor = executor(&steps);
    let log = steps.clone();
    let sleeper = async move {
        executor.timers().sleep_until(50).await;
        log.push("timer");
    };
    executor.spawn("sleeper", Class::User, sleeper).unwrap().detach();
    run(executor);
    faulting(executor, &steps, "a", 500, 1);
    run(executor);
    let order = steps.take();
    let timer = order.iter().position(|step| step == "timer").unwrap();
    let share = Config::default().shares.budget() as usize;
    // Two steps for each piece of work; a share of them, from the time when the timer is due, at the most.
    assert!(timer <= 2 * (50 + share) + 2, "{timer} of {}", order.len());
}

#[test]
fn a_task_that_was_cancelled_meanwhile_is_not_polled_again() {
    let steps = Steps::default();
    let executor = executor(&steps);
    let handle = Arc::new(Mutex::new(None));
    let (cancelled, log) = (handle.clone(), steps.clone());
    let task = async move {
        let _guard = OnDrop(log.clone(), "dropped");
        let mut polls = 0;
        poll_fn(|_| {
            log.push("polled");
            polls += 1;
            let cancelled = cancelled.clone();
            *executor.hooks().left.lock().unwrap() = Some(Box::new(move |_| {
                let handle: Option<JoinHandle<()>> = cancelled.lock().unwrap().take();
                handle.unwrap().cancel();
                true
            }));
            if polls > 3 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    };
    *handle.lock().unwrap() = Some(executor.spawn("task", Class::User, task).unwrap());
    run(executor);
    assert_eq!(steps.take(), ["polled", "dropped"]);
    assert_eq!(executor.live_tasks(), 1);
}

#[test]
fn work_of_another_task_wakes_that_one() {
    let steps = Steps::default();
    let executor = executor(&steps);
    let other: Arc<Mutex<Option<Waker>>> = Arc::default();
    let (own, log) = (other.clone(), steps.clone());
    let waiting = async move {
        let mut first = true;
        poll_fn(|context| {
            *own.lock().unwrap() = Some(context.waker().clone());
            if std::mem::take(&mut first) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        log.push("other");
    };
    executor.spawn("other", Class::User, waiting).unwrap().detach();
    run(executor);
    let log = steps.clone();
    let mut polls = 0;
    let task = poll_fn(move |_| {
        polls += 1;
        log.push(format!("poll {polls}"));
        let other = other.clone();
        *executor.hooks().left.lock().unwrap() = Some(Box::new(move |polled| {
            let waker = other.lock().unwrap().take().unwrap();
            assert!(!waker.will_wake(polled));
            waker.wake();
            false
        }));
        Poll::<()>::Pending
    });
    executor.spawn("task", Class::User, task).unwrap().detach();
    run(executor);
    assert_eq!(steps.take(), ["poll 1", "other"]);
}

#[test]
fn what_a_task_leaves_that_ends_and_what_a_service_leaves_is_queued() {
    for class in [Class::User, Class::Device] {
        let steps = Steps::default();
        let executor = executor(&steps);
        let log = steps.clone();
        let task = async move {
            *executor.hooks().left.lock().unwrap() = Some(Box::new(move |_| {
                log.push("done");
                false
            }));
        };
        executor.spawn("task", class, task).unwrap().detach();
        run(executor);
        assert_eq!(steps.take(), ["service", "done"], "{class:?}");
    }
}
