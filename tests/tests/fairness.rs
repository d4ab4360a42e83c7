//! Who gets the CPU and when: polls, time slices, shares, timers. All under `--accel icount`, where an instruction is a
//! nanosecond.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, busybox, c_program};

/// A program, built once.
fn program(name: &'static str) -> PathBuf {
    static BUILT: OnceLock<[(&str, PathBuf); 4]> = OnceLock::new();
    let built =
        BUILT.get_or_init(|| ["execs", "naps", "shares", "spin"].map(|name| (name, c_program(name, Libc::Musl))));
    let (_, path) = built.iter().find(|(known, _)| *known == name).expect("it is built");
    path.clone()
}

/// Runs a program, which prints numbers.
fn numbers(name: &'static str, arguments: &[&str], change: impl FnOnce(Run) -> Run) -> (Vec<i64>, Guest) {
    let guest = change(Run::file(&program(name), arguments).counted()).boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    let text = String::from_utf8_lossy(&guest.stdout).into_owned();
    let numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    (numbers.collect(), guest)
}

#[test]
fn the_longest_poll_of_the_kernel_does_not_count_user_mode() {
    let guest = Run::file(&program("spin"), &["30"]).measure_polls().boot();
    assert_eq!(guest.status(), 0);
    let (longest, task) = guest.longest_poll();
    assert!(
        longest > Duration::from_micros(1) && longest < Duration::from_micros(500),
        "{longest:?} {task}"
    );
    let guest = Run::new("hello", &[]).set("selftest", "stall").measure_polls().boot();
    assert_eq!(guest.status(), 0);
    let (longest, task) = guest.longest_poll();
    assert!(
        longest > Duration::from_millis(20) && longest < Duration::from_micros(21_500),
        "{longest:?} {task}"
    );
    assert!(task.starts_with("holder,"), "{task}");
}

#[test]
fn a_faulting_process_gets_its_share_beside_spinners_and_a_spinner_beside_faulting_processes() {
    for (spinners, faulting, milliseconds) in [("1", "1", "60"), ("4", "1", "150"), ("1", "4", "150")] {
        let (shares, _) = numbers("shares", &[spinners, faulting, milliseconds], |run| run.set("slice", 1));
        let fair = shares.iter().all(|share| (900..1100).contains(share));
        assert!(fair, "{spinners} spinners, {faulting} faulting: {shares:?}");
    }
}

#[test]
fn one_of_sixty_four_processes_gets_its_share_whatever_it_does() {
    for (spinners, faulting) in [("63", "1"), ("1", "63")] {
        let (shares, _) = numbers("shares", &[spinners, faulting, "1000"], |run| run.set("slice", 1));
        let odd = if spinners == "1" { shares[0] } else { shares[63] };
        assert!(
            (900..1100).contains(&odd),
            "{spinners} spinners, {faulting} faulting: {shares:?}"
        );
    }
}

#[test]
fn a_sleep_of_a_microsecond_takes_a_few_alone_and_beside_a_thread_that_computes() {
    for (arguments, most) in [(["alone"], 20_000), (["spinner"], 40_000)] {
        let (took, guest) = numbers("naps", &arguments, |run| run);
        assert!((1_000..most).contains(&took[0]), "{arguments:?}: {took:?} ns");
        assert!(guest.count("interrupts.longest_off_ns") < 1_000_000);
    }
}

#[test]
fn nappers_without_number_stop_neither_a_sleeper_nor_a_worker() {
    for threads in ["20", "200"] {
        let (figures, _) = numbers("naps", &["crowd", threads], |run| run);
        let (late, share) = (figures[0], figures[1]);
        assert!(late < 5_000_000, "{threads} nappers: a sleep was {late} ns late");
        assert!(share > 250, "{threads} nappers: the worker has {share} thousandths");
    }
}

#[test]
fn starting_programs_beside_a_spinner_takes_twice_as_long() {
    let mean = |spinners| numbers("execs", &["100", spinners], |run| run).0[0];
    let (alone, beside) = (mean("0"), mean("1"));
    assert!(beside < alone * 5 / 2, "{alone} ns alone, {beside} beside a spinner");
}

#[test]
fn an_idle_machine_takes_no_ticks() {
    let guest = Run::file(&busybox(), &["sleep", "3"]).counted().boot();
    assert_eq!(guest.status(), 0);
    // The end of the sleep, one each 4 ms of computing, and those of the task that keeps frames zeroed.
    let interrupts = guest.count("ticks.total");
    assert!((1..30).contains(&interrupts), "{interrupts} interrupts");
}

#[test]
fn a_machine_without_an_apic_keeps_time_by_the_interval_timer() {
    let (took, guest) = numbers("naps", &["spinner"], |run| run.on_cpu("max,-apic"));
    assert!((1_000..100_000).contains(&took[0]), "{took:?} ns");
    let log = String::from_utf8_lossy(&guest.log).into_owned();
    assert!(log.contains("alarms by the interval timer"), "{log}");
}

#[test]
fn sleepers_are_on_time_in_a_storm() {
    let arguments = "--tasks 64 --seconds 0.4 --scenario sweep,timer --seed 15";
    let arguments: Vec<_> = arguments.split(' ').collect();
    let guest = Run::new("storm", &arguments).counted().boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    let text = String::from_utf8_lossy(&guest.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with("@storm histogram name=lateness"));
    let late = line.and_then(|line| line.split(' ').find_map(|field| field.strip_prefix("p99=")));
    let late: u64 = late.unwrap_or_else(|| panic!("{text}")).parse().expect("a number");
    assert!(late <= 200_000, "{late} ns\n{text}");
}
