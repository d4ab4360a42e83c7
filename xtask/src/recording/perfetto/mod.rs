//! A recording as a file for Perfetto (ui.perfetto.dev): `TrackEvent`s in protobuf.
//!
//! One process track, "Faultline", and below it a track for each CPU (which thread it runs, TLB flushes), for the executor
//! (the fault service), for each user thread (its system calls and faults, each fault with its stages inside), and for each
//! counter. An arrow leads from the commit of a service to each waiter that had joined it.
//!
//! Guarantees, which a test checks on what was written: packets are in the order of their times; every slice that begins on
//! a track ends there, in the right order; every arrow has two ends.

mod check;
pub mod schema;
mod slices;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};

use faultline_trace::{Event, Kind};
use prost::Message;

pub use self::check::{Flaw, check};
use self::schema::{
    CounterDescriptor, Data, DebugAnnotation, ProcessDescriptor, Trace, TracePacket, TrackDescriptor, TrackEvent, Type,
};
use self::slices::{Slice, Slices};
use super::lives::{self, Life, Stage};
use super::names::Threads;
use super::{Recording, text};

const ROOT: u64 = 1;
const CPUS: u64 = 0x1_0000;
const EXECUTOR: u64 = 0x2_0000;
const COUNTERS: u64 = 0x3_0000;
const TASKS: u64 = 0x1_0000_0000;

/// Tracks that a task, a CPU or the executor can have for slices that overlap.
const LANES: u64 = 0x100;

/// The writer of all packets.
const SEQUENCE: u32 = 1;

/// Writes the file.
///
/// # Errors
/// Passes on what the writer reports.
pub fn write(recording: &Recording, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut put = |packet: TracePacket| {
        buffer.clear();
        let trace = Trace { packet: vec![packet] };
        trace.encode(&mut buffer).expect("a vector takes any message");
        // A trace is its packets, one behind the other.
        to.write_all(&buffer)
    };
    let mut timeline = Timeline::new(recording);
    timeline.fill();
    for descriptor in timeline.descriptors {
        put(TracePacket {
            timestamp: None,
            trusted_packet_sequence_id: Some(SEQUENCE),
            data: Some(Data::TrackDescriptor(descriptor)),
        })?;
    }
    timeline.events.sort_by_key(|(time, _)| *time);
    for (time, event) in timeline.events {
        put(TracePacket {
            timestamp: Some(recording.nanoseconds(time)),
            trusted_packet_sequence_id: Some(SEQUENCE),
            data: Some(Data::TrackEvent(event)),
        })?;
    }
    Ok(())
}

struct Timeline<'a> {
    recording: &'a Recording,
    descriptors: Vec<TrackDescriptor>,
    /// Events of each track in the order of their times.
    events: Vec<(u64, TrackEvent)>,
    ranks: i32,
}

impl<'a> Timeline<'a> {
    fn new(recording: &'a Recording) -> Self {
        let root = TrackDescriptor {
            uuid: Some(ROOT),
            process: Some(ProcessDescriptor {
                pid: Some(1),
                process_name: Some("Faultline".to_owned()),
            }),
            child_ordering: Some(3),
            ..Default::default()
        };
        Self {
            recording,
            descriptors: vec![root],
            events: Vec::new(),
            ranks: 0,
        }
    }

    fn fill(&mut self) {
        let lives = lives::of(self.recording);
        let mut threads = Threads::default();
        self.recording.events.iter().for_each(|event| threads.take(event));
        self.cpus(&threads);
        self.executor(&lives);
        self.counters();
        self.tasks(&lives, &threads);
    }

    fn track(&mut self, uuid: u64, name: &str, counter: Option<&str>) {
        self.ranks += 1;
        self.descriptors.push(TrackDescriptor {
            uuid: Some(uuid),
            name: Some(name.to_owned()),
            parent_uuid: Some(ROOT),
            sibling_order_rank: Some(self.ranks),
            counter: counter.map(|unit| CounterDescriptor {
                unit_name: Some(unit.to_owned()),
            }),
            ..Default::default()
        });
    }

    /// Puts slices on a track, and on further ones where they overlap.
    fn put(&mut self, uuid: u64, name: &str, slices: Slices) {
        for (lane, events) in (0..LANES).zip(slices.lanes()) {
            let uuid = uuid + lane;
            self.track(uuid, name, None);
            let on_track = events.into_iter().map(|(time, event)| {
                let event = TrackEvent {
                    track_uuid: Some(uuid),
                    ..event
                };
                (time, event)
            });
            self.events.extend(on_track);
        }
    }

