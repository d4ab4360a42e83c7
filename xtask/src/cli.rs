//! The command line.

pub mod options;
pub(crate) mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell as CompletedShell;

pub use options::{Disks, Options, Settings};
use values::{html_file, megabytes, positive_seconds, scenarios, seconds, svg_file, variable};

use crate::config::{Fault, Service, Switch};
use crate::gdb::Debugger;
use crate::lab::Shard;
use crate::machine::Accel;
use crate::recording;
use crate::recording::faults::Filter;

/// Builds and boots Faultline, a kernel in which every user thread and every page fault is a future.
///
/// Without a command: the demo.
#[derive(Debug, Parser)]
#[command(
    name = "faultline",
    bin_name = "cargo run --",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the demo.
    #[command(flatten)]
    pub demo: Demo,
}

impl Cli {
    /// The settings of a command that boots.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        Some(match &self.command {
            None => &self.demo.options.settings,
            Some(Command::Run(run)) => &run.options.settings,
            Some(Command::Shell(shell)) => &shell.options.settings,
            Some(Command::Demo(demo)) => &demo.options.settings,
            Some(Command::Top(top)) => &top.options.settings,
            Some(Command::Storm(storm)) => &storm.settings,
            Some(_) => return None,
        })
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot with one program as the first user task
    ///
    /// The program's standard output and error arrive on the tool's own, byte for byte, and what comes on the tool's
    /// standard input is the program's: a pipe, or a terminal if input and output are one (then Ctrl-] ends the machine;
    /// standard error goes the way of standard output). With icount, a program that reads a pipe does not repeat exactly.
    /// The exit status is the program's: 128 + N if signal N ended it; 124 at the time limit; 125 if the kernel or this tool failed; 126 if the
    /// file can't be a user task; 127 if there is no such file.
    Run(Run),
    /// Boot into an interactive shell, with the sample tasks in its /bin
    ///
    /// Busybox's sh, from an installed static busybox or Debian's package, which is downloaded by apt-get and not
    /// installed. Files that it writes are gone with the machine. Ctrl-C interrupts what runs in the foreground, Ctrl-D
    /// ends the shell, Ctrl-] ends the machine. The sample tasks are started by their names, but touch and kill, which
    /// are commands of the shell, as /bin/touch and /bin/kill; `--trace FILE` records what they do meanwhile.
    Shell(Shell),
    /// Run the sample tasks together, show the life of a few faults, and sum up (the default)
    ///
    /// The exit status is 0 only if every task passed and no frame is missing.
    Demo(Demo),
    /// Measure what memory operations cost, beside Linux running the same program file
    ///
    /// Guest instructions under -icount, each run made twice and compared digit by digit; then time under plain TCG,
    /// the systems in turn, as minima. The exit status is 0 only if the runs agree.
    Bench(Bench),
    /// Measure what the executor's own steps cost in the kernel: spawn, wake, and a wake among many tasks
    ///
    /// Guest instructions under -icount, on two machines whose figures are compared digit by digit. The exit status is 0
    /// only if they agree.
    Executor(Executor),
    /// Read a recorded trace back
    Trace(ReadTrace),
    /// Hammer the kernel with faults of every kind, and prove that nothing was lost
    ///
    /// Every task checks every word that it reads, and the kernel checks its frames, faults and TLB generations at
    /// intervals. The exit status is 0 only if nothing at all was wrong; else a folder with a trace is left.
    Storm(Storm),
    /// Make an experiment: programs, parameters and systems, every combination a run, then tables and plots
    ///
    /// The file says what is run and which figures are read; docs/lab has three. Each run is a boot, and its result a line
    /// in the folder of the experiment, so that one that was interrupted goes on where it stopped. The exit status is 1 if
    /// a run failed.
    Lab(Lab),
    /// Watch a running kernel: its tasks and what they wait for, faults, frames, flushes
    ///
    /// Keys: q quit, s sort, / filter, p pause the view, arrows select a task, k kill its process. Ends with the status 125
    /// where there is no terminal.
    Top(Top),
    /// Try to break mm and executor in many simulated machines on this host, without QEMU
    ///
    /// The arguments are those of the simulation: see `sim --help`.
    #[command(disable_help_flag = true)]
    Sim(Sim),
    /// Install what is missing (the Rust target, QEMU), and do nothing else
    ///
    /// Every other command does the same first.
    Setup,
    /// Print completions of this command line for a shell
    ///
    /// They complete `faultline`, the tool as `cargo install --path xtask` installs it: `faultline completions bash >
    /// ~/.local/share/bash-completion/completions/faultline`.
    Completions(Completions),
    /// Print the manual page of this command line, or write one for each command into a folder
    ///
    /// `cargo run -- man | man -l -` shows it.
    Man(Man),
}

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell that completes
    #[arg(value_enum)]
    pub shell: CompletedShell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// A folder that gets a page for each command; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// `sim`.
