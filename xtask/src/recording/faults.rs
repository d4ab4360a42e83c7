//! Faults as lines for other programs: `--csv` and `--jsonl`, and the filters that choose among them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::lives::{Life, Stage};
use super::names::Threads;
use super::{Recording, text};

/// Which faults are shown.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Only faults of this process
    #[arg(long, value_name = "PID")]
    pub process: Option<u32>,
    /// Only faults of these kinds, as the summary names them
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Only faults whose service took at least so many ticks
    #[arg(long, value_name = "TICKS")]
    pub at_least: Option<u64>,
}

impl Filter {
    /// The faults that it lets through.
    ///
    /// # Errors
    /// Names a kind or a process that the recording does not have.
    pub fn choose<'a>(&self, recording: &Recording, lives: &'a [Life]) -> anyhow::Result<Vec<&'a Life>> {
        for kind in &self.kind {
            if !lives.iter().any(|life| life.kind() == kind) {
                let mut known: Vec<_> = lives.iter().map(Life::kind).collect();
                known.sort_unstable();
                known.dedup();
                bail!(
                    "the recording has no fault of the kind `{kind}`; it has {}",
                    known.join(", ")
                );
            }
        }
        let threads = threads(recording);
        let process = |life: &Life| threads.get(life.task).map_or(0, |running| running.process);
        if let Some(wanted) = self.process
            && !threads.iter().any(|(_, running)| running.process == wanted)
        {
            bail!("the recording has no process {wanted}; its summary names those that it has");
        }
        let passes = |life: &&Life| {
            self.process.is_none_or(|wanted| process(life) == wanted)
                && (self.kind.is_empty() || self.kind.iter().any(|kind| kind == life.kind()))
                && self.at_least.is_none_or(|ticks| life.service() >= ticks)
        };
        Ok(lives.iter().filter(passes).collect())
    }
}

fn threads(recording: &Recording) -> Threads {
    let mut threads = Threads::default();
    recording.events.iter().for_each(|event| threads.take(event));
    threads
}

/// A fault as a line. Lengths are in ticks; a stage that the fault skipped has none.
#[derive(Debug, Serialize)]
struct Row<'a> {
    fault: u64,
    kind: &'static str,
    task: u32,
    process: u32,
    program: &'a str,
    space: u64,
    address: String,
    access: &'static str,
    instruction: Option<String>,
    /// The function of the instruction.
    function: Option<&'a str>,
    /// The variable or function of the address.
    variable: Option<&'a str>,
    /// Ticks since the start of the trace.
    start: u64,
    /// The same in microseconds.
    start_us: f64,
    /// From trap to wake.
    service: u64,
    service_us: f64,
    /// From wake to resume.
    cpu_wait: u64,
    cpu_wait_us: f64,
    joined: Option<u64>,
    stages: BTreeMap<&'static str, u64>,
}

fn row<'a>(recording: &'a Recording, threads: &'a Threads, life: &Life) -> Row<'a> {
    let microseconds = |ticks: u64| (ticks as f64 * 1e9 / recording.counter_hz.max(1) as f64).round() / 1e3;
    let running = threads.get(life.task);
    let start = life.times.0.saturating_sub(recording.start);
    let mut stages = BTreeMap::new();
    for &(stage, from, to) in &life.stages {
        *stages.entry(stage.name()).or_default() += to - from;
    }
    Row {
        fault: life.id,
        kind: life.kind(),
        task: life.task,
        process: running.map_or(0, |running| running.process),
        program: running.map_or("", |running| running.program.as_str()),
        space: life.space,
        address: format!("{:#x}", life.address),
        access: text::access(life.access),
        instruction: life.instruction.map(|address| format!("{address:#x}")),
        function: life.instruction.and_then(|address| recording.name(life.space, address)),
        variable: recording.name(life.space, life.address),
        start,
        start_us: microseconds(start),
        service: life.service(),
        service_us: microseconds(life.service()),
        cpu_wait: life.cpu_wait(),
        cpu_wait_us: microseconds(life.cpu_wait()),
        joined: life.shared_with,
        stages,
    }
}

