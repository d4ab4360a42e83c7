//! `run --gdb` with a real gdb: it finds the program, the kernel, and what the kernel keeps.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What a person might type, one thing after the other.
const SESSION: &str = "\
faultline user
info symbol $pc
faultline tasks
faultline slots
faultline regions
faultline entry $pc
faultline break serve_backed
continue
backtrace 1
faultline slots
delete
continue
";

#[test]
fn gdb_sees_program_and_kernel() {
    if Command::new("gdb").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has no gdb: .ci/run installs it");
        eprintln!("no gdb is installed: nothing was tested");
        return;
    }
    let mut tool = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["run", "--gdb=0", "--timeout", "120", "hello"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut lines = BufReader::new(tool.stderr.take().unwrap()).lines();
    let says = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("type this")));
    assert!(says.is_some(), "the tool says nothing of gdb");
    let line = lines.next().unwrap().unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..3], ["gdb", "-q", "-x"]);

    let folder = TempDir::new().unwrap();
    let session = folder.path().join("session");
    fs::write(&session, SESSION).unwrap();
    let gdb = Command::new("gdb")
        .args(["-nx", "-batch", "-q", "-x", words[3], "-x"])
        .arg(&session)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&gdb.stdout);
    let complained = String::from_utf8_lossy(&gdb.stderr);
    for expected in [
        "_start in section .text of",
        "fault service",
        "user thread",
        "kept      use",
        "0 of 1024 fault slots are in flight",
        " r-x to 0x",
        ", File, flags 0x0",
        "level 4: 0x",
        ", writable, user",
        "serve_backed",
        "in flight use",
        "1 of 1024 fault slots are in flight",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}\n{complained}");
    }
    assert!(tool.wait().unwrap().success(), "{said}\n{complained}");
}