    /// Which thread each CPU runs, and what its TLB does.
    fn cpus(&mut self, threads: &Threads) {
        let mut cpus = BTreeMap::<u16, (Slices, Option<(u64, u32)>)>::new();
        let mut end = 0;
        let label = |task: u32| match threads.get(task) {
            Some(running) if !running.program.is_empty() => format!("{} {task}", running.program),
            _ => format!("thread {task}"),
        };
        for event in &self.recording.events {
            end = event.time;
            let (slices, running) = cpus.entry(event.cpu).or_default();
            match event.kind {
                Kind::TaskSwitch => {
                    if let Some((since, task)) = running.replace((event.time, event.task)) {
                        slices.add(Slice::new("task", label(task), since, event.time));
                    }
                }
                Kind::TlbFlushAll | Kind::TlbFlushPage | Kind::TlbBump => slices.add(moment(event)),
                _ => {}
            }
        }
        for (cpu, (mut slices, running)) in cpus {
            if let Some((since, task)) = running {
                slices.add(Slice::new("task", label(task), since, end));
            }
            self.put(CPUS + u64::from(cpu) * LANES, &format!("CPU {cpu}"), slices);
        }
    }

    /// What the fault service does.
    fn executor(&mut self, lives: &[Life]) {
        let mut joined = HashMap::<u64, Vec<u64>>::new();
        let whole = |life: &&Life| life.stages.iter().any(|stage| stage.0 == Stage::Runnable);
        for life in lives.iter().filter(whole) {
            if let Some(served) = life.shared_with {
                joined.entry(served).or_default().push(life.id);
            }
        }
        let mut slices = Slices::default();
        for life in lives {
            let stages = life
                .stages
                .iter()
                .filter(|(stage, ..)| matches!(stage, Stage::Serving | Stage::Filling | Stage::Commit | Stage::Woken));
            let mut inner: Vec<_> = stages
                .map(|&(stage, from, to)| Slice::new("fault", stage.name().to_owned(), from, to))
                .collect();
            let (Some(first), Some(last)) = (inner.first(), inner.last()) else {
                continue;
            };
            let (from, to) = (first.from, last.to);
            if let Some(last) = inner.last_mut() {
                last.flows = joined.remove(&life.id).unwrap_or_default();
            }
            let mut outer = Slice::new(
                "fault",
                format!("{} {:#x}", life.kind(), life.address & !0xfff),
                from,
                to,
            );
            outer.notes = vec![number("fault", life.id), number("for task", life.task.into())];
            slices.add_with(outer, inner);
        }
        self.put(EXECUTOR, "executor: fault service", slices);
    }

    fn tasks(&mut self, lives: &[Life], threads: &Threads) {
        let mut tasks = BTreeMap::<u32, Slices>::new();
        // An arrow needs a service that was seen.
        let served: HashSet<u64> = lives
            .iter()
            .filter(|life| {
                life.stages
                    .iter()
                    .any(|stage| stage.0 > Stage::Queued && stage.0 < Stage::Runnable)
            })
            .map(|life| life.id)
            .collect();
        for life in lives {
            let (fault, stages) = self.fault(life, &served);
            tasks.entry(life.task).or_default().add_with(fault, stages);
        }
        let mut calls = HashMap::<u32, (u64, u64, u64)>::new();
        for event in &self.recording.events {
            match event.kind {
                Kind::SyscallEnter => drop(calls.insert(event.task, (event.time, event.a, event.b))),
                Kind::SyscallExit => {
                    if let Some((since, call, argument)) = calls.remove(&event.task) {
                        let mut slice = Slice::new("syscall", text::system_call(call), since, event.time);
                        slice.notes = vec![pointer("first argument", argument), pointer("result", event.b)];
                        tasks.entry(event.task).or_default().add(slice);
                    }
                }
                Kind::SignalRaise | Kind::SignalDeliver | Kind::MemoryWait | Kind::MemoryVictim | Kind::TaskExit => {
                    tasks.entry(event.task).or_default().add(moment(event));
                }
                _ => {}
            }
        }
        for (task, slices) in tasks {
            let name = match threads.get(task) {
                Some(running) if !running.program.is_empty() => format!("task {task} {}", running.program),
                _ if task == 0 => "kernel".to_owned(),
                _ => format!("task {task}"),
            };
            self.put(TASKS + u64::from(task) * LANES, &name, slices);
        }
    }

