//! One boot with its programs, and the verdict on it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::build::{self, Artifacts};
use crate::bundle::Bundle;
use crate::config::{Config, LineBreak};
use crate::disks::{Content, Disk};
use crate::kernel_image;
use crate::machine::{self, Accel, Attached, End, Hardware, Outcome};
use crate::ports::{Ports, TracePort};
use crate::program::{self, Unsuitable};
use crate::report::{Defect, Report};
use crate::root::{Found, Root};
use crate::setup;
use crate::{symbols, unwind};

/// Memory that the kernel needs beside the bundle to come up and run a small program, in MiB.
pub(crate) const KERNEL_MEMORY: u64 = 22;

/// How many lines of the kernel log are shown when the kernel failed.
const SHOWN_LOG: usize = 30;

/// Exit status of the tool at the time limit.
pub const TIMED_OUT: u8 = 124;
/// Exit status of the tool when the kernel or the tool itself failed.
pub const FAILED: u8 = 125;
/// Exit status of the tool for a file that can't be a user task.
pub const UNSUITABLE: u8 = 126;
/// Exit status of the tool for a file that isn't there.
pub const NOT_FOUND: u8 = 127;

/// Sees to it that everything is installed and built.
///
/// # Errors
/// Says what is missing, or what cargo said.
pub fn prepare() -> anyhow::Result<Artifacts> {
    build::all(setup::prepare(&mut setup::Host::new())?)
}

/// A user task: a program file and its arguments.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where it lies in the ramdisk, without a leading slash; none if it lies on a disk.
    pub path: Option<String>,
    /// The path by which it is started, which may lead there through links.
    pub name: String,
    /// The program.
    pub program: Vec<u8>,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
}

impl Task {
    /// Reads a static program from a file.
    ///
    /// # Errors
    /// Says why the file can't be a user task.
    pub fn from_file(file: &Path, args: &[impl AsRef<OsStr>]) -> Result<Self, Unsuitable> {
        Self::from_file_for(file, args, |_| false)
    }

    /// Reads a program from a file, for a machine that has the dynamic linkers that `has_linker` says.
    ///
    /// # Errors
    /// Says why the file can't be a user task.
    pub fn from_file_for(
        file: &Path,
        args: &[impl AsRef<OsStr>],
        has_linker: impl FnOnce(&str) -> bool,
    ) -> Result<Self, Unsuitable> {
        let program = program::read_for(file, has_linker)?;
        let name = file
            .file_name()
            .map_or_else(|| "program".into(), |name| name.to_string_lossy().into_owned());
        Ok(Self {
            path: Some(format!("bin/{name}")),
            name: format!("/bin/{name}"),
            program,
            args: owned(args),
        })
    }

    /// Takes the program from the files of the machine, which were read from `folder`. None if there is nothing of that
    /// path.
    ///
    /// # Errors
    /// Says why the file can't be a user task.
    pub fn from_root(
        root: &Root,
        folder: &Path,
        program: &str,
        args: &[impl AsRef<OsStr>],
    ) -> Result<Option<Self>, Unsuitable> {
        let shown = folder.join(program.trim_start_matches('/'));
        match root.find(program) {
            Found::Nothing => Ok(None),
            Found::Folder => Err(Unsuitable::Folder(shown)),
            Found::File { executable: false, .. } => Err(Unsuitable::NotExecutable(shown)),
            Found::File { path, data, .. } => match program::check_for(data, |linker| root.has_program(linker)) {
                Err(reason) => Err(Unsuitable::NotAProgram { path: shown, reason }),
                Ok(()) => Ok(Some(Self {
                    path: Some(path),
                    name: format!("/{}", program.trim_start_matches('/')),
                    program: data.to_vec(),
                    args: owned(args),
                })),
            },
        }
    }

    /// Takes a sample task.
    ///
    /// # Errors
    /// Fails when there is no such task.
    pub fn sample(name: &str, args: &[impl AsRef<OsStr>], artifacts: &Artifacts) -> Result<Self, Unsuitable> {
        let file = artifacts.task(name).ok_or_else(|| Unsuitable::Missing(name.into()))?;
        Self::from_file(&file, args)
    }

    /// The lines of the configuration that start this task.
    ///
    /// # Errors
    /// Fails when the path has a line break.
    pub fn configure(&self, config: &mut Config) -> Result<(), LineBreak> {
        config.set("program", &self.name)?.add("arg", self.name.as_ref());
        for arg in &self.args {
            config.add("arg", arg);
        }
        Ok(())
    }
}

fn owned(args: &[impl AsRef<OsStr>]) -> Vec<OsString> {
    args.iter().map(|arg| arg.as_ref().to_owned()).collect()
}

/// Packs kernel, configuration and programs.
///
/// # Errors
/// Fails when the kernel can't be read or the bundle doesn't fit into the machine.
pub fn pack(artifacts: &Artifacts, config: &Config, tasks: &[Task], hardware: &Hardware) -> anyhow::Result<Vec<u8>> {
    pack_with(artifacts, config, tasks, &Root::default(), hardware)
}

