//! A virtual machine for the executor: a clock that the test sets, and a list of steps.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
};

use faultline_executor::{Class, Config, Executor, Hooks, TaskId};

/// The machine's side of the seam.
#[derive(Default)]
pub struct Machine {
    /// The time.
    pub clock: AtomicU64,
    /// The CPU that the test plays.
    pub cpu: AtomicUsize,
    /// CPUs that were notified.
    pub notified: Mutex<Vec<usize>>,
    /// Stalls that were reported.
    pub stalls: Mutex<Vec<(TaskId, &'static str, u32)>>,
    /// When the machine is to interrupt; 0 for never.
    pub alarm: AtomicU64,
    /// Polls that were longer than all before.
    pub longest: Mutex<Vec<(&'static str, u32)>>,
}

impl Machine {
    /// Lets time pass.
    pub fn advance(&self, by: u64) -> u64 {
        self.clock.fetch_add(by, Ordering::Relaxed) + by
    }
}

impl Hooks for Machine {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed)
    }

    fn alarm(&self, deadline: u64) {
        let alarm = self.alarm.load(Ordering::Relaxed);
        if alarm == 0 || deadline < alarm {
            self.alarm.store(deadline, Ordering::Relaxed);
        }
    }

    fn alarm_in(&self, length: u32) {
        self.alarm(self.now() + u64::from(length));
    }

    fn turn_begins(&self, next_deadline: Option<u64>, left: Option<u32>) {
        if let Some(deadline) = next_deadline {
            self.alarm(deadline.max(self.now() + 1));
        }
        if let Some(left) = left {
            self.alarm_in(left);
        }
    }

    fn notify(&self, cpu: usize) {
        self.notified.lock().unwrap().push(cpu);
    }

    fn stall(&self, task: TaskId, name: &'static str, length: u32) {
        self.stalls.lock().unwrap().push((task, name, length));
    }

    fn longest_poll(&self, _: TaskId, name: &'static str, length: u32) {
        self.longest.lock().unwrap().push((name, length));
    }
}

/// An executor for tests.
pub type TestExecutor = &'static Executor<Machine>;

/// An executor with few reserved slots.
pub fn executor() -> TestExecutor {
    with(|_| {})
}

/// An executor with a configuration.
pub fn with(change: impl FnOnce(&mut Config)) -> TestExecutor {
    let mut config = Config {
        capacity: 1024,
        reserve: 0,
        ..Config::default()
    };
    change(&mut config);
    Executor::new(config, Machine::default())
}

/// Turns CPU 0 until it is idle.
pub fn run(executor: TestExecutor) {
    while !executor.turn(0).idle {}
}

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Steps(Arc<Mutex<Vec<String>>>);

impl Steps {
    /// Adds a step.
    pub fn push(&self, step: impl Into<String>) {
        self.0.lock().unwrap().push(step.into());
    }

    /// The steps since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Spawns a user task that adds its name to the steps once its deadline is past.
pub fn sleeper(executor: TestExecutor, steps: &Steps, name: &'static str, deadline: u64) {
    let steps = steps.clone();
    executor
        .spawn(name, Class::User, async move {
            executor.timers().sleep_until(deadline).await;
            steps.push(name);
        })
        .unwrap()
        .detach();
}

/// Adds its step when it is dropped.
pub struct OnDrop(pub Steps, pub &'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.push(self.1);
    }
}

/// The waker of the task that awaits this.
pub async fn own_waker() -> Waker {
    poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

/// Pending once, without a wake.
pub async fn park() {
    let mut parked = false;
    poll_fn(|_| {
        if std::mem::replace(&mut parked, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
