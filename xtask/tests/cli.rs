//! The tool as a person types it: what it refuses, and what it leaves behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

fn faultline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faultline"));
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    faultline().args(args).output().expect("the tool starts")
}

/// Runs `file` and returns the tool's exit status and message.
fn refused(file: &str) -> (Option<i32>, String) {
    let output = run(&["run", file]);
    assert!(output.stdout.is_empty());
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A folder with one file in it.
fn file(content: &[u8]) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("task");
    fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// The tool's own file: whole and for this processor, but dynamically linked.
fn own() -> Vec<u8> {
    fs::read(env!("CARGO_BIN_EXE_faultline")).unwrap()
}

#[test]
fn a_missing_file_is_127() {
    let (status, message) = refused("/nonexistent/task");
    assert_eq!(
        (status, message.as_str()),
        (Some(127), "faultline: /nonexistent/task: no such file\n")
    );
}

#[test]
fn files_that_are_no_programs_are_126_with_the_reason() {
    let patched = |offset: usize, byte: u8| {
        let mut bytes = own();
        bytes[offset] = byte;
        bytes
    };
    let own = own();
    let cases: [(&[u8], &str); 7] = [
        (b"", "not an ELF file (it is empty)"),
        (b"#!/bin/sh\nexit 0\n", "not an ELF file (it is a script)"),
        (&own[..5000], "truncated: segment"),
        (&patched(4, 1), "a 32-bit ELF file"),
        (&patched(18, 183), "built for AArch64"),
        (&patched(16, 1), "an object file, not an executable"),
        (&own, "dynamically linked: its PT_INTERP header asks for /"),
    ];
    for (content, reason) in cases {
        let (_folder, path) = file(content);
        let (status, message) = refused(&path);
        assert_eq!(status, Some(126), "{message}");
        assert!(
            message.starts_with(&format!("faultline: {path}: {reason}")),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn too_little_memory_for_the_ramdisk_is_125_with_the_least_that_would_do() {
    let output = run(&["run", "--mem", "16M", "hello"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(
        message.contains("too little memory") && message.contains("--mem"),
        "{message}"
    );
}

#[test]
fn categories_without_a_trace_are_125() {
    let output = run(&["run", "--trace-categories", "fault", "hello"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--trace or --report"));
}

#[test]
fn a_category_that_does_not_exist_is_125_and_named() {
    let output = run(&["run", "--trace", "text", "--trace-categories", "colour", "hello"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("colour"));
}

#[test]
fn the_tool_ends_with_its_reader() {
    let mut command = faultline();
    let mib = own_size(4);
    command.args([
        "run",
        "--mem",
        &format!("{mib}M"),
        "--trace",
        "text",
        "kill",
        "--children",
        "1000000000",
    ]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the tool starts");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.contains("Faultline"))),
        "the kernel said nothing"
    );
    drop(lines);
    assert_eq!(child.wait().unwrap().signal(), Some(13));
    while !machines(mib).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_wrong_option_is_2() {
    for args in [
        &["run"] as &[_],
        &["run", "--mem", "lots", "hello"],
        &["run", "--accel", "magic", "hello"],
        &["fly"],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

/// Standard error of arguments that are refused with this status before anything is built or booted.
fn refusal(args: &[&str], status: i32) -> String {
    let output = run(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {message}");
    message
}

#[test]
fn what_is_refused_says_what_would_do() {
    for (args, status, says) in [
        (&["storm", "--seconds", "0"] as &[_], 2, "no time at all"),
        (&["storm", "--scenario", "bogus"], 2, "sweep, random, same-page"),
        (&["storm", "--scenario", "swep"], 2, "(`sweep`?)"),
        (&["run", "--report", "x.txt", "hello"], 2, "ends in .html"),
        (&["run", "--env", "FOO", "hello"], 2, "write FOO=VALUE"),
        (&["run", "--config", "servic=last", "hello"], 2, "(`service`?)"),
        (&["run", "--config", "service=soon", "hello"], 2, "takes first, last"),
        (&["run", "--gdb=here", "hello"], 2, "neither a port"),
        (
            &["run", "heloo"],
            127,
            "did you mean `hello`? The sample tasks are bench, ",
        ),
        (&["run", "nothing-like-it"], 127, "  The sample tasks are bench, "),
    ] {
        let message = refusal(args, status);
        assert!(message.contains(says), "{args:?}: {message}");
    }
}

#[test]
fn the_keys_of_the_configuration_are_listed() {
    let output = run(&["run", "--config", "help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    for key in [
        "\nservice=first, last\n",
        "\nselftest=panic, ",
        "\nslice=a number up to 100\n",
    ] {
        assert!(text.contains(key), "{key}: {text}");
    }
}

#[test]
fn a_line_of_the_configuration_and_an_argument_of_qemu_reach_the_machine() {
    let output = run(&[
        "run",
        "--config",
        "selftest=leak-frame",
        "--qemu-arg=-name",
        "--qemu-arg=a-name-for-it",
        "hello",
    ]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.contains("the kernel lost memory"), "{message}");
    let output = run(&["run", "--qemu-arg=-no-such-option", "hello"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.contains("-no-such-option: invalid option"), "{message}");
}

#[test]
fn completions_and_manual_pages_come_from_the_definition() {
    let text = |args| String::from_utf8(run(args).stdout).unwrap();
    assert!(text(&["completions", "bash"]).contains("--zero-pool"));
    assert!(text(&["completions", "zsh"]).contains("faultline"));
    assert!(text(&["man"]).contains(".TH faultline 1"));
    let folder = TempDir::new().unwrap();
    let pages = folder.path().join("man1");
    assert_eq!(run(&["man", pages.to_str().unwrap()]).status.code(), Some(0));
    let page = fs::read_to_string(pages.join("faultline-run.1")).unwrap();
    assert!(
        page.contains("faultline\\-run") && page.contains("zero\\-pool"),
        "{page}"
    );
}

#[test]
fn a_full_disk_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = faultline().args(["run", "hello"]).stdout(full).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(
        message.contains("faultline: standard output can't be written: No space left on device"),
        "{message}"
    );
}

#[test]
fn a_closed_pipe_ends_the_tool_without_a_word() {
    for args in [
        &["--help"] as &[_],
        &["man"],
        &["completions", "zsh"],
        &["run", "--config", "help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = faultline().args(args).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn setup_says_that_everything_is_there() {
    let output = run(&["setup"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("qemu-system-x86_64"));
}

/// An amount of memory that no other test uses, nor another run of these tests at the same time; below 4 GiB.
fn own_size(test: u64) -> u64 {
    300 + 10 * (u64::from(std::process::id()) % 350) + test
}

/// Every QEMU with this much memory.
fn machines(mib: u64) -> Vec<PathBuf> {
    let size = format!("{mib}M");
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_machine = |process: &PathBuf| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words[0].ends_with(b"qemu-system-x86_64") && words.contains(&size.as_bytes())
    };
    processes.filter(is_machine).collect()
}

/// Starts a task that never ends, and waits until its kernel is up.
fn endless(mib: u64) -> Child {
    let mut command = faultline();
    command.args([
        "run",
        "--mem",
        &format!("{mib}M"),
        "--trace",
        "text",
        "--trace-categories",
        "memory",
    ]);
    command
        .args(["kill", "--children", "1000000000"])
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.contains("Faultline"))),
        "the kernel said nothing"
    );
    assert_eq!(machines(mib).len(), 1);
    // What comes later is read and dropped, so that the tool never waits for this test.
    thread::spawn(move || lines.count());
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn the_time_limit_is_124_and_leaves_nothing_running() {
    let output = run(&[
        "run",
        "--mem",
        &format!("{}M", own_size(1)),
        "--timeout",
        "4",
        "kill",
        "--children",
        "1000000000",
    ]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(124), "{message}");
    assert_eq!(message, "faultline: still running after the time limit of 4 s\n");
    assert!(machines(own_size(1)).is_empty());
}

#[test]
fn ctrl_c_is_130_and_leaves_nothing_running() {
    let mut child = endless(own_size(2));
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(machines(own_size(2)).is_empty());
}

#[test]
fn when_the_tool_is_killed_the_machine_goes_too() {
    let mut child = endless(own_size(3));
    signal(&child, "KILL");
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    while !machines(own_size(3)).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
}
