//! `trace FILE`: a recording read back.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail};

use super::figures::{Figures, Lengths};
use super::lives::Life;
use super::strace::Strace;
use super::{Recording, faults, lives, page, perfetto, recorder, text, why};
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
    let all = lives::of(&recording);
    let filter = &arguments.filter;
    let chosen = filter.choose(&recording, &all)?;
    if let Some(path) = &show.report {
        recorder::write_file(path, |out| page::write(&recording, out))?;
        return Ok(0);
    }
    if let Some(path) = &show.csv {
        to_file_or_output(path, |out| faults::csv(&recording, &chosen, out))?;
        return Ok(0);
    }
    if let Some(path) = &show.jsonl {
        to_file_or_output(path, |out| faults::jsonl(&recording, &chosen, out))?;
        return Ok(0);
    }
    let mut out = io::stdout().lock();
    if show.text {
        for event in &recording.events {
            writeln!(out, "{event}")?;
        }
    } else if show.strace {
        let mut lines = Strace::new(BufWriter::new(out), recording.start, recording.counter_hz);
        for event in &recording.events {
            lines.take(event)?;
        }
        lines.finish()?;
    } else if let Some(id) = show.fault {
        writeln!(out, "{}", life(&recording, &all, id)?)?;
    } else if let Some(id) = show.why {
        writeln!(out, "{}", why::explain(&recording, &all, find(&all, id)?))?;
    } else {
        let chosen: Vec<Life> = chosen.into_iter().cloned().collect();
        let figures = Figures::of(&recording, &chosen);
        if show.json {
            serde_json::to_writer_pretty(&mut out, &figures).context("the figures can't be written")?;
            writeln!(out)?;
        } else {
            write!(out, "{}", summary(&figures))?;
        }
    }
    Ok(0)
}

/// Writes to a file, or to standard output if that is `-`.
fn to_file_or_output(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    if path == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        fill(&mut out)?;
        out.flush()?;
        return Ok(());
    }
    recorder::write_file(path, fill)
}

/// The fault of a number.
fn find(lives: &[Life], id: u64) -> anyhow::Result<&Life> {
    if let Some(life) = lives.iter().find(|life| life.id == id) {
        return Ok(life);
    }
    let numbers = lives.iter().map(|life| life.id);
    match numbers.clone().min().zip(numbers.max()) {
        Some((first, last)) => bail!("the recording has no fault {id}; it has faults from {first} to {last}"),
        None => bail!("the recording has no fault at all: was the category `fault` on?"),
    }
}

/// The life of one fault, and of the one whose service it shared.
fn life(recording: &Recording, lives: &[Life], id: u64) -> anyhow::Result<String> {
    let life = find(lives, id)?;
    let mut told = text::life(recording, life);
    if let Some(other) = life.shared_with.and_then(|id| find(lives, id).ok()) {
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
    for (title, rows) in [
        ("service, in ticks", &figures.faults),
        ("waiting for the CPU", &figures.cpu_waits),
        ("stages", &figures.stages),
    ] {
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
