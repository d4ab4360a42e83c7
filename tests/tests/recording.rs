//! Binary traces of real runs: event by event, whole to the last one, cheap, and honest about what was lost.

use std::io::{self, Write};
use std::sync::mpsc;

use faultline_tests::{Run, artifacts};
use faultline_trace::wire::{Decoder, Frame};
use faultline_trace::{Category, Event, Kind, TrapWord};
use faultline_xtask::config::Config;
use faultline_xtask::machine::{End, Hardware};
use faultline_xtask::ports::{Captured, Commands, Ports, TracePort};
use faultline_xtask::recording::figures::Figures;
use faultline_xtask::recording::{Recording, lives, perfetto};
use faultline_xtask::session::{self, Task};

const MMAP: u64 = 9;

/// What a golden trace says of an event: numbers that differ from build to build are replaced by the order in which they
/// first came, and pages are counted from the start of the program's memory.
struct Golden {
    memory: u64,
    faults: Vec<u64>,
    frames: Vec<u64>,
    slots: Vec<u64>,
}

fn place(seen: &mut Vec<u64>, value: u64) -> usize {
    seen.iter().position(|other| *other == value).unwrap_or_else(|| {
        seen.push(value);
        seen.len() - 1
    })
}

impl Golden {
    fn line(&mut self, event: &Event) -> String {
        let page = |address: u64| address.wrapping_sub(self.memory) / 4096;
        let fault = match event.fault {
            0 => String::new(),
            id => format!(" fault {}", place(&mut self.faults, id)),
        };
        let words = match event.kind {
            Kind::FaultTrap => format!(" page {} access {}", page(event.a), TrapWord(event.b).access()),
            Kind::FaultQueue => format!(" page {} slot {}", page(event.a), place(&mut self.slots, event.b)),
            Kind::FaultServe => format!(" page {} class {}", page(event.a), event.b),
            Kind::FaultFrame => format!(" frame {} zeroed {}", place(&mut self.frames, event.a), event.b),
            Kind::FaultFill => format!(" frame {}", place(&mut self.frames, event.a)),
            Kind::FaultCommit => {
                let frame = event.b & 0x000f_ffff_ffff_f000;
                format!(
                    " page {} frame {} flags {:#x}",
                    page(event.a),
                    place(&mut self.frames, frame),
                    event.b ^ frame
                )
            }
            Kind::FaultWake => format!(" page {} waiters {}", page(event.a), event.b),
            Kind::FaultResume => format!(" page {}", page(event.a)),
            _ => String::new(),
        };
        format!("task {}{fault} {}{words}\n", event.task, event.kind.name())
    }
}

/// `touch` on two pages, traced with every category but those that follow the clock.
#[test]
fn a_small_run_is_the_golden_one_event_by_event() {
    let guest = Run::new("touch", &["--pages", "3", "sequential"])
        .counted()
        .recorded("task,fault,tlb,frame,memory,syscall,signal")
        .set("zero_pool", "off")
        .boot();
    assert_eq!(guest.status(), 0);
    let recording = guest.recording();
    assert!(recording.ended);
    let mapped = recording
        .events
        .iter()
        .rposition(|event| event.kind == Kind::SyscallExit && event.a == MMAP);
    let mapped = mapped.expect("touch maps its memory");
    let memory = recording.events[mapped].b;
    let mut golden = Golden {
        memory,
        faults: Vec::new(),
        frames: Vec::new(),
        slots: Vec::new(),
    };
    // The first page brings its page table with it; the second and the third are faults and nothing else.
    let of_page = |page: u64, kind: Kind| {
        let found = |event: &Event| event.kind == kind && event.a & !0xfff == memory + page * 4096;
        recording.events.iter().position(found).expect("each page is touched")
    };
    let (first, last) = (of_page(1, Kind::FaultTrap), of_page(2, Kind::FaultResume));
    let lines: String = recording.events[first..=last]
        .iter()
        .map(|event| golden.line(event))
        .collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/touch.txt");
    if std::env::var_os("FAULTLINE_BLESS").is_some() {
        std::fs::write(file, &lines).expect("the golden trace can be written");
    }
    let expected = std::fs::read_to_string(file).expect("there is a golden trace");
    assert_eq!(lines, expected, "FAULTLINE_BLESS=1 accepts what is on the left");
}