#[derive(Debug, Args)]
pub struct Sim {
    /// What the simulation is told.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub arguments: Vec<OsString>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Options of the machine and the kernel.
    #[command(flatten)]
    pub options: Options,
    /// How QEMU executes instructions; with icount a tick of the clock is an instruction and runs repeat exactly
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// What is recorded.
    #[command(flatten)]
    pub recording: recording::Options,
    /// An environment variable of the program; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(variable))]
    pub env: Vec<OsString>,
    /// Let QEMU wait for gdb at its first instruction, on this TCP port of this machine (1234 if none is named; 0: one that
    /// is free), and print the line to type; `run` starts gdb in this terminal
    #[arg(long, value_name = "PORT|run", num_args = 0..=1, require_equals = true, default_missing_value = "1234")]
    pub gdb: Option<Debugger>,
    /// Print the kernel's account of the run on standard error at the end
    #[arg(long)]
    pub summary: bool,
    /// Write system calls on standard error as they return, with their arguments, results and times
    #[arg(long, conflicts_with_all = ["trace", "report", "csv", "jsonl", "trace_categories"])]
    pub strace: bool,
    /// Draw what the guest's instructions were spent on, kernel and program, by function: a flame graph of every
    /// instruction, at a hundredth of the speed
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file, conflicts_with = "gdb")]
    pub profile: Option<PathBuf>,
    /// A folder whose files and links are the machine's root file system; PROGRAM is then looked for in it first. One that
    /// would take more than a third of the machine's memory becomes a disk, as by --disk DIR,ro,root: what it has can be
    /// read and executed, and new files are in memory
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// An x86-64 Linux program on this machine, or of the file system on a disk (by its path there, or below /mnt), or the
    /// name of a sample task; then its arguments; a dynamically linked one needs its dynamic linker and its libraries in
    /// --root DIR
    #[arg(required_unless_present = "config", trailing_var_arg = true, num_args = 1.., value_names = ["PROGRAM", "ARGS"])]
    pub command: Vec<OsString>,
}

/// `shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// Options of the machine and the kernel.
    #[command(flatten)]
    pub options: Options,
    /// What is recorded.
    #[command(flatten)]
    pub recording: recording::Options,
    /// A static busybox on this machine
    #[arg(long, value_name = "FILE")]
    pub busybox: Option<PathBuf>,
    /// A folder whose files and links the machine has too
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Arguments of the shell, as `-c COMMAND`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub arguments: Vec<OsString>,
}

