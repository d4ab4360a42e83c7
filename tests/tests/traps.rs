//! The trap path on its own: the kernel's self-tests below processes and address spaces.

use faultline_tests::Run;
use faultline_xtask::machine::End;
use faultline_xtask::session::FAILED;

/// The log of a kernel that takes every way out of user mode.
fn trap_test(run: Run) -> String {
    let guest = run.set("selftest", "traps").boot();
    let log = String::from_utf8_lossy(&guest.log).into_owned();
    assert_eq!(guest.end, End::Orderly, "{log}");
    assert!(log.contains("trap test: all as expected"), "{log}");
    log
}

#[test]
fn every_way_out_of_user_mode_is_the_expected_trap() {
    trap_test(Run::new("hello", &[]));
}

#[test]
fn so_it_is_on_a_processor_without_the_newer_features() {
    trap_test(Run::new("hello", &[]).on_cpu("qemu64"));
}

/// Bounds that leave a few instructions of room; the trap path is on every fault and every system call.
#[test]
fn a_round_trip_costs_few_instructions() {
    let log = trap_test(Run::new("hello", &[]).counted());
    for (what, most) in [("syscall and back: ", 80), ("page fault and back: ", 70)] {
        let (_, rest) = log.split_once(what).unwrap_or_else(|| panic!("{log}"));
        let counts: u64 = rest
            .split(' ')
            .next()
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("{log}"));
        assert!(counts <= most, "{what}{counts}");
    }
}

#[test]
fn a_wild_access_of_the_kernel_ends_it() {
    for (selftest, error) in [
        ("page-fault", "error 0x0"),
        ("write-text", "error 0x3"),
        ("execute-data", "error 0x11"),
    ] {
        let guest = Run::new("hello", &[]).set("selftest", selftest).boot();
        let (status, message) = guest.failure.expect("the kernel fails");
        assert_eq!((guest.end, status), (End::KernelFailed, FAILED), "{message}");
        assert!(message.contains("page fault") && message.contains(error), "{message}");
    }
}
