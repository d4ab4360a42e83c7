//! Words for numbers.

use std::fmt::Write as _;

use super::Recording;
use super::lives::Life;
use faultline_trace::TrapWord;

/// What an access was.
#[must_use]
pub const fn access(bits: u64) -> &'static str {
    match bits {
        TrapWord::WRITE => "write",
        TrapWord::EXECUTE => "execute",
        _ => "read",
    }
}

/// The name of a Linux system call.
#[must_use]
pub fn system_call(number: u64) -> String {
    usize::try_from(number)
        .ok()
        .and_then(syscalls::Sysno::new)
        .map_or_else(|| format!("system call {number}"), |call| call.name().to_owned())
}

/// The life of a fault: a line that says what it was, and a line for each event with the ticks since the trap.
#[must_use]
pub fn life(recording: &Recording, life: &Life) -> String {
    let mut text = format!(
        "fault {}: {} of task {} in space {}, {} of {:#x}",
        life.id,
        life.kind(),
        life.task,
        life.space,
        access(life.access),
        life.address
    );
    let name = |address| recording.name(life.space, address);
    if let Some(name) = name(life.address) {
        let _ = write!(text, " ({name})");
    }
    if let Some(instruction) = life.instruction {
        let _ = write!(text, "\n  by the instruction at {instruction:#x}");
        if let Some(name) = name(instruction) {
            let _ = write!(text, " ({name})");
        }
    }
    if let Some(other) = life.shared_with {
        let _ = write!(text, "\n  shares the service of fault {other}");
    }
    let _ = write!(text, "\n  {} ticks", life.service());
    if life.cpu_wait() > 0 {
        let _ = write!(text, ", then {} waiting for the CPU", life.cpu_wait());
    }
    text.push(':');
    for &(stage, from, to) in &life.stages {
        let _ = write!(text, " {} {},", stage.name(), to - from);
    }
    text.truncate(text.trim_end_matches(',').len());
    let mut before = life.times.0;
    for &index in &life.events {
        let event = &recording.events[index];
        let line = event.to_string();
        let (_, what) = line.split_once(event.kind.name()).unwrap_or(("", &line));
        let _ = write!(
            text,
            "\n  {:>8} {:>+8}  {:<15}{what}",
            event.time - life.times.0,
            event.time - before,
            event.kind.name()
        );
        before = event.time;
    }
    text
}
