//! The run's configuration: the ramdisk's member `boot/config`, one `key=value` per line.
//!
//! The keys, with their values, defaults and meanings, are the table [`keys::KEYS`]; `cargo run -- run --config help`
//! prints it.
//!
//! An unknown key or a bad value is an error that names it. A file without a line is a valid one.

#![allow(
    clippy::disallowed_types,
    reason = "it runs before the first program, or without one"
)]

pub mod disk;
pub mod keys;

use core::fmt::{Display, Formatter};

use faultline_trace::Category;

use crate::arch::cpu::MAX_CPUS;
use crate::heap::inject::Failures;
use crate::startup::{String, Vec};

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// At its end.
    None,
    /// A pipe from the host.
    Pipe,
    /// A terminal.
    Terminal,
}

/// What the kernel does after start-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Runs [`Config::programs`] and ends with the last of them.
    Run,
    /// Runs the sample tasks.
    Demo,
}

/// Whether the life of faults is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceMode {
    /// No events.
    Off,
    /// One line per event on COM1.
    Text,
    /// Frames on a virtio serial port.
    Binary,
}

/// What happens when the host does not take a binary trace as fast as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFull {
    /// The kernel waits.
    Wait,
    /// Events are dropped and counted.
    Drop,
}

/// Who serves a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultMode {
    /// Always the service task, through the queue.
    Queued,
    /// The first poll of the fault's future; the queue only if it would have to wait.
    Inline,
    /// Likewise, and while it waits for a disk no other thread runs.
    Blocking,
}

/// Which time counts as that of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollTime {
    /// All of it.
    All,
    /// Not the time in user mode.
    Kernel,
}

/// What a test asks of the kernel itself. All but [`SelfTest::Traps`] are deliberate failures; all of these but
/// [`SelfTest::LeakFrame`] and [`SelfTest::Stall`] must end the run with a report of what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTest {
    /// A panic.
    Panic,
    /// Recursion without end on the kernel stack.
    Overflow,
    /// A double fault with a good stack.
    DoubleFault,
    /// A read of the null page.
    PageFault,
    /// A write to the kernel's code.
    WriteText,
    /// A jump into the kernel's data.
    ExecuteData,
    /// Every way out of user mode.
    Traps,
    /// A frame that nobody gives back, while programs run: the account at the end must miss it.
    LeakFrame,
    /// A panic when the first program ends.
    LatePanic,
    /// A task that holds something that another waits for, and takes twice the limit of a poll.
    Stall,
}

/// When the fault service gets its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTurn {
    /// Before anything else.
    First,
    /// When no user thread can go on: for tests that want faults to stay in flight while other threads run.
    Last,
}

/// A program to start, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path in the ramdisk.
    pub path: String,
    /// Its arguments, argument 0 first.
    pub arguments: Vec<Vec<u8>>,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// The next virtio disk on the bus.
    Virtio,
    /// A model with so many bytes of memory.
    Memory(u64),
    /// A model with the content of a member of the boot archive, which can only be read.
    Archive(String),
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where it comes from.
    pub source: DiskSource,
    /// How it behaves.
    pub parameters: disk::Parameters,
    /// Whether it is the swap area.
    pub is_swap: bool,
}

/// The configuration of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What to do.
    pub mode: Mode,
    /// How many CPUs run, if the machine has as many.
    pub cpus: usize,
    /// The programs.
    pub programs: Vec<Program>,
    /// Their environment, `NAME=VALUE` each.
    pub environment: Vec<Vec<u8>>,
    /// The trace.
    pub trace: TraceMode,
    /// What is traced.
    pub trace_categories: Category,
    /// When the host falls behind.
    pub trace_full: TraceFull,
    /// Who serves a page fault.
    pub fault: FaultMode,
    /// When the fault service gets its turn.
    pub service: ServiceTurn,
    /// The disks, in the order of their names.
    pub disks: Vec<Disk>,
    /// Whether frames are zeroed ahead of time when the CPU is idle.
    pub zero_pool: bool,
    /// Pages that a first write to anonymous memory gets at most.
    pub run_ahead: u8,
    /// Milliseconds for which a thread runs, its faults included, before others that have run less.
    pub slice: u16,
    /// Which time counts as that of a poll.
    pub polls: PollTime,
    /// Whether the report says what each process had in memory at the most.
    pub processes: bool,
    /// Milliseconds from one audit to the next; 0 for none.
    pub audit: u64,
    /// Milliseconds from which on a poll is reported as a stall; 0 for none.
    pub stall: u32,
    /// The most KiB that the kernel heap takes from the frame allocator; 0 for no such limit.
    pub heap: usize,
    /// Which allocations from the kernel heap fail.
    pub heap_failures: Failures,
    /// Whether the least cost of a fault's steps is measured at the start.
    pub floor: bool,
    /// With how many tasks the executor's costs are measured at the start; 0 for no measurement.
    pub executor_tasks: u32,
    /// Seed of everything that is random; 0 leaves programs at their places.
    pub seed: u64,
    /// What standard input is.
    pub input: Input,
    /// Rows and columns of the terminal's window.
    pub window: [u16; 2],
    /// Whether each channel has a port of its own.
    pub split_console: bool,
    /// The test of the kernel itself.
    pub selftest: Option<SelfTest>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Run,
            cpus: 1,
            programs: Vec::new(),
            environment: Vec::new(),
            trace: TraceMode::Off,
            trace_categories: Category::usual(),
            trace_full: TraceFull::Wait,
            fault: FaultMode::Queued,
            service: ServiceTurn::First,
            disks: Vec::new(),
            zero_pool: true,
            run_ahead: 1,
            slice: 1,
            polls: PollTime::All,
            processes: false,
            audit: 0,
            stall: 10,
            heap: 0,
            heap_failures: Failures::default(),
            floor: false,
            executor_tasks: 0,
            seed: 0,
            input: Input::None,
            window: [24, 80],
            split_console: true,
            selftest: None,
        }
    }
}

