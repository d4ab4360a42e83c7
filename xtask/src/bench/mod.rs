//! `bench`: what memory operations cost on Faultline, and on Linux in the same emulator with the same program file.
//!
//! - **Instructions.** Under `-icount shift=0,sleep=off` a tick of the time-stamp counter is one guest instruction. Each
//!   run is made twice, and figures that are not the same to the digit are an error.
//! - **Time.** Under plain TCG on a shared machine time swings twofold from run to run. So the systems take turns, round
//!   by round, and each operation's least time over all rounds is compared.
//!
//! The program is the sample task `bench`; `figures` reads what it prints, `tables` and `chart` show it.

mod chart;
mod debian;
mod figures;
pub(crate) mod linux;
mod page;
pub(crate) mod profile;
mod swap;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::build::Artifacts;
use crate::cli;
use crate::config::{Config, Fault, Switch};
use crate::machine::{Accel, Hardware};
use crate::ports::{Captured, Ports};
use crate::report::Report;
use crate::session::{self, Task};
use chart::Pair;
use cli::Suite;
use figures::{Column, Figures};
use linux::Linux;
use page::Page;
use profile::{Pipe, Profile};

/// The name of the sample task.
const PROGRAM: &str = "bench";

/// In the run with the pool: pages of each fault benchmark, fewer than the pool holds, and the rest before each in
/// milliseconds, so that idle time can fill it.
const POOL_PAGES: &str = "400";
const POOL_REST: &str = "20";

/// In the run that runs ahead: pages that a first write gets at most.
const AHEAD_PAGES: u8 = 16;

/// Pages of a benchmark whose instructions are recorded: enough that most runs are alike.
const PROFILE_PAGES: &str = "40";

/// All figures of one call of the tool.
#[derive(Clone, Debug, Default, Serialize)]
struct Results {
    /// Memory of the machines in MiB.
    memory: u64,
    /// The least that hardware lets each step cost, measured at the start of the first machine.
    floor: BTreeMap<String, u64>,
    /// Guest instructions through the queue, without the pool of zeroed frames.
    queued: Column,
    /// The same with each fault served by its own first poll.
    inline: Column,
    /// Through the queue, with a pool that was full before each measurement.
    pooled: Column,
    /// Through the queue, without the pool, with first writes that run ahead.
    ahead: Column,
    /// Guest instructions on Linux.
    linux: Vec<(String, Column)>,
    /// Rounds under plain TCG.
    rounds: u32,
    /// Least times of each system.
    times: Vec<(String, Times)>,
}

/// Operations and the least time of each, in nanoseconds.
type Times = Vec<(String, f64)>;

/// A system to measure.
#[derive(Clone, Copy, Debug)]
enum System<'a> {
    Faultline { fault: Fault, pool: Switch, ahead: u8 },
    Linux(&'a Linux),
}

impl System<'_> {
    const QUEUED: Self = Self::Faultline {
        fault: Fault::Queued,
        pool: Switch::Off,
        ahead: 1,
    };
    const INLINE: Self = Self::Faultline {
        fault: Fault::Inline,
        pool: Switch::Off,
        ahead: 1,
    };
    const POOLED: Self = Self::Faultline {
        fault: Fault::Queued,
        pool: Switch::On,
        ahead: 1,
    };
    const AHEAD: Self = Self::Faultline {
        fault: Fault::Queued,
        pool: Switch::Off,
        ahead: AHEAD_PAGES,
    };

    fn name(&self) -> String {
        match self {
            Self::Faultline { fault, pool, ahead } => {
                let pool = if *pool == Switch::On { ", pool" } else { "" };
                let ahead = if *ahead > 1 { ", ahead" } else { "" };
                format!("Faultline, {fault}{pool}{ahead}")
            }
            Self::Linux(linux) => linux.name.clone(),
        }
    }
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// Fails when a machine doesn't come to an orderly end, when two counted runs differ, or when a file can't be written.
pub fn run(arguments: &cli::Bench) -> anyhow::Result<u8> {
    if arguments.suite == Suite::Swap {
        return swap::run(arguments);
    }
    let page = arguments.markdown.as_deref();
    let page = page.map(|file| Page::read(file, "bench")).transpose()?;
    let kernels = Linux::all(&arguments.linux)?;
    let artifacts = session::prepare()?;
    let file = artifacts.task(PROGRAM).context("there is no sample task bench")?;
    let measurer = Measurer {
        program: fs::read(&file).with_context(|| format!("{} can't be read", file.display()))?,
        artifacts,
        arguments,
        bar: progress_bar(machines(kernels.len(), arguments.rounds)),
    };
    if arguments.profile {
        let profile = measurer.profile()?;
        measurer.bar.finish_and_clear();
        print!("{profile}");
        return Ok(0);
    }
    let results = measurer.measure(&kernels)?;
    measurer.bar.finish_and_clear();
    if results.queued.operations.is_empty() {
        bail!(
            "no operation has {:?} in its name",
            arguments.filter.as_deref().unwrap_or_default()
        );
    }
    let tables = tables::all(&results);
    println!("{tables}");
    if let Some(page) = page {
        page.replace(&tables)?;
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))?;
    }
    if let Some(file) = &arguments.chart {
        let title = "Guest instructions at the median, less is better (logarithmic scale)";
        let linux = "Linux, the better of those measured";
        let chart = chart::draw(title, ["Faultline, through the queue", linux], &pairs(&results));
        let chart = chart.context("a chart needs --linux and an operation that both systems have")?;
        fs::write(file, chart).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(0)
}

