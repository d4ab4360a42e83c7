//! What the executor costs, in instructions and bytes.
//!
//! `cargo run --profile kernel -p faultline-executor --example cost` prints the table. Each row runs this program twice
//! under Valgrind's callgrind, with n and 2n rounds; the difference, divided by n, is exact and repeatable. The counts
//! include the polled futures themselves, which do the least that the row needs. The second column is without the
//! measurement of polls ([`Hooks::MEASURE_POLLS`]).

use std::{
    env,
    future::poll_fn,
    hint::black_box,
    process::Command,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Poll, Waker},
};

use faultline_executor::{Class, Config, Executor, Hooks, TaskEvent};

/// Hooks as the kernel has them: the time-stamp counter, and a trace that is switched off.
struct Machine<const CLOCK: bool>;

static TRACED: AtomicU32 = AtomicU32::new(0);

fn cycles() -> u64 {
    // SAFETY: the instruction has no preconditions on a host where the kernel's user mode could run.
    #[allow(unused_unsafe, reason = "newer toolchains have it safe")]
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

impl<const CLOCK: bool> Hooks for Machine<CLOCK> {
    const MEASURE_POLLS: bool = CLOCK;

    fn now(&self) -> u64 {
        cycles() / 3
    }

    fn poll_clock(&self) -> u32 {
        cycles() as u32
    }

    fn tracing(&self) -> bool {
        TRACED.load(Ordering::Relaxed) & 1 != 0
    }

    fn trace(&self, event: TaskEvent) {
        println!("{event:?}");
    }
}

type Machined<const CLOCK: bool> = &'static Executor<Machine<CLOCK>>;

fn executor<const CLOCK: bool>(tasks: u32) -> Machined<CLOCK> {
    let stall = u32::MAX;
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
fn waiting<const CLOCK: bool>(executor: Machined<CLOCK>) -> Waker {
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
fn spawn<const CLOCK: bool>(rounds: u64) {
    let executor = executor::<CLOCK>(0);
    for _ in 0..rounds {
        executor.spawn_detached("ready", Class::User, async {}).unwrap();
        let _ = black_box(executor.turn(0));
    }
}

/// Spawns ready futures, and turns: 32 tasks a turn.
fn spawn_batch<const CLOCK: bool>(rounds: u64) {
    let executor = executor::<CLOCK>(0);
    for _ in 0..rounds / 32 {
        for _ in 0..32 {
            executor.spawn_detached("ready", Class::User, async {}).unwrap();
        }
        let _ = black_box(executor.turn(0));
    }
}

/// Wakes one task from outside, and turns: one turn a wake.
fn wake<const CLOCK: bool>(rounds: u64) {
    wake_among::<CLOCK>(1, rounds);
}

/// The same with 100,000 tasks alive.
fn wake_100k<const CLOCK: bool>(rounds: u64) {
    wake_among::<CLOCK>(100_000, rounds);
}

fn wake_among<const CLOCK: bool>(tasks: u32, rounds: u64) {
    let executor = executor::<CLOCK>(tasks);
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
fn empty_turn<const CLOCK: bool>(rounds: u64) {
    let executor = executor::<CLOCK>(1);
    for _ in 0..rounds {
        let _ = black_box(executor.turn(0));
    }
}

/// Two tasks of the user class that wake themselves.
fn yields<const CLOCK: bool>(rounds: u64) {
    let executor = executor::<CLOCK>(2);
    for _ in 0..2 {
        let future = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        executor.spawn("yielding", Class::User, future).unwrap().detach();
    }
    let mut polls = 0;
    while polls < rounds {
        polls += u64::from(executor.turn(0).polls);
    }
}

/// A user task wakes a service and waits; the service wakes it and waits: the two wake and poll pairs of a fault.
fn fault<const CLOCK: bool>(rounds: u64) {
    static USER: OnceLock<Waker> = OnceLock::new();
    static SERVICE: OnceLock<Waker> = OnceLock::new();
    let executor = executor::<CLOCK>(2);
    let service = poll_fn(|cx| {
        match USER.get() {
            Some(user) => user.wake_by_ref(),
            None => drop(SERVICE.set(cx.waker().clone())),
        }
        Poll::<()>::Pending
    });
    executor
        .spawn("service", Class::FaultService, service)
        .unwrap()
        .detach();
    let _ = executor.turn(0);
    let mut left = rounds;
    let user = poll_fn(move |cx| {
        if left == rounds {
            drop(USER.set(cx.waker().clone()));
        }
        left -= 1;
        SERVICE.get().unwrap().wake_by_ref();
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    let handle = executor.spawn("user", Class::User, user).unwrap();
    while !handle.is_finished() {
        let _ = executor.turn(0);
    }
}

/// The name of a row, what it is, and how it runs with and without the stall clock.
type Row = (&'static str, &'static str, [fn(u64); 2]);

const ROWS: &[Row] = &[
    (
        "yield",
        "wake + re-poll (a task wakes itself), 32 a turn",
        [yields::<true>, yields::<false>],
    ),
    (
        "fault",
        "user wakes service, service wakes user: both pairs",
        [fault::<true>, fault::<false>],
    ),
    (
        "wake",
        "wake + re-poll, and the turn around it",
        [wake::<true>, wake::<false>],
    ),
    (
        "wake-100k",
        "the same with 100,000 tasks alive",
        [wake_100k::<true>, wake_100k::<false>],
    ),
    (
        "spawn-batch",
        "spawn + first poll + finish, 32 a turn",
        [spawn_batch::<true>, spawn_batch::<false>],
    ),
    (
        "spawn",
        "spawn + first poll + finish, and the turn around it",
        [spawn::<true>, spawn::<false>],
    ),
    (
        "empty-turn",
        "a turn that finds nothing",
        [empty_turn::<true>, empty_turn::<false>],
    ),
];

fn main() {
    let arguments: Vec<_> = env::args().collect();
    if let [_, row, clock, rounds] = &arguments[..] {
        let (.., run) = ROWS.iter().find(|(name, ..)| name == row).expect("a row of the table");
        return run[usize::from(clock != "clock")](rounds.parse().expect("a number of rounds"));
    }
    println!("instructions, with and without the measurement of polls");
    for (name, what, _) in ROWS {
        let [with, without] = ["clock", "none"].map(|clock| {
            let count = |rounds| count(name, clock, rounds);
            (count(64_000) - count(32_000)) as f64 / 32_000.0
        });
        println!("{with:8.1} {without:8.1}  {what}");
    }
    println!("{} bytes per task", executor::<true>(0).bytes_per_task());
}

/// How many instructions a row executes in so many rounds.
fn count(row: &str, clock: &str, rounds: i64) -> i64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("the path of this program"))
        .args([row, clock, &rounds.to_string()])
        .output()
        .expect("valgrind");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let count = text
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .expect("a count of callgrind")
        .1;
    count.trim().parse().expect("a number")
}
