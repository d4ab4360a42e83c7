//! `lab FILE.toml`: an experiment, run by run, with tables and plots of what came of it.
//!
//! ```text
//! FILE.toml -- plan: every combination --> runs -- results.jsonl: a line each --> table.csv, table.json, FIGURE.svg
//! ```
//!
//! Each run is one boot. Its line is written when it has ended, so an experiment that was interrupted goes on where it
//! stopped; a changed experiment, or changed sources, begin anew. With `--shard K/N` a machine makes every Nth run and
//! writes a file of its own; tables and plots are made of all files in the folder.

mod plan;
mod plot;
mod results;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::linux::Linux;
use crate::build::Artifacts;
use crate::cli;
use crate::config::Config;
use crate::interrupt;
use crate::machine::Hardware;
use crate::ports::{Captured, Ports};
use crate::session::{self, FAILED, Task};
use crate::workspace;

pub use plan::Shard;
use plan::{Experiment, FAULTLINE, Figure, MEMORY, Run};
use results::{Result as Outcome, Results};

/// Memory of a machine, in MiB, where it is no parameter.
const USUAL_MEMORY: u64 = 512;

/// Runs what is left of an experiment, and writes its tables and plots.
///
/// # Errors
/// Says what is wrong with the experiment, or what can't be written.
pub fn run(arguments: &cli::Lab) -> anyhow::Result<u8> {
    let experiment = Experiment::read(&arguments.file)?;
    let kernels = linux(&experiment)?;
    let names: Vec<String> = kernels.iter().map(|linux| linux.name.clone()).collect();
    let runs = experiment.runs(&names);
    let shard = arguments.shard;
    let mine: Vec<&Run> = runs
        .iter()
        .enumerate()
        .filter(|(index, _)| shard.has(*index))
        .map(|(_, run)| run)
        .collect();
    if arguments.list {
        for run in &mine {
            println!("{}", describe(run));
        }
        println!("{} of {} runs", mine.len(), runs.len());
        return Ok(0);
    }
    let folder = folder(arguments)?;
    let fingerprint = fingerprint(&arguments.file)?;
    let mut done = match arguments.again {
        true => Results::new(),
        false => results::read(&folder, fingerprint)?,
    };
    let left: Vec<&Run> = mine.iter().copied().filter(|run| !done.contains_key(run)).collect();
    let artifacts = session::prepare()?;
    let lab = Lab {
        experiment: &experiment,
        artifacts: &artifacts,
        kernels: &kernels,
        fingerprint,
    };
    let failed = lab.work(&left, mine.len(), &shard.file(&folder), &mut done)?;
    write(&experiment, &done, &folder)?;
    println!("{} of {} runs are there: {}", done.len(), runs.len(), folder.display());
    if let Some(signal) = interrupt::requested() {
        return Ok(u8::try_from(128 + signal).unwrap_or(FAILED));
    }
    Ok(u8::from(failed > 0))
}

/// The Linux kernels that the experiment names.
fn linux(experiment: &Experiment) -> anyhow::Result<Vec<Linux>> {
    let asked: Vec<PathBuf> = experiment
        .systems
        .iter()
        .filter(|system| system.as_str() != FAULTLINE)
        .map(|system| match system.as_str() {
            "linux" => "auto".into(),
            file => file.into(),
        })
        .collect();
    Linux::all(&asked)
}

fn folder(arguments: &cli::Lab) -> anyhow::Result<PathBuf> {
    let name = arguments.file.file_stem().unwrap_or_default();
    let usual = || workspace::target_dir().join("lab").join(name);
    let folder = arguments.out.clone().unwrap_or_else(usual);
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    Ok(folder)
}

/// A number for the experiment and the sources that it is made with: results of others don't count.
fn fingerprint(file: &Path) -> anyhow::Result<u32> {
    let mut hasher = DefaultHasher::new();
    fs::read(file)?.hash(&mut hasher);
    for words in [["rev-parse", "HEAD"], ["diff", "HEAD"]] {
        if let Ok(output) = Command::new("git").args(words).current_dir(workspace::root()).output() {
            output.stdout.hash(&mut hasher);
        }
    }
    Ok(hasher.finish() as u32)
}

fn describe(run: &Run) -> String {
    let parameters = run.parameters.iter().map(|(name, value)| format!("{name}={value}"));
    let words: Vec<_> = [run.system.clone(), run.program.clone()]
        .into_iter()
        .chain(parameters)
        .collect();
    format!("{} ({})", words.join(" "), run.repetition)
}

/// What runs need.
struct Lab<'a> {
    experiment: &'a Experiment,
    artifacts: &'a Artifacts,
    kernels: &'a [Linux],
    fingerprint: u32,
}

