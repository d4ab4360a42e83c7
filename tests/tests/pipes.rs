//! Pipes, polling and vectors of buffers, compared with this machine's Linux, and what they cost beside many that wait.

use std::path::Path;

use faultline_tests::{Guest, Libc, Run, c_program, native_file};

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    String::from_utf8_lossy(&guest.stdout).into_owned()
}

/// Runs a program file on Faultline, instructions counted, and on Linux; the outputs are the same.
fn same_as_native(file: &Path) {
    let native = native_file(file, &[]);
    let guest = Run::file(file, &[]).counted().boot();
    assert_eq!(output(&guest), String::from_utf8_lossy(&native.stdout));
}

#[test]
fn pipes_and_vectors_are_as_on_linux() {
    same_as_native(&c_program("pipes", Libc::Gnu));
}

#[test]
fn counters_and_sets_of_files_are_as_on_linux() {
    same_as_native(&c_program("epolls", Libc::Gnu));
}

#[test]
fn polls_are_as_on_linux() {
    same_as_native(&c_program("polls", Libc::Gnu));
}

#[test]
fn system_v_memory_semaphores_and_queues_are_as_on_linux() {
    same_as_native(&c_program("sysv", Libc::Gnu));
}

#[test]
fn nobody_is_woken_for_nothing_and_there_are_thousands_of_pipes() {
    let guest = Run::file(&c_program("herd", Libc::Gnu), &[])
        .counted()
        .with_mib(256)
        .boot();
    let text = output(&guest);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "2 waited, 2 ended",
            "300 waited, 300 ended",
            "round trips: flat",
            "closes: flat",
            "4800 pipes, 10 processes"
        ],
        "{}",
        String::from_utf8_lossy(&guest.stderr)
    );
}

#[test]
fn output_delays_nobody_and_each_write_stays_together() {
    let guest = Run::file(&c_program("stall", Libc::Gnu), &[]).counted().boot();
    let said = String::from_utf8_lossy(&guest.stderr).into_owned();
    assert_eq!(guest.status(), 0, "{said}");
    assert!(said.starts_with("late by a tick at most"), "{said}");
    assert_eq!(guest.stdout.len(), 8 * 65536);
    for write in guest.stdout.chunks(65536) {
        assert!(write.iter().all(|byte| *byte == write[0]), "two writes are mixed");
    }
}
