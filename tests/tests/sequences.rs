//! Random sequences of memory calls, accesses and forks on this machine's Linux and on Faultline: the same hash of
//! everything that the program saw, for each seed.
//!
//! A seed that differs is shown step by step by `cargo run -- run sequences --first SEED --count 1 --verbose`, and by
//! the same program on Linux.

use faultline_tests::{Guest, Run, native};

/// Sequences of the tests through the queue, with and without a swap area, and of the one without the queue.
const QUEUED: u64 = 2000;
const SWAPPING: u64 = 2000;
const INLINE: u64 = 200;

/// Compares the sequences with seeds from `first` on.
fn compare(run: impl FnOnce(&[&str]) -> Run, first: u64, count: u64) -> Guest {
    let (from, number) = (first.to_string(), count.to_string());
    let args = ["--first", &from, "--count", &number];
    println!("seeds {first} to {}", first + count - 1);
    let expected = native("sequences", &args);
    assert_eq!(expected.status, 0, "{}", String::from_utf8_lossy(&expected.stderr));
    let guest = run(&args).boot();
    let [here, there] = [&guest.stdout, &expected.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let differ: Vec<_> = here
        .lines()
        .zip(there.lines())
        .filter(|(here, there)| here != there)
        .map(|(here, there)| format!("{here}, on Linux {there}"))
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    assert_eq!(here.lines().count() as u64, count + 1, "{here}");
    assert_eq!(here, there);
    guest
}

#[test]
fn memory_calls_do_what_linux_does() {
    let _ = compare(|args| Run::new("sequences", args), 0, QUEUED);
}

/// Here `MADV_PAGEOUT` has somewhere to put the pages, and `MADV_FREE` something to wait for.
#[test]
fn memory_calls_do_what_linux_does_with_a_swap_area() {
    let run = |args: &[&str]| Run::new("sequences", args).with_swap("model:64M,latency=10us");
    let guest = compare(run, QUEUED, SWAPPING);
    assert_eq!(guest.count("swap.leaked"), 0);
    let (written, read) = (guest.count("swap.writes"), guest.count("swap.reads"));
    assert!(
        written > SWAPPING && read > SWAPPING / 2,
        "{written} pages written, {read} read"
    );
}

#[test]
fn memory_calls_do_what_linux_does_with_faults_served_inline() {
    let _ = compare(|args| Run::new("sequences", args).inline(), QUEUED + SWAPPING, INLINE);
}
