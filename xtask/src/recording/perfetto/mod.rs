//! A recording as a file for Perfetto (ui.perfetto.dev): `TrackEvent`s in protobuf.
//!
//! A track for the machine, and below it one for each CPU (which thread it runs, TLB flushes), for the fault service, and
//! for each counter. Each process of the machine is one of Perfetto's, with its threads below it: a thread's system calls,
//! and its faults by their kinds, each with its stages inside. One flow for each fault leads from its slice over the
//! slice of the service that served it, which may serve others that joined, to the slice in which its thread waits for
//! the CPU.
//!
//! Every text is written once (`interned_data`), and packets are compressed by zlib in groups (`compressed_packets`), which
//! Perfetto opens as any others.
//!
//! Guarantees, which a test checks on what was written: packets are in the order of their times; every slice that begins on
//! a track ends there, in the right order; every arrow has two ends.

mod check;
pub mod schema;
mod slices;
mod texts;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};

use faultline_trace::{Event, Kind};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use prost::Message;

pub use self::check::{Flaw, check};
use self::schema::{
    CounterDescriptor, Data, InternedData, ProcessDescriptor, ThreadDescriptor, Trace, TracePacket, TrackDescriptor,
    TrackEvent, Type,
};
use self::slices::{Slice, Slices};
use self::texts::{Texts, note, number, pointer};
use super::lives::{self, Life, Stage};
use super::names::Threads;
use super::{Recording, text};

/// The track of the machine.
const ROOT: u64 = 1;

/// The writer of all packets.
const SEQUENCE: u32 = 1;

/// Bytes of packets that are compressed together.
const GROUP: usize = 1 << 20;

/// Writes the file.
///
/// # Errors
/// Passes on what the writer reports.
pub fn write(recording: &Recording, to: &mut dyn Write) -> io::Result<()> {
    let mut timeline = Timeline::new(recording);
    timeline.fill();
    let Timeline {
        descriptors,
        mut events,
        texts,
        ..
    } = timeline;
    let first = packet(None, None, Some(texts.finish()));
    let tracks = descriptors
        .into_iter()
        .map(|track| packet(Some(Data::TrackDescriptor(track)), None, None));
    events.sort_by_key(|(time, _)| *time);
    let events = events.into_iter().map(|(time, event)| {
        let time = recording.nanoseconds(time);
        packet(Some(Data::TrackEvent(event)), Some(time), None)
    });
    let mut group = Vec::new();
    for packet in std::iter::once(first).chain(tracks).chain(events) {
        append(packet, &mut group);
        if group.len() >= GROUP {
            compress(&mut group, to)?;
        }
    }
    compress(&mut group, to)
}

fn packet(data: Option<Data>, timestamp: Option<u64>, interned_data: Option<InternedData>) -> TracePacket {
    TracePacket {
        timestamp,
        trusted_packet_sequence_id: Some(SEQUENCE),
        // The packet with the texts is the first.
        sequence_flags: match (&interned_data, &data) {
            (Some(_), _) => Some(1),
            (None, Some(Data::TrackEvent(_))) => Some(2),
            _ => None,
        },
        interned_data,
        data,
    }
}

/// A trace is its packets, one behind the other.
fn append(packet: TracePacket, group: &mut Vec<u8>) {
    let trace = Trace { packet: vec![packet] };
    trace.encode(group).expect("a vector takes any message");
}

/// Writes a group of packets as one, and empties it.
fn compress(group: &mut Vec<u8>, to: &mut dyn Write) -> io::Result<()> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(group)?;
    group.clear();
    let mut bytes = Vec::new();
    let compressed = TracePacket {
        data: Some(Data::CompressedPackets(encoder.finish()?)),
        ..Default::default()
    };
    append(compressed, &mut bytes);
    to.write_all(&bytes)
}

struct Timeline<'a> {
    recording: &'a Recording,
    descriptors: Vec<TrackDescriptor>,
    /// Events of each track in the order of their times.
    events: Vec<(u64, TrackEvent)>,
    texts: Texts,
}

