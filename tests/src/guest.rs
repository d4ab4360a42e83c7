//! A program on Faultline.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use faultline_xtask::build::Artifacts;
use faultline_xtask::config::{Config, Fault};
use faultline_xtask::disks;
use faultline_xtask::machine::{Accel, Attached, End, Firmware, Hardware, Input, InputKind};
use faultline_xtask::ports::{Captured, Commands, Ports, TracePort};
use faultline_xtask::recording::{Recording, names};
use faultline_xtask::report::Report;
use faultline_xtask::root::Root;
use faultline_xtask::session::{self, Task};
use faultline_xtask::trace::Trace;

use crate::artifacts;

/// Ends a machine that hangs; far beyond what any test takes.
const LIMIT: Duration = Duration::from_secs(240);

/// How many processors machines have that are not told: what `FAULTLINE_CPUS` says, else one.
fn cpus() -> u8 {
    std::env::var("FAULTLINE_CPUS").map_or(1, |text| text.parse().expect("FAULTLINE_CPUS is a number"))
}

/// A boot to come.
#[derive(Debug)]
pub struct Run {
    tasks: Vec<Task>,
    hardware: Hardware,
    settings: Vec<(&'static str, String)>,
    limit: Duration,
    artifacts: Artifacts,
    recorded: bool,
    root: Root,
    typed: Option<Vec<(&'static str, &'static str)>>,
}

impl Run {
    /// A machine that runs a sample task.
    ///
    /// # Panics
    /// Panics when there is no such task.
    #[must_use]
    pub fn new(task: &str, args: &[&str]) -> Self {
        Self::nothing().and(task, args)
    }

    /// A machine that runs a program file.
    ///
    /// # Panics
    /// Panics when the file can't be a user task.
    #[must_use]
    pub fn file(file: &Path, args: &[&str]) -> Self {
        let mut run = Self::nothing();
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let task = Task::from_file(file, &args).unwrap_or_else(|error| panic!("{error}"));
        run.tasks.push(task);
        run
    }

    /// A machine with these files that runs one of them.
    ///
    /// # Panics
    /// Panics when the file can't be a user task.
    #[must_use]
    pub fn within(root: Root, program: &str, args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let task = Task::from_root(&root, Path::new("/"), program, &args).unwrap_or_else(|error| panic!("{error}"));
        let mut run = Self::nothing().with_files(root);
        run.tasks
            .push(task.unwrap_or_else(|| panic!("{program} is not in the root")));
        run
    }

    fn nothing() -> Self {
        Self {
            tasks: Vec::new(),
            hardware: Hardware {
                cpus: cpus(),
                ..Hardware::default()
            },
            settings: Vec::new(),
            limit: LIMIT,
            artifacts: artifacts().clone(),
            recorded: false,
            root: Root::default(),
            typed: None,
        }
    }

    /// Gives the machine files beside its programs.
    #[must_use]
    pub fn with_files(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Makes standard input a terminal on which texts are typed, each when the output has come to the one before it.
    #[must_use]
    pub fn typing(mut self, script: &[(&'static str, &'static str)]) -> Self {
        self.typed = Some(script.to_vec());
        self.set("input", "terminal")
    }

    /// Runs another task at the same time.
    ///
    /// # Panics
    /// Panics when there is no such task.
    #[must_use]
    pub fn and(mut self, task: &str, args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let task = Task::sample(task, &args, artifacts()).unwrap_or_else(|error| panic!("{error}"));
        self.tasks.push(task);
        self
    }

    /// Boots another kernel.
    #[must_use]
    pub fn with(mut self, artifacts: &Artifacts) -> Self {
        self.artifacts = artifacts.clone();
        self
    }

    /// Counts instructions.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.hardware.accel = Accel::Icount;
        self
    }

    /// Boots by QEMU's default firmware.
    #[must_use]
    pub fn by_seabios(mut self) -> Self {
        self.hardware.firmware = Firmware::Seabios;
        self
    }

    /// Uses another processor model.
    #[must_use]
    pub fn on_cpu(mut self, model: &str) -> Self {
        model.clone_into(&mut self.hardware.cpu);
        self
    }

