//! `run`: one program as the first user task.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Context;

use crate::build;
use crate::cli;
use crate::cli::values::closest;
use crate::config::{self, Config, Switch};
use crate::disks::Disk;
use crate::flame::Counter;
use crate::gdb::{self, Debugger};
use crate::machine::{Accel, Attached, End, InputKind};
use crate::ports::{Commands, Ports, TracePort};
use crate::program::Unsuitable;
use crate::recording::strace;
use crate::report::{Report, Summary};
use crate::root::Root;
use crate::session::{self, FAILED, NOT_FOUND, Task, UNSUITABLE};
use crate::stored;
use crate::typing::{self, Keyboard, RawTerminal, ReturnCarriage, Source};

/// Boots with the program and returns the exit status of the tool.
///
/// # Errors
/// Fails when the tool itself couldn't do its part; that is status 125 as well.
pub fn run(arguments: &cli::Run) -> anyhow::Result<u8> {
    let (program, args) = arguments.command.split_first().context("no program is named")?;
    let program = program.to_str().context("the program's name is not UTF-8 text")?;
    let mut hardware = arguments.options.hardware(arguments.accel)?;
    let root = match &arguments.root {
        Some(folder) if Root::is_large(folder, arguments.options.mem) => {
            // Before the disk for swap, which is the last.
            let place = hardware.disks.iter().take_while(|disk| !disk.is_swap()).count();
            hardware.disks.insert(place, Disk::of_root(folder)?);
            Root::beside_disk(folder)
        }
        Some(folder) => Root::of_folder_for(folder, arguments.options.mem)?,
        None => Root::default(),
    };
    let from_file = match from_file(arguments.root.as_deref(), &root, &hardware.disks, program, args) {
        Ok(task) => task,
        Err(error) => {
            let Unsuitable::Missing(_) = error else {
                eprintln!("faultline: {error}");
                return Ok(UNSUITABLE);
            };
            match &arguments.root {
                Some(folder) => eprintln!("faultline: {error}, neither here nor in {}", folder.display()),
                None => eprintln!("faultline: {error}"),
            }
            if !program.contains('/') {
                eprintln!("{}", hint(program));
            }
            return Ok(NOT_FOUND);
        }
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
        config.add("env", variable);
    }
    if arguments.strace {
        config
            .set("trace", config::Trace::Binary)?
            .set("trace_categories", strace::CATEGORIES)?;
    } else {
        arguments.recording.configure(&mut config)?;
    }
    // A debugger that runs in this terminal reads it itself.
    let source = match arguments.gdb {
        Some(Debugger::Run) => Source::Nothing,
        _ => typing::source(),
    };
    match source {
        Source::Nothing => {}
        Source::Pipe => drop(config.set("input", "pipe")?),
        Source::Terminal => {
            config.set("input", "terminal")?;
            if let Some((rows, columns)) = typing::window() {
                config.set("window", format!("{rows}x{columns}"))?;
            }
        }
    }
    if arguments.summary {
        config.set("processes", Switch::On)?;
    }
    options.configure(&mut config)?;

    let tasks = [task];
    let bundle = session::pack_with(&artifacts, &config, &tasks, &root, &hardware)?;
    let waiting = arguments
        .gdb
        .map(|debugger| gdb::prepare(debugger, &artifacts, &tasks[0], options.seed))
        .transpose()?;
    let counter = arguments
        .profile
        .as_ref()
        .map(|_| Counter::new(&tasks[0]))
        .transpose()?;
    hardware.instructions = counter.as_ref().map(|counter| counter.path().to_owned());
    hardware.gdb = waiting.as_ref().map(|waiting| waiting.port);
    let mut recorder = arguments.recording.start(&tasks)?;
    options.describe(arguments.accel, &mut recorder);
    let trace = if arguments.strace {
        Some(TracePort {
            events: Box::new(strace::Live::new(lines(source, Box::new(io::stderr())))),
            commands: Commands::default(),
        })
    } else {
        recorder.port()
    };
    let debugging = match (&waiting, arguments.gdb) {
        (Some(waiting), Some(Debugger::Run)) => Some(waiting.start()?),
        (Some(waiting), _) => {
            eprintln!(
                "faultline: QEMU waits for gdb; type this in another terminal:\n  {}",
                waiting.line()
            );
            None
        }
        _ => None,
    };
    let ports = Ports::of_this_process(lines(source, arguments.recording.log()));
    let terminal = match source {
        Source::Terminal => RawTerminal::of_standard_input()?,
        _ => None,
    };
    let commands = trace.as_ref().map(|port| port.commands.clone());
    let keyboard = Keyboard::new(terminal.is_some(), commands);
    let escaped = keyboard.escaped();
    let input = match source {
        Source::Nothing => None,
        Source::Pipe => Some(keyboard.input(InputKind::Pipe)),
        Source::Terminal => Some(keyboard.input(InputKind::Keys)),
    };
    let attached = Attached { trace, input };
    let ended = session::boot_attached(&artifacts, &hardware, &bundle, ports, attached, options.limit());
    drop(terminal);
    drop(debugging);
    let ended = ended?;
    if let (Some(counter), Some(file)) = (counter, &arguments.profile) {
        counter.finish(&artifacts.kernel, &tasks[0], file)?;
    }
    recorder.finish(ended.as_ref().map(|(_, outcome)| outcome.report.as_str()).ok())?;
    let (report, _) = match ended {
        Ok(orderly) => orderly,
        Err(failure) if escaped.load(Ordering::Relaxed) && matches!(failure.outcome.end, End::Interrupted(_)) => {
            return Ok(0);
        }
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
            "faultline: the kernel lost memory: equation {}, {} frames and {} swap slots leaked",
            report.text("frames.equation").unwrap_or("missing"),
            report.text("frames.leaked").unwrap_or("?"),
            report.text("swap.leaked").unwrap_or("0")
        );
        return Ok(FAILED);
    }
    let programs = report.programs()?;
    let program = programs.first().context("the kernel's report has no program")?;
    if let Some(error) = &program.error {
        eprintln!("faultline: {}: {error}", program.path);
    }
    for victim in (0..).map_while(|index| report.text(&format!("victim.{index}"))) {
        eprintln!(
            "faultline: memory ran out ({}); the kernel ended {victim}",
            had(&report, options.mem)
        );
    }
    Ok(program.status)
}

