//! Boots under both firmwares, and the three ways in which a kernel may fail.

use std::time::Duration;

use faultline_tests::Run;
use faultline_xtask::machine::End;
use faultline_xtask::session::{FAILED, TIMED_OUT};

#[test]
fn seabios_boots_as_well_as_qboot() {
    let guest = Run::new("hello", &[]).by_seabios().boot();
    assert_eq!(guest.status(), 0);
}

/// Boots into a deliberate failure and returns the tool's message.
fn failing(selftest: &str) -> String {
    let guest = Run::new("hello", &[]).set("selftest", selftest).boot();
    let (status, message) = guest.failure.expect("the kernel fails");
    assert_eq!((guest.end, status), (End::KernelFailed, FAILED), "{message}");
    message
}

/// The back-trace of a message names these functions of the kernel, innermost first, each with its source line.
fn assert_symbolised(message: &str, functions: &[&str]) {
    let frames: Vec<_> = message
        .lines()
        .skip_while(|line| *line != "back-trace:")
        .skip(1)
        .collect();
    assert!(!frames.is_empty(), "there is no back-trace:\n{message}");
    let mut left = frames.iter();
    for function in functions {
        let named = left.find(|frame| frame.contains(function));
        assert!(
            named.is_some_and(|frame| frame.contains(".rs:")),
            "{function}: {message}"
        );
    }
    assert!(
        !message.contains("stack: 0x"),
        "raw words are not for people:\n{message}"
    );
}

#[test]
fn a_panic_says_what_and_where() {
    let message = failing("panic");
    assert!(message.contains("panic"), "{message}");
    assert_symbolised(
        &message,
        &["faultline_kernel::selftest::fail", "faultline_kernel::main"],
    );
}

#[test]
fn a_stack_overflow_is_caught_by_its_guard() {
    let message = failing("overflow");
    assert!(message.contains("overflow"), "{message}");
    assert_symbolised(&message, &["faultline_kernel::selftest::recurse"]);
    // Frames of the same function are one line.
    let recursion = message.lines().find(|line| line.ends_with(" times)"));
    assert!(recursion.is_some_and(|line| line.contains("recurse")), "{message}");
}

#[test]
fn a_double_fault_has_a_stack_of_its_own() {
    let message = failing("double-fault");
    assert!(message.contains("double fault"), "{message}");
    assert_symbolised(
        &message,
        &["faultline_kernel::selftest::fail", "faultline_kernel::main"],
    );
}

/// A fault of the kernel's own leaves the frames of the code that was interrupted, also where that was no code at all.
#[test]
fn a_fault_of_the_kernel_shows_what_it_interrupted() {
    for selftest in ["page-fault", "write-text", "execute-data", "late-panic"] {
        let message = failing(selftest);
        assert_symbolised(
            &message,
            &["faultline_kernel::selftest::fail", "faultline_kernel::main"],
        );
    }
}

#[test]
fn a_setting_that_does_not_exist_is_named() {
    let guest = Run::new("hello", &[]).set("colour", "green").boot();
    let (status, message) = guest.failure.expect("the kernel refuses");
    assert_eq!(status, FAILED);
    assert!(message.contains("colour"), "{message}");
}

#[test]
fn the_time_limit_ends_a_task_that_loops_for_ever() {
    let guest = Run::new("kill", &["--children", "1000000000"])
        .limited(Duration::from_secs(5))
        .boot();
    assert_eq!(guest.end, End::TimedOut(Duration::from_secs(5)));
    assert_eq!(guest.failure.map(|(status, _)| status), Some(TIMED_OUT));
}
