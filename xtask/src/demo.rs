//! `demo`: the life of a few faults, then the sample tasks together, and the account.
//!
//! Several boots, all counting instructions. Some are traced and run small tasks: first as the kernel comes, then with its
//! fault service last in line, where faults of several threads meet, then with a disk, for which faults wait
//! ([`waiting`]). Two run one task alone, untraced, for what a fault
//! costs by itself. The last one runs all tasks at once, untraced; its account is the table.

pub mod waiting;

use std::io;
use std::time::Duration;

use faultline_trace::FaultClass;

use crate::build::Artifacts;
use crate::cli;
use crate::config::Config;
use crate::disks;
use crate::machine::{Accel, Outcome};
use crate::ports::{Captured, Ports};
use crate::report::{ProgramEnd, Report, Summary};
use crate::session::{self, FAILED, Failure, Task};
use crate::trace::{Event, Trace};

/// A task and its arguments.
pub type Call = (&'static str, &'static [&'static str]);

/// Lines of the kernel's configuration.
pub type Settings = &'static [(&'static str, &'static str)];

/// Ends a machine of the demo that hangs, if no limit was given.
const LIMIT: Duration = Duration::from_secs(600);

/// For what a fault costs: untraced, and with a page each.
const ALONE_SETTINGS: Settings = &[("trace", "off"), ("run_ahead", "1")];

/// The tasks whose faults are shown, each in a boot of its own.
const SHOWN: [&[Call]; 3] = [
    &[("touch", &["--pages", "3", "sequential", "read-write"])],
    &[("cow", &["--pages", "6"])],
    &[("wild", &["null"])],
];

const SHOWN_SETTINGS: Settings = &[("trace", "text"), ("trace_categories", "fault"), ("zero_pool", "off")];

/// The tasks whose faults meet.
const MEETING: &[Call] = &[
    ("threads", &["--threads", "2", "--pages", "2"]),
    ("kill", &["--in-flight", "--children", "1"]),
];

const MEETING_SETTINGS: Settings = &[
    ("trace", "text"),
    ("trace_categories", "fault"),
    ("service", "last"),
    ("zero_pool", "off"),
];

/// The tasks that run alone, for what their faults cost.
const ALONE: [&[Call]; 2] = [&[("touch", &["--mib", "8"])], &[("cow", &[])]];

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
    match show(arguments, &artifacts)? {
        Ok(true) => Ok(0),
        Ok(false) => Ok(FAILED),
        Err(failure) => {
            eprintln!("faultline: {failure}");
            Ok(failure.status())
        }
    }
}

/// The demo itself; says whether everything is as it should be.
fn show(arguments: &cli::Demo, artifacts: &Artifacts) -> anyhow::Result<Result<bool, Failure>> {
    let mut hold = true;
    println!("THE LIFE OF A FAULT, one of each kind; a tick of the clock is an instruction");
    let mut shown = Vec::new();
    for calls in SHOWN {
        match traced(arguments, artifacts, calls, SHOWN_SETTINGS)? {
            Ok((report, trace)) => {
                hold &= report.frames_hold()?;
                one_of_each_kind(&trace, &mut shown);
            }
            Err(failure) => return Ok(Err(failure)),
        }
    }
    match traced(arguments, artifacts, MEETING, MEETING_SETTINGS)? {
        Ok((report, trace)) => {
            hold &= report.frames_hold()?;
            those_that_meet(&trace);
        }
        Err(failure) => return Ok(Err(failure)),
    }

    match traced(arguments, artifacts, waiting::TASK, waiting::SETTINGS)? {
        Ok((report, trace)) => {
            hold &= report.frames_hold()? && waiting::show(&trace);
        }
        Err(failure) => return Ok(Err(failure)),
    }

    let mut alone = Vec::new();
    for calls in ALONE {
        match boot(arguments, artifacts, calls, ALONE_SETTINGS, quiet(Captured::default()))? {
            Ok((report, _)) => alone.push(report),
            Err(failure) => return Ok(Err(failure)),
        }
    }

    println!("\nTHE SAMPLE TASKS, all at once");
    let ports = Ports::of_this_process(arguments.recording.log());
    let (report, outcome) = match record(arguments, artifacts, ports)? {
        Ok(orderly) => orderly,
        Err(failure) => return Ok(Err(failure)),
    };
    let programs = report.programs()?;
    println!("\nTHE ACCOUNT, after {:.2} s", outcome.wall.as_secs_f64());
    println!("tasks");
    for program in &programs {
        println!("  {:<24}{:>14}", program.path, describe(program));
    }
    let times: Vec<&Report> = alone.iter().collect();
    let unit = "instructions each, alone";
    println!(
        "{}",
        Summary {
            report: &report,
            times: &times,
            unit
        }
    );

    let passed = programs.len() == TASKS.len() && programs.iter().all(|program| program.status == 0);
    hold &= report.frames_hold()?;
    println!(
        "\n{}",
        match (passed, hold) {
            (true, true) => "Every task passed, and no frame is missing.",
            (false, _) => "NOT EVERY TASK PASSED.",
            (true, false) => "FRAMES ARE MISSING.",
        }
    );
    Ok(Ok(passed && hold))
}

/// Boots with `calls`, all at the same time.
fn boot(
    arguments: &cli::Demo,
    artifacts: &Artifacts,
    calls: &[Call],
    settings: Settings,
    ports: Ports,
) -> anyhow::Result<Result<(Report, Outcome), Failure>> {
    let options = &arguments.options;
    let (mut config, tasks) = configure(arguments, artifacts, calls)?;
    for (key, value) in settings {
        config.set(key, value)?;
    }
    let mut hardware = options.hardware(Accel::Icount)?;
    if calls == waiting::TASK {
        hardware.disks = vec![disks::swap(waiting::SWAP)?.open()?];
    }
    let bundle = session::pack(artifacts, &config, &tasks, &hardware)?;
    session::boot(artifacts, &hardware, &bundle, ports, options.limit_or(LIMIT))
}

/// Boots with all sample tasks and records what is asked for.
fn record(
    arguments: &cli::Demo,
    artifacts: &Artifacts,
    ports: Ports,
) -> anyhow::Result<Result<(Report, Outcome), Failure>> {
    let options = &arguments.options;
    let (mut config, tasks) = configure(arguments, artifacts, TASKS)?;
    arguments.recording.configure(&mut config)?;
    let hardware = options.hardware(Accel::Icount)?;
    let bundle = session::pack(artifacts, &config, &tasks, &hardware)?;
    let mut recorder = arguments.recording.start(&tasks)?;
    options.describe(Accel::Icount, &mut recorder);
    let trace = recorder.port();
    let ended = session::boot_traced(artifacts, &hardware, &bundle, ports, trace, options.limit_or(LIMIT))?;
    recorder.finish(ended.as_ref().map(|(_, outcome)| outcome.report.as_str()).ok())?;
    Ok(ended)
}

/// The configuration and the tasks of a boot.
fn configure(arguments: &cli::Demo, artifacts: &Artifacts, calls: &[Call]) -> anyhow::Result<(Config, Vec<Task>)> {
    let options = &arguments.options;
    let mut config = Config::new();
    let mut tasks = Vec::new();
    for (name, args) in calls {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let task = Task::sample(name, &args, artifacts)?;
        task.configure(&mut config)?;
        tasks.push(task);
    }
    options.configure(&mut config)?;
    Ok((config, tasks))
}

/// Boots with `calls` and reads their trace.
fn traced(
    arguments: &cli::Demo,
    artifacts: &Artifacts,
    calls: &[Call],
    settings: Settings,
) -> anyhow::Result<Result<(Report, Trace), Failure>> {
    let log = Captured::default();
    let ended = boot(arguments, artifacts, calls, settings, quiet(log.clone()))?;
    let trace = Trace::parse(&String::from_utf8_lossy(&log.take()));
    Ok(ended.map(|(report, _)| (report, trace)))
}

/// Ports of a boot whose trace alone is of interest.
fn quiet(log: Captured) -> Ports {
    Ports {
        log: Box::new(log),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
    }
}

/// Prints the first fault of each kind that wasn't shown yet, if possible one that needed nothing but itself.
fn one_of_each_kind(trace: &Trace, shown: &mut Vec<&'static str>) {
    let mut kinds = Vec::new();
    for class in FaultClass::ALL {
        let of_class = |event: &&Event| event.fields.get("class").is_some_and(|name| name == class.name());
        let served: Vec<_> = trace
            .named("fault.serve")
            .filter(of_class)
            .map(|event| event.fault)
            .collect();
        let plain = served.iter().find(|&&fault| {
            let steps = trace.steps(fault);
            let once = steps.iter().filter(|step| **step == "fault.serve").count() == 1;
            steps[0] == "fault.trap" && once && (class == FaultClass::ZeroPage || steps.contains(&"fault.frame"))
        });
        kinds.extend(plain.or(served.first()).map(|&fault| (class.name(), fault)));
        // That the writer is the last owner shows only when the fault is served: no frame follows.
        let kept = [
            "fault.trap",
            "fault.queue",
            "fault.serve",
            "fault.commit",
            "fault.wake",
            "fault.resume",
        ];
        if class == FaultClass::CowCopy {
            let reused = served.into_iter().find(|fault| trace.steps(*fault) == kept);
            kinds.extend(reused.map(|fault| (FaultClass::CowReuse.name(), fault)));
        }
    }
    kinds.extend(trace.named("fault.denied").next().map(|event| ("denied", event.fault)));
    for (name, fault) in kinds {
        if !shown.contains(&name) {
            shown.push(name);
            print_faults(name, trace, &[fault]);
        }
    }
}

/// Prints the first two faults on one page, and the first one whose thread was killed.
fn those_that_meet(trace: &Trace) {
    if let Some(join) = trace.named("fault.join").next() {
        let same = |event: &&Event| event.page() == join.page() && event.space == join.space;
        let before = trace
            .named("fault.queue")
            .filter(same)
            .take_while(|event| event.time < join.time)
            .last();
        let faults: Vec<_> = before
            .map(|event| event.fault)
            .into_iter()
            .chain([join.fault])
            .collect();
        print_faults(
            "two threads on one page (the fault service is last in line)",
            trace,
            &faults,
        );
    }
    if let Some(cancel) = trace.named("fault.cancel").next() {
        print_faults(
            "killed in flight (the fault service is last in line)",
            trace,
            &[cancel.fault],
        );
    }
}

fn print_faults(label: &str, trace: &Trace, faults: &[u64]) {
    println!("\n{label}");
    for event in trace.events.iter().filter(|event| faults.contains(&event.fault)) {
        println!("{}", event.line);
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