/// The program, if it is a file: of the folder that becomes the root file system, else of the file system on a disk, else of
/// this machine. A file is looked at before anything is built; only a name without a file can be that of a sample task.
fn from_file(
    folder: Option<&Path>,
    root: &Root,
    disks: &[Disk],
    program: &str,
    args: &[OsString],
) -> Result<Option<Task>, Unsuitable> {
    if let Some(folder) = folder
        && let Some(task) = Task::from_root(root, folder, program, args)?
    {
        return Ok(Some(task));
    }
    if let Some(task) = stored::task(disks, program, args)? {
        return Ok(Some(task));
    }
    if Path::new(program).exists() || !build::task_names().iter().any(|task| task == program) {
        let on_disk = disks.iter().any(Disk::is_root);
        // The kernel says so if the linker is not on the disk.
        let mut task = Task::from_file_for(program.as_ref(), args, |linker| on_disk || root.has_program(linker))?;
        if on_disk {
            // The folder of programs is that of the disk.
            task.path = task.path.map(|path| path.replacen("bin/", "", 1));
            task.name = task.name.replacen("/bin/", "/", 1);
        }
        return Ok(Some(task));
    }
    Ok(None)
}

/// Lines for standard error: on a terminal in raw mode they begin at the left edge only if they are told to.
fn lines(source: Source, to: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
    match source {
        Source::Terminal => Box::new(ReturnCarriage(to)),
        _ => to,
    }
}

/// How much memory the machine had, in the words of the options that give it more.
fn had(report: &Report, mib: u64) -> String {
    match report.get::<u64>("swap.slots") {
        Ok(slots) => format!("--mem {mib}M, --swap {}K", slots * 4),
        Err(_) => format!("--mem {mib}M, no --swap"),
    }
}

/// What a person may have meant by a name that is neither a file nor a sample task.
fn hint(name: &str) -> String {
    let tasks = build::task_names();
    let meant = closest(name, tasks.iter().map(String::as_str));
    let meant = meant.map_or_else(String::new, |meant| format!("did you mean `{meant}`? "));
    format!("  {meant}The sample tasks are {}", tasks.join(", "))
}