    /// The slice of a fault, and those of its stages.
    fn fault(&self, life: &Life, served: &HashSet<u64>) -> (Slice, Vec<Slice>) {
        let mut fault = Slice::new(
            "fault",
            format!("{} fault {}", life.kind(), life.id),
            life.times.0,
            life.times.1,
        );
        fault.notes = vec![
            number("fault", life.id),
            pointer("address", life.address),
            note("access", text::access(life.access).to_owned()),
            number("space", life.space),
        ];
        if let Some(instruction) = life.instruction {
            fault.notes.push(pointer("instruction", instruction));
            if let Some(name) = self.recording.name(life.space, instruction) {
                fault.notes.push(note("instruction in", name.to_owned()));
            }
        }
        if let Some(name) = self.recording.name(life.space, life.address) {
            fault.notes.push(note("address in", name.to_owned()));
        }
        if let Some(other) = life.shared_with {
            fault.notes.push(number("shares the service of fault", other));
        }
        let stages = life.stages.iter().map(|&(stage, from, to)| {
            let mut slice = Slice::new("fault", stage.name().to_owned(), from, to);
            if stage == Stage::Runnable && life.shared_with.is_some_and(|other| served.contains(&other)) {
                slice.arrives = vec![life.id];
            }
            slice
        });
        (fault, stages.collect())
    }

    fn counters(&mut self) {
        let mut tracks = BTreeMap::<&'static str, Vec<(u64, i64)>>::new();
        let (mut queued, mut flying) = (HashSet::new(), HashSet::new());
        for event in &self.recording.events {
            let mut set = |name, value: usize| {
                tracks.entry(name).or_default().push((event.time, value as i64));
            };
            match event.kind {
                Kind::SampleFree => {
                    set("free frames", event.a as usize);
                    set("zeroed frames", event.b as usize);
                }
                Kind::SampleUsed => set("mapped frames", event.a as usize),
                Kind::SampleHeld => set("quarantined frames", event.b as usize),
                Kind::FaultQueue => {
                    queued.insert(event.fault);
                    flying.insert(event.fault);
                    set("queue depth", queued.len());
                    set("faults in flight", flying.len());
                }
                Kind::FaultServe if queued.remove(&event.fault) => set("queue depth", queued.len()),
                Kind::FaultWake | Kind::FaultCancel | Kind::FaultResume if flying.remove(&event.fault) => {
                    if queued.remove(&event.fault) {
                        set("queue depth", queued.len());
                    }
                    set("faults in flight", flying.len());
                }
                _ => {}
            }
        }
        for (uuid, (name, values)) in (COUNTERS..).zip(tracks) {
            let unit = if name.ends_with("frames") { "frames" } else { "faults" };
            self.track(uuid, name, Some(unit));
            self.events.extend(values.into_iter().map(|(time, value)| {
                let event = TrackEvent {
                    r#type: Some(Type::Counter as i32),
                    track_uuid: Some(uuid),
                    counter_value: Some(value),
                    ..Default::default()
                };
                (time, event)
            }));
        }
    }
}

/// A moment on a track.
fn moment(event: &Event) -> Slice {
    let (a, b) = event.kind.payload();
    let mut slice = Slice::new("", event.kind.name().to_owned(), event.time, event.time);
    slice.moment = true;
    slice.notes = [(a, event.a), (b, event.b)]
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| pointer(name, value))
        .collect();
    slice
}

fn named(name: &str) -> DebugAnnotation {
    DebugAnnotation {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}

fn number(name: &str, value: u64) -> DebugAnnotation {
    DebugAnnotation {
        uint_value: Some(value),
        ..named(name)
    }
}

fn pointer(name: &str, value: u64) -> DebugAnnotation {
    DebugAnnotation {
        pointer_value: Some(value),
        ..named(name)
    }
}

fn note(name: &str, value: String) -> DebugAnnotation {
    DebugAnnotation {
        string_value: Some(value),
        ..named(name)
    }
}

#[cfg(test)]
mod tests;
