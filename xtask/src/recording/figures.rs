//! Figures of a recording: what `--json` prints and the page shows.
//!
//! Lengths are in ticks of the time-stamp counter; under `--accel icount` a tick is one guest instruction.

use std::collections::{BTreeMap, HashSet};

use faultline_trace::{FaultClass, Kind};
use serde::Serialize;

use super::lives::{self, Life, Stage};
use super::names::Threads;
use super::{Recording, text};

/// How many of the slowest faults are told.
const SLOWEST: usize = 10;

/// How many of the functions that fault are told.
const FUNCTIONS: usize = 50;

/// How many pieces the busiest address ranges are cut into.
const HEAT: usize = 256;

/// Points of a curve at most.
const POINTS: usize = 2000;

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Version of this form.
    pub version: u32,
    /// The rate of the counter.
    pub counter_hz: u64,
    /// Ticks from the start of the trace to its last event.
    pub duration: u64,
    /// Events recorded.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Whether the trace has its orderly end.
    pub ended: bool,
    /// The service of faults, from trap to wake, by how they were served or how they ended.
    pub faults: Vec<Lengths>,
    /// How long their threads then waited for the CPU, from wake to resume.
    pub cpu_waits: Vec<Lengths>,
    /// The stages of the faults that were resolved.
    pub stages: Vec<Lengths>,
    /// TLB flushes done and skipped.
    pub tlb: Tlb,
    /// Events, by their kinds.
    pub kinds: BTreeMap<&'static str, u64>,
    /// User threads.
    pub tasks: Vec<Task>,
    /// Frames over time.
    pub frames: Vec<Frames>,
    /// Faults in flight and in the queue over time: time, in flight, queued.
    pub flight: Vec<(u64, u64, u64)>,
    /// The slowest faults, each with its life.
    pub slowest: Vec<Slow>,
    /// The functions whose instructions faulted, the one with most faults first.
    pub functions: Vec<Function>,
    /// Where faults were: space, first address, length of a piece, and the counts of the pieces.
    pub heat: Vec<Heat>,
}

/// How long things of one kind took.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Lengths {
    /// What they are.
    pub name: String,
    /// How many.
    pub count: u64,
    /// The mean, rounded down.
    pub mean: u64,
    /// The median.
    pub p50: u64,
    /// 90 % took no longer.
    pub p90: u64,
    /// 99 % took no longer.
    pub p99: u64,
    /// 99.9 % took no longer.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// How many took from this long to just under the next: eight steps to a doubling.
    pub histogram: Vec<(u64, u64)>,
}

/// TLB flushes.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Tlb {
    /// Generations bumped.
    pub bumps: u64,
    /// Whole flushes.
    pub whole: u64,
    /// Single pages invalidated.
    pub pages: u64,
    /// Switches that found nothing to flush.
    pub skipped: u64,
}

/// A user thread.
#[derive(Clone, Debug, Serialize)]
pub struct Task {
    /// Its number.
    pub id: u32,
    /// The number of its process.
    pub process: u32,
    /// What it runs.
    pub program: String,
    /// Its faults.
    pub faults: u64,
    /// The ticks that their service took.
    pub fault_ticks: u64,
    /// The ticks that the thread then waited for the CPU.
    pub cpu_wait_ticks: u64,
    /// Its system calls.
    pub calls: u64,
}

/// Frames at one time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Frames {
    /// Ticks since the start.
    pub time: u64,
    /// Free.
    pub free: u64,
    /// Free and zeroed.
    pub zeroed: u64,
    /// Mapped.
    pub mapped: u64,
    /// Page tables.
    pub tables: u64,
    /// In flight.
    pub reserved: u64,
    /// Waiting for a flush.
    pub quarantined: u64,
}

/// One of the slowest faults.
#[derive(Clone, Debug, Serialize)]
pub struct Slow {
    /// Its number.
    pub id: u64,
    /// What it was.
    pub kind: &'static str,
    /// Its thread.
    pub task: u32,
    /// How long its service took.
    pub ticks: u64,
    /// How long its thread then waited for the CPU.
    pub cpu_wait: u64,
    /// When it began, in ticks since the start.
    pub from: u64,
    /// Its life as text.
    pub life: String,
}

