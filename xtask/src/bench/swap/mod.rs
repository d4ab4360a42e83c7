//! `bench --suite swap`: what faults cost that wait for a device, beside Linux with the same program file.
//!
//! Both systems swap to a disk in memory that completes each request after a time on the machine's clock: Faultline's
//! modelled disk, Linux's `null_blk`. Neither limits the bytes a second: those cost the instructions that move them. Under
//! `-icount` that clock counts guest instructions, and goes on to the next timer where the machine is idle; so a figure is
//! the instructions of a page plus what of its waiting nobody else could use, and repeats to the digit.
//!
//! The same reads on a virtio disk of the emulator are measured in time, in rounds (`virtio`).

mod tables;
mod virtio;

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::chart;
use super::figures::Column;
use super::linux::Linux;
use super::page::Page;
use super::{PROGRAM, progress_bar, run_program};
use crate::build::Artifacts;
use crate::cli;
use crate::config::{Config, Fault, Switch};
use crate::disks;
use crate::machine::{Accel, Hardware};
use crate::report::Report;
use crate::session;

/// One boot of each system.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The operations that it measures: those with this in their names.
    operations: &'static str,
    /// What the disk takes for each request.
    latency: Duration,
    /// Size of the swap area in MiB. It lies in the machine's memory.
    swap: u64,
    /// Whether Linux's disk gets its memory at the start, because there will be none left.
    is_backed: bool,
}

/// What the suite consists of.
const PARTS: [Part; 7] = [
    Part::pages(2),
    Part::pages(10),
    Part::pages(100),
    Part {
        operations: "compute",
        ..Part::pages(10_000)
    },
    Part {
        operations: "steady state",
        swap: 256,
        is_backed: true,
        ..Part::pages(10)
    },
    Part {
        operations: "in the cache",
        ..Part::pages(10)
    },
    Part {
        operations: "evicting",
        ..Part::pages(10)
    },
];

impl Part {
    /// Pages that leave and come back one by one.
    const fn pages(microseconds: u64) -> Self {
        Self {
            operations: "swap-",
            latency: Duration::from_micros(microseconds),
            swap: 64,
            is_backed: false,
        }
    }
}

