//! What programs write, on its way to the tool's standard output and error; and what reaches programs of the tool's own
//! arguments.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use faultline_xtask::shell;

fn busybox() -> PathBuf {
    shell::busybox(None).expect("there is a static busybox, or it can be fetched")
}

fn tool(words: &[&str]) -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_faultline"));
    tool.arg("run").args(words).stdin(Stdio::null());
    tool
}

/// What `seq 1 LAST` writes.
fn numbers(last: u32) -> String {
    (1..=last).map(|number| format!("{number}\n")).collect()
}

#[test]
fn every_byte_of_a_large_output_arrives_by_either_kind_of_port() {
    for (words, last) in [(&[] as &[&str], 400_000), (&["--config", "console=split"], 4000)] {
        let output = tool(words)
            .arg(busybox())
            .args(["seq", "1", &last.to_string()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(
            output.stdout == numbers(last).into_bytes(),
            "{words:?}: {} bytes",
            output.stdout.len()
        );
    }
}

#[test]
fn a_writer_whose_reader_is_slow_waits_and_others_run() {
    let script = "seq 1 400000 & sleep 0.1; echo other >&2; wait";
    let mut child = tool(&[])
        .arg(busybox())
        .args(["sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Nothing is read of the output before the other has written.
    let mut line = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    while !line.contains("other") {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "the other never wrote");
    }
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(output == numbers(400_000), "{} bytes", output.len());
}

#[test]
fn any_bytes_are_arguments_and_variables() {
    let odd = b"one\ntwo\\n \\x41\t=\xff\xfe\xc3\xa4";
    let variable = [b"ODD=", &odd[..]].concat();
    let output = tool(&[])
        .args([OsStr::new("--env"), OsStr::from_bytes(&variable)])
        .arg(busybox())
        .args(["sh", "-c", r#"printf '%s|%s' "$1" "$ODD""#, "sh"])
        .arg(OsStr::from_bytes(odd))
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, [&odd[..], b"|", odd].concat());
}

#[test]
fn the_summary_has_every_process_with_its_memory_and_faults() {
    let output = tool(&["--summary"])
        .arg(busybox())
        .args(["sh", "-c", "seq 1 3 >/dev/null & wait"])
        .output()
        .unwrap();
    let summary = String::from_utf8_lossy(&output.stderr);
    let rows: Vec<_> = summary
        .lines()
        .skip_while(|line| !line.starts_with("processes"))
        .skip(1)
        .collect();
    assert_eq!(rows.len(), 2, "{summary}");
    for row in rows {
        let [_, _, kib, faults, major] = row.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let number = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
        assert!(number(kib) > 40 && number(faults) > 10 && number(major) == 0, "{row}");
    }
}

#[test]
fn the_last_line_says_who_was_ended_for_want_of_memory_and_what_helps() {
    let output = tool(&["--mem", "32M", "touch", "--pages", "20000"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(137), "{message}");
    let last = message.lines().last().unwrap_or_default();
    let said = "faultline: memory ran out (--mem 32M, no --swap); the kernel ended process 1 `touch`, which held most";
    assert!(last.starts_with(said), "{message}");
}