    /// Gives the machine so many processors.
    #[must_use]
    pub fn with_cpus(mut self, cpus: u8) -> Self {
        self.hardware.cpus = cpus;
        self
    }

    /// Gives the machine this much memory.
    #[must_use]
    pub fn with_mib(mut self, mib: u64) -> Self {
        self.hardware.memory = mib;
        self
    }

    /// Serves faults by their own first poll.
    #[must_use]
    pub fn inline(self) -> Self {
        self.set("fault", Fault::Inline)
    }

    /// Traces these categories as text.
    #[must_use]
    pub fn traced(self, categories: &str) -> Self {
        self.set("trace", "text").set("trace_categories", categories)
    }

    /// Records these categories in the binary form.
    #[must_use]
    pub fn recorded(mut self, categories: &str) -> Self {
        self.recorded = true;
        self.set("trace", "binary").set("trace_categories", categories)
    }

    /// Counts instructions, and measures the longest poll without its time in user mode: [`Guest::longest_poll`].
    #[must_use]
    pub fn measure_polls(self) -> Self {
        self.counted().set("polls", "kernel")
    }

    /// Gives the machine a disk, as `--disk` does.
    ///
    /// # Panics
    /// Panics when there can't be such a disk.
    #[must_use]
    pub fn with_disk(mut self, disk: &str) -> Self {
        let opened = disks::disk(disk).and_then(|wanted| wanted.open());
        self.hardware
            .disks
            .push(opened.unwrap_or_else(|error| panic!("{error}")));
        self
    }

    /// Gives the machine a swap area, as `--swap` does.
    ///
    /// # Panics
    /// Panics when there can't be such a disk.
    #[must_use]
    pub fn with_swap(mut self, disk: &str) -> Self {
        let opened = disks::swap(disk).and_then(|wanted| wanted.open());
        self.hardware
            .disks
            .push(opened.unwrap_or_else(|error| panic!("{error}")));
        self
    }

    /// Adds arguments to QEMU's.
    #[must_use]
    pub fn with_qemu(mut self, arguments: &[&str]) -> Self {
        self.hardware.more.extend(arguments.iter().map(Into::into));
        self
    }

    /// Adds a line to the kernel's configuration.
    #[must_use]
    pub fn set(mut self, key: &'static str, value: impl ToString) -> Self {
        self.settings.push((key, value.to_string()));
        self
    }

    /// Ends the machine after this time.
    #[must_use]
    pub fn limited(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots, and comes back when the machine has ended.
    ///
    /// # Panics
    /// Panics when QEMU can't be started.
    #[must_use]
    pub fn boot(self) -> Guest {
        let mut config = Config::new();
        config.set("mode", "run").expect("no line break");
        for task in &self.tasks {
            task.configure(&mut config).expect("no line break");
        }
        for (key, value) in &self.settings {
            config.set(key, value).expect("no line break");
        }
        let bundle = session::pack_with(&self.artifacts, &config, &self.tasks, &self.root, &self.hardware);
        let bundle = bundle.expect("the bundle is packed");
        let (stdout, stderr, log) = (Captured::default(), Captured::default(), Captured::default());
        let ports = Ports {
            log: Box::new(log.clone()),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
        };
        let frames = Captured::default();
        let trace = self.recorded.then(|| TracePort {
            events: Box::new(frames.clone()),
            commands: Commands::default(),
        });
        let input = self.typed.map(|script| Input {
            from: Box::new(Typist {
                script: script.into_iter().collect(),
                output: stdout.clone(),
                read: 0,
                rest: "",
            }),
            kind: InputKind::Keys,
        });
        let attached = Attached { trace, input };
        let ended = session::boot_attached(
            &self.artifacts,
            &self.hardware,
            &bundle,
            ports,
            attached,
            Some(self.limit),
        );
        let (end, report, failure) = match ended.expect("QEMU can be started") {
            Ok((report, outcome)) => (outcome.end, Some(report), None),
            Err(failure) => (failure.outcome.end, None, Some((failure.status(), failure.to_string()))),
        };
        Guest {
            end,
            report,
            failure,
            stdout: stdout.take(),
            stderr: stderr.take(),
            log: log.take(),
            recording: self.recorded.then(|| {
                let mut recording = Recording::read(frames.take().as_slice()).expect("the kernel speaks our version");
                names::resolve(&mut recording, &self.tasks);
                recording
            }),
        }
    }
}

/// A person at the terminal: waits for what is to be seen, and types.
struct Typist {
    script: VecDeque<(&'static str, &'static str)>,
    output: Captured,
    /// How much of the output was seen.
    read: usize,
    /// What is left to type of the last text.
    rest: &'static str,
}

impl io::Read for Typist {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let Some((awaited, text)) = self.script.pop_front() else {
                return Ok(0);
            };
            // The time limit of the machine ends a wait for what never comes: then nobody listens any more.
            self.read = loop {
                match self.output.find(awaited.as_bytes(), self.read) {
                    Some(end) => break end,
                    None => thread::sleep(Duration::from_millis(5)),
                }
            };
            self.rest = text;
        }
        let (now, rest) = self.rest.split_at(self.rest.len().min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now.as_bytes());
        self.rest = rest;
        Ok(now.len())
    }
}

