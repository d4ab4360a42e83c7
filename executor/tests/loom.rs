//! Models of the executor's protocols, checked by loom in every interleaving (within its preemption bound).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p faultline-executor --test loom`
#![cfg(loom)]

use std::{
    cell::Cell,
    future::poll_fn,
    sync::{Mutex as StdMutex, atomic::AtomicUsize as StdAtomicUsize},
    task::{Poll, Waker},
};

use faultline_executor::{Class, Config, Executor, Hooks, JoinError, Semaphore};
use loom::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

loom::thread_local! {
    static CPU: Cell<usize> = Cell::new(0);
}

/// A machine whose threads are CPUs, each with an interrupt line.
struct Machine {
    lines: Vec<Line>,
}

/// The lock is the CPU's interrupt flag: whoever has it has interrupts off, and the handler runs under it.
struct Line {
    pending: Mutex<bool>,
    raised: Condvar,
}

impl Line {
    fn raise(&self, handler: impl FnOnce()) {
        let mut pending = self.pending.lock().unwrap();
        handler();
        *pending = true;
        self.raised.notify_one();
    }
}

/// The hooks of the machine.
struct Cpus(std::sync::Arc<Machine>);

impl Hooks for Cpus {
    fn now(&self) -> u64 {
        0
    }

    fn cpu(&self) -> usize {
        CPU.with(Cell::get)
    }

    fn notify(&self, cpu: usize) {
        self.0.lines[cpu].raise(|| {});
    }
}

type Loomed = &'static Executor<Cpus>;

fn executor(cpus: usize) -> (Loomed, std::sync::Arc<Machine>) {
    let line = |_| Line {
        pending: Mutex::new(false),
        raised: Condvar::new(),
    };
    let machine = std::sync::Arc::new(Machine {
        lines: (0..cpus).map(line).collect(),
    });
    let config = Config {
        cpus,
        capacity: 2,
        reserve: 2,
        ..Config::default()
    };
    (Executor::new(config, Cpus(machine.clone())), machine)
}

/// Turns until the CPU is idle.
fn settle(executor: Loomed, cpu: usize) {
    while !executor.turn(cpu).idle {}
}

/// Runs a CPU as the kernel does, until the flag is set: turns, and halts when there is nothing to do. If a wake is lost,
/// it halts for ever, which loom reports as a deadlock.
fn run_cpu(executor: Loomed, machine: &Machine, cpu: usize, until: impl Fn() -> bool) {
    loop {
        let idle = executor.turn(cpu).idle;
        if until() {
            return;
        }
        if !idle {
            continue;
        }
        let line = &machine.lines[cpu];
        let mut pending = line.pending.lock().unwrap(); // cli
        while !executor.has_work(cpu) && !*pending {
            pending = line.raised.wait(pending).unwrap(); // sti; hlt
        }
        *pending = false;
    }
}

/// A task that is ready when the flag is set; its waker, and how often it was polled.
struct Flagged {
    flag: Arc<AtomicBool>,
    waker: Waker,
    polls: std::sync::Arc<StdAtomicUsize>,
}