#[test]
fn a_run_that_repeats_has_the_same_trace() {
    let boot = || {
        let guest = Run::new("cow", &["--pages", "4"])
            .counted()
            .recorded("task,fault,tlb,syscall")
            .boot();
        guest.recording().events.clone()
    };
    assert!(boot() == boot(), "every event and every time is the same");
}

#[test]
fn the_recording_the_text_and_the_account_agree() {
    let run = || {
        Run::new("threads", &["--threads", "2", "--pages", "4"])
            .counted()
            .set("service", "last")
    };
    let text = run().traced("fault").boot();
    let binary = run().recorded("fault").boot();
    let recording = binary.recording();
    let lines: Vec<_> = text.trace().events;
    // Writing lines takes time, so the steps of different tasks may come in another order; each fault has its own.
    for (kind, name) in [(Kind::FaultTrap, "fault.trap"), (Kind::FaultCommit, "fault.commit")] {
        let recorded = recording.events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(
            recorded,
            lines.iter().filter(|event| event.name == name).count(),
            "{name}"
        );
    }
    let lives = lives::of(recording);
    let figures = Figures::of(recording, &lives);
    let count = |name: &str| {
        figures
            .faults
            .iter()
            .find(|kind| kind.name == name)
            .map_or(0, |kind| kind.count)
    };
    assert_eq!(count("coalesced"), binary.count("faults.coalesced"));
    assert!(count("coalesced") > 0, "threads meet");
    assert_eq!(count("zero-page"), binary.count("faults.zero-page"));

    let mut bytes = Vec::new();
    perfetto::write(recording, &mut bytes).expect("memory takes any bytes");
    let events = perfetto::check(&bytes).unwrap_or_else(|flaw| panic!("{flaw}"));
    assert!(events > 2 * lives.len(), "{events} events of {} faults", lives.len());
}

#[test]
fn a_fault_names_the_function_that_made_it() {
    let guest = Run::new("touch", &["--pages", "4", "sequential"])
        .counted()
        .recorded("task,fault")
        .boot();
    let recording = guest.recording();
    let named = recording
        .names
        .values()
        .any(|name| name.starts_with("touch: ") && name.contains("fill"));
    assert!(named, "{:?}", recording.names);
}

#[test]
fn a_panic_still_sends_what_was_recorded() {
    let guest = Run::new("touch", &["--pages", "50", "sequential"])
        .counted()
        .recorded("fault,task")
        .set("selftest", "late-panic")
        .boot();
    assert_eq!(guest.end, End::KernelFailed);
    let recording = guest.recording();
    assert!(recording.ended, "the stream has its end");
    let exit = recording.events.iter().rposition(|event| event.kind == Kind::TaskExit);
    assert!(exit.is_some(), "the panic came after the end of the program");
}

/// What it costs to record everything: instructions of the whole run, over its faults and over its events.
#[test]
fn recording_everything_costs_few_instructions_an_event() {
    let run = || {
        Run::new("touch", &["--mib", "4", "sequential"])
            .counted()
            .set("zero_pool", "off")
    };
    let off = run().boot();
    let on = run()
        .recorded("task,fault,tlb,frame,memory,syscall,signal,device,sample")
        .boot();
    // With -icount, a nanosecond is an instruction.
    let more = on.count("time.ns") - off.count("time.ns");
    let events = on.recording().events.len() as u64;
    let each = more / events;
    println!("{more} instructions more for {events} events: {each} each");
    assert!(each <= 40, "{each} instructions an event");
}

/// Takes nothing until it is told to.
struct Gate(Option<mpsc::Receiver<()>>, Captured);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(open) = self.0.take() {
            // The other side is dropped at the latest when the machine has ended.
            let _ = open.recv();
        }
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a gate when the program has written something.
struct Opener(Option<mpsc::Sender<()>>);