/// A function of a program whose instructions faulted.
#[derive(Clone, Debug, Serialize)]
pub struct Function {
    /// Program and name; the address of the instruction where there is no name.
    pub name: String,
    /// Its faults.
    pub faults: u64,
    /// The ticks that their service took.
    pub ticks: u64,
}

/// A range of addresses with many faults.
#[derive(Clone, Debug, Serialize)]
pub struct Heat {
    /// The address space.
    pub space: u64,
    /// The first address, hexadecimal.
    pub start: String,
    /// Bytes of a piece.
    pub step: u64,
    /// Faults in each piece.
    pub counts: Vec<u64>,
}

impl Lengths {
    /// Sums up lengths.
    #[must_use]
    pub fn of(name: &str, mut lengths: Vec<u64>) -> Self {
        lengths.sort_unstable();
        let at = |per_mille: usize| {
            // The smallest length that at least so many are not above: the nearest rank.
            let rank = (lengths.len() * per_mille).div_ceil(1000);
            lengths.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        let total: u128 = lengths.iter().copied().map(u128::from).sum();
        let mut histogram = BTreeMap::<u64, u64>::new();
        for &length in &lengths {
            *histogram.entry(step_of(length)).or_default() += 1;
        }
        Self {
            name: name.to_owned(),
            count: lengths.len() as u64,
            mean: u64::try_from(total / (lengths.len().max(1) as u128)).unwrap_or(u64::MAX),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: lengths.last().copied().unwrap_or(0),
            histogram: histogram.into_iter().collect(),
        }
    }
}

/// The lower end of the histogram's step that holds a length: eight steps to a doubling.
fn step_of(length: u64) -> u64 {
    let shift = (u64::BITS - length.leading_zeros()).saturating_sub(4);
    length >> shift << shift
}

impl Figures {
    /// Counts.
    #[must_use]
    pub fn of(recording: &Recording, lives: &[Life]) -> Self {
        let mut kinds = BTreeMap::new();
        let mut tlb = Tlb::default();
        for event in &recording.events {
            *kinds.entry(event.kind.name()).or_default() += 1;
            match event.kind {
                Kind::TlbBump => tlb.bumps += 1,
                Kind::TlbFlushAll => tlb.whole += 1,
                Kind::TlbFlushPage => tlb.pages += event.b,
                Kind::TlbSkip => tlb.skipped += 1,
                _ => {}
            }
        }
        // The samples also count the threads that come back to what they have left.
        if let Some(last) = recording.events.iter().rfind(|event| event.kind == Kind::SampleSkips) {
            tlb.skipped = last.a;
        }
        let end = recording.events.last().map_or(recording.start, |event| event.time);
        Self {
            version: 2,
            counter_hz: recording.counter_hz,
            duration: end.saturating_sub(recording.start),
            events: recording.events.len() as u64,
            lost: recording.lost,
            ended: recording.ended,
            faults: by_kind(lives.iter().map(|life| (life, life.service()))),
            cpu_waits: by_kind(resumed(lives).map(|life| (life, life.cpu_wait()))),
            stages: stages(lives),
            tlb,
            kinds,
            tasks: tasks(recording, lives),
            frames: frames(recording),
            flight: flight(recording),
            slowest: slowest(recording, lives),
            functions: functions(recording, lives),
            heat: heat(lives),
        }
    }
}

/// The names under which faults are counted, in the order in which they are shown.
fn kinds_of_faults() -> impl Iterator<Item = &'static str> {
    let classes = FaultClass::ALL.into_iter().map(FaultClass::name);
    classes.chain(["coalesced", "spurious", "denied", "cancelled", "unfinished", "unknown"])
}

/// The faults whose threads were woken and went on.
fn resumed(lives: &[Life]) -> impl Iterator<Item = &Life> {
    let runs =
        |life: &&Life| life.stages.len() > 1 && life.stages.last().is_some_and(|stage| stage.0 == Stage::Runnable);
    lives.iter().filter(runs)
}