/// Spawns it on CPU 0 and polls it once, so that it waits.
fn flagged(executor: Loomed, class: Class) -> (Flagged, faultline_executor::JoinHandle<()>) {
    let flag = Arc::new(AtomicBool::new(false));
    let (ready, polls) = (flag.clone(), std::sync::Arc::new(StdAtomicUsize::new(0)));
    let (count, place) = (polls.clone(), std::sync::Arc::new(StdMutex::new(None)));
    let give = place.clone();
    let future = poll_fn(move |cx| {
        if count.fetch_add(1, Relaxed) == 0 {
            *give.lock().unwrap() = Some(cx.waker().clone());
        }
        if ready.load(Relaxed) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let handle = executor.spawn("flagged", class, future).unwrap();
    settle(executor, 0);
    let waker = place.lock().unwrap().take().unwrap();
    (Flagged { flag, waker, polls }, handle)
}

#[test]
fn wake_during_poll() {
    loom::model(|| {
        let (executor, _) = executor(1);
        let (task, handle) = flagged(executor, Class::User);
        task.waker.wake_by_ref();
        let (flag, waker) = (task.flag.clone(), task.waker.clone());
        // Relaxed: the wake itself must carry the flag to the poll.
        let other = thread::spawn(move || {
            flag.store(true, Relaxed);
            waker.wake();
        });
        settle(executor, 0);
        other.join().unwrap();
        settle(executor, 0);
        assert_eq!(handle.try_join().unwrap(), Ok(()));
        assert!((2..=3).contains(&task.polls.load(Relaxed)));
    });
}

#[test]
fn two_wakers_and_a_turn() {
    loom::model(|| {
        let (executor, _) = executor(1);
        let (task, handle) = flagged(executor, Class::User);
        let wakers: Vec<_> = (0..2)
            .map(|thread| {
                let (flag, waker) = (task.flag.clone(), task.waker.clone());
                thread::spawn(move || {
                    if thread == 0 {
                        flag.store(true, Relaxed);
                    }
                    waker.wake();
                })
            })
            .collect();
        settle(executor, 0);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        settle(executor, 0);
        assert_eq!(handle.try_join().unwrap(), Ok(()));
        // The slot was freed exactly once: both slots can be used again, and no third.
        let again: Vec<_> = (0..3).map(|_| executor.spawn("again", Class::User, async {})).collect();
        assert_eq!(again.iter().filter(|spawned| spawned.is_ok()).count(), 2);
    });
}

#[test]
fn wake_after_finish_and_slot_reuse() {
    loom::model(|| {
        let (executor, _) = executor(1);
        let (task, handle) = flagged(executor, Class::User);
        let waker = task.waker.clone();
        task.flag.store(true, Relaxed);
        task.waker.wake_by_ref();
        // The wake overlaps the end of its task, the reuse of the slot and the next task's life.
        let stale = thread::spawn(move || waker.wake());
        drop(handle);
        settle(executor, 0);
        let handle = executor.spawn("new", Class::User, async { 7 }).unwrap();
        settle(executor, 0);
        stale.join().unwrap();
        settle(executor, 0);
        assert_eq!(handle.try_join().unwrap(), Ok(7));
        assert_eq!(executor.live_tasks(), 0);
        let again: Vec<_> = (0..3).map(|_| executor.spawn("again", Class::User, async {})).collect();
        assert_eq!(again.iter().filter(|spawned| spawned.is_ok()).count(), 2);
    });
}

#[test]
fn interrupt_wake_at_idle() {
    loom::model(|| {
        let (executor, machine) = executor(1);
        let (task, handle) = flagged(executor, Class::User);
        let (flag, waker, device) = (task.flag.clone(), task.waker.clone(), machine.clone());
        let interrupt = thread::spawn(move || {
            device.lines[0].raise(|| {
                flag.store(true, Relaxed);
                waker.wake_by_ref();
            });
        });
        run_cpu(executor, &machine, 0, || handle.is_finished());
        interrupt.join().unwrap();
    });
}

#[test]
fn remote_wake_at_idle() {
    loom::model(|| {
        let (executor, machine) = executor(2);
        let (task, handle) = flagged(executor, Class::User);
        let (flag, waker) = (task.flag.clone(), task.waker.clone());
        let other = thread::spawn(move || {
            CPU.with(|cpu| cpu.set(1));
            flag.store(true, Relaxed);
            waker.wake();
        });
        run_cpu(executor, &machine, 0, || handle.is_finished());
        other.join().unwrap();
    });
}

/// The waiter registers while what it waits for becomes ready: the join handle against the end of its task.
#[test]
fn wake_before_register() {
    loom::model(|| {
        let (executor, _) = executor(2);
        let inner = executor.spawn_on(1, "inner", Class::User, async { 7 }).unwrap();
        let outer = executor.spawn("outer", Class::User, inner).unwrap();
        let other = thread::spawn(move || {
            CPU.with(|cpu| cpu.set(1));
            settle(executor, 1);
        });
        settle(executor, 0);
        other.join().unwrap();
        settle(executor, 0);
        assert_eq!(outer.try_join().unwrap(), Ok(Ok(7)));
        assert_eq!(executor.live_tasks(), 0);
    });
}

/// A task of CPU 0 is woken while a task of CPU 1 begins to await it, which changes its class and so its queue.
#[test]
fn wake_while_the_class_is_raised() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (executor, _) = executor(2);
        let (task, inner) = flagged(executor, Class::Idle);
        let other = thread::spawn(move || {
            CPU.with(|cpu| cpu.set(1));
            let outer = executor.spawn("outer", Class::FaultService, inner).unwrap();
            settle(executor, 1);
            outer
        });
        task.flag.store(true, Relaxed);
        task.waker.wake_by_ref();
        settle(executor, 0);
        let outer = other.join().unwrap();
        settle(executor, 0);
        settle(executor, 1);
        assert_eq!(outer.try_join().unwrap(), Ok(Ok(())));
        assert_eq!(executor.live_tasks(), 0);
    });
}

