//! What user threads wait for, and that nobody waits for nothing.

use std::path::{Path, PathBuf};

use faultline_tests::{Guest, Libc, Run, c_program, native_file};

/// A program of this test, with glibc.
fn program(name: &str) -> PathBuf {
    c_program(name, Libc::Gnu)
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    String::from_utf8_lossy(&guest.stdout).into_owned()
}

/// Runs a program file on Faultline, instructions counted, and on Linux; the outputs are the same.
fn same_as_native(file: &Path, args: &[&str]) {
    let native = native_file(file, args);
    let guest = Run::file(file, args).counted().boot();
    assert_eq!(output(&guest), String::from_utf8_lossy(&native.stdout));
}

#[test]
fn waits_are_seen_and_stopped_processes_take_nothing_and_keep_their_deadlines() {
    let program = program("waits");
    same_as_native(&program, &[]);
    let text = output(&Run::file(&program, &["show"]).counted().boot());
    for what in ["futex 0x", "pipe", "sleep", "files", "child", "timer", "signal"] {
        let found = text.lines().any(|line| {
            line.starts_with("thread ")
                && line.contains(" `waits-")
                && line.contains(&format!(" waits for {what}"))
                && line.contains(" since ")
        });
        assert!(found, "nobody waits for {what}:\n{text}");
    }
}

#[test]
fn futexes_are_as_on_linux_and_a_wake_costs_what_it_wakes() {
    let program = program("futexes");
    same_as_native(&program, &[]);
    let guest = Run::file(&program, &["costs"]).counted().boot();
    let lines = ["20 ended", "40 ended", "1020 ended", "moved 980, woken 980", "flat"];
    let said = String::from_utf8_lossy(&guest.stderr).into_owned();
    assert_eq!(output(&guest).lines().collect::<Vec<_>>(), lines, "{said}");
}