impl Lab<'_> {
    /// Makes the runs one after the other. Returns how many failed.
    fn work(&self, left: &[&Run], all: usize, file: &Path, done: &mut Results) -> anyhow::Result<usize> {
        let style = ProgressStyle::with_template("{wide_bar} {pos} of {len}, {eta} left: {msg}");
        let bar = ProgressBar::new(all as u64).with_style(style.expect("the template is well-formed"));
        bar.set_position((all - left.len()) as u64);
        bar.reset_eta();
        let start = Instant::now();
        let mut failed = 0;
        for (index, run) in left.iter().enumerate() {
            if interrupt::requested().is_some() {
                break;
            }
            bar.set_message(describe(run));
            if bar.is_hidden() {
                let each = start.elapsed().as_secs_f64() / index.max(1) as f64;
                let rest = match index {
                    0 => String::new(),
                    _ => format!(", about {:.0} s left", each * (left.len() - index) as f64),
                };
                eprintln!(
                    "faultline: run {} of {}{rest}: {}",
                    index + 1,
                    left.len(),
                    describe(run)
                );
            }
            let begun = Instant::now();
            match self.make(run) {
                Ok(figures) => {
                    let result = Outcome {
                        run: (*run).clone(),
                        figures,
                        seconds: begun.elapsed().as_secs_f64(),
                        fingerprint: self.fingerprint,
                    };
                    results::append(file, &result)?;
                    done.insert(result.run.clone(), result);
                }
                Err(_) if interrupt::requested().is_some() => break,
                Err(error) => {
                    failed += 1;
                    bar.suspend(|| eprintln!("faultline: {}: {error:#}", describe(run)));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(failed)
    }

    /// One run.
    fn make(&self, run: &Run) -> anyhow::Result<BTreeMap<String, f64>> {
        let program = self
            .experiment
            .programs
            .iter()
            .find(|program| program.name == run.program);
        let (name, words) = program
            .and_then(|program| program.command.split_first())
            .context("the experiment has no such program")?;
        let task = match Path::new(name).is_file() {
            true => Task::from_file(name.as_ref(), words)?,
            false => Task::sample(name, words, self.artifacts)?,
        };
        let memory = run.parameters.get(MEMORY).map(|value| cli::values::megabytes(value));
        let memory = memory.transpose().map_err(anyhow::Error::msg)?.unwrap_or(USUAL_MEMORY);
        let accel = self.experiment.accel()?;
        let limit = Duration::try_from_secs_f64(self.experiment.timeout).context("`timeout`")?;
        let hardware = Hardware {
            memory,
            accel,
            ..Hardware::default()
        };
        if run.system != FAULTLINE {
            let linux = self.kernels.iter().find(|linux| linux.name == run.system);
            let linux = linux.or_else(|| self.kernels.first()).context("there is no Linux")?;
            let output = linux.boot(&task.program, words, hardware, limit)?;
            return figures(&self.experiment.figures, &output, None);
        }
        let mut config = Config::new();
        config.set("mode", "run")?;
        task.configure(&mut config)?;
        for (name, value) in run.parameters.iter().filter(|(name, _)| name.as_str() != MEMORY) {
            let key = crate::config::keys::find(name).context("no such key")?;
            config.set(key.name, value)?;
        }
        let bundle = session::pack(self.artifacts, &config, std::slice::from_ref(&task), &hardware)?;
        let output = Captured::default();
        let ports = Ports {
            log: Box::new(io::sink()),
            stdout: Box::new(output.clone()),
            stderr: Box::new(output.clone()),
        };
        let (report, _) = session::boot(self.artifacts, &hardware, &bundle, ports, Some(limit))??;
        let text = String::from_utf8_lossy(&output.take()).into_owned();
        let programs = report.programs()?;
        if let Some(program) = programs.first().filter(|program| program.status != 0) {
            bail!("{} ended with status {}\n{text}", program.path, program.status);
        }
        if !report.frames_hold()? {
            bail!("the kernel lost frames");
        }
        figures(&self.experiment.figures, &text, Some(&report))
    }
}

/// The figures of a run.
fn figures(
    wanted: &[Figure],
    output: &str,
    report: Option<&crate::report::Report>,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut found = BTreeMap::new();
    for figure in wanted {
        let value = match (&figure.report, &figure.line, &figure.field) {
            (Some(key), ..) => match report {
                Some(report) => report
                    .text(key)
                    .with_context(|| format!("the kernel's report has no {key}"))?,
                // Another system has no such report.
                None => continue,
            },
            (None, Some(line), Some(field)) => {
                let prefix = format!("{field}=");
                let lines = output.lines().filter(|found| found.contains(line.as_str()));
                lines
                    .flat_map(str::split_whitespace)
                    .find_map(|word| word.strip_prefix(&prefix))
                    .with_context(|| format!("no line of output with {line:?} has {prefix}NUMBER:\n{output}"))?
            }
            _ => continue,
        };
        let number = value
            .parse()
            .with_context(|| format!("{}: {value:?} is no number", figure.name))?;
        found.insert(figure.name.clone(), number);
    }
    Ok(found)
}

/// Writes tables and plots.
fn write(experiment: &Experiment, done: &Results, folder: &Path) -> anyhow::Result<()> {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))
    };
    put("table.csv", &results::csv(experiment, done))?;
    let combinations = results::combinations(done);
    put("table.json", &(serde_json::to_string_pretty(&combinations)? + "\n"))?;
    for figure in &experiment.figures {
        if let Some(picture) = plot::draw(experiment, figure, &combinations) {
            let name: String = figure
                .name
                .chars()
                .map(|char| if char.is_ascii_alphanumeric() { char } else { '-' })
                .collect();
            put(&format!("{name}.svg"), &picture)?;
        }
    }
    Ok(())
}