impl Write for Opener {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = None;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn events_that_nobody_takes_are_counted() {
    // More events than the ring and the socket hold, then a line of output, then some more.
    let task = Task::sample(
        "touch",
        &["--mib", "64", "sequential", "random"].map(str::to_owned),
        artifacts(),
    )
    .unwrap();
    let mut config = Config::new();
    task.configure(&mut config).unwrap();
    for (key, value) in [
        ("mode", "run"),
        ("trace", "binary"),
        ("trace_full", "drop"),
        ("trace_categories", "fault,task"),
    ] {
        config.set(key, value).unwrap();
    }
    let hardware = Hardware::default();
    let bundle = session::pack(artifacts(), &config, &[task], &hardware).unwrap();
    let (open, opened) = mpsc::channel();
    let frames = Captured::default();
    let ports = Ports {
        log: Box::new(io::sink()),
        stdout: Box::new(Opener(Some(open))),
        stderr: Box::new(io::sink()),
    };
    let trace = TracePort {
        events: Box::new(Gate(Some(opened), frames.clone())),
        commands: Commands::default(),
    };
    let limit = Some(std::time::Duration::from_secs(240));
    let ended = session::boot_traced(artifacts(), &hardware, &bundle, ports, Some(trace), limit).unwrap();
    let (report, _) = ended.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.frames_hold().unwrap());
    let recording = Recording::read(frames.take().as_slice()).unwrap();
    assert!(recording.damage.is_none(), "{}", recording.damage);
    assert!(recording.ended, "the end was sent when somebody took it");
    assert!(recording.lost > 0, "nobody took {} events", recording.events.len());
    let traps = recording
        .events
        .iter()
        .filter(|event| event.kind == Kind::FaultTrap)
        .count() as u64;
    assert!(
        traps < report.get::<u64>("faults.total").unwrap(),
        "some traps are among the lost"
    );
}

/// What a watcher of a running kernel has seen, and what it asks for next.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing yet: it waits for a fault.
    Nothing,
    /// A fault, so it asked for tasks alone: it waits for events without a fault.
    Faults,
    /// Events without a fault, so it asked for the end of the program.
    TasksAlone,
}

/// Talks to the kernel as events come.
struct Watcher {
    decoder: Decoder,
    seen: Seen,
    commands: Commands,
}

impl Write for Watcher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
            let Frame::Events { events, .. } = frame else { continue };
            let faults = events.iter().any(|event| event.kind.category() == Category::FAULT);
            match (&self.seen, faults) {
                (Seen::Nothing, true) => {
                    assert!(self.commands.send("trace task"));
                    self.seen = Seen::Faults;
                }
                (Seen::Faults, false) => {
                    assert!(self.commands.send("nonsense\nkill 1"));
                    self.seen = Seen::TasksAlone;
                }
                _ => {}
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_running_kernel_obeys_commands() {
    // Only a command ends this program.
    let task = Task::sample("kill", &["--children", "1000000000"].map(str::to_owned), artifacts()).unwrap();
    let mut config = Config::new();
    task.configure(&mut config).unwrap();
    for (key, value) in [("mode", "run"), ("trace", "binary"), ("trace_categories", "fault,task")] {
        config.set(key, value).unwrap();
    }
    let hardware = Hardware::default();
    let bundle = session::pack(artifacts(), &config, &[task], &hardware).unwrap();
    let ports = Ports {
        log: Box::new(io::sink()),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
    };
    let commands = Commands::default();
    let trace = TracePort {
        events: Box::new(Watcher {
            decoder: Decoder::new(),
            seen: Seen::Nothing,
            commands: commands.clone(),
        }),
        commands,
    };
    let limit = Some(std::time::Duration::from_secs(240));
    let ended = session::boot_traced(artifacts(), &hardware, &bundle, ports, Some(trace), limit).unwrap();
    let (report, outcome) = ended.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(outcome.end, End::Orderly);
    assert_eq!(
        report.programs().unwrap()[0].signal,
        Some(9),
        "SIGKILL ended the program"
    );
}
