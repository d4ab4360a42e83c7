//! `storm`: many tasks that fault in every way there is, on a kernel that checks itself meanwhile.
//!
//! The tasks are rounds of the sample task `storm`, each of which checks every word that it reads. The kernel audits its
//! frames, its faults in flight and its TLB generations at intervals (`audit=`). At the end everything has to be in
//! order, or the command fails and leaves a folder with all that is known:
//!
//! - every task ended by itself, with status 0;
//! - every frame is accounted for, and as many are free as before;
//! - no fault is in flight, and no audit found anything wrong;
//! - the kernel killed as many processes for want of memory as the tasks lost.
//!
//! The seed decides what each task does. Under plain TCG the moments at which tasks are interrupted differ from run to
//! run; with `--accel icount` the whole run repeats exactly.

mod evidence;
mod outcome;
mod progress;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::build::Artifacts;
use crate::cli;
use crate::config::Config;
use crate::machine::{Accel, Hardware};
use crate::ports::{Captured, Ports};
use crate::recording::{self, TraceTo};
use crate::session::{self, FAILED, Failure, Task};
use evidence::Evidence;
use outcome::Outcome;
use progress::Progress;

/// The name of the sample task.
const PROGRAM: &str = "storm";

/// From one audit of the kernel to the next, in milliseconds of the machine's time.
const AUDIT: u64 = 250;

/// Events that the trace of a failure has.
const TRACED: &str = "task,fault,tlb,frame,memory,signal";

/// The host time that the traced repetition of a failed storm may take.
const TRACE_LIMIT: Duration = Duration::from_secs(20);

/// What one boot came to.
struct Boot {
    result: Result<Outcome, Box<Failure>>,
    was_traced: bool,
    stderr: String,
    log: String,
    report: String,
}

/// Runs a storm; the status is 0 only if nothing at all was wrong.
///
/// # Errors
/// Fails when the machine can't be started, or the evidence of a failure can't be written.
pub fn run(arguments: &cli::Storm) -> anyhow::Result<u8> {
    let artifacts = session::prepare()?;
    let progress = Progress::new(arguments);
    let boot = boot(
        arguments,
        &artifacts,
        &arguments.recording,
        limit(arguments),
        progress.clone(),
    )?;
    progress.finish();
    let mut wrong = Vec::new();
    let mut status = FAILED;
    match &boot.result {
        Ok(outcome) => {
            println!("{outcome}");
            wrong.extend(outcome.wrong());
        }
        Err(failure) => {
            status = failure.status();
            wrong.push(failure.to_string());
        }
    }
    if wrong.is_empty() {
        println!("Nothing was lost.");
        return Ok(0);
    }
    for what in &wrong {
        eprintln!("faultline: {what}");
    }
    eprint!("{}", boot.stderr);
    if crate::interrupt::requested().is_some() {
        return Ok(status);
    }
    let evidence = Evidence {
        seed: arguments.seed,
        command: repeat(arguments),
        wrong: &wrong,
        boot: &boot,
    };
    let folder = evidence.save()?;
    if boot.was_traced {
        eprintln!("faultline: what is known lies in {}", folder.display());
        return Ok(status);
    }
    eprintln!(
        "faultline: the storm is repeated with a trace, for at most {} s",
        TRACE_LIMIT.as_secs()
    );
    let options = recording::Options {
        trace: TraceTo::Recording(folder.join("trace.fltrace")),
        trace_categories: Some(TRACED.to_owned()),
        report: None,
        csv: None,
        jsonl: None,
    };
    let traced = self::boot(arguments, &artifacts, &options, TRACE_LIMIT, Progress::hidden());
    if let Err(error) = traced {
        eprintln!("faultline: there is no trace of the repetition: {error:#}");
    }
    eprintln!("faultline: what is known lies in {}", folder.display());
    Ok(status)
}

/// The host time after which a storm counts as hanging.
fn limit(arguments: &cli::Storm) -> Duration {
    arguments.timeout.unwrap_or_else(|| {
        // Counted instructions are slower than the clock that they drive.
        let factor = if arguments.accel == Accel::Icount { 60 } else { 3 };
        arguments.seconds * factor + Duration::from_secs(300)
    })
}

