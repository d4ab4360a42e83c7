//! The kernel heap: one process can't take it from the others, and no allocation that fails does harm.
//!
//! The fuzzer of calls with failing allocations, a million calls for each of its settings:
//! `cargo test -p faultline-tests --test heap -- --ignored`.

use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, c_program};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it printed. Nothing may be left of a run: no frame, no fault, nothing charged to anybody.
fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}\n{}", text(&guest.stdout), text(&guest.stderr));
    assert_nothing_is_left(guest);
    text(&guest.stdout)
}

fn assert_nothing_is_left(guest: &Guest) {
    let left = ["frames.leaked", "faults.in_flight", "heap.accounts"].map(|key| guest.count(key));
    assert_eq!(left, [0; 3], "frames, faults and accounts of the heap that are left");
}

/// Each line of `heaphog` ends with 1: it worked.
fn others_go_on(kind: &str, mib: u64) {
    let program = c_program("heaphog", Libc::Gnu);
    let guest = Run::file(&program, &[kind]).with_mib(mib).boot();
    let printed = output(&guest);
    assert_eq!(printed.lines().count(), 12, "{printed}");
    assert!(
        printed.lines().all(|line| line.ends_with(" 1")),
        "{kind} on {mib} MiB:\n{printed}"
    );
}

#[test]
fn a_hog_of_pipes_leaves_the_others_their_share() {
    others_go_on("pipes", 64);
}

#[test]
fn a_hog_of_regions_and_copies_of_them_leaves_the_others_their_share() {
    others_go_on("regions", 96);
}

#[test]
fn a_hog_of_threads_leaves_the_others_their_share() {
    others_go_on("threads", 64);
}

#[test]
fn a_hog_of_files_leaves_the_others_their_share() {
    others_go_on("files", 64);
}

/// Rounds of calls while each allocation that `every` divides fails.
fn rounds(rounds: u32, every: u64) -> Guest {
    Run::file(&c_program("shortage", Libc::Gnu), &[&rounds.to_string()])
        .counted()
        .set("heap_fail_every", every)
        .limited(Duration::from_secs(600))
        .boot()
}

#[test]
fn an_allocation_that_fails_at_any_place_is_an_error_of_its_call() {
    // The numbers are prime, so that the place that fails moves from round to round.
    for every in [29, 101] {
        let guest = rounds(120, every);
        output(&guest);
        assert!(
            guest.count("heap.failed") > 100,
            "{} failed",
            guest.count("heap.failed")
        );
    }
}

/// A program that is refused memory may end in any way, but the kernel ends in good order.
fn calls(count: u64, seed: u64, key: &'static str, value: u64) -> Guest {
    let (count, seed) = (count.to_string(), seed.to_string());
    let guest = Run::new("calls", &["--count", &count, "--seed", &seed])
        .measure_polls()
        .set(key, value)
        .limited(Duration::from_secs(3000))
        .boot();
    assert_nothing_is_left(&guest);
    guest
}

#[test]
fn wild_calls_with_a_small_heap_do_no_harm() {
    let guest = calls(50_000, 5, "heap", 512);
    assert_eq!(guest.status(), 0, "{}", text(&guest.stderr));
}

#[test]
fn wild_calls_with_allocations_that_fail_do_no_harm() {
    let guest = calls(50_000, 6, "heap_fail_every", 1009);
    // The program itself ends with the first of its own forks that fails.
    assert!(guest.count("heap.failed") > 0);
}

#[test]
#[ignore = "takes an hour"]
fn a_million_wild_calls_with_allocations_that_fail_do_no_harm() {
    for (seed, key, value) in [
        (11, "heap", 256),
        (12, "heap", 4096),
        (13, "heap_fail_every", 997),
        (14, "heap_fail_every", 2003),
        (15, "heap_fail_every", 10_007),
    ] {
        let guest = calls(1_000_000, seed, key, value);
        assert_eq!(guest.status(), 0, "{key}={value}: {}", text(&guest.stderr));
    }
}

#[test]
#[ignore = "takes an hour"]
fn each_of_the_first_allocations_fails_once() {
    let program = c_program("shortage", Libc::Gnu);
    for nth in 1.. {
        let guest = Run::file(&program, &["3"]).set("heap_fail", nth).boot();
        assert_nothing_is_left(&guest);
        if guest.count("heap.failed") == 0 {
            assert!(nth > 500, "only {nth} allocations");
            break;
        }
    }
}