/// `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What is measured
    #[arg(long, value_enum, default_value_t)]
    pub suite: Suite,
    /// Only operations whose names have this in them
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// A Linux kernel image to measure beside ours, or `auto` for Debian's 6.1 and 6.12 cloud kernels (its generic 6.1 for
    /// swap, with the modules for null_blk and the virtio disk, which lie beside the image), which are downloaded by
    /// apt-get into the target directory and not installed; may be given several times
    #[arg(long, value_name = "VMLINUZ")]
    pub linux: Vec<PathBuf>,
    /// Only record every instruction of the one operation that --filter names, and say by function what they are spent
    /// on
    #[arg(long, requires = "filter", conflicts_with_all = ["linux", "json", "markdown", "chart"])]
    pub profile: bool,
    /// Rounds under plain TCG, where time is measured (for swap, on a virtio disk); 0 for none
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub rounds: u32,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Replace the tables between the lines `<!-- bench: begin -->` and `<!-- bench: end -->` of a Markdown file (for
    /// swap, `bench swap`)
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Draw the figures beside those of Linux as SVG
    #[arg(long, value_name = "FILE")]
    pub chart: Option<PathBuf>,
    /// Memory of the machines, in MiB, or with a unit; 1G if not given, because Linux gives no huge pages below, and 384M
    /// for swap
    #[arg(long, value_name = "SIZE", value_parser = megabytes)]
    pub mem: Option<u64>,
    /// End each machine after this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub timeout: Duration,
}

impl Bench {
    /// Memory of the machines in MiB.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.mem.unwrap_or(match self.suite {
            Suite::Memory => 1024,
            Suite::Swap => 384,
        })
    }
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Calls, faults that need no device, processes.
    #[default]
    Memory,
    /// Faults that wait: swap on a modelled disk and on a virtio disk, files in the cache.
    Swap,
}

/// `executor`.
#[derive(Debug, Args)]
pub struct Executor {
    /// Tasks that are alive at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(11..=130_000))]
    pub tasks: u32,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Memory of the machine, in MiB, or with a unit: 512M, 2G; a sixteenth of it is the heap that holds the tasks
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = megabytes)]
    pub mem: u64,
    /// End each machine after this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}

/// `storm`.
#[derive(Debug, Args)]
pub struct Storm {
    /// Processes that run at once, each doing round after round
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub tasks: u32,
    /// Pages of each mapping
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub pages: u32,
    /// How long new rounds begin, in the machine's time
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive_seconds)]
    pub seconds: Duration,
    /// Seed of what each task does
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Memory of the machine, in MiB, or with a unit: 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = megabytes)]
    pub mem: u64,
    /// How many processors the machine has; with 1 and icount the same seed is the same storm, instruction by instruction
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cpus: u8,
    /// What the tasks do, by chance among: sweep, random, same-page, cow, churn, brk, huge, file, kill, exec, timer,
    /// shortage; `mix` is all but the last
    #[arg(long, value_name = "LIST", default_value = "mix,shortage", value_parser = scenarios)]
    pub scenario: String,
    /// How QEMU executes instructions; with icount the same seed is the same storm, instruction by instruction
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// Whether faults go through the queue to the fault service or are served by their own first poll
    #[arg(long, value_enum, default_value_t)]
    pub fault: Fault,
    /// When the fault service gets its turn; `last` keeps faults in flight while other threads run, so that many join
    /// them, but starves those of the scenarios that never wait, such as churn
    #[arg(long, value_enum, default_value_t)]
    pub service: Service,
    /// Keep a pool of frames that idle time has zeroed
    #[arg(long, value_enum, default_value_t)]
    pub zero_pool: Switch,
    /// How many pages a first write to anonymous memory gets at most, if those before it came one page after the other; 1
    /// for a fault on each page
    #[arg(long, value_name = "PAGES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub run_ahead: u8,
    /// How long a thread runs, in milliseconds and its faults included, before others that have run less have their turn
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub slice: u16,
    /// Disks.
    #[command(flatten)]
    pub disks: Disks,
    /// Settings below those that have an option.
    #[command(flatten)]
    pub settings: Settings,
    /// What is recorded of the storm.
    #[command(flatten)]
    pub recording: recording::Options,
    /// End the machine after this many seconds, as hanging; 300 more than three times the length, if not given
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Let this task spoil a word of its own, so that the storm fails
    #[arg(long = "break", value_name = "TASK", hide = true)]
    pub break_task: Option<u32>,
    /// Let the kernel lose a frame, so that the storm fails
    #[arg(long, hide = true)]
    pub leak: bool,
}

