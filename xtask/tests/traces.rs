//! What the tool makes of one recorded run: lines for other programs, system calls, and the reasons of a fault.

use std::fs;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts")
}

/// Standard output of a command that succeeds.
fn output(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_recording_is_shown_in_every_way() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (trace, csv, jsonl) = (path("run.fltrace"), path("faults.csv"), path("faults.jsonl"));
    let threads = ["threads", "--threads", "2", "--pages", "2"];
    let options = ["run", "--accel", "icount", "--service", "last", "--zero-pool", "off"];
    let files = ["--trace", &trace, "--csv", &csv, "--jsonl", &jsonl];
    let categories = ["--trace-categories", "task,fault,syscall,arguments"];
    output(&[&options[..], &files, &categories, &threads].concat());

    // The same faults in every form, with service and wait for the CPU apart.
    let lines = fs::read_to_string(&jsonl).unwrap();
    let faults: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let table = fs::read_to_string(&csv).unwrap();
    assert_eq!(table.lines().count(), faults.len() + 1);
    assert_eq!(output(&["trace", &trace, "--csv", "-"]), table);
    assert_eq!(output(&["trace", &trace, "--jsonl", "-"]), lines);
    let joined: Vec<_> = faults.iter().filter(|fault| !fault["joined"].is_null()).collect();
    assert!(!joined.is_empty(), "no fault met another one");
    assert!(faults.iter().all(|fault| fault["service"].as_u64() > Some(0)));
    assert!(faults.iter().any(|fault| fault["cpu_wait"].as_u64() > Some(0)));
    assert!(faults.iter().any(|fault| {
        fault["function"]
            .as_str()
            .is_some_and(|name| name.starts_with("threads: "))
    }));

    // Filters.
    let joins = output(&["trace", &trace, "--kind", "coalesced", "--csv", "-"]);
    assert_eq!(joins.lines().count(), joined.len() + 1);
    let slow = output(&["trace", &trace, "--process", "1", "--at-least", "2000", "--jsonl", "-"]);
    let expected = faults
        .iter()
        .filter(|fault| fault["service"].as_u64() >= Some(2000))
        .count();
    assert_eq!(slow.lines().count(), expected);
    let refused = run(&["trace", &trace, "--kind", "no-such-kind"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it has "));

    // Why one that joined took as long as it did: the other's service is shown too.
    let id = joined[0]["fault"].to_string();
    let why = output(&["trace", &trace, "--why", &id]);
    assert!(why.starts_with(&format!("fault {id}: coalesced")), "{why}");
    for part in [
        "waits with fault",
        "it shares the service of",
        "its own service",
        "in user mode",
    ] {
        assert!(why.contains(part), "{part}\n{why}");
    }

    // System calls, each with its thread.
    let calls = output(&["trace", &trace, "--strace"]);
    for part in [
        " threads  openat(AT_FDCWD, \"/proc/self/maps\", O_RDONLY|O_CLOEXEC, ",
        " clone",
        "FUTEX_WAIT_BITSET|FUTEX_PRIVATE_FLAG",
        "mmap(0, ",
        " threads  +++ exited with 0 +++",
    ] {
        assert!(calls.contains(part), "{part}\n{calls}");
    }

    // The reader in docs/.
    if Command::new("python3").arg("--version").output().is_ok() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/faults.py");
        let read = Command::new("python3").args([script, &jsonl]).output().unwrap();
        let text = String::from_utf8_lossy(&read.stdout);
        assert!(
            text.contains("coalesced"),
            "{text}{}",
            String::from_utf8_lossy(&read.stderr)
        );
    }
}

#[test]
fn system_calls_are_shown_while_the_program_runs() {
    let output = run(&["run", "--strace", "hello"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = said.lines().find(|line| line.contains(" write(1, "));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(
        line.contains("hello    write(1, \"hello from a static Linux program\\n\", 34) = 34 <"),
        "{line}"
    );
    assert!(
        said.contains("exit_group(0) = 0") || said.contains("exit_group(0) = ?"),
        "{said}"
    );
}

#[test]
fn a_profile_shows_functions_of_kernel_and_program() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("profile.svg");
    let path = file.to_str().unwrap();
    output(&[
        "run",
        "--accel",
        "icount",
        "--profile",
        path,
        "touch",
        "--pages",
        "64",
        "sequential",
    ]);
    let picture = fs::read_to_string(&file).unwrap();
    for part in [
        "/bin/touch: ",
        "kernel (",
        "faultline_kernel::",
        "faultline_mm::",
        "touch (",
        "faultline_user::mapping::Mapping::fill (",
    ] {
        assert!(picture.contains(part), "{part}");
    }
}