/// Why `boot/config` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The file is not UTF-8 text.
    NotText,
    /// A line has no `=`.
    NoValue(String),
    /// An argument stands above every program.
    NoProgram,
    /// There is no such key.
    UnknownKey(String),
    /// The key does not take this value.
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A disk that there cannot be.
    BadDisk(String),
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotText => f.write_str("boot/config is not UTF-8 text"),
            Self::NoValue(line) => write!(f, "boot/config: `{line}` is not of the form key=value"),
            Self::NoProgram => f.write_str("boot/config: `arg` belongs below the `program` that gets it"),
            Self::UnknownKey(key) => write!(f, "boot/config: there is no key `{key}`"),
            Self::BadDisk(value) => {
                write!(f, "boot/config: disk `{value}`: ")?;
                match (disk_source(value), disk::parse(disk::split(value).1)) {
                    (Some(_), Err(error)) => write!(f, "{error}"),
                    _ => f.write_str("it is neither virtio nor model:SIZE, 512 bytes at the least, nor model:/PATH"),
                }
            }
            Self::BadValue { key, value } => write!(f, "boot/config: `{key}` does not take the value `{value}`"),
        }
    }
}

impl Config {
    /// Reads the file's contents.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn parse(file: &[u8]) -> Result<Self, ConfigError> {
        let text = core::str::from_utf8(file).map_err(|_| ConfigError::NotText)?;
        let mut config = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=').ok_or_else(|| ConfigError::NoValue(line.into()))?;
            config.set(key, value)?;
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let bad = || ConfigError::BadValue {
            key: key.into(),
            value: value.into(),
        };
        let known = keys::find(key).ok_or_else(|| ConfigError::UnknownKey(key.into()))?;
        if !known.values.take(value) {
            return Err(bad());
        }
        match key {
            "mode" => self.mode = choose(value, &[("run", Mode::Run), ("demo", Mode::Demo)]).ok_or_else(bad)?,
            "cpus" => {
                let cpus = value.parse().ok().filter(|cpus| (1..=MAX_CPUS).contains(cpus));
                self.cpus = cpus.ok_or_else(bad)?;
            }
            "program" => self.programs.push(Program {
                path: value.into(),
                arguments: Vec::new(),
            }),
            "arg" => self
                .programs
                .last_mut()
                .ok_or(ConfigError::NoProgram)?
                .arguments
                .push(unescaped(value).ok_or_else(bad)?),
            "env" => self.environment.push(unescaped(value).ok_or_else(bad)?),
            "trace" => {
                let modes = [
                    ("off", TraceMode::Off),
                    ("text", TraceMode::Text),
                    ("binary", TraceMode::Binary),
                ];
                self.trace = choose(value, &modes).ok_or_else(bad)?;
            }
            "trace_categories" => self.trace_categories = categories(value).ok_or_else(bad)?,
            "trace_full" => {
                let choices = [("wait", TraceFull::Wait), ("drop", TraceFull::Drop)];
                self.trace_full = choose(value, &choices).ok_or_else(bad)?;
            }
            "fault" => {
                let modes = [
                    ("queued", FaultMode::Queued),
                    ("inline", FaultMode::Inline),
                    ("blocking", FaultMode::Blocking),
                ];
                self.fault = choose(value, &modes).ok_or_else(bad)?;
            }
            "service" => {
                let turns = [("first", ServiceTurn::First), ("last", ServiceTurn::Last)];
                self.service = choose(value, &turns).ok_or_else(bad)?;
            }
            "disk" | "swap" => {
                let disk = disk(value, key == "swap").ok_or_else(|| ConfigError::BadDisk(value.into()))?;
                self.disks.push(disk);
            }
            "zero_pool" => self.zero_pool = choose(value, &[("on", true), ("off", false)]).ok_or_else(bad)?,
            "run_ahead" => {
                let pages = value.parse().ok().filter(|pages: &u8| *pages <= 64);
                self.run_ahead = pages.ok_or_else(bad)?.max(1);
            }
            "slice" => {
                let length = value.parse().ok().filter(|length: &u16| *length <= 100);
                self.slice = length.ok_or_else(bad)?.max(1);
            }
            "polls" => {
                let choices = [("all", PollTime::All), ("kernel", PollTime::Kernel)];
                self.polls = choose(value, &choices).ok_or_else(bad)?;
            }
            "processes" => self.processes = choose(value, &[("on", true), ("off", false)]).ok_or_else(bad)?,
            "audit" => self.audit = value.parse().map_err(|_| bad())?,
            "stall" => self.stall = value.parse().map_err(|_| bad())?,
            "heap" => self.heap = value.parse().map_err(|_| bad())?,
            "heap_fail" => self.heap_failures.nth = value.parse().map_err(|_| bad())?,
            "heap_fail_from" => self.heap_failures.from = value.parse().map_err(|_| bad())?,
            "heap_fail_every" => self.heap_failures.every = value.parse().map_err(|_| bad())?,
            "floor" => self.floor = choose(value, &[("on", true), ("off", false)]).ok_or_else(bad)?,
            "executor" => self.executor_tasks = value.parse().map_err(|_| bad())?,
            "seed" => self.seed = value.parse().map_err(|_| bad())?,
            "input" => {
                let kinds = [
                    ("none", Input::None),
                    ("pipe", Input::Pipe),
                    ("terminal", Input::Terminal),
                ];
                self.input = choose(value, &kinds).ok_or_else(bad)?;
            }
            "window" => self.window = window(value).ok_or_else(bad)?,
            "console" => self.split_console = choose(value, &[("split", true), ("com1", false)]).ok_or_else(bad)?,
            "selftest" => self.selftest = Some(choose(value, &SELF_TESTS).ok_or_else(bad)?),
            _ => return Err(ConfigError::UnknownKey(key.into())),
        }
        Ok(())
    }
}