/// The figures of one part.
#[derive(Clone, Debug, Default, Serialize)]
struct Measured {
    latency_us: u64,
    /// Faults that wait are futures.
    queued: Column,
    /// The CPU waits with each that waits. Measured once: what it is beside the others shows in the first digits.
    blocking: Column,
    /// Linux.
    linux: Vec<(String, Column)>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
struct Results {
    /// Memory of the machines in MiB.
    memory: u64,
    /// Kernel memory of a fault that waits, and of the transfer of one that waits for its own.
    fault_bytes: u64,
    transfer_bytes: u64,
    parts: Vec<Measured>,
    /// What was not the same in two runs of Linux.
    notes: Vec<String>,
    /// The same reads on a virtio disk, in time.
    virtio: virtio::Rounds,
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// As [`super::run`].
pub fn run(arguments: &cli::Bench) -> anyhow::Result<u8> {
    if arguments.profile {
        bail!("--profile records the suite memory; `run --profile FILE.svg --swap ... bench` records any run");
    }
    let page = arguments.markdown.as_deref();
    let page = page.map(|file| Page::read(file, "bench swap")).transpose()?;
    let kernels = Linux::all_with_disks(&arguments.linux)?;
    let artifacts = session::prepare()?;
    let file = artifacts.task(PROGRAM).context("there is no sample task bench")?;
    let program = fs::read(&file).with_context(|| format!("{} can't be read", file.display()))?;
    let systems = 1 + kernels.len() as u64;
    let bar = progress_bar((PARTS.len() as u64 * 2 + u64::from(arguments.rounds)) * systems);
    let mut results = Results {
        memory: arguments.memory(),
        ..Results::default()
    };
    let bytes = Cell::new([0; 2]);
    for part in PARTS {
        let twice = |name: &str, boot: &dyn Fn() -> anyhow::Result<String>| {
            let mut runs = Vec::new();
            for run in 1..=2 {
                bar.set_message(format!("{name}: {}, run {run} of 2", part.operations));
                runs.push(Column::parse(&boot()?).with_context(|| name.to_owned())?);
                bar.inc(1);
            }
            let different = runs[0].differences(&runs[1]);
            let different = (!different.is_empty())
                .then(|| format!("{name}: two runs counted differently: {}", different.join(", ")));
            anyhow::Ok((runs.swap_remove(0), different))
        };
        let faultline = |fault| {
            let (text, report) = boot_faultline(&artifacts, arguments, part, fault)?;
            bytes.set([report.get("fault.bytes")?, report.get("fault.transfer_bytes")?]);
            Ok(text)
        };
        let (queued, different) = twice("Faultline", &|| faultline(Fault::Queued))?;
        if let Some(different) = different {
            bail!("{different}");
        }
        let mut measured = Measured {
            latency_us: u64::try_from(part.latency.as_micros())?,
            queued,
            blocking: Column::parse(&faultline(Fault::Blocking)?).context("Faultline, blocking")?,
            linux: Vec::new(),
        };
        for linux in &kernels {
            let (column, different) = twice(&linux.name, &|| boot_linux(linux, &program, arguments, part))?;
            // What another system does twice is for it to say: the first run's figure stands, and the note beside it.
            results.notes.extend(different);
            measured.linux.push((linux.name.clone(), column));
        }
        results.parts.push(measured);
    }
    [results.fault_bytes, results.transfer_bytes] = bytes.get();
    results.virtio = virtio::measure(&artifacts, &program, &kernels, arguments, &bar)?;
    bar.finish_and_clear();
    if results.parts.iter().all(|part| part.queued.operations.is_empty()) {
        bail!(
            "no operation has {:?} in its name",
            arguments.filter.as_deref().unwrap_or_default()
        );
    }
    let text = tables::all(&results);
    println!("{text}");
    for note in &results.notes {
        eprintln!("note: {note}");
    }
    if let Some(page) = page {
        page.replace(&text)?;
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))?;
    }
    if let Some(file) = &arguments.chart {
        let title = "A page, in nanoseconds at an instruction each, less is better (logarithmic scale)";
        let chart = chart::draw(title, ["Faultline", "Linux"], &tables::pairs(&results));
        let chart = chart.context("a chart needs --linux and an operation that both systems have")?;
        fs::write(file, chart).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(0)
}

/// The words for the program: what it measures, by parts of the operations' names.
fn words(arguments: &cli::Bench, operations: &[&str]) -> Vec<String> {
    let mut words = ["--suite", "swap", "--fields"].map(str::to_owned).to_vec();
    for part in operations.iter().copied().chain(arguments.filter.as_deref()) {
        words.extend(["--filter".to_owned(), part.to_owned()]);
    }
    words
}

fn boot_faultline(
    artifacts: &Artifacts,
    arguments: &cli::Bench,
    part: Part,
    fault: Fault,
) -> anyhow::Result<(String, Report)> {
    let swap = format!(
        "model:{}M,latency={}us,bandwidth=0",
        part.swap,
        part.latency.as_micros()
    );
    let hardware = Hardware {
        memory: arguments.memory(),
        accel: Accel::Icount,
        disks: vec![disks::swap(&swap)?.open()?],
        ..Hardware::default()
    };
    let mut config = Config::new();
    config.set("fault", fault)?.set("zero_pool", Switch::Off)?;
    let words = words(arguments, &[part.operations]);
    run_program(artifacts, config, &hardware, &words, arguments.timeout)
}

fn boot_linux(linux: &Linux, program: &[u8], arguments: &cli::Bench, part: Part) -> anyhow::Result<String> {
    let latency = part.latency.as_nanos().to_string();
    let mut first = ["--init", "--latency", &latency].map(str::to_owned).to_vec();
    if part.is_backed {
        first.extend(["--backed".to_owned(), part.swap.to_string()]);
    }
    let machine = Hardware {
        memory: arguments.memory(),
        accel: Accel::Icount,
        ..Hardware::default()
    };
    first.extend(words(arguments, &[part.operations]));
    linux.boot(program, &on_command_line(first), machine, arguments.timeout)
}

/// The words of a kernel's command line have no spaces in them.
fn on_command_line(words: Vec<String>) -> Vec<String> {
    words.into_iter().map(|word| word.replace(' ', "+")).collect()
}
