//! Several CPUs: threads run on all of them, what a call has taken away is gone everywhere when it returns, and nothing is
//! lost. Programs that say what they see are compared with this machine's Linux.

use std::path::Path;

use clap::Parser;
use faultline_tests::{Guest, Libc, Run, c_program, native, native_file};
use faultline_xtask::cli::{Cli, Command};
use faultline_xtask::machine::End;
use faultline_xtask::storm;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a program printed that ended well, and lost nothing.
fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}\n{}", text(&guest.stdout), text(&guest.stderr));
    assert_eq!(guest.count("frames.leaked"), 0);
    text(&guest.stdout)
}

/// Runs a program file on both, on so many CPUs here, and compares what it prints.
fn same_as_native(file: &Path, args: &[&str], cpus: u8) -> Guest {
    let native = native_file(file, args);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    let guest = Run::file(file, args).with_cpus(cpus).boot();
    assert_eq!(output(&guest), text(&native.stdout), "{cpus} CPUs");
    assert_eq!(guest.count("cpus"), u64::from(cpus));
    guest
}

#[test]
fn threads_run_on_all_cpus() {
    for cpus in [2, 4] {
        let guest = Run::new("threads", &[]).with_cpus(cpus).boot();
        assert_eq!(output(&guest), text(&native("threads", &[]).stdout));
        assert_eq!(guest.count("cpus"), u64::from(cpus));
        assert!(guest.count("cpus.moved") > 0, "no thread moved");
        for cpu in 1..cpus {
            assert!(guest.count(&format!("cpu.{cpu}.polls")) > 0, "CPU {cpu} did nothing");
        }
    }
}

#[test]
fn nobody_uses_what_a_finished_call_has_taken_away() {
    let file = c_program("litmus", Libc::Gnu);
    same_as_native(&file, &["60", "3"], 4);
    same_as_native(&file, &["60", "1"], 2);
}

#[test]
fn calls_of_many_threads_are_as_on_linux() {
    for program in ["futexes", "pipes", "queued", "robust"] {
        same_as_native(&c_program(program, Libc::Gnu), &[], 4);
    }
}

#[test]
fn threads_stay_on_the_cpus_that_they_are_told() {
    for cpus in [1, 2, 4] {
        same_as_native(&c_program("affinity", Libc::Gnu), &[], cpus);
    }
}

#[test]
fn a_machine_with_fewer_cpus_than_asked_for_runs_on_those_it_has() {
    let guest = Run::new("hello", &[]).with_cpus(2).set("cpus", "4").boot();
    assert_eq!(output(&guest), text(&native("hello", &[]).stdout));
    assert_eq!(guest.count("cpus"), 2);
    let log = text(&guest.log);
    assert!(log.contains("the machine has 2 CPUs, not 4"), "{log}");
}

#[test]
fn a_storm_on_several_cpus_loses_nothing() {
    for cpus in [2, 4] {
        let words = format!("faultline storm --tasks 24 --seconds 3 --seed 21 --cpus {cpus}");
        let Some(Command::Storm(arguments)) = Cli::parse_from(words.split(' ')).command else {
            panic!("not storm")
        };
        assert_eq!(storm::run(&arguments).unwrap(), 0, "{cpus} CPUs");
    }
}

#[test]
fn a_failure_stops_all_cpus_and_says_where_they_were() {
    let guest = Run::new("hello", &[]).with_cpus(3).set("selftest", "late-panic").boot();
    assert_eq!(guest.end, End::KernelFailed);
    let log = text(&guest.log);
    for cpu in [1, 2] {
        let line = log
            .lines()
            .find(|line| line.starts_with(&format!("CPU {cpu} was at 0xffffffff8")));
        assert!(line.is_some(), "{log}");
    }
    assert!(log.contains("panic: "), "{log}");
}
