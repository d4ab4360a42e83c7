//! `--trace`, `--trace-categories` and `--report`.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use faultline_trace::Category;

use super::Recorder;
use crate::cli::values::html_file;
use crate::config::{Config, Trace};
use crate::session::Task;

/// What a command that boots can record.
#[derive(Clone, Debug, Args)]
#[group(id = "recording")]
pub struct Options {
    /// `text`: the kernel's log and a line for each event, on standard error; FILE.pftrace: a file for ui.perfetto.dev;
    /// FILE.fltrace: a recording for `cargo run -- trace`
    #[arg(long, value_name = "off|text|FILE", default_value_t = TraceTo::Off, value_parser = trace_to)]
    pub trace: TraceTo,
    /// The events that are recorded: task, fault, tlb, frame, memory, syscall, signal, device, sample,
    /// arguments (of system calls); all but the last if not given
    #[arg(long, value_name = "LIST")]
    pub trace_categories: Option<String>,
    /// Write a page with figures and a timeline of the run
    #[arg(long, value_name = "FILE.html", value_parser = html_file)]
    pub report: Option<PathBuf>,
    /// Write a table with a line a fault
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    /// Write a JSON object a line, one for each fault
    #[arg(long, value_name = "FILE.jsonl")]
    pub jsonl: Option<PathBuf>,
}

/// Where a trace goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceTo {
    /// Nowhere.
    Off,
    /// Lines on standard error.
    Text,
    /// A file for Perfetto.
    Perfetto(PathBuf),
    /// A recording.
    Recording(PathBuf),
}

impl fmt::Display for TraceTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Text => f.write_str("text"),
            Self::Perfetto(file) | Self::Recording(file) => write!(f, "{}", file.display()),
        }
    }
}

fn trace_to(text: &str) -> Result<TraceTo, String> {
    let file = PathBuf::from(text);
    match (text, file.extension().and_then(|extension| extension.to_str())) {
        ("off", _) => Ok(TraceTo::Off),
        ("text", _) => Ok(TraceTo::Text),
        (_, Some("pftrace" | "perfetto-trace")) => Ok(TraceTo::Perfetto(file)),
        (_, Some("fltrace")) => Ok(TraceTo::Recording(file)),
        _ => Err("neither `off`, `text`, nor a file that ends in .pftrace or .fltrace".to_owned()),
    }
}

/// Checks a list of categories.
fn check(list: &str) -> anyhow::Result<()> {
    for name in list.split(',') {
        if Category::from_name(&name.to_ascii_uppercase()).is_none() {
            let known = Category::all().iter_names().map(|(name, _)| name.to_ascii_lowercase());
            let known = known.collect::<Vec<_>>().join(", ");
            bail!("--trace-categories: there is no category `{name}`, but there are {known}");
        }
    }
    Ok(())
}

impl Options {
    /// Whether the trace is lines of text on COM1.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.trace == TraceTo::Text
    }

    /// Whether the kernel has to send a binary trace.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        [&self.report, &self.csv, &self.jsonl].iter().any(|file| file.is_some())
            || matches!(self.trace, TraceTo::Perfetto(_) | TraceTo::Recording(_))
    }

    /// Where the kernel's log goes: it is shown with a trace of lines, and only then.
    #[must_use]
    pub fn log(&self) -> Box<dyn Write + Send> {
        if self.is_text() {
            Box::new(io::stderr())
        } else {
            Box::new(io::sink())
        }
    }

    /// Tells the kernel what to trace.
    ///
    /// # Errors
    /// Fails when the options contradict each other.
    pub fn configure(&self, config: &mut Config) -> anyhow::Result<()> {
        if self.is_text() && self.is_recorded() {
            bail!("--trace text writes events as lines, of which --report, --csv and --jsonl can make nothing: choose");
        }
        let how = match (self.is_text(), self.is_recorded()) {
            (true, _) => Trace::Text,
            (false, true) => Trace::Binary,
            (false, false) => Trace::Off,
        };
        config.set("trace", how)?;
        if let Some(list) = &self.trace_categories {
            if how == Trace::Off {
                bail!("--trace-categories chooses among the events of --trace or --report, and nothing is recorded");
            }
            check(list)?;
            config.set("trace_categories", list)?;
        }
        Ok(())
    }

    /// Prepares to take the events of a run of these tasks.
    ///
    /// # Errors
    /// Fails when a file that was asked for can't be made.
    pub fn start(&self, tasks: &[Task]) -> anyhow::Result<Recorder> {
        Recorder::new(self, tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_name_says_what_is_in_it() {
        assert_eq!(trace_to("off"), Ok(TraceTo::Off));
        assert_eq!(trace_to("a.pftrace"), Ok(TraceTo::Perfetto("a.pftrace".into())));
        assert_eq!(trace_to("x/a.fltrace"), Ok(TraceTo::Recording("x/a.fltrace".into())));
        assert!(trace_to("a.txt").is_err() && trace_to("").is_err());
    }

    #[test]
    fn an_unknown_category_is_named() {
        assert!(check("fault,sample").is_ok());
        let error = check("fault,flaut").unwrap_err().to_string();
        assert!(error.contains("`flaut`") && error.contains("syscall"), "{error}");
    }
}
