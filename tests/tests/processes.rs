//! Processes and signals: C programs that say what they see, on this machine's Linux and on Faultline.

use std::path::Path;

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
    same(file, &[], &[])
}

/// As [`same_as_native`], with a folder to write to as the program's argument.
fn same_in_folder(file: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    same(file, &[folder.path().to_str().unwrap()], &["/tmp"])
}

fn same(file: &Path, on_linux: &[&str], on_faultline: &[&str]) -> String {
    let native = native_file(file, on_linux);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    assert_eq!(output(&Run::file(file, on_faultline).boot()), text(&native.stdout));
    text(&native.stdout)
}

#[test]
fn processes_stop_and_go_on() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let printed = same_as_native(&c_program("jobs", libc));
        assert!(printed.contains("counted while stopped: 0\n"), "{printed}");
    }
}

#[test]
fn signals_queue_and_are_waited_for() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let printed = same_as_native(&c_program("queued", libc));
        assert!(printed.lines().count() > 25, "{printed}");
    }
}

#[test]
fn no_more_signals_queue_than_the_limit_says() {
    let printed = output(&Run::file(&c_program("queued", Libc::Gnu), &["fill"]).boot());
    assert_eq!(
        printed,
        "queued as many as the limit says: 1, then Resource temporarily unavailable\nkill: 0, standard: 0\nlast but one \
         value 1022\n"
    );
}

#[test]
fn locks_and_joins_survive_the_dead() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let printed = same_as_native(&c_program("robust", libc));
        assert!(printed.contains("the waiter inherited 3\n"), "{printed}");
    }
}

#[test]
fn a_thread_that_executes_a_program_becomes_the_first() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let printed = same_in_folder(&c_program("leader", libc));
        assert!(
            printed.contains("with others: same process 1, first thread 0, threads 1"),
            "{printed}"
        );
    }
}

#[test]
fn what_is_given_up_stays_given_up() {
    let printed = same_as_native(&c_program("privileges", Libc::Gnu));
    assert!(
        printed.contains("oom_score_adj 1001: -1 Invalid argument is"),
        "{printed}"
    );
}

#[test]
fn processes_look_into_each_other() {
    let printed = same_as_native(&c_program("peers", Libc::Gnu));
    assert!(printed.contains("the child has wriattena\n"), "{printed}");
}

#[test]
fn scripts_run_by_their_interpreters() {
    let printed = same_in_folder(&c_program("scripts", Libc::Gnu));
    assert!(printed.contains("Too many levels of symbolic links"), "{printed}");
}

#[test]
fn death_without_memory_leaves_no_lock_behind() {
    let file = c_program("deaths", Libc::Musl);
    let native = native_file(&file, &[]);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    // The children want at least 46 MiB together, however long it takes them.
    let guest = Run::file(&file, &[]).with_mib(48).boot();
    assert_eq!(output(&guest), text(&native.stdout));
    assert!(guest.count("faults.memory_waits") > 0, "memory was short");
}
