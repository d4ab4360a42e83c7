//! Programs that try to have the machine for themselves: while one of them does its worst, another process sleeps a
//! millisecond at a time, faults, and is never late by much; no poll of the kernel is long, nothing panics, and every
//! frame comes back. Under `--accel icount`, where an instruction is a nanosecond.

use std::time::Duration;

use faultline_tests::{Libc, Run, c_program};

/// How late a sleeper may wake at worst, in microseconds. Beside most attacks it is some ten; a thousand threads that are
/// all woken at once, before it, each have their turn first.
const LATEST: &str = "8000";

/// The longest poll of the kernel.
const LONGEST_POLL: Duration = Duration::from_millis(2);

/// Runs these attacks, each for so many milliseconds.
fn survives(milliseconds: &str, mib: u64, attacks: &[&str]) {
    let arguments = [&[LATEST, milliseconds], attacks].concat();
    let guest = Run::file(&c_program("attacks", Libc::Gnu), &arguments)
        .with_mib(mib)
        .set("run_ahead", 16)
        .measure_polls()
        .boot();
    let said = String::from_utf8_lossy(&guest.stdout);
    assert_eq!(guest.status(), 0, "{said}");
    assert_eq!(said.matches(" ok\n").count(), attacks.len(), "{said}");
    let (longest, task) = guest.longest_poll();
    assert!(longest <= LONGEST_POLL, "{longest:?} {task}");
    assert_eq!((guest.count("frames.leaked"), guest.count("faults.in_flight")), (0, 0));
}

#[test]
fn on_the_processor() {
    survives(
        "20",
        512,
        &[
            "spin",
            "spinners",
            "spin_threads",
            "call_loop",
            "yield_loop",
            "yielders",
            "nappers",
            "nappers_zero",
            "nappers_short",
            "past_sleeps",
            "fault_loop",
            "faulters",
            "huge_loop",
        ],
    );
}

#[test]
fn with_processes_and_threads() {
    survives(
        "20",
        512,
        &[
            "fork_loop",
            "vfork_loop",
            "zombies",
            "fork_bomb",
            "thread_loop",
            "groups",
            "stop_and_go",
            "arguments",
        ],
    );
}

#[test]
fn with_regions() {
    survives(
        "100",
        512,
        &[
            "many_regions",
            "many_regions_fork",
            "many_regions_locked",
            "many_regions_protect",
            "many_regions_advise",
            "many_regions_exec",
            "many_regions_exit",
            "maps_reader",
            "wide_calls",
        ],
    );
}

#[test]
fn with_memory() {
    survives(
        "20",
        512,
        &[
            "touched_unmap",
            "touched_move",
            "touched_lock",
            "touched_fork",
            "brk_loop",
        ],
    );
}

#[test]
fn with_all_memory() {
    survives("40", 64, &["hog", "table_hog", "memfd_hog"]);
}

#[test]
fn with_files() {
    survives(
        "20",
        256,
        &[
            "long_reads",
            "long_vectors",
            "empty_vectors",
            "sparse_file",
            "grown_file",
            "names",
            "links",
            "deep",
            "deep_tree_given_up",
            "list_large",
            "descriptors",
            "locks",
        ],
    );
}

#[test]
fn with_waits() {
    survives(
        "20",
        256,
        &[
            "pipe_hog",
            "pipe_family",
            "pipe_loop",
            "herd",
            "poll_always_due",
            "poll_many",
            "timers",
            "futexes",
            "robust_circle",
            "console",
        ],
    );
}

#[test]
fn with_signals() {
    survives(
        "20",
        256,
        &[
            "segv_loop",
            "kill_self_loop",
            "interval_timer",
            "queued_signals",
            "signal_ping_pong",
        ],
    );
}
