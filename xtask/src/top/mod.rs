//! `top`: a live view of a running kernel.
//!
//! The machine runs on a thread of its own, and its binary trace feeds the [`model`]. The [`view`] looks at the model a few
//! times a second. Keys go to the view; what they ask of the kernel goes back through the port of the trace.

pub mod model;
pub mod view;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::bail;
use faultline_trace::wire::Decoder;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::model::Model;
use self::view::{Action, Snapshot, View};
use crate::cli;
use crate::config::Config;
use crate::interrupt;
use crate::machine::Outcome;
use crate::ports::{Captured, Commands, Ports, TracePort};
use crate::report::Report;
use crate::session::{self, Failure, Task};

/// How often the view looks.
const LOOK: Duration = Duration::from_millis(200);

/// How much of the programs' output is kept.
const OUTPUT: usize = 4096;

/// What runs if nothing is named: tasks that keep a machine busy.
const LOAD: [(&str, &[&str]); 4] = [
    ("kill", &["--children", "1000000000"]),
    ("touch", &["--mib", "192"]),
    ("cow", &[]),
    ("threads", &[]),
];

/// Feeds the model.
struct Feed {
    decoder: Decoder,
    model: Arc<Mutex<Model>>,
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
            self.model.lock().unwrap_or_else(PoisonError::into_inner).take(&frame);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Boots, shows, and returns the exit status of the tool.
///
/// # Errors
/// Fails without a terminal, and when the tool itself couldn't do its part.
pub fn run(arguments: &cli::Top) -> anyhow::Result<u8> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "top draws on a terminal and reads its keys, and this is none; \
             `run --report FILE.html` shows a run without one"
        );
    }
    let artifacts = session::prepare()?;
    let tasks = match arguments.command.split_first() {
        Some((program, args)) if std::path::Path::new(program).exists() => {
            vec![Task::from_file(program.as_ref(), args)?]
        }
        Some((program, args)) => vec![Task::sample(program, args, &artifacts)?],
        None => {
            let sample = |(name, args): (&str, &[&str])| {
                let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
                Task::sample(name, &args, &artifacts)
            };
            LOAD.into_iter().map(sample).collect::<Result<_, _>>()?
        }
    };
    let options = &arguments.options;
    let mut config = Config::new();
    config.set("mode", "run")?;
    for task in &tasks {
        task.configure(&mut config)?;
    }
    options.configure(&mut config)?;
    config
        .set("trace", crate::config::Trace::Binary)?
        .set("trace_categories", "task,fault,memory,syscall,sample")?
        .set("trace_full", "drop")?;
    let hardware = options.hardware(arguments.accel)?;
    let bundle = session::pack(&artifacts, &config, &tasks, &hardware)?;

    let model = Arc::new(Mutex::new(Model::default()));
    let commands = Commands::default();
    let output = Captured::default();
    let ports = Ports {
        log: Box::new(io::sink()),
        stdout: Box::new(output.clone()),
        stderr: Box::new(output.clone()),
    };
    let trace = TracePort {
        events: Box::new(Feed {
            decoder: Decoder::new(),
            model: Arc::clone(&model),
        }),
        commands: commands.clone(),
    };
    let limit = options.limit();
    let machine =
        thread::spawn(move || session::boot_traced(&artifacts, &hardware, &bundle, ports, Some(trace), limit));

    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &model, &output, &commands, &machine);
    ratatui::restore();
    // A machine that still runs ends as by Ctrl-C.
    interrupt::request();
    let ended = machine
        .join()
        .map_err(|_| anyhow::anyhow!("the thread of the machine panicked"))?;
    shown?;
    match ended? {
        Ok(_) => Ok(0),
        Err(failure) if matches!(failure.outcome.end, crate::machine::End::Interrupted(_)) => Ok(0),
        Err(failure) => {
            eprintln!("faultline: {failure}");
            Ok(failure.status())
        }
    }
}

type Machine = thread::JoinHandle<anyhow::Result<Result<(Report, Outcome), Failure>>>;

/// Draws and reads keys until it is enough.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    model: &Mutex<Model>,
    output: &Captured,
    commands: &Commands,
    machine: &Machine,
) -> anyhow::Result<()> {
    let mut view = View::default();
    let mut said = Vec::new();
    while interrupt::requested().is_none() {
        said.extend(output.take());
        said.drain(..said.len().saturating_sub(OUTPUT));
        let snapshot = {
            let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
            model.look();
            Snapshot::of(&model)
        };
        view.update(snapshot, String::from_utf8_lossy(&said).into_owned());
        if machine.is_finished() {
            view.end("the machine has ended; q quits".to_owned());
        }
        terminal.draw(|frame| view.draw(frame))?;
        if !event::poll(LOOK)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match view.key(key) {
                Action::None => {}
                Action::Quit => break,
                Action::Kill(process) => drop(commands.send(&format!("kill {process}"))),
            }
        }
    }
    Ok(())
}
