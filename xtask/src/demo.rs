//! `demo`: the sample tasks together, the life of a few faults, and the account.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::cli;
use crate::config::{Config, Trace};
use crate::machine::{Accel, Ports};
use crate::report::{ProgramEnd, Summary};
use crate::session::{self, FAILED, Task};

/// The sample tasks of the demo with their arguments.
const TASKS: &[(&str, &[&str])] = &[
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
    let options = &arguments.options;
    let mut config = Config::new();
    config.set("mode", "demo")?;
    let mut tasks = Vec::new();
    for (name, args) in TASKS {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let task = Task::sample(name, &args, &artifacts)?;
        task.configure(&mut config)?;
        tasks.push(task);
    }
    config.set("trace", Trace::Text)?.set("fault", options.fault)?;
    config.set("zero_pool", options.zero_pool)?.set("seed", options.seed)?;

    let hardware = options.hardware(Accel::Icount);
    let bundle = session::pack(&artifacts, &config, &tasks, &hardware)?;
    let log = Shared::default();
    let ports = Ports {
        log: Box::new(log.clone()),
        stdout: Box::new(io::stdout()),
        stderr: Box::new(io::stderr()),
    };
    let (report, outcome) = match session::boot(&artifacts, &hardware, &bundle, ports, options.limit())? {
        Ok(orderly) => orderly,
        Err(failure) => {
            eprintln!("faultline: {failure}");
            return Ok(failure.status());
        }
    };
    let programs = report.programs()?;
    let width = programs.iter().map(|program| program.path.len()).max().unwrap_or(0);
    println!("\ntasks");
    for program in &programs {
        println!("  {:width$}  {}", program.path, describe(program));
    }
    println!(
        "{}",
        Summary {
            report: &report,
            unit: "instructions"
        }
    );
    println!("ran for {:.2} s", outcome.wall.as_secs_f64());
    let passed = programs.len() == TASKS.len() && programs.iter().all(|program| program.status == 0);
    let holds = report.frames_hold()?;
    println!(
        "{}",
        match (passed, holds) {
            (true, true) => "every task passed, no frame is missing",
            (false, _) => "NOT EVERY TASK PASSED",
            (true, false) => "FRAMES ARE MISSING",
        }
    );
    Ok(if passed && holds { 0 } else { FAILED })
}

fn describe(program: &ProgramEnd) -> String {
    match (&program.error, program.signal, program.status) {
        (Some(error), ..) => format!("never started: {error}"),
        (None, Some(signal), _) => format!("ended by signal {signal}"),
        (None, None, 0) => "passed".to_owned(),
        (None, None, status) => format!("failed with status {status}"),
    }
}

/// Memory that several owners write to.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
