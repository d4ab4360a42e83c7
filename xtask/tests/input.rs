//! Standard input of the tool as the program's: a pipe, a file, a terminal.

mod terminal;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use faultline_xtask::shell;
use tempfile::TempDir;
use terminal::Terminal;

fn busybox() -> PathBuf {
    shell::busybox(None).expect("there is a static busybox, or it can be fetched")
}

/// Bytes of every value, in no order, with runs of the one that escapes the end of input.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count)
        .map(|index| if index % 1000 < 5 { 0x10 } else { next() })
        .collect()
}

#[test]
fn every_byte_of_a_pipe_reaches_the_program() {
    let content = bytes(60_000);
    let words = ["run", "--timeout", "120"];
    let mut tool = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(words)
        .arg(busybox())
        .arg("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut input = tool.stdin.take().unwrap();
    let sent = content.clone();
    let sender = thread::spawn(move || input.write_all(&sent));
    let output = tool.wait_with_output().unwrap();
    sender.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout == content,
        "{} of {} bytes",
        output.stdout.len(),
        content.len()
    );
}

#[test]
fn a_file_is_read_to_its_end_and_what_is_left_does_no_harm() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("lines");
    std::fs::write(&file, "one\ntwo\n".repeat(3000)).unwrap();
    for (command, expected) in [(&["wc", "-l"] as &[&str], "6000\n"), (&["head", "-n", "1"], "one\n")] {
        let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
            .args(["run", "--timeout", "120"])
            .arg(busybox())
            .args(command)
            .stdin(File::open(&file).unwrap())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{command:?}");
        assert_eq!(output.status.code(), Some(0), "{command:?}");
    }
}

#[test]
fn a_person_types_to_the_program_on_a_terminal() {
    let busybox = busybox();
    let mut terminal = Terminal::open(&[
        "run",
        busybox.to_str().unwrap(),
        "sh",
        "-c",
        "test -t 0 && echo ready; cat",
    ]);
    terminal.wait_for("ready");
    terminal.press("typed\r");
    terminal.wait("what cat repeats", |screen| {
        screen.lines().filter(|line| *line == "typed").count() == 2
    });
    terminal.press("\x04");
    assert_eq!(terminal.end(), 0);
}