const SELF_TESTS: [(&str, SelfTest); 10] = [
    ("panic", SelfTest::Panic),
    ("overflow", SelfTest::Overflow),
    ("double-fault", SelfTest::DoubleFault),
    ("page-fault", SelfTest::PageFault),
    ("write-text", SelfTest::WriteText),
    ("execute-data", SelfTest::ExecuteData),
    ("traps", SelfTest::Traps),
    ("leak-frame", SelfTest::LeakFrame),
    ("late-panic", SelfTest::LatePanic),
    ("stall", SelfTest::Stall),
];

/// Reads what is said of a disk.
fn disk(value: &str, is_swap: bool) -> Option<Disk> {
    Some(Disk {
        source: disk_source(value)?,
        parameters: disk::parse(disk::split(value).1).ok()?,
        is_swap,
    })
}

fn disk_source(value: &str) -> Option<DiskSource> {
    match disk::split(value).0.split_once(':') {
        None if disk::split(value).0 == "virtio" => Some(DiskSource::Virtio),
        Some(("model", path)) if path.starts_with('/') => Some(DiskSource::Archive(path[1..].into())),
        Some(("model", size)) => disk::size(size).filter(|&size| size >= 512).map(DiskSource::Memory),
        _ => None,
    }
}

fn choose<T: Copy>(value: &str, choices: &[(&str, T)]) -> Option<T> {
    choices
        .iter()
        .find(|(name, _)| *name == value)
        .map(|(_, choice)| *choice)
}

/// The bytes of an argument or a variable: `\xHH` is the byte of that hexadecimal number, and `\\` a backslash.
fn unescaped(value: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        (rest, _) = match (byte, after) {
            (b'\\', [b'\\', after @ ..]) => (after, bytes.push(b'\\')),
            (b'\\', [b'x', digits @ ..]) => {
                let (digits, after) = digits.split_first_chunk::<2>()?;
                let digits = core::str::from_utf8(digits).ok()?;
                (after, bytes.push(u8::from_str_radix(digits, 16).ok()?))
            }
            (b'\\', _) => return None,
            _ => (after, bytes.push(byte)),
        };
    }
    Some(bytes)
}

/// Reads `ROWSxCOLUMNS`.
fn window(value: &str) -> Option<[u16; 2]> {
    let (rows, columns) = value.split_once('x')?;
    Some([rows.parse().ok()?, columns.parse().ok()?])
}

/// Reads a list of categories, separated by commas; none if one of them is unknown.
pub fn categories(list: &str) -> Option<Category> {
    list.split(',')
        .map(|name| Category::from_name(&name.to_ascii_uppercase()))
        .collect()
}