impl<'a> Timeline<'a> {
    fn new(recording: &'a Recording) -> Self {
        let root = TrackDescriptor {
            uuid: Some(ROOT),
            name: Some("Faultline".to_owned()),
            child_ordering: Some(3),
            ..Default::default()
        };
        Self {
            recording,
            descriptors: vec![root],
            events: Vec::new(),
            texts: Texts::default(),
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

    /// Describes a track; its number is small, as each of its events has it.
    fn track(&mut self, track: TrackDescriptor) -> u64 {
        let uuid = ROOT + self.descriptors.len() as u64;
        self.descriptors.push(TrackDescriptor {
            uuid: Some(uuid),
            sibling_order_rank: i32::try_from(uuid).ok(),
            ..track
        });
        uuid
    }

    /// Puts slices on a track, and on further ones below it where they overlap.
    fn put(&mut self, track: TrackDescriptor, slices: Slices) {
        let name = track.name.clone();
        let mut first = Some(track);
        let mut parent = None;
        for events in slices.lanes(&mut self.texts) {
            let uuid = self.track(first.take().unwrap_or_else(|| TrackDescriptor {
                name: name.clone().or_else(|| Some("at the same time".to_owned())),
                parent_uuid: parent,
                ..Default::default()
            }));
            parent.get_or_insert(uuid);
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
            self.put(below_machine(format!("CPU {cpu}")), slices);
        }
    }

    /// What the fault service does.
    fn executor(&mut self, lives: &[Life]) {
        let mut joined = HashMap::<u64, Vec<u64>>::new();
        for life in lives.iter().filter(|life| is_whole(life)) {
            joined
                .entry(life.shared_with.unwrap_or(life.id))
                .or_default()
                .push(life.id);
        }
        let mut slices = Slices::default();
        for life in lives {
            let stages = life
                .stages
                .iter()
                .filter(|(stage, ..)| matches!(stage, Stage::Serving | Stage::Filling | Stage::Commit | Stage::Woken));
            let inner: Vec<_> = stages
                .map(|&(stage, from, to)| Slice::new("service", stage.name(), from, to))
                .collect();
            let (Some(first), Some(last)) = (inner.first(), inner.last()) else {
                continue;
            };
            let mut outer = Slice::new("service", life.kind(), first.from, last.to);
            outer.flows = joined.remove(&life.id).unwrap_or_default();
            outer.notes = vec![number("fault", life.id), number("for thread", life.task.into())];
            slices.add_with(outer, inner);
        }
        self.put(below_machine("executor: fault service".to_owned()), slices);
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
        let mut processes = BTreeMap::<u32, Vec<(u32, Slices)>>::new();
        for (task, slices) in tasks {
            let process = threads.get(task).map_or(task, |running| running.process);
            processes.entry(process).or_default().push((task, slices));
        }
        for (process, members) in processes {
            let pid = i32::try_from(process).ok();
            let program = |task| {
                threads
                    .get(task)
                    .map(|running| running.program.clone())
                    .filter(|name| !name.is_empty())
            };
            let name = match process {
                0 => "kernel".to_owned(),
                _ => program(process).unwrap_or_else(|| format!("process {process}")),
            };
            let parent = self.track(TrackDescriptor {
                process: Some(ProcessDescriptor {
                    pid,
                    process_name: Some(name.clone()),
                }),
                ..Default::default()
            });
            for (task, slices) in members {
                let thread = ThreadDescriptor {
                    pid,
                    tid: i32::try_from(task).ok(),
                    thread_name: Some(program(task).unwrap_or_else(|| name.clone())),
                };
                let track = TrackDescriptor {
                    parent_uuid: Some(parent),
                    thread: Some(thread),
                    ..Default::default()
                };
                self.put(track, slices);
            }
        }
    }

    /// The slice of a fault, and those of its stages.
    fn fault(&self, life: &Life, served: &HashSet<u64>) -> (Slice, Vec<Slice>) {
        let mut fault = Slice::new("fault", life.kind(), life.times.0, life.times.1);
        fault.notes = vec![
            number("fault", life.id),
            pointer("address", life.address),
            note("access", text::access(life.access)),
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
        let flows = is_whole(life) && served.contains(&life.shared_with.unwrap_or(life.id));
        if flows {
            fault.flows = vec![life.id];
        }
        let stages = life.stages.iter().map(|&(stage, from, to)| {
            let mut slice = Slice::new("stage", stage.name(), from, to);
            if stage == Stage::Runnable && flows {
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
        for (name, values) in tracks {
            let unit = if name.ends_with("frames") { "frames" } else { "faults" };
            let uuid = self.track(TrackDescriptor {
                counter: Some(CounterDescriptor {
                    unit_name: Some(unit.to_owned()),
                }),
                ..below_machine(name.to_owned())
            });
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
    let mut slice = Slice::new("", event.kind.name(), event.time, event.time);
    slice.moment = true;
    slice.notes = [(a, event.a), (b, event.b)]
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| pointer(name, value))
        .collect();
    slice
}

/// A track below that of the machine.
fn below_machine(name: String) -> TrackDescriptor {
    TrackDescriptor {
        name: Some(name),
        parent_uuid: Some(ROOT),
        ..Default::default()
    }
}

/// Whether the fault was seen until its thread could go on, so that its flow has an end.
fn is_whole(life: &Life) -> bool {
    life.stages.iter().any(|stage| stage.0 == Stage::Runnable)
}

#[cfg(test)]
mod tests;