fn by_kind<'a>(lengths: impl Iterator<Item = (&'a Life, u64)>) -> Vec<Lengths> {
    let mut by_kind = BTreeMap::<_, Vec<u64>>::new();
    for (life, length) in lengths {
        by_kind.entry(life.kind()).or_default().push(length);
    }
    kinds_of_faults()
        .filter_map(|kind| Some(Lengths::of(kind, by_kind.remove(kind)?)))
        .collect()
}

fn stages(lives: &[Life]) -> Vec<Lengths> {
    let mut by_stage = BTreeMap::<_, Vec<u64>>::new();
    for life in lives.iter().filter(|life| life.end == lives::End::Resolved) {
        for &(stage, from, to) in &life.stages {
            by_stage.entry(stage).or_default().push(to - from);
        }
    }
    Stage::ALL
        .into_iter()
        .filter_map(|stage| Some(Lengths::of(stage.name(), by_stage.remove(&stage)?)))
        .collect()
}

fn tasks(recording: &Recording, lives: &[Life]) -> Vec<Task> {
    let mut threads = Threads::default();
    let mut calls = BTreeMap::<u32, u64>::new();
    for event in &recording.events {
        threads.take(event);
        if event.kind == Kind::SyscallEnter {
            *calls.entry(event.task).or_default() += 1;
        }
    }
    let mut faults = BTreeMap::<u32, (u64, u64, u64)>::new();
    for life in lives {
        let (count, ticks, waited) = faults.entry(life.task).or_default();
        *count += 1;
        *ticks += life.service();
        *waited += life.cpu_wait();
    }
    let mut ids: Vec<u32> = threads.iter().map(|(id, _)| id).chain(faults.keys().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
        .map(|id| {
            let running = threads.get(id).cloned().unwrap_or_default();
            let (count, ticks, waited) = faults.get(&id).copied().unwrap_or_default();
            Task {
                id,
                process: running.process,
                program: running.program,
                faults: count,
                fault_ticks: ticks,
                cpu_wait_ticks: waited,
                calls: calls.get(&id).copied().unwrap_or(0),
            }
        })
        .collect()
}

fn frames(recording: &Recording) -> Vec<Frames> {
    let mut all = Vec::new();
    let mut now = Frames::default();
    for event in &recording.events {
        match event.kind {
            Kind::SampleFree => (now.free, now.zeroed) = (event.a, event.b),
            Kind::SampleUsed => (now.mapped, now.tables) = (event.a, event.b),
            // The last of the three, which are recorded together.
            Kind::SampleHeld => {
                (now.reserved, now.quarantined) = (event.a, event.b);
                now.time = event.time.saturating_sub(recording.start);
                all.push(now);
            }
            _ => {}
        }
    }
    thin(all)
}

fn flight(recording: &Recording) -> Vec<(u64, u64, u64)> {
    let (mut queued, mut flying) = (HashSet::new(), HashSet::new());
    let mut all = Vec::new();
    for event in &recording.events {
        let changed = match event.kind {
            Kind::FaultQueue => flying.insert(event.fault) | queued.insert(event.fault),
            Kind::FaultServe => queued.remove(&event.fault),
            Kind::FaultWake | Kind::FaultCancel | Kind::FaultResume => {
                flying.remove(&event.fault) | queued.remove(&event.fault)
            }
            _ => false,
        };
        if changed {
            let time = event.time.saturating_sub(recording.start);
            all.push((time, flying.len() as u64, queued.len() as u64));
        }
    }
    // Of what is too close together to be told apart, the highest.
    let step = all.len().div_ceil(POINTS).max(1);
    let highest = |part: &[(u64, u64, u64)]| part.iter().copied().max_by_key(|point| point.1).unwrap_or_default();
    all.chunks(step).map(highest).collect()
}

/// Keeps at most [`POINTS`], evenly, with the last.
fn thin<T: Copy>(all: Vec<T>) -> Vec<T> {
    let step = all.len().div_ceil(POINTS).max(1);
    let last = (all.len() % step != 1).then(|| all.last().copied()).flatten();
    all.iter().copied().step_by(step).chain(last).collect()
}

fn slowest(recording: &Recording, lives: &[Life]) -> Vec<Slow> {
    let mut done: Vec<&Life> = lives.iter().filter(|life| life.end == lives::End::Resolved).collect();
    done.sort_by_key(|life| (std::cmp::Reverse(life.service()), life.id));
    done.iter()
        .take(SLOWEST)
        .map(|life| Slow {
            id: life.id,
            kind: life.kind(),
            task: life.task,
            ticks: life.service(),
            cpu_wait: life.cpu_wait(),
            from: life.times.0.saturating_sub(recording.start),
            life: text::life(recording, life),
        })
        .collect()
}

fn functions(recording: &Recording, lives: &[Life]) -> Vec<Function> {
    let mut found = BTreeMap::<String, (u64, u64)>::new();
    for life in lives {
        let Some(instruction) = life.instruction else { continue };
        let name = recording.name(life.space, instruction);
        // The part behind the last `+0x` says where in the function the instruction is.
        let name = name.map_or_else(
            || format!("{instruction:#x}"),
            |name| {
                name.rsplit_once("+0x")
                    .map_or(name, |(function, _)| function)
                    .to_owned()
            },
        );
        let (faults, ticks) = found.entry(name).or_default();
        *faults += 1;
        *ticks += life.service();
    }
    let mut all: Vec<_> = found
        .into_iter()
        .map(|(name, (faults, ticks))| Function { name, faults, ticks })
        .collect();
    all.sort_by(|one, other| other.faults.cmp(&one.faults).then_with(|| one.name.cmp(&other.name)));
    all.truncate(FUNCTIONS);
    all
}

/// Addresses of each space, in ranges without a gap of more than 64 MiB, the busiest first.
fn heat(lives: &[Life]) -> Vec<Heat> {
    const GAP: u64 = 64 << 20;
    const RANGES: usize = 12;
    let mut addresses: Vec<(u64, u64)> = lives.iter().map(|life| (life.space, life.address & !0xfff)).collect();
    addresses.sort_unstable();
    let near = |one: &(u64, u64), next: &(u64, u64)| one.0 == next.0 && next.1 - one.1 <= GAP;
    let mut ranges: Vec<&[(u64, u64)]> = addresses.chunk_by(near).collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.len()));
    ranges.truncate(RANGES);
    ranges
        .into_iter()
        .map(|range| {
            let (space, start) = range[0];
            let pages = (range[range.len() - 1].1 - start) / 4096 + 1;
            let step = pages.div_ceil(HEAT as u64) * 4096;
            let mut counts = vec![0; usize::try_from((pages * 4096).div_ceil(step)).unwrap_or(HEAT)];
            for (_, address) in range {
                if let Some(count) = counts.get_mut(((address - start) / step) as usize) {
                    *count += 1;
                }
            }
            Heat {
                space,
                start: format!("{start:#x}"),
                step,
                counts,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::lives::tests::meeting;
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let lengths = Lengths::of("x", (1..=1000).rev().collect());
        assert_eq!(
            (lengths.p50, lengths.p90, lengths.p99, lengths.p999),
            (500, 900, 990, 999)
        );
        assert_eq!((lengths.max, lengths.mean, lengths.count), (1000, 500, 1000));
        let one = Lengths::of("y", vec![7]);
        assert_eq!((one.p50, one.p999, one.max), (7, 7, 7));
        assert_eq!(Lengths::of("z", Vec::new()).max, 0);
    }

    #[test]
    fn a_step_is_an_eighth_of_a_doubling() {
        assert_eq!([0, 1, 15, 16, 17, 18, 1000].map(step_of), [0, 1, 15, 16, 16, 18, 960]);
    }

    #[test]
    fn figures_of_a_small_run() {
        let recording = meeting();
        let figures = Figures::of(&recording, &lives::of(&recording));
        let names: Vec<_> = figures
            .faults
            .iter()
            .map(|kind| (kind.name.as_str(), kind.count))
            .collect();
        assert_eq!(names, [("demand-zero", 1), ("coalesced", 1), ("denied", 1)]);
        assert_eq!(figures.slowest[0].id, 7);
        assert_eq!(figures.flight.iter().map(|point| point.1).max(), Some(1));
        let trap = figures.stages.iter().find(|stage| stage.name == "trap").unwrap();
        assert_eq!((trap.count, trap.max), (2, 40));
        let pages: u64 = figures.heat.iter().flat_map(|range| &range.counts).sum();
        assert_eq!(pages, 3);
    }
}
