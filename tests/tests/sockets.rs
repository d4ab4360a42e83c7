//! Sockets, compared with this machine's Linux.

use std::path::Path;

use faultline_tests::{Guest, Libc, Run, c_program, native_file};

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    String::from_utf8_lossy(&guest.stdout).into_owned()
}

/// Runs a program file on Faultline, instructions counted, and on Linux; the outputs are the same, line by line.
fn same_as_native(file: &Path) {
    let native = native_file(file, &[]);
    assert_eq!(
        native.status,
        0,
        "on Linux: {}",
        String::from_utf8_lossy(&native.stderr)
    );
    let linux = String::from_utf8_lossy(&native.stdout).into_owned();
    let ours = output(&Run::file(file, &[]).counted().boot());
    for (ours, linux) in ours.lines().zip(linux.lines()) {
        assert_eq!(ours, linux);
    }
    assert_eq!(ours, linux);
}

#[test]
fn sockets_of_one_machine_are_as_on_linux() {
    same_as_native(&c_program("sockets", Libc::Gnu));
}

#[test]
fn tcp_and_udp_inside_the_machine_are_as_on_linux() {
    same_as_native(&c_program("networks", Libc::Gnu));
}
