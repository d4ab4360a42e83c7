//! `demo`: the life of a few faults, then the sample tasks together, and the account.
//!
//! Two boots: the first one is traced, and runs the tasks small; the second one isn't, so that nothing but the faults
//! is in the figures, and runs them at their full size. Both count instructions: a tick of the clock is one.

use std::io;

use faultline_trace::FaultClass;

use crate::build::Artifacts;
use crate::cli;
use crate::config::{Config, Trace as TraceMode};
use crate::machine::{Accel, Captured, Outcome, Ports};
use crate::report::{ProgramEnd, Report, Summary};
use crate::session::{self, FAILED, Failure, Task};
use crate::trace::Trace;

/// A task and its arguments.
type Call = (&'static str, &'static [&'static str]);

/// The tasks whose faults are shown.
const SHOWN: &[Call] = &[
    ("touch", &["--pages", "2", "sequential", "read-write"]),
    ("cow", &["--pages", "2"]),
    ("threads", &["--threads", "2", "--pages", "2"]),
    ("wild", &["null"]),
];

/// The tasks of the account.
const TASKS: &[Call] = &[
    ("hello", &[]),
    ("touch", &[]),
    ("cow", &[]),
    ("heap", &[]),
    ("punch", &[]),
    ("stack", &[]),
    ("wild", &[]),
    ("threads", &[]),
    ("kill", &[]),
];

/// Boots with the sample tasks, shows what happened and returns the exit status of the tool.
///
/// # Errors
/// Fails when the tool itself couldn't do its part.
pub fn run(arguments: &cli::Demo) -> anyhow::Result<u8> {
    let artifacts = session::prepare()?;
    let log = Captured::default();
    let quiet = Ports {
        log: Box::new(log.clone()),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
    };
    let shown = boot(arguments, &artifacts, SHOWN, TraceMode::Text, quiet)?;
    let (shown, _) = match shown {
        Ok(orderly) => orderly,
        Err(failure) => return Ok(failed(&failure)),
    };
    println!("THE LIFE OF A FAULT, by its kind (a tick is an instruction)");
    show_faults(&Trace::parse(&String::from_utf8_lossy(&log.take())));

    println!("\nTHE SAMPLE TASKS, all at once");
    let ports = Ports {
        log: Box::new(io::sink()),
        stdout: Box::new(io::stdout()),
        stderr: Box::new(io::stderr()),
    };
    let (report, outcome) = match boot(arguments, &artifacts, TASKS, TraceMode::Off, ports)? {
        Ok(orderly) => orderly,
        Err(failure) => return Ok(failed(&failure)),
    };
    let programs = report.programs()?;
    println!("\nTHE ACCOUNT, after {:.2} s", outcome.wall.as_secs_f64());
    println!("tasks");
    for program in &programs {
        println!("  {:<24}{:>14}", program.path, describe(program));
    }
    println!(
        "{}",
        Summary {
            report: &report,
            unit: "instructions"
        }
    );

    let passed = programs.len() == TASKS.len() && programs.iter().all(|program| program.status == 0);
    let holds = report.frames_hold()? && shown.frames_hold()?;
    println!(
        "\n{}",
        match (passed, holds) {
            (true, true) => "Every task passed, and no frame is missing.",
            (false, _) => "NOT EVERY TASK PASSED.",
            (true, false) => "FRAMES ARE MISSING.",
        }
    );
    Ok(if passed && holds { 0 } else { FAILED })
}

/// Boots with `calls`, all at the same time.
fn boot(
    arguments: &cli::Demo,
    artifacts: &Artifacts,
    calls: &[Call],
    trace: TraceMode,
    ports: Ports,
) -> anyhow::Result<Result<(Report, Outcome), Failure>> {
    let options = &arguments.options;
    let mut config = Config::new();
    let mut tasks = Vec::new();
    for (name, args) in calls {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let task = Task::sample(name, &args, artifacts)?;
        task.configure(&mut config)?;
        tasks.push(task);
    }
    config
        .set("trace", trace)?
        .set("trace_categories", "fault,tlb")?
        .set("fault", options.fault)?;
    config.set("zero_pool", options.zero_pool)?.set("seed", options.seed)?;
    let hardware = options.hardware(Accel::Icount);
    let bundle = session::pack(artifacts, &config, &tasks, &hardware)?;
    session::boot(artifacts, &hardware, &bundle, ports, options.limit())
}

fn failed(failure: &Failure) -> u8 {
    eprintln!("faultline: {failure}");
    failure.status()
}

/// Prints every event of the first fault of each kind.
fn show_faults(trace: &Trace) {
    let served = |class: FaultClass| {
        trace
            .named("fault.serve")
            .find(|event| event.fields.get("class").is_some_and(|name| name == class.name()))
    };
    let kinds = FaultClass::ALL.into_iter().map(|class| (class.name(), served(class)));
    let others = [
        ("coalesced with one in flight", "fault.join"),
        ("denied", "fault.denied"),
    ];
    let others = others
        .into_iter()
        .map(|(label, name)| (label, trace.named(name).next()));
    for (label, event) in kinds.chain(others) {
        let Some(event) = event else { continue };
        println!("\n{label}");
        for event in trace.fault(event.fault) {
            println!("{}", event.line);
        }
    }
}

fn describe(program: &ProgramEnd) -> String {
    match (&program.error, program.signal, program.status) {
        (Some(error), ..) => format!("never started: {error}"),
        (None, Some(signal), _) => format!("ended by signal {signal}"),
        (None, None, 0) => "passed".to_owned(),
        (None, None, status) => format!("status {status}"),
    }
}
