//! The storm: many tasks that fault in every way there is, each of which checks every word that it reads.
//!
//! The first process starts the tasks, says each half second how far they are, ends them when the time is over, and
//! waits for them. A task that fails says why and exits with status 1; the storm then ends with status 1, too. The last
//! lines, which begin with `@storm`, are for the tool that started it.

mod board;
mod memory;
mod probe;
mod processes;
mod scenario;
mod sharing;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use std::{fs, thread};

use faultline_user::{Arguments, Child, Ended, PAGE, fail, try_fork};

use crate::board::{Board, MOST_TASKS};
use crate::scenario::{Scenario, Settings, Task};

/// How long tasks may take for their last round, in the machine's time.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the first process says how far the tasks are.
const INTERVAL: Duration = Duration::from_millis(500);

fn main() {
    let mut arguments = Arguments::new(
        "storm [--tasks N] [--pages N] [--seconds N] [--seed N] [--scenario NAME,...] [--shortage-mib N] [--break TASK]",
    );
    let mut settings = Settings {
        pages: 64,
        seed: 1,
        shortage_mib: 0,
        break_task: None,
        program: std::env::args().next().unwrap_or_default(),
    };
    let (mut tasks, mut seconds, mut scenarios) = (16usize, 5.0f64, "mix".to_owned());
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--tasks" => tasks = arguments.value(),
            "--pages" => settings.pages = arguments.value(),
            "--seconds" => seconds = arguments.value(),
            "--seed" => settings.seed = arguments.value(),
            "--scenario" => scenarios = arguments.value(),
            "--shortage-mib" => settings.shortage_mib = arguments.value(),
            "--break" => settings.break_task = Some(arguments.value()),
            "--leaf" => processes::leaf(arguments.value()),
            _ => arguments.wrong(),
        }
    }
    let Some(scenarios) = Scenario::list(&scenarios) else {
        arguments.wrong()
    };
    let wants_too_much = scenarios.contains(&Scenario::Shortage) && settings.shortage_mib == 0;
    if !(1..=MOST_TASKS).contains(&tasks) || settings.pages == 0 || !seconds.is_finite() || wants_too_much {
        arguments.wrong();
    }
    std::process::exit(storm(
        tasks,
        Duration::from_secs_f64(seconds.max(0.0)),
        &settings,
        &scenarios,
    ));
}

/// Runs the tasks and returns the status to exit with.
fn storm(tasks: usize, time: Duration, settings: &Settings, scenarios: &[Scenario]) -> i32 {
    let board = Board::new();
    let file = fs::read(&settings.program).unwrap_or_else(|error| fail(format_args!("{}: {error}", settings.program)));
    if file.len() < PAGE {
        fail(format_args!("{} is shorter than a page", settings.program));
    }
    let file: &'static [u8] = Vec::leak(file);
    let mut children: Vec<(usize, Child)> = (0..tasks)
        .map(|number| {
            let task = || Task::run(number, settings.clone(), board, file, scenarios);
            let child = try_fork(task).unwrap_or_else(|error| {
                board.stop.store(1, Relaxed);
                fail(format_args!("task {number} of {tasks} can't be started: {error}"))
            });
            (number, child)
        })
        .collect();
    let started = Instant::now();
    let (mut failures, mut told) = (0, started);
    while !children.is_empty() {
        thread::sleep(Duration::from_millis(20).min(time));
        let now = started.elapsed();
        if now >= time {
            board.stop.store(1, Relaxed);
        }
        if now >= time + PATIENCE {
            for (number, child) in children.drain(..) {
                eprintln!("FAILED: task {number} waits for ever");
                failures += 1;
                child.kill(libc::SIGKILL);
                child.wait();
            }
        }
        let (ended, running): (Vec<_>, Vec<_>) = children.into_iter().partition(|(_, child)| child.has_ended());
        children = running;
        for (number, child) in ended {
            let ended = child.wait();
            if ended != Ended::Exit(0) {
                eprintln!("FAILED: task {number} of seed {}: {ended}", settings.seed);
                failures += 1;
                // No use in going on.
                board.stop.store(1, Relaxed);
            }
        }
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            println!(
                "@storm progress ms={} tasks={} rounds={} touches={}",
                now.as_millis(),
                children.len(),
                board.sum(|tally| &tally.rounds),
                board.sum(|tally| &tally.touches)
            );
        }
    }
    tell(board, tasks);
    i32::from(failures > 0)
}

/// The results.
fn tell(board: &Board, tasks: usize) {
    for (scenario, tally) in Scenario::ALL.iter().zip(&board.scenarios) {
        let [rounds, refused, touches] =
            [&tally.rounds, &tally.refused, &tally.touches].map(|counter| counter.load(Relaxed));
        if rounds + refused > 0 {
            println!(
                "@storm scenario name={} rounds={rounds} refused={refused} touches={touches}",
                scenario.name()
            );
        }
    }
    for (name, histogram) in [("latency", &board.latency), ("lateness", &board.lateness)] {
        if histogram.count() > 0 {
            let [median, p99, p999] = [500, 990, 999].map(|permille| histogram.percentile(permille));
            println!(
                "@storm histogram name={name} count={} median={median} p99={p99} p999={p999}",
                histogram.count()
            );
        }
    }
    let mut touches: Vec<u64> = board.tasks[..tasks].iter().map(|count| count.load(Relaxed)).collect();
    touches.sort_unstable();
    println!("@storm fairness least={} median={}", touches[0], touches[tasks / 2]);
    println!("@storm end victims={}", board.victims.load(Relaxed));
}