/// Writes one JSON object a line.
///
/// # Errors
/// Passes on what the writer reports.
pub fn jsonl(recording: &Recording, lives: &[&Life], to: &mut dyn Write) -> io::Result<()> {
    let threads = threads(recording);
    for life in lives {
        serde_json::to_writer(&mut *to, &row(recording, &threads, life))?;
        writeln!(to)?;
    }
    Ok(())
}

/// Writes a table with a line of names.
///
/// # Errors
/// Passes on what the writer reports.
pub fn csv(recording: &Recording, lives: &[&Life], to: &mut dyn Write) -> io::Result<()> {
    let threads = threads(recording);
    let stages = Stage::ALL.map(Stage::name);
    writeln!(
        to,
        "fault,kind,task,process,program,space,address,access,instruction,function,variable,start,start_us,service,\
         service_us,cpu_wait,cpu_wait_us,joined,{}",
        stages.join(",")
    )?;
    for life in lives {
        let row = row(recording, &threads, life);
        let texts = [row.instruction.as_deref(), row.function, row.variable].map(|text| field(text.unwrap_or("")));
        write!(
            to,
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            row.fault,
            row.kind,
            row.task,
            row.process,
            field(row.program),
            row.space,
            row.address,
            row.access,
            texts.join(","),
            row.start,
            row.start_us,
            row.service,
            row.service_us,
            row.cpu_wait,
            row.cpu_wait_us,
            row.joined.map_or_else(String::new, |other| other.to_string()),
        )?;
        for stage in stages {
            match row.stages.get(stage) {
                Some(ticks) => write!(to, ",{ticks}")?,
                None => write!(to, ",")?,
            }
        }
        writeln!(to)?;
    }
    Ok(())
}

/// A field of a table: quoted where it has to be.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::lives::{self, tests::meeting};
    use super::*;

    #[test]
    fn a_table_has_a_line_a_fault_with_as_many_fields_as_names() {
        let mut recording = meeting();
        recording.names.insert((1, 0x400), "p: f<a, b>".to_owned());
        let lives = lives::of(&recording);
        let chosen = Filter::default().choose(&recording, &lives).unwrap();
        let mut out = Vec::new();
        csv(&recording, &chosen, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(
            lines[1].starts_with(
                "7,demand-zero,1,0,,1,0x5010,write,0x400,\"p: f<a, b>\",,100,0.1,180,0.18,20,0.02,,40,60,"
            ),
            "{}",
            lines[1]
        );
        let width = |line: &str| line.replace("a, b", "").matches(',').count();
        assert!(lines.iter().all(|line| width(line) == width(lines[0])), "{text}");
    }

    #[test]
    fn lines_of_json_have_service_and_wait_apart() {
        let recording = meeting();
        let lives = lives::of(&recording);
        let filter = Filter {
            kind: vec!["coalesced".to_owned()],
            ..Filter::default()
        };
        let mut out = Vec::new();
        jsonl(&recording, &filter.choose(&recording, &lives).unwrap(), &mut out).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&line["fault"], &line["joined"]), (&8.into(), &7.into()));
        assert_eq!((&line["service"], &line["cpu_wait"]), (&130.into(), &50.into()));
        assert_eq!(line["stages"]["queued"], 100);
    }

    #[test]
    fn filters_choose_and_name_what_is_not_there() {
        let recording = meeting();
        let lives = lives::of(&recording);
        let chosen = |filter: Filter| {
            let chosen = filter.choose(&recording, &lives);
            chosen.map(|lives| lives.iter().map(|life| life.id).collect::<Vec<_>>())
        };
        let at_least = Some(150);
        assert_eq!(
            chosen(Filter {
                at_least,
                ..Filter::default()
            })
            .unwrap(),
            [7]
        );
        let error = chosen(Filter {
            kind: vec!["huge".to_owned()],
            ..Filter::default()
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("it has coalesced, demand-zero, denied"),
            "{error}"
        );
        assert!(
            chosen(Filter {
                process: Some(9),
                ..Filter::default()
            })
            .is_err()
        );
    }
}
