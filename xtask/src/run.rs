//! `run`: one program as the first user task.

use std::path::Path;

use anyhow::Context;

use crate::build;
use crate::cli;
use crate::config::Config;
use crate::machine::Accel;
use crate::ports::Ports;
use crate::program::Unsuitable;
use crate::report::Summary;
use crate::root::Root;
use crate::session::{self, FAILED, NOT_FOUND, Task, UNSUITABLE};

/// Boots with the program and returns the exit status of the tool.
///
/// # Errors
/// Fails when the tool itself couldn't do its part; that is status 125 as well.
pub fn run(arguments: &cli::Run) -> anyhow::Result<u8> {
    let (program, args) = arguments.command.split_first().context("no program is named")?;
    let root = match &arguments.root {
        Some(folder) => Root::of_folder(folder)?,
        None => Root::default(),
    };
    let inside = arguments
        .root
        .as_ref()
        .map(|folder| folder.join(program.trim_start_matches('/')))
        .filter(|file| file.is_file());
    // A file is looked at before anything is built; only a name without a file can be that of a sample task.
    let from_file = if inside.is_some() || Path::new(program).exists() || !build::task_names().contains(program) {
        let file = inside.as_deref().unwrap_or(program.as_ref());
        match Task::from_file(file, args) {
            Ok(mut task) => {
                if inside.is_some() {
                    program.trim_start_matches('/').clone_into(&mut task.path);
                }
                Some(task)
            }
            Err(error) => {
                eprintln!("faultline: {error}");
                return Ok(if matches!(error, Unsuitable::Missing(_)) {
                    NOT_FOUND
                } else {
                    UNSUITABLE
                });
            }
        }
    } else {
        None
    };
    let artifacts = session::prepare()?;
    let task = match from_file {
        Some(task) => task,
        None => Task::sample(program, args, &artifacts)?,
    };
    let options = &arguments.options;
    let mut config = Config::new();
    config.set("mode", "run")?;
    task.configure(&mut config)?;
    for variable in &arguments.env {
        config.set("env", variable)?;
    }
    arguments.recording.configure(&mut config)?;
    options.configure(&mut config)?;

    let hardware = options.hardware(arguments.accel);
    let tasks = [task];
    let bundle = session::pack_with(&artifacts, &config, &tasks, &root, &hardware)?;
    let ports = Ports::of_this_process(arguments.recording.log());
    let mut recorder = arguments.recording.start(&tasks)?;
    let trace = recorder.port();
    let ended = session::boot_traced(&artifacts, &hardware, &bundle, ports, trace, options.limit())?;
    recorder.finish(ended.as_ref().map(|(_, outcome)| outcome.report.as_str()).ok())?;
    let (report, _) = match ended {
        Ok(orderly) => orderly,
        Err(failure) => {
            eprintln!("faultline: {failure}");
            return Ok(failure.status());
        }
    };
    if arguments.summary {
        let counted = arguments.accel == Accel::Icount;
        let unit = if counted { "instructions each" } else { "ticks each" };
        eprintln!(
            "{}",
            Summary {
                report: &report,
                times: &[&report],
                unit
            }
        );
    }
    if !report.frames_hold()? {
        eprintln!(
            "faultline: the kernel lost frames: equation {}, {} leaked",
            report.text("frames.equation").unwrap_or("missing"),
            report.text("frames.leaked").unwrap_or("?")
        );
        return Ok(FAILED);
    }
    let programs = report.programs()?;
    let program = programs.first().context("the kernel's report has no program")?;
    if let Some(error) = &program.error {
        eprintln!("faultline: {}: {error}", program.path);
    }
    Ok(program.status)
}
