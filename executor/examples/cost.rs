//! What the executor costs, in instructions and bytes.
//!
//! `cargo run --profile kernel -p faultline-executor --example cost` prints the table. Each row runs this program
//! under `valgrind --tool=none`-like counting (callgrind) twice, with n and 2n rounds; the difference, divided by n, is
//! exact and repeatable. Valgrind has to be installed.

use std::{
    env,
    future::poll_fn,
    hint::black_box,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Poll, Waker},
};

use faultline_executor::{Class, Config, Executor, Hooks, TaskEvent, yield_now};

/// Hooks as the kernel has them: the time-stamp counter, and a trace that is switched off.
struct Machine;

static TRACED: AtomicU32 = AtomicU32::new(0);

fn cycles() -> u64 {
    // SAFETY: the instruction has no preconditions on a host where the kernel's user mode could run.
    #[allow(unused_unsafe, reason = "newer toolchains have it safe")]
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

impl Hooks for Machine {
    fn now(&self) -> u64 {
        cycles() / 3
    }

    fn poll_clock(&self) -> u64 {
        cycles()
    }

    fn tracing(&self) -> bool {
        TRACED.load(Ordering::Relaxed) & 1 != 0
    }

    fn trace(&self, event: TaskEvent) {
        println!("{event:?}");
    }
}

type Machined = &'static Executor<Machine>;

fn executor(tasks: u32) -> Machined {
    let stall = u64::MAX;
    Executor::new(
        Config {
            capacity: tasks + 64,
            reserve: tasks + 64,
            stall,
            ..Config::default()
        },
        Machine,
    )
}

/// A task that counts its polls and never ends; gives its waker.
fn waiting(executor: Machined) -> Waker {
    static WAKER: Mutex<Option<Waker>> = Mutex::new(None);
    let mut polls = 0u64;
    let future = poll_fn(move |cx| {
        if polls == 0 {
            *WAKER.lock().unwrap() = Some(cx.waker().clone());
        }
        polls += 1;
        Poll::<()>::Pending
    });
    executor.spawn("waiting", Class::User, future).unwrap().detach();
    while !executor.turn(0).idle {}
    WAKER.lock().unwrap().take().unwrap()
}

/// Spawns a ready future, and turns: one turn a task.
fn spawn(rounds: u64) {
    let executor = executor(0);
    for _ in 0..rounds {
        executor.spawn("ready", Class::User, async {}).unwrap().detach();
        let _ = black_box(executor.turn(0));
    }
}

/// Spawns ready futures, and turns: 32 tasks a turn.
fn spawn_batch(rounds: u64) {
    let executor = executor(0);
    for _ in 0..rounds / 32 {
        for _ in 0..32 {
            executor.spawn("ready", Class::User, async {}).unwrap().detach();
        }
        let _ = black_box(executor.turn(0));
    }
}

/// Wakes one task from outside, and turns: one turn a wake.
fn wake(rounds: u64) {
    wake_among(1, rounds);
}

/// The same with 100,000 tasks alive.
fn wake_100k(rounds: u64) {
    wake_among(100_000, rounds);
}

fn wake_among(tasks: u32, rounds: u64) {
    let executor = executor(tasks);
    for _ in 1..tasks {
        executor
            .spawn("other", Class::User, std::future::pending::<()>())
            .unwrap()
            .detach();
    }
    let waker = waiting(executor);
    for _ in 0..rounds {
        waker.wake_by_ref();
        let _ = black_box(executor.turn(0));
    }
}

/// The cost of a turn that finds nothing.
fn empty_turn(rounds: u64) {
    let executor = executor(1);
    for _ in 0..rounds {
        let _ = black_box(executor.turn(0));
    }
}

/// Two tasks of the user class that yield to each other.
fn yields(rounds: u64) {
    let executor = executor(2);
    static STOP: AtomicBool = AtomicBool::new(false);
    for _ in 0..2 {
        let task = async {
            while !STOP.load(Ordering::Relaxed) {
                yield_now().await;
            }
        };
        executor.spawn("yielding", Class::User, task).unwrap().detach();
    }
    let mut polls = 0;
    while polls < rounds {
        polls += u64::from(executor.turn(0).polls);
    }
    STOP.store(true, Ordering::Relaxed);
}

/// A user task wakes a service and waits; the service wakes it and waits: the two wake and poll pairs of a fault.
fn fault(rounds: u64) {
    let executor = executor(2);
    let service = {
        static WAKER: Mutex<Option<Waker>> = Mutex::new(None);
        let mut first = true;
        let future = poll_fn(move |cx| {
            if std::mem::take(&mut first) {
                *WAKER.lock().unwrap() = Some(cx.waker().clone());
            } else if let Some(user) = &*USER.lock().unwrap() {
                user.wake_by_ref();
            }
            Poll::<()>::Pending
        });
        executor.spawn("service", Class::FaultService, future).unwrap().detach();
        let _ = executor.turn(0);
        WAKER.lock().unwrap().take().unwrap()
    };
    static USER: Mutex<Option<Waker>> = Mutex::new(None);
    let mut faults = 0;
    let future = poll_fn(move |cx| {
        if faults == 0 {
            *USER.lock().unwrap() = Some(cx.waker().clone());
        }
        if faults == rounds {
            return Poll::Ready(());
        }
        faults += 1;
        service.wake_by_ref();
        Poll::Pending
    });
    let handle = executor.spawn("user", Class::User, future).unwrap();
    while !handle.is_finished() {
        let _ = executor.turn(0);
    }
}

type Row = (&'static str, &'static str, fn(u64));

const ROWS: &[Row] = &[
    ("spawn", "spawn + first poll + finish, a turn each", spawn),
    ("spawn-batch", "spawn + first poll + finish, 32 a turn", spawn_batch),
    ("wake", "wake + re-poll, a turn each", wake),
    ("wake-100k", "wake + re-poll, a turn each, 100,000 tasks", wake_100k),
    ("yield", "self-wake + re-poll (yield_now), 32 a turn", yields),
    ("fault", "user wakes service, service wakes user: both pairs", fault),
    ("empty-turn", "a turn that finds nothing", empty_turn),
];

fn main() {
    let arguments: Vec<_> = env::args().collect();
    if let [_, row, rounds] = &arguments[..] {
        let (.., run) = ROWS.iter().find(|(name, ..)| name == row).expect("a row of the table");
        return run(rounds.parse().expect("a number of rounds"));
    }
    println!("{:6} instructions", "");
    for (name, what, _) in ROWS {
        let count = |rounds: u64| -> i64 {
            let output = Command::new("valgrind")
                .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
                .arg(env::current_exe().unwrap())
                .args([*name, &rounds.to_string()])
                .output()
                .expect("valgrind");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let count = text
                .lines()
                .find_map(|line| line.split_once("Collected : "))
                .expect("a count")
                .1;
            count.trim().parse().expect("a number")
        };
        println!("{:8.1} {what}", (count(64_000) - count(32_000)) as f64 / 32_000.0);
    }
    println!("{:8} bytes per task", executor(0).bytes_per_task());
}
