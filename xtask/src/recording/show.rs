//! `trace FILE`: a recording read back.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::{Context, bail};

use super::figures::{Figures, Lengths};
use super::{Recording, lives, page, perfetto, recorder, text};
use crate::cli;
use crate::report::grouped;

/// Shows what was asked for and returns the exit status of the tool.
///
/// # Errors
/// Fails when the file is no recording, or has no fault of that number.
pub fn run(arguments: &cli::ReadTrace) -> anyhow::Result<u8> {
    let recording = recorder::read_file(&arguments.file)?;
    if !recording.damage.is_none() {
        eprintln!(
            "faultline: {} is damaged: {}",
            arguments.file.display(),
            recording.damage
        );
    }
    let show = &arguments.show;
    if let Some(path) = &show.perfetto {
        recorder::write_file(path, |out| perfetto::write(&recording, out))?;
        return Ok(0);
    }
    if let Some(path) = &show.report {
        recorder::write_file(path, |out| page::write(&recording, out))?;
        return Ok(0);
    }
    let mut out = io::stdout().lock();
    if show.text {
        for event in &recording.events {
            writeln!(out, "{event}")?;
        }
    } else if let Some(id) = show.fault {
        writeln!(out, "{}", life(&recording, id)?)?;
    } else {
        let figures = Figures::of(&recording, &lives::of(&recording));
        if show.json {
            serde_json::to_writer_pretty(&mut out, &figures).context("the figures can't be written")?;
            writeln!(out)?;
        } else {
            write!(out, "{}", summary(&figures))?;
        }
    }
    Ok(0)
}

/// The life of one fault, and of the one whose service it shared.
fn life(recording: &Recording, id: u64) -> anyhow::Result<String> {
    let lives = lives::of(recording);
    let find = |id| lives.iter().find(|life| life.id == id);
    let Some(life) = find(id) else {
        let (first, last) = (
            lives.iter().map(|life| life.id).min(),
            lives.iter().map(|life| life.id).max(),
        );
        match first.zip(last) {
            Some((first, last)) => bail!("the recording has no fault {id}; it has faults from {first} to {last}"),
            None => bail!("the recording has no fault at all: was the category `fault` on?"),
        }
    };
    let mut told = text::life(recording, life);
    if let Some(other) = life.shared_with.and_then(find) {
        let _ = write!(told, "\n{}", text::life(recording, other));
    }
    Ok(told)
}

/// The figures as a table.
fn summary(figures: &Figures) -> String {
    let mut out = String::new();
    let number = |value: u64| grouped(&value.to_string());
    let _ = writeln!(
        out,
        "{} events in {} ticks at {} kHz; {} lost{}",
        number(figures.events),
        number(figures.duration),
        number(figures.counter_hz / 1000),
        number(figures.lost),
        if figures.ended {
            ""
        } else {
            "; the trace has no orderly end"
        },
    );
    for (title, rows) in [("faults, in ticks", &figures.faults), ("stages", &figures.stages)] {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "{title:<20}{:>12}{:>12}{:>12}{:>12}{:>12}{:>14}",
            "count", "p50", "p90", "p99", "p99.9", "max"
        );
        for Lengths {
            name,
            count,
            p50,
            p90,
            p99,
            p999,
            max,
            ..
        } in rows
        {
            let [count, p50, p90, p99, p999, max] = [count, p50, p90, p99, p999, max].map(|value| number(*value));
            let _ = writeln!(
                out,
                "  {name:<18}{count:>12}{p50:>12}{p90:>12}{p99:>12}{p999:>12}{max:>14}"
            );
        }
    }
    let tlb = figures.tlb;
    let _ = writeln!(out, "TLB");
    for (name, value) in [
        ("generations bumped", tlb.bumps),
        ("flushed whole", tlb.whole),
        ("pages flushed", tlb.pages),
        ("nothing to flush", tlb.skipped),
    ] {
        let _ = writeln!(out, "  {name:<18}{:>12}", number(value));
    }
    if !figures.tasks.is_empty() {
        let _ = writeln!(out, "{:<20}{:>12}{:>12}{:>12}", "tasks", "process", "faults", "calls");
        for task in &figures.tasks {
            let name = format!("{} {}", task.id, task.program);
            let [faults, calls] = [task.faults, task.calls].map(number);
            let _ = writeln!(out, "  {name:<18}{:>12}{faults:>12}{calls:>12}", task.process);
        }
    }
    if let Some(slow) = figures.slowest.first() {
        let _ = writeln!(out, "the slowest: {}", slow.life);
    }
    out
}