/// What a machine left behind.
#[derive(Debug)]
pub struct Guest {
    /// How it ended.
    pub end: End,
    /// The kernel's account, if the end was orderly.
    pub report: Option<Report>,
    /// The tool's exit status and message, if it wasn't.
    pub failure: Option<(u8, String)>,
    /// The programs' standard output.
    pub stdout: Vec<u8>,
    /// The programs' standard error.
    pub stderr: Vec<u8>,
    /// The kernel's log with the trace.
    pub log: Vec<u8>,
    /// The binary trace, if one was asked for.
    pub recording: Option<Recording>,
}

impl Guest {
    /// The report of an orderly end in which no frame was lost.
    ///
    /// # Panics
    /// Panics with the kernel's last words when the end was another.
    #[must_use]
    pub fn account(&self) -> &Report {
        if let Some((_, message)) = &self.failure {
            panic!("{message}\nstandard error:\n{}", String::from_utf8_lossy(&self.stderr));
        }
        let report = self.report.as_ref().expect("an orderly end has a report");
        assert!(
            report.frames_hold().expect("the report is whole"),
            "frames were lost: {report:#?}"
        );
        report
    }

    /// The exit status of the first program.
    ///
    /// # Panics
    /// Panics when the end wasn't orderly.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.statuses()[0]
    }

    /// The exit status of each program.
    ///
    /// # Panics
    /// Panics when the end wasn't orderly, or a program never started.
    #[must_use]
    pub fn statuses(&self) -> Vec<u8> {
        let programs = self.account().programs().expect("the report is whole");
        for program in &programs {
            assert_eq!(program.error, None, "{} never started", program.path);
        }
        programs.iter().map(|program| program.status).collect()
    }

    /// A number of the report.
    ///
    /// # Panics
    /// Panics when the report doesn't have it.
    #[must_use]
    pub fn count(&self, key: &str) -> u64 {
        self.account().get(key).unwrap_or_else(|defect| panic!("{defect}"))
    }

    /// The longest poll of kernel code, of a run with [`Run::measure_polls`]: an instruction is a nanosecond. And whose
    /// poll it was, for the message of an assertion.
    ///
    /// # Panics
    /// Panics when the polls were not measured.
    #[must_use]
    pub fn longest_poll(&self) -> (Duration, String) {
        let task = self.account().text("polls.longest_task");
        let task = task.expect("the report names the task");
        (
            Duration::from_nanos(self.count("polls.longest_kernel_ns")),
            task.to_owned(),
        )
    }

    /// The binary trace.
    ///
    /// # Panics
    /// Panics when none was asked for, or when it isn't whole.
    #[must_use]
    pub fn recording(&self) -> &Recording {
        let recording = self.recording.as_ref().expect("a recording was asked for");
        assert!(recording.damage.is_none(), "{}", recording.damage);
        assert_eq!(recording.lost, 0, "the host takes everything in time");
        recording
    }

    /// The events in the log.
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace::parse(&String::from_utf8_lossy(&self.log))
    }
}
