//! The executor's costs, counted by the kernel itself on two machines.

use std::fs;

use clap::Parser;
use faultline_tests::Run;
use faultline_xtask::cli::{Cli, Command};
use faultline_xtask::executor;
use serde_json::Value;

fn measure(arguments: &[&str]) -> anyhow::Result<u8> {
    let words = ["faultline", "executor"].iter().chain(arguments);
    let Some(Command::Executor(arguments)) = Cli::parse_from(words).command else {
        panic!("not executor")
    };
    executor::run(&arguments)
}

#[test]
fn a_wake_costs_the_same_among_a_hundred_thousand_tasks_as_among_ten() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    assert_eq!(measure(&["--json", json.to_str().unwrap()]).unwrap(), 0);
    let figures: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let figure = |name: &str| figures[name].as_f64().unwrap();

    assert_eq!(figures["tasks"], 100_000);
    assert!(figure("latency_many") <= 1.1 * figure("latency_few"), "{figures:#}");
    // A slot is 256 bytes; the heap hands out whole chunks of slots.
    let bytes = figure("bytes_per_task");
    assert!((250.0..260.0).contains(&bytes), "{figures:#}");
    // Neither can be had for nothing, and both have a bound.
    assert!((40.0..=SPAWN).contains(&figure("spawn")), "{figures:#}");
    assert!((20.0..=WAKE).contains(&figure("wake")), "{figures:#}");
}

/// Guest instructions of a spawn, the first poll and the end of a ready future, at the most.
const SPAWN: f64 = 240.0;

/// Guest instructions of a wake and the poll after it, at the most.
const WAKE: f64 = 90.0;

#[test]
fn more_tasks_than_the_heap_holds_are_refused() {
    let error = measure(&["--mem", "64M"]).unwrap_err();
    let text = "too little memory for 100000 tasks: the machine has 64 MiB, --mem 458M is the least";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_poll_that_takes_too_long_is_reported_with_who_waits_for_it() {
    // The door is held for 20 ms of the machine's time; the limit is 10.
    let guest = Run::new("hello", &[]).set("selftest", "stall").counted().boot();
    assert_eq!(guest.status(), 0);
    assert_eq!(guest.count("polls.stalls"), 1);
    assert!((20_000_000..21_500_000).contains(&guest.count("polls.longest_ns")));
    let log = String::from_utf8_lossy(&guest.log);
    let stall = log.lines().skip_while(|line| !line.contains("stall: a poll of task"));
    let lines: Vec<_> = stall.take(2).collect();
    assert!(lines[0].contains("`holder` took 20"), "{log}");
    let waits = ["waiter", "door", "holder"].iter().all(|name| lines[1].contains(name));
    assert!(waits, "{lines:?}");
}
