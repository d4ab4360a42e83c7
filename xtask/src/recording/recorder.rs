//! The recorder: takes a kernel's frames while the machine runs, and makes files of them afterwards.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Options, Recording, TraceTo, file, names};
use crate::ports::{Commands, TracePort};
use crate::session::Task;
use crate::workspace;

/// Takes the events of one run.
#[derive(Debug)]
pub struct Recorder {
    raw: Option<Arc<Mutex<BufWriter<File>>>>,
    trace: TraceTo,
    page: Option<PathBuf>,
    csv: Option<PathBuf>,
    jsonl: Option<PathBuf>,
    tasks: Vec<Task>,
    about: String,
}

/// What the port writes to.
struct Sink(Arc<Mutex<BufWriter<File>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    // The file is read when all is over; there is nobody to see it earlier.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Recorder {
    pub(super) fn new(options: &Options, tasks: &[Task]) -> anyhow::Result<Self> {
        let recorded = options.is_recorded();
        let (trace, page) = (options.trace.clone(), options.report.clone());
        // A file that can't be made is better known before the run than after it.
        let (csv, jsonl) = (options.csv.clone(), options.jsonl.clone());
        let files = [Self::file(&trace), page.as_deref(), csv.as_deref(), jsonl.as_deref()];
        for file in files.into_iter().flatten() {
            File::create(file).with_context(|| format!("{} can't be written", file.display()))?;
        }
        let raw = recorded
            .then(|| tempfile::tempfile().context("no temporary file for the trace"))
            .transpose()?;
        Ok(Self {
            raw: raw.map(|file| Arc::new(Mutex::new(BufWriter::with_capacity(1 << 20, file)))),
            trace,
            page,
            csv,
            jsonl,
            tasks: if recorded { tasks.to_vec() } else { Vec::new() },
            about: if recorded { about(tasks) } else { String::new() },
        })
    }

    fn file(trace: &TraceTo) -> Option<&Path> {
        match trace {
            TraceTo::Perfetto(file) | TraceTo::Recording(file) => Some(file),
            TraceTo::Off | TraceTo::Text => None,
        }
    }

    /// Notes how the run is made, for whoever reads its recording.
    pub fn say(&mut self, name: &str, value: impl fmt::Display) {
        if self.raw.is_some() {
            self.about += &format!("{name} {value}\n");
        }
    }

    /// The port that the machine needs, if anything is recorded.
    pub fn port(&mut self) -> Option<TracePort> {
        let raw = self.raw.as_ref()?;
        Some(TracePort {
            events: Box::new(Sink(Arc::clone(raw))),
            commands: Commands::default(),
        })
    }

    /// Writes the files, after the machine has ended. `report` is the kernel's account, if it gave one.
    ///
    /// # Errors
    /// Fails when a file can't be written, or when the kernel sent no trace at all.
    pub fn finish(self, report: Option<&str>) -> anyhow::Result<()> {
        let Some(raw) = self.raw else { return Ok(()) };
        let mut raw = raw.lock().unwrap_or_else(PoisonError::into_inner);
        raw.flush().context("the trace can't be kept")?;
        let mut raw = raw.get_ref().try_clone().context("the trace can't be read")?;
        let length = raw.stream_position()?;
        raw.rewind()?;

        let bar = progress(length, "reading the trace");
        let mut recording = Recording::read(bar.wrap_read(BufReader::with_capacity(1 << 20, &raw)))?;
        bar.finish_and_clear();
        if recording.events.is_empty() && !recording.ended {
            bail!("the kernel sent no trace: the end of its log says why (--trace text shows it)");
        }
        recording.report = report.map(str::to_owned);
        recording.about = self.about;
        names::resolve(&mut recording, &self.tasks);
        if recording.lost > 0 || !recording.damage.is_none() {
            eprintln!(
                "faultline: the trace is not whole: {} events lost; {}",
                recording.lost, recording.damage
            );
        }
        match &self.trace {
            TraceTo::Recording(path) => write_file(path, |out| file::write(&recording, out))?,
            TraceTo::Perfetto(path) => write_file(path, |out| super::perfetto::write(&recording, out))?,
            TraceTo::Off | TraceTo::Text => {}
        }
        if let Some(path) = &self.page {
            write_file(path, |out| super::page::write(&recording, out))?;
        }
        if self.csv.is_some() || self.jsonl.is_some() {
            let lives = super::lives::of(&recording);
            let all: Vec<_> = lives.iter().collect();
            if let Some(path) = &self.csv {
                write_file(path, |out| super::faults::csv(&recording, &all, out))?;
            }
            if let Some(path) = &self.jsonl {
                write_file(path, |out| super::faults::jsonl(&recording, &all, out))?;
            }
        }
        Ok(())
    }
}

/// What is run, from which state of the sources, and when.
fn about(tasks: &[Task]) -> String {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let line = |text: String| text.replace(['\n', '\r'], " ");
    let git = |words: &[&str]| {
        let output = Command::new("git")
            .args(words)
            .current_dir(workspace::root())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let mut about = format!("command {}\n", line(format!("cargo run -- {}", words.join(" "))));
    let programs: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
    about += &format!("programs {}\n", line(programs.join(" ")));
    if let Some(revision) = git(&["describe", "--always", "--dirty", "--abbrev=12"]) {
        about += &format!("revision {}\n", line(revision));
    }
    let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    if let Some(date) = date.ok().filter(|date| date.status.success()) {
        about += &format!(
            "date {}\n",
            line(String::from_utf8_lossy(&date.stdout).trim().to_owned())
        );
    }
    about
}

/// Writes a file that was asked for.
pub(super) fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let attempt = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        fill(&mut out)?;
        out.flush()
    };
    let bar = ProgressBar::new_spinner().with_message(format!("writing {}", path.display()));
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    let result = attempt().with_context(|| format!("{} can't be written", path.display()));
    bar.finish_and_clear();
    result
}

/// A bar for so many bytes; nothing where standard error is no terminal.
pub(super) fn progress(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes}");
    let bar = ProgressBar::new(length).with_style(style.expect("the template is well-formed"));
    bar.with_prefix(what)
}

/// Reads a recording from a file.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn read_file(path: &Path) -> anyhow::Result<Recording> {
    let open = || -> anyhow::Result<Recording> {
        let file = File::open(path)?;
        let bar = progress(file.metadata()?.len(), "reading the trace");
        let recording = Recording::read(bar.wrap_read(BufReader::with_capacity(1 << 20, file)));
        bar.finish_and_clear();
        Ok(recording?)
    };
    let recording = open().with_context(|| format!("{} can't be read", path.display()))?;
    if recording.counter_hz == 0 {
        bail!(
            "{} is no recording: it has no frame that says how a trace starts",
            path.display()
        );
    }
    Ok(recording)
}
