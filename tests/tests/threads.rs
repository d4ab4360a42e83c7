//! Threads, processes, groups and their limits: C programs that say what they see, on this machine's Linux and on
//! Faultline.

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
    let native = native_file(file, &[]);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    assert_eq!(output(&Run::file(file, &[]).boot()), text(&native.stdout));
    text(&native.stdout)
}

#[test]
fn limits_are_set_inherited_and_never_raised() {
    let printed = same_as_native(&c_program("limits", Libc::Gnu));
    assert!(printed.contains("after execve: 500000 of 700000\n"), "{printed}");
}