/// The arguments of the sample task.
fn words(arguments: &cli::Storm) -> Vec<String> {
    let mut words: Vec<String> = [
        ("--tasks", arguments.tasks.to_string()),
        ("--pages", arguments.pages.to_string()),
        ("--seconds", arguments.seconds.as_secs_f64().to_string()),
        ("--seed", arguments.seed.to_string()),
        ("--scenario", arguments.scenario.clone()),
        // More than there is: the kernel and its records are in it, too.
        ("--shortage-mib", arguments.mem.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    if let Some(task) = arguments.break_task {
        words.extend(["--break".to_owned(), task.to_string()]);
    }
    words
}

/// The command that repeats this storm.
fn repeat(arguments: &cli::Storm) -> String {
    let mut command = format!(
        "cargo run -- storm --tasks {} --pages {} --seconds {} --seed {} --mem {}M --cpus {} --scenario {} --accel {} --fault {} \
         --service {} --zero-pool {} --run-ahead {} --slice {}",
        arguments.tasks,
        arguments.pages,
        arguments.seconds.as_secs_f64(),
        arguments.seed,
        arguments.mem,
        arguments.cpus,
        arguments.scenario,
        arguments.accel,
        arguments.fault,
        arguments.service,
        arguments.zero_pool,
        arguments.run_ahead,
        arguments.slice
    );
    for setting in &arguments.settings.config {
        command += &format!(" --config {setting}");
    }
    for word in &arguments.settings.qemu_arg {
        command += &format!(" --qemu-arg={}", word.display());
    }
    command
}

fn boot(
    arguments: &cli::Storm,
    artifacts: &Artifacts,
    recording: &recording::Options,
    limit: Duration,
    progress: Progress,
) -> anyhow::Result<Boot> {
    let task = Task::sample(PROGRAM, &words(arguments), artifacts)?;
    let mut config = Config::new();
    config.set("mode", "run")?;
    task.configure(&mut config)?;
    config
        .set("audit", AUDIT)?
        .set("fault", arguments.fault)?
        .set("service", arguments.service)?
        .set("zero_pool", arguments.zero_pool)?
        .set("run_ahead", arguments.run_ahead)?
        .set("slice", arguments.slice)?
        .set("seed", arguments.seed)?;
    arguments.settings.configure(&mut config)?;
    recording.configure(&mut config)?;
    if arguments.leak {
        config.set("selftest", "leak-frame")?;
    }
    let hardware = Hardware {
        memory: arguments.mem,
        cpus: arguments.cpus,
        accel: arguments.accel,
        disks: arguments.disks.open()?,
        more: arguments.settings.qemu_arg.clone(),
        ..Hardware::default()
    };
    let tasks = [task];
    let bundle = session::pack(artifacts, &config, &tasks, &hardware)?;
    let stderr = Captured::default();
    let ports = Ports {
        log: recording.log(),
        stdout: Box::new(progress.clone()),
        stderr: Box::new(stderr.clone()),
    };
    let mut recorder = recording.start(&tasks)?;
    recorder.say("accelerator", arguments.accel);
    recorder.say("memory", format_args!("{} MiB", arguments.mem));
    recorder.say("seed", arguments.seed);
    let trace = recorder.port();
    let ended = session::boot_traced(artifacts, &hardware, &bundle, ports, trace, Some(limit))?;
    recorder.finish(ended.as_ref().map(|(_, machine)| machine.report.as_str()).ok())?;
    let (result, machine) = match ended {
        Ok((report, machine)) => {
            let outcome = Outcome::new(&report, &machine.report, &progress.lines(), machine.wall)
                .context("what the storm said at its end can't be read")?;
            (Ok(outcome), machine)
        }
        Err(failure) => {
            let machine = failure.outcome.clone();
            (Err(Box::new(failure)), machine)
        }
    };
    Ok(Boot {
        result,
        was_traced: recording.is_text() || recording.is_recorded(),
        stderr: String::from_utf8_lossy(&stderr.take()).into_owned(),
        log: machine.log,
        report: machine.report,
    })
}

/// Where the evidence of failed storms goes.
fn folder() -> PathBuf {
    crate::workspace::target_dir().join("storm")
}