/// The medians of the operations that both systems have: ours, and that of the better Linux.
fn pairs(results: &Results) -> Vec<Pair> {
    let operations = results.queued.operations.iter();
    operations
        .filter_map(|(name, ours)| {
            let linux = tables::best_linux(results, name)?.median;
            Some(Pair {
                name: name.clone(),
                ours: ours.median,
                linux,
            })
        })
        .collect()
}

/// How many machines the suite boots.
fn machines(kernels: usize, rounds: u32) -> u64 {
    (2 + u64::from(rounds)) * (4 + kernels as u64)
}

fn progress_bar(machines: u64) -> ProgressBar {
    let bar = ProgressBar::new(machines);
    let style = "{spinner} {pos}/{len} machines [{elapsed_precise}] {wide_msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

struct Measurer<'a> {
    artifacts: Artifacts,
    program: Vec<u8>,
    arguments: &'a cli::Bench,
    bar: ProgressBar,
}

impl Measurer<'_> {
    fn measure(&self, kernels: &[Linux]) -> anyhow::Result<Results> {
        let mut results = Results {
            memory: self.arguments.memory(),
            rounds: self.arguments.rounds,
            ..Results::default()
        };
        results.queued = self.count(System::QUEUED, &mut results.floor)?;
        let floor = &mut BTreeMap::new();
        results.inline = self.count(System::INLINE, floor)?;
        results.pooled = self.count(System::POOLED, floor)?;
        results.ahead = self.count(System::AHEAD, floor)?;
        for linux in kernels {
            let column = self.count(System::Linux(linux), floor)?;
            results.linux.push((linux.name.clone(), column));
        }
        let systems = [System::QUEUED, System::INLINE, System::POOLED, System::AHEAD]
            .into_iter()
            .chain(kernels.iter().map(System::Linux));
        let systems: Vec<_> = systems.collect();
        if self.arguments.rounds > 0 {
            results.times = systems.iter().map(|system| (system.name(), Times::new())).collect();
        }
        for round in 1..=self.arguments.rounds {
            for (system, (name, least)) in systems.iter().zip(&mut results.times) {
                self.bar
                    .set_message(format!("{name}: time, round {round} of {}", self.arguments.rounds));
                let column = self.boot(*system, Accel::Tcg, &mut BTreeMap::new())?;
                keep_least(least, &column, |figures| Some(figures.min as f64));
                self.bar.inc(1);
            }
        }
        Ok(results)
    }

    /// Records the instructions of the operation that the filter names.
    fn profile(&self) -> anyhow::Result<Profile> {
        self.bar.set_message("recording every instruction");
        let pipe = Pipe::new(&self.program)?;
        let words = ["--fields", "--pages", PROFILE_PAGES, "--filter"].map(str::to_owned);
        let filter = self.arguments.filter.clone().unwrap_or_default();
        let words: Vec<_> = words.into_iter().chain([filter]).collect();
        let hardware = Hardware {
            memory: self.arguments.memory(),
            accel: Accel::Icount,
            instructions: Some(pipe.path().to_owned()),
            ..Hardware::default()
        };
        let mut config = Config::new();
        config.set("zero_pool", Switch::Off)?.set("run_ahead", 1)?;
        let text = self.run_faultline(config, &hardware, &words, &mut BTreeMap::new())?;
        let column = Column::parse(&text)?;
        let names: Vec<_> = column.operations.iter().map(|(name, _)| name.as_str()).collect();
        if names.len() != 1 {
            bail!(
                "--profile takes one operation, but --filter names {}: {}",
                names.len(),
                names.join("; ")
            );
        }
        pipe.finish(&self.artifacts.kernel)
    }

    /// Counts instructions, twice.
    fn count(&self, system: System<'_>, floor: &mut BTreeMap<String, u64>) -> anyhow::Result<Column> {
        let mut runs = Vec::new();
        for run in 1..=2 {
            self.bar
                .set_message(format!("{}: instructions, run {run} of 2", system.name()));
            runs.push(self.boot(system, Accel::Icount, floor)?);
            self.bar.inc(1);
        }
        let different = runs[0].differences(&runs[1]);
        if !different.is_empty() {
            bail!(
                "{}: two runs counted differently: {}",
                system.name(),
                different.join(", ")
            );
        }
        Ok(runs.swap_remove(0))
    }

    /// Runs the program once on a machine of its own.
    fn boot(&self, system: System<'_>, accel: Accel, floor: &mut BTreeMap<String, u64>) -> anyhow::Result<Column> {
        let mut words = vec!["--fields".to_owned()];
        if let Some(filter) = &self.arguments.filter {
            words.extend(["--filter".to_owned(), filter.clone()]);
        }
        let text = match system {
            System::Linux(linux) => {
                words.insert(0, "--init".to_owned());
                // The words of a kernel's command line have no spaces in them.
                let words: Vec<_> = words.iter().map(|word| word.replace(' ', "+")).collect();
                let machine = Hardware {
                    memory: self.arguments.memory(),
                    accel,
                    ..Hardware::default()
                };
                linux.boot(&self.program, &words, machine, self.arguments.timeout)?
            }
            System::Faultline { fault, pool, ahead } => {
                if pool == Switch::On {
                    words.extend(["--pages", POOL_PAGES, "--rest", POOL_REST].map(str::to_owned));
                }
                let mut config = Config::new();
                config
                    .set("fault", fault)?
                    .set("zero_pool", pool)?
                    .set("run_ahead", ahead)?
                    .set("floor", Switch::On)?;
                let hardware = Hardware {
                    memory: self.arguments.memory(),
                    accel,
                    ..Hardware::default()
                };
                self.run_faultline(config, &hardware, &words, floor)?
            }
        };
        Column::parse(&text).with_context(|| system.name())
    }

    fn run_faultline(
        &self,
        config: Config,
        hardware: &Hardware,
        words: &[String],
        floor: &mut BTreeMap<String, u64>,
    ) -> anyhow::Result<String> {
        let limit = self.arguments.timeout;
        let (text, report) = run_program(&self.artifacts, config, hardware, words, limit)?;
        for step in tables::FLOOR_STEPS {
            if let Some(count) = report.optional(&format!("floor.{step}"))? {
                floor.insert((*step).to_owned(), count);
            }
        }
        Ok(text)
    }
}

