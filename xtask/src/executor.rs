//! `executor`: what the executor's own steps cost in the kernel, in guest instructions, and whether that depends on how
//! many tasks there are.
//!
//! The kernel measures itself at its start (`executor=` in its configuration; `kernel/src/executor_costs.rs` says how) and
//! reports the figures. Two machines do it, and figures that are not the same to the digit are an error.

use std::fs;
use std::io;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::build::Artifacts;
use crate::cli;
use crate::config::{Config, Switch};
use crate::machine::{Accel, Hardware};
use crate::ports::Ports;
use crate::report::{Report, grouped};
use crate::session;

/// The figures, in guest instructions where nothing else is said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Spawn, first poll and finish of a ready future, 32 a turn.
    pub spawn: f64,
    /// Wake and poll of a task that wakes itself, 32 a turn.
    pub wake: f64,
    /// A user task wakes a service, and the service wakes it: both wakes and polls.
    pub pair: f64,
    /// A turn that finds nothing.
    pub empty_turn: f64,
    /// From a wake to the task's first instruction, with ten tasks alive.
    pub latency_few: f64,
    /// The same with `tasks` alive.
    pub latency_many: f64,
    /// Tasks of the user class that were alive at the same time.
    pub tasks: u32,
    /// Bytes of the kernel's heap that each of them took.
    pub bytes_per_task: u64,
}

impl Figures {
    /// Reads what the kernel says.
    fn read(report: &Report) -> anyhow::Result<Self> {
        let hundredths = |step: &str| report.get::<u32>(&format!("executor.{step}"));
        let step = |step: &str| hundredths(step).map(|cost| f64::from(cost) / 100.0);
        Ok(Self {
            spawn: step("spawn")?,
            wake: step("wake")?,
            pair: step("pair")?,
            empty_turn: step("empty_turn")?,
            latency_few: step("latency_few")?,
            latency_many: step("latency_many")?,
            tasks: report.get("executor.tasks")?,
            bytes_per_task: report.get("executor.bytes_per_task")?,
        })
    }

    /// A line for each figure, with the goal where there is one.
    fn to_text(&self, memory: u64) -> String {
        let many = format!(
            "wake to first instruction, {} tasks alive",
            grouped(&self.tasks.to_string())
        );
        let latency_goal = format!("{:.2}", self.latency_few * 1.1);
        let rows = [
            ("spawn + first poll + finish, 32 a turn", self.spawn, "240"),
            ("wake + poll, a task that wakes itself, 32 a turn", self.wake, "90"),
            ("user wakes service, service wakes user: both pairs", self.pair, ""),
            ("a turn that finds nothing", self.empty_turn, ""),
            ("wake to first instruction, 10 tasks alive", self.latency_few, ""),
            (&many, self.latency_many, &latency_goal),
        ];
        let mut text = format!(
            "{:<52}{:>12}{:>10}\n",
            format!("guest instructions, {memory} MiB"),
            "each",
            "at most"
        );
        for (name, cost, goal) in rows {
            text += &format!("{name:<52}{cost:>12.2}{goal:>10}\n");
        }
        text + &format!("{} bytes of the kernel's heap for each task\n", self.bytes_per_task)
    }
}

/// Bytes of the heap for each task: its slot and its waker in a list, rounded up.
const TASK_BYTES: u64 = 300;

/// The heap's part of the machine's memory.
const HEAP_SHARE: u64 = 16;

/// Measures and prints.
///
/// # Errors
/// Fails when the tasks need more memory than the machine has, when a machine doesn't come to an orderly end, when two
/// machines count differently, or when the file can't be written.
pub fn run(arguments: &cli::Executor) -> anyhow::Result<u8> {
    let (tasks, memory) = (arguments.tasks, arguments.mem);
    let needed = (u64::from(tasks) * TASK_BYTES * HEAP_SHARE).div_ceil(1 << 20);
    if needed > memory {
        bail!("too little memory for {tasks} tasks: the machine has {memory} MiB, --mem {needed}M is the least");
    }
    let artifacts = session::prepare()?;
    let figures = measure(arguments, &artifacts)?;
    print!("{}", figures.to_text(arguments.mem));
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(0)
}

/// The figures of two machines, which have to be the same.
///
/// # Errors
/// As [`run`].
pub fn measure(arguments: &cli::Executor, artifacts: &Artifacts) -> anyhow::Result<Figures> {
    let [first, second] = [boot(arguments, artifacts)?, boot(arguments, artifacts)?];
    if first != second {
        bail!("two machines counted differently: {first:?}, {second:?}");
    }
    Ok(first)
}

fn boot(arguments: &cli::Executor, artifacts: &Artifacts) -> anyhow::Result<Figures> {
    let hardware = Hardware {
        memory: arguments.mem,
        accel: Accel::Icount,
        ..Hardware::default()
    };
    let mut config = Config::new();
    config
        .set("mode", "run")?
        .set("executor", arguments.tasks)?
        .set("zero_pool", Switch::Off)?;
    let bundle = session::pack(artifacts, &config, &[], &hardware)?;
    let ports = Ports {
        log: Box::new(io::sink()),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
    };
    let (report, _) = session::boot(artifacts, &hardware, &bundle, ports, Some(arguments.timeout))??;
    Figures::read(&report).context("the kernel did not measure its executor")
}
