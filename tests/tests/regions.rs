//! Address spaces of many regions and of many pages: what runs out, how it is told, and that others run meanwhile.

use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, c_program, native_file};

/// The longest poll of the kernel that any of this may take, where an instruction is a nanosecond.
const LONGEST: Duration = Duration::from_millis(2);

fn regions(args: &[&str]) -> Run {
    Run::file(&c_program("regions", Libc::Gnu), args)
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    String::from_utf8_lossy(&guest.stdout).into_owned()
}

#[test]
fn holes_and_forks_of_many_regions_end_with_an_error_and_not_the_machine() {
    let guest = regions(&["holes", "8"]).counted().with_mib(64).boot();
    assert_eq!(output(&guest), "all have ended well\n");
    let guest = regions(&["forks"]).counted().with_mib(64).boot();
    assert_eq!(output(&guest), "alive\n");
}

#[test]
fn a_mapping_costs_the_same_among_many_regions() {
    let guest = regions(&["mmaps"]).counted().boot();
    let text = output(&guest);
    let costs: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [few, many] = costs[..] else { panic!("{text}") };
    assert!(many * 2 <= few * 3, "{few} ns among few regions, {many} among 32,000");
}

#[test]
fn no_call_on_many_regions_or_pages_keeps_others_waiting() {
    for args in [&["regions"][..], &["pages", "64"], &["exec", "24"]] {
        let guest = regions(args).with_mib(256).measure_polls().boot();
        output(&guest);
        let (longest, task) = guest.longest_poll();
        assert!(longest < LONGEST, "{args:?}: {longest:?} {task}");
    }
}

#[test]
fn memory_calls_answer_as_on_linux() {
    let program = c_program("memcalls", Libc::Gnu);
    let native = native_file(&program, &[]);
    let guest = Run::file(&program, &[]).boot();
    assert_eq!(output(&guest), String::from_utf8_lossy(&native.stdout));
}

/// QEMU reads the user stack of a far return in ring 3 as the kernel would, which SMAP forbids, again and again: a fault
/// that finds its page as it should be has to end some time.
#[test]
fn a_fault_that_stays_spurious_ends() {
    let program = c_program("farreturn", Libc::Gnu);
    assert_eq!(native_file(&program, &[]).status, 7);
    let guest = Run::file(&program, &[]).counted().boot();
    assert!(matches!(guest.status(), 7 | 139), "{}", guest.status());
    assert_eq!(Run::file(&program, &[]).on_cpu("max,-smap").boot().status(), 7);
}