/// Runs the program on a machine of its own; returns what it printed, and the kernel's report.
fn run_program(
    artifacts: &Artifacts,
    mut config: Config,
    hardware: &Hardware,
    words: &[String],
    limit: Duration,
) -> anyhow::Result<(String, Report)> {
    let task = Task::sample(PROGRAM, words, artifacts)?;
    config.set("mode", "run")?;
    task.configure(&mut config)?;
    let bundle = session::pack(artifacts, &config, &[task], hardware)?;
    let (stdout, stderr) = (Captured::default(), Captured::default());
    let ports = Ports {
        log: Box::new(io::sink()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
    };
    let (report, _) = session::boot(artifacts, hardware, &bundle, ports, Some(limit))??;
    if !report.frames_hold()? || report.programs()?.iter().any(|program| program.status != 0) {
        bail!(
            "the benchmark failed on Faultline: {}",
            String::from_utf8_lossy(&stderr.take())
        );
    }
    Ok((String::from_utf8_lossy(&stdout.take()).into_owned(), report))
}

/// Takes over a round's times where they are less; what counts of an operation is given in ticks.
fn keep_least(least: &mut Times, column: &Column, ticks: impl Fn(&Figures) -> Option<f64>) {
    for (name, figures) in &column.operations {
        let Some(ticks) = ticks(figures) else { continue };
        let time = ticks * 1000.0 / column.ticks_per_us.max(1) as f64;
        match least.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = known.min(time),
            None => least.push((name.clone(), time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_time_of_all_rounds_is_kept() {
        let round = |min, rate| {
            let text = format!("@bench\tx\truns=1\tmin={min}\tmedian=9\tp99=9\tmean=9\n@end\tticks_per_us={rate}\n");
            Column::parse(&text).unwrap()
        };
        let mut least = Times::new();
        for (min, rate) in [(5000, 2500), (2600, 2600), (4000, 2000)] {
            keep_least(&mut least, &round(min, rate), |figures| Some(figures.min as f64));
        }
        assert_eq!(least, [("x".to_owned(), 1000.0)]);
    }
}
