//! Threads, processes, groups and their limits: C programs that say what they see, on this machine's Linux and on
//! Faultline.

use std::path::Path;
use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, c_program, native_file};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}\n{}", text(&guest.stdout), text(&guest.stderr));
    text(&guest.stdout)
}

/// Runs a program on both, compares what comes out, and says what it is.
fn same_as_native(file: &Path) -> String {
    let native = native_file(file, &[]);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    let guest = Run::file(file, &[]).limited(LIMIT).boot();
    if guest.failure.is_some() {
        println!("{}", text(&guest.stdout));
    }
    assert_eq!(output(&guest), text(&native.stdout));
    text(&native.stdout)
}

#[test]
fn limits_are_set_inherited_and_never_raised() {
    let printed = same_as_native(&c_program("limits", Libc::Gnu));
    assert!(printed.contains("after execve: 500000 of 700000\n"), "{printed}");
}

/// The numbers in a line of the output.
fn numbers(line: &str) -> Vec<f64> {
    line.split(|character: char| !(character.is_ascii_digit() || character == '.'))
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Ends a machine that hangs; far beyond what any test here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest poll that may be.
const LONGEST: Duration = Duration::from_millis(2);

#[test]
fn crowds_are_told_and_waited_for() {
    let file = c_program("crowds", Libc::Gnu);
    same_as_native(&file);
    // So many that what is not linear, or not done piece by piece, shows.
    let guest = Run::file(&file, &["3000"]).with_mib(1024).measure_polls().boot();
    let printed = output(&guest);
    for line in [
        "orphaned groups: 3000 by signal 1 1 by exit, then No child processes",
        "an orphaned group: 3000 by signal 1 1 by exit, then No child processes",
        "a parent's end: 3000 by signal 10 1 by exit, then No child processes",
        "a signalled group: 3000, then No child processes",
        "adopted: 3001 by exit, then No child processes",
        "a chain: 1 by exit, then No child processes",
        "named: the rest was there",
    ] {
        assert!(printed.lines().any(|found| found == line), "no `{line}` in:\n{printed}");
    }
    let (longest, whose) = guest.longest_poll();
    println!("longest poll: {longest:?} of {whose}");
    assert!(longest < LONGEST, "a poll took {longest:?}: {whose}");
}

#[test]
fn a_signal_to_all_and_the_end_of_the_first_program_reach_everybody() {
    let guest = Run::file(&c_program("crowds", Libc::Gnu), &["2000", "all"])
        .with_mib(1024)
        .measure_polls()
        .boot();
    assert_eq!(
        output(&guest),
        "all: 2000 by signal 15 0 by exit, then No child processes\n"
    );
    let (longest, whose) = guest.longest_poll();
    println!("longest poll: {longest:?} of {whose}");
    assert!(longest < LONGEST, "a poll took {longest:?}: {whose}");
}

#[test]
fn an_end_costs_the_same_beside_many() {
    let file = c_program("crowds", Libc::Gnu);
    let cost = |count: &str| {
        let guest = Run::file(&file, &[count, "times"]).with_mib(1024).counted().boot();
        let printed = output(&guest);
        println!("{printed}");
        numbers(&printed)[1..].to_vec()
    };
    for (few, many) in cost("100").into_iter().zip(cost("3000")) {
        assert!(many < few * 1.5 + 10.0, "{few} us beside 100, {many} us beside 3000");
    }
    let guest = Run::file(&c_program("sleepers", Libc::Gnu), &["1000"]).counted().boot();
    let printed = output(&guest);
    println!("{printed}");
    let lines: Vec<_> = printed.lines().map(numbers).collect();
    for (few, many) in lines[0][1..].iter().zip(&lines[1][1..]) {
        assert!(
            *many < few * 1.2 + 5.0,
            "{few} us beside 0, {many} us beside 1000:\n{printed}"
        );
    }
}

#[test]
fn numbers_groups_frames_clones_controls_and_priorities() {
    let printed = same_as_native(&c_program("manners", Libc::Gnu));
    assert!(printed.contains("SIGSEGV handler, signal 11\n"), "{printed}");
}

#[test]
fn cpu_time_is_charged_told_and_limited() {
    let printed = same_as_native(&c_program("cputime", Libc::Gnu));
    assert!(printed.contains("computes: running 10 of 10 times"), "{printed}");
}

#[test]
fn timers_of_processes() {
    let printed = same_as_native(&c_program("timers", Libc::Gnu));
    assert!(printed.contains("caught 1, with overruns 1\n"), "{printed}");
}

#[test]
fn handlers_stacks_registers_and_bit_sets_are_kept() {
    let file = c_program("keeps", Libc::Gnu);
    let printed = same_as_native(&file);
    assert!(
        printed.contains("deferred: as deep as 1\nnot deferred: as deep as 3\n"),
        "{printed}"
    );
    let guest = Run::file(&file, &["control"]).limited(LIMIT).boot();
    assert_eq!(output(&guest), "mxcsr: reserved bits 0\nthe child: exited\n");
}
