//! A sample task on this machine's Linux.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::artifacts;

/// What a native run left behind.
#[derive(Debug)]
pub struct Native {
    /// The status that a shell would show.
    pub status: u8,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Runs a sample task natively, with nothing in its environment.
///
/// # Panics
/// Panics when it can't be started.
#[must_use]
pub fn native(task: &str, args: &[&str]) -> Native {
    let file = artifacts()
        .task(task)
        .unwrap_or_else(|| panic!("there is no sample task {task}"));
    native_file(&file, args)
}

/// Runs a program natively, with nothing in its environment.
///
/// # Panics
/// Panics when it can't be started.
#[must_use]
pub fn native_file(file: &Path, args: &[&str]) -> Native {
    let mut command = Command::new(file);
    let output = command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    let status = output
        .status
        .code()
        .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Native {
        status: u8::try_from(status).expect("a status is at most 255"),
        stdout: output.stdout,
        stderr: output.stderr,
    }
}