/// Drops counted without loom, which would add interleavings.
struct Counted(std::sync::Arc<StdAtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn dropping_the_handle_while_the_task_ends() {
    loom::model(|| {
        let (executor, _) = executor(1);
        let drops = std::sync::Arc::new(StdAtomicUsize::new(0));
        let output = Counted(drops.clone());
        let handle = executor.spawn("task", Class::User, async move { output }).unwrap();
        let other = thread::spawn(move || drop(handle));
        settle(executor, 0);
        other.join().unwrap();
        assert_eq!(drops.load(Relaxed), 1);
        let again: Vec<_> = (0..3).map(|_| executor.spawn("again", Class::User, async {})).collect();
        assert_eq!(again.iter().filter(|spawned| spawned.is_ok()).count(), 2);
    });
}

#[test]
fn cancelling_while_the_task_is_woken_and_polled() {
    loom::model(|| {
        let (executor, _) = executor(1);
        let (task, handle) = flagged(executor, Class::User);
        task.flag.store(true, Relaxed);
        task.waker.wake_by_ref();
        let other = thread::spawn(move || {
            handle.cancel();
            handle
        });
        settle(executor, 0);
        let handle = other.join().unwrap();
        settle(executor, 0);
        let result = handle.try_join().unwrap();
        assert!(result == Ok(()) || result == Err(JoinError::Cancelled));
        assert_eq!(executor.live_tasks(), 0);
    });
}

#[test]
fn spawning_and_ending_on_two_cpus_share_the_slots() {
    loom::model(|| {
        let (executor, _) = executor(2);
        let run = move |cpu| {
            CPU.with(|current| current.set(cpu));
            let handle = executor.spawn("task", Class::User, async move { cpu }).unwrap();
            settle(executor, cpu);
            assert_eq!(handle.try_join().unwrap(), Ok(cpu));
        };
        let other = thread::spawn(move || run(1));
        run(0);
        other.join().unwrap();
    });
}

/// A task is woken during its last poll, so that its slot is in the queue once more; meanwhile another CPU drops the handle
/// and uses the slot again.
#[test]
fn slot_reuse_while_the_last_wake_is_in_the_queue() {
    loom::model(|| {
        let (executor, _) = executor(2);
        let old = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        });
        let handle = executor.spawn("old", Class::User, old).unwrap();
        let other = thread::spawn(move || {
            CPU.with(|cpu| cpu.set(1));
            drop(handle);
            let handle = executor.spawn("new", Class::User, async { 7 }).unwrap();
            settle(executor, 1);
            assert_eq!(handle.try_join().unwrap(), Ok(7));
        });
        settle(executor, 0);
        other.join().unwrap();
        settle(executor, 0);
        assert_eq!(executor.live_tasks(), 0);
    });
}

/// A task ends while its slot is in the queue, and a waker that was overtaken by the end pushes the slot again when it has
/// just been popped: the slot must not be free before it was popped for the last time.
#[test]
fn an_ended_task_that_is_queued_once_more_is_freed_once() {
    loom::model(|| {
        let (executor, _) = executor(1);
        let place = std::sync::Arc::new(StdMutex::new(None));
        let give = place.clone();
        let future = poll_fn(move |cx| {
            let first = give.lock().unwrap().replace(cx.waker().clone()).is_none();
            if first {
                return Poll::Pending;
            }
            cx.waker().wake_by_ref();
            Poll::Ready(())
        });
        drop(executor.spawn("ending", Class::User, future).unwrap());
        settle(executor, 0);
        let waker = place.lock().unwrap().clone().unwrap();
        waker.wake_by_ref();
        let stale = thread::spawn(move || waker.wake());
        settle(executor, 0);
        let handle = executor.spawn("new", Class::User, async { 7 }).unwrap();
        settle(executor, 0);
        stale.join().unwrap();
        settle(executor, 0);
        assert_eq!(handle.try_join().unwrap(), Ok(7));
        let again: Vec<_> = (0..3).map(|_| executor.spawn("again", Class::User, async {})).collect();
        assert_eq!(again.iter().filter(|spawned| spawned.is_ok()).count(), 2);
    });
}

/// The other CPU pops the task while, or right after, it is pushed: everything that `spawn` wrote must be there.
#[test]
fn spawning_on_a_cpu_that_turns() {
    loom::model(|| {
        let (executor, _) = executor(2);
        let other = thread::spawn(move || {
            CPU.with(|cpu| cpu.set(1));
            settle(executor, 1);
        });
        let handle = executor.spawn_on(1, "task", Class::User, async { 7 }).unwrap();
        other.join().unwrap();
        settle(executor, 1);
        assert_eq!(handle.try_join().unwrap(), Ok(7));
    });
}

/// One permit is handed to a request that is cancelled at that moment; it must reach the other one.
#[test]
fn semaphore_hand_off_with_cancellation() {
    loom::model(|| {
        let semaphore = Semaphore::new(1);
        let share = semaphore.share(1);
        let held = share.try_acquire(1).unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let waker = counting_waker(&woken);
        let mut first = Box::pin(share.acquire(1));
        let mut second = Box::pin(share.acquire(1));
        let poll = |acquire: &mut std::pin::Pin<Box<faultline_executor::Acquire>>| {
            std::future::Future::poll(acquire.as_mut(), &mut std::task::Context::from_waker(&waker))
        };
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        let releaser = thread::spawn(move || drop(held));
        drop(first);
        releaser.join().unwrap();
        assert!(woken.load(Relaxed) >= 1);
        let Poll::Ready(Ok(permit)) = poll(&mut second) else {
            panic!("the permit was lost")
        };
        drop(permit);
        assert_eq!(semaphore.available(), 1);
    });
}

fn counting_waker(count: &Arc<AtomicUsize>) -> Waker {
    struct Count(Arc<AtomicUsize>);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    std::sync::Arc::new(Count(count.clone())).into()
}