/// `lab`.
#[derive(Debug, Args)]
pub struct Lab {
    /// The experiment
    #[arg(value_name = "FILE.toml")]
    pub file: PathBuf,
    /// The folder for results, tables and plots; target/lab/NAME if not given
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Make part K of N equal parts of the runs, for several machines with one folder; the last one that ends has all
    #[arg(long, value_name = "K/N", default_value = "1/1")]
    pub shard: Shard,
    /// Make every run, also those whose results are there
    #[arg(long)]
    pub again: bool,
    /// Only list the runs
    #[arg(long)]
    pub list: bool,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Options of the machine and the kernel.
    #[command(flatten)]
    pub options: Options,
    /// What is recorded of the last boot, in which all sample tasks run at once.
    #[command(flatten)]
    pub recording: recording::Options,
}

/// `trace`.
#[derive(Debug, Args)]
pub struct ReadTrace {
    /// A recording that `--trace FILE.fltrace` made
    pub file: PathBuf,
    /// What to show; a summary if nothing is asked for
    #[command(flatten)]
    pub show: Show,
    /// Which faults the summary, the figures and the lines are of.
    #[command(flatten)]
    pub filter: Filter,
}

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Options of the machine and the kernel.
    #[command(flatten)]
    pub options: Options,
    /// How QEMU executes instructions; with icount time runs as fast as the host can count
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// A program or a sample task with its arguments; several sample tasks together if none is named
    #[arg(trailing_var_arg = true, value_names = ["PROGRAM", "ARGS"])]
    pub command: Vec<String>,
}

/// What `trace` shows.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Show {
    /// The figures as a table (the default)
    #[arg(long)]
    pub summary: bool,
    /// The figures as JSON
    #[arg(long)]
    pub json: bool,
    /// Every event as a line of text
    #[arg(long)]
    pub text: bool,
    /// System calls with their arguments, results and times; arguments need `--trace-categories` with arguments in it
    #[arg(long)]
    pub strace: bool,
    /// The life of one fault, by its number
    #[arg(long, value_name = "ID")]
    pub fault: Option<u64>,
    /// Why one fault took as long as it did: what it waited for, behind whom, and what the CPU did meanwhile
    #[arg(long, value_name = "ID")]
    pub why: Option<u64>,
    /// Write a table with a line a fault; - is standard output
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    /// Write a JSON object a line, one for each fault; - is standard output
    #[arg(long, value_name = "FILE.jsonl")]
    pub jsonl: Option<PathBuf>,
    /// Write what Perfetto opens
    #[arg(long, value_name = "FILE.pftrace")]
    pub perfetto: Option<PathBuf>,
    /// Write the report page
    #[arg(long, value_name = "FILE.html", value_parser = html_file)]
    pub report: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_before_the_program_are_ours_and_those_after_it_are_its_own() {
        let cli = Cli::parse_from(["faultline", "run", "--mem", "1G", "./task", "--mem", "-x"]);
        let Some(Command::Run(run)) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.options.mem, 1024);
        assert_eq!(run.command, ["./task", "--mem", "-x"]);
    }

    #[test]
    fn an_option_that_does_not_exist_is_not_a_program() {
        assert!(Cli::try_parse_from(["faultline", "run", "--nonsense", "./task"]).is_err());
        assert!(Cli::try_parse_from(["faultline", "run"]).is_err());
    }

    #[test]
    fn what_follows_sim_is_for_the_simulation() {
        let cli = Cli::parse_from(["faultline", "sim", "--seeds", "5", "--help"]);
        let Some(Command::Sim(sim)) = cli.command else {
            panic!("not sim")
        };
        assert_eq!(sim.arguments, ["--seeds", "5", "--help"]);
    }

    #[test]
    fn no_command_is_the_demo_with_its_options() {
        let cli = Cli::parse_from(["faultline", "--mem", "64"]);
        assert!(cli.command.is_none());
        assert_eq!(cli.demo.options.mem, 64);
    }
}