/// The same with more files. A program goes before a file of the same path.
///
/// # Errors
/// As [`pack`].
pub fn pack_with(
    artifacts: &Artifacts,
    config: &Config,
    tasks: &[Task],
    root: &Root,
    hardware: &Hardware,
) -> anyhow::Result<Vec<u8>> {
    let kernel = fs::read(&artifacts.kernel).context("the kernel can't be read")?;
    let kernel = kernel_image::stripped(&kernel).context("the kernel isn't a well-formed ELF file")?;
    // First, so that a setting of the same name holds.
    let mut text = format!("cpus={}\n", hardware.cpus);
    text += &with_stall(config, hardware.accel);
    for (index, disk) in hardware.disks.iter().enumerate() {
        text += &disk.line(index, hardware.accel);
        text += "\n";
    }
    let mut bundle = Bundle::new(&kernel, &text)?;
    for (index, disk) in hardware.disks.iter().enumerate() {
        if let Content::Bundled(bytes) = &disk.content {
            bundle.image(&Disk::member(index), bytes)?;
        }
    }
    let mut packed: Vec<String> = Vec::new();
    for task in tasks {
        let Some(path) = &task.path else { continue };
        let place = root.place(path);
        if !packed.contains(&place) {
            bundle.file(&place, true, &task.program)?;
            packed.push(place);
        }
    }
    root.pack(&mut bundle, &packed)?;
    let bundle = bundle.finish()?;
    let ramdisk = (bundle.len() as u64).div_ceil(1 << 20);
    let modelled: u64 = hardware.disks.iter().map(Disk::memory).sum();
    let modelled = modelled.div_ceil(1 << 20);
    let needed = ramdisk.saturating_add(modelled).saturating_add(KERNEL_MEMORY);
    if needed > hardware.memory {
        let disks = match modelled {
            0 => String::new(),
            modelled => format!(", modelled disks {modelled} MiB"),
        };
        bail!(
            "too little memory: the ramdisk takes {ramdisk} MiB{disks} and the kernel {KERNEL_MEMORY} MiB, but the machine \
             has {} MiB; --mem {needed}M is the least",
            hardware.memory
        );
    }
    Ok(bundle)
}

/// The configuration with a limit of stalls that fits the clock: where that is the host's, a host that has other things
/// to do makes polls long, and only what takes a second is the kernel's own doing.
fn with_stall(config: &Config, accel: Accel) -> String {
    let mut text = config.as_str().to_owned();
    if accel == Accel::Tcg && !text.lines().any(|line| line.starts_with("stall=")) {
        text += "stall=1000\n";
    }
    text
}

/// Boots a bundle and reads the kernel's report.
///
/// # Errors
/// The outer error: the machine couldn't be started. The inner one: it didn't come to an orderly end.
pub fn boot(
    artifacts: &Artifacts,
    hardware: &Hardware,
    bundle: &[u8],
    ports: Ports,
    limit: Option<Duration>,
) -> anyhow::Result<Result<(Report, Outcome), Failure>> {
    boot_traced(artifacts, hardware, bundle, ports, None, limit)
}

/// The same with a port for a binary trace.
///
/// # Errors
/// As [`boot`].
pub fn boot_traced(
    artifacts: &Artifacts,
    hardware: &Hardware,
    bundle: &[u8],
    ports: Ports,
    trace: Option<TracePort>,
    limit: Option<Duration>,
) -> anyhow::Result<Result<(Report, Outcome), Failure>> {
    let attached = Attached { trace, input: None };
    boot_attached(artifacts, hardware, bundle, ports, attached, limit)
}

/// The same with whatever else is attached.
///
/// # Errors
/// As [`boot`].
pub fn boot_attached(
    artifacts: &Artifacts,
    hardware: &Hardware,
    bundle: &[u8],
    ports: Ports,
    attached: Attached,
    limit: Option<Duration>,
) -> anyhow::Result<Result<(Report, Outcome), Failure>> {
    let outcome = machine::run_attached(hardware, &artifacts.boot, bundle, ports, attached, limit)?;
    let kernel = artifacts.kernel.clone();
    if outcome.end != End::Orderly {
        return Ok(Err(Failure {
            defect: None,
            outcome,
            kernel,
        }));
    }
    match Report::parse(&outcome.report) {
        Ok(report) => Ok(Ok((report, outcome))),
        Err(defect) => Ok(Err(Failure {
            defect: Some(defect),
            outcome,
            kernel,
        })),
    }
}

/// A machine that didn't come to an orderly end.
#[derive(Debug)]
pub struct Failure {
    /// What was wrong with the report, if the end seemed orderly.
    pub defect: Option<Defect>,
    /// What the machine left behind.
    pub outcome: Outcome,
    kernel: PathBuf,
}

impl Failure {
    /// The exit status that says so.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self.outcome.end {
            End::TimedOut(_) => TIMED_OUT,
            End::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(FAILED),
            _ => FAILED,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.defect {
            Some(defect) => write!(f, "{defect}")?,
            None => match &self.outcome.unwritten {
                Some(unwritten) => write!(f, "{unwritten}")?,
                None => write!(f, "{}", self.outcome.end)?,
            },
        }
        if matches!(
            self.outcome.end,
            End::TimedOut(_) | End::Interrupted(_) | End::Unwritten
        ) {
            return Ok(());
        }
        for line in self.outcome.qemu.lines() {
            write!(f, "\n  {line}")?;
        }
        let lines: Vec<_> = self.outcome.log.lines().filter(|line| !unwind::is_raw(line)).collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LOG)..];
        if shown.is_empty() {
            write!(f, "\n  the kernel logged nothing")?;
        } else {
            write!(f, "\nthe end of the kernel log:")?;
        }
        for line in shown {
            write!(f, "\n  {line}")?;
        }
        let frames = symbols::backtrace(&self.outcome.log, &self.kernel);
        if !frames.is_empty() {
            write!(f, "\nback-trace:")?;
        }
        for equal in frames.chunk_by(|one, next| one == next) {
            write!(f, "\n  {}", equal[0])?;
            if equal.len() > 1 {
                write!(f, " ({} times)", equal.len())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
