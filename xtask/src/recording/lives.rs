//! The life of each fault: its events put together.
//!
//! A fault passes through *stages*. Each ends with an event, and the next one begins there:
//!
//! | stage | from | to |
//! |---|---|---|
//! | trap | `fault.trap` | `fault.queue`, or `fault.join` for one that waits for another's service |
//! | queued | | `fault.serve` |
//! | serving | | `fault.frame` |
//! | filling | | `fault.fill` |
//! | commit | | `fault.commit` |
//! | woken | | `fault.wake` |
//! | runnable | | `fault.resume` |
//!
//! Two lengths matter apart: the *service*, from the trap to the wake, is what the fault cost; the *wait for the CPU*, from
//! the wake to the resumed thread (the stage `runnable`), is what others did with the CPU meanwhile.
//!
//! A fault that skips an event skips the stage: what it would have taken belongs to the next one. A fault that joined
//! another one is `queued` until that one's waiters are woken.

use std::collections::HashMap;

use faultline_trace::{Event, FaultClass, Kind, TrapWord};
use serde::Serialize;

use super::Recording;

/// A stage in the life of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// From the trap to the end of admission.
    Trap,
    /// In the queue.
    Queued,
    /// Until the service has a frame.
    Serving,
    /// Until the frame has its content.
    Filling,
    /// Until the entry is published.
    Commit,
    /// Until the waiter is woken.
    Woken,
    /// Woken, and waiting for the CPU: until the thread goes on.
    Runnable,
}

impl Stage {
    /// Every stage, in their order.
    pub const ALL: [Self; 7] = [
        Self::Trap,
        Self::Queued,
        Self::Serving,
        Self::Filling,
        Self::Commit,
        Self::Woken,
        Self::Runnable,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Queued => "queued",
            Self::Serving => "serving",
            Self::Filling => "filling",
            Self::Commit => "commit",
            Self::Woken => "woken",
            Self::Runnable => "runnable",
        }
    }

    /// The stage that an event ends.
    const fn ended_by(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::FaultQueue | Kind::FaultJoin => Self::Trap,
            Kind::FaultServe => Self::Queued,
            Kind::FaultFrame => Self::Serving,
            Kind::FaultFill => Self::Filling,
            Kind::FaultCommit => Self::Commit,
            Kind::FaultWake => Self::Woken,
            Kind::FaultResume => Self::Runnable,
            _ => return None,
        })
    }
}

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The thread, or the kernel on its behalf, went on.
    Resolved,
    /// The entry allowed the access already.
    Spurious,
    /// It was refused.
    Denied,
    /// Nobody waited any more.
    Cancelled,
    /// The trace ends before the fault does, or begins after it.
    Unknown,
}

/// The life of one fault.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its correlation id.
    pub id: u64,
    /// The thread that faulted.
    pub task: u32,
    /// The address space.
    pub space: u64,
    /// The address.
    pub address: u64,
    /// The instruction, if it was a trap that the trace has.
    pub instruction: Option<u64>,
    /// The access bits of [`TrapWord`].
    pub access: u64,
    /// How it was served, if it was.
    pub class: Option<FaultClass>,
    /// How it ended.
    pub end: End,
    /// The fault whose service it shared.
    pub shared_with: Option<u64>,
    /// Its first and its last moment.
    pub times: (u64, u64),
    /// The stages that it passed through, each with its first and its last moment.
    pub stages: Vec<(Stage, u64, u64)>,
    /// The places of its events in [`Recording::events`].
    pub events: Vec<usize>,
}

impl Life {
    /// How long it lasted, in ticks of the counter.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.times.1 - self.times.0
    }

    /// How long it was served: from the trap to the wake, or to its end if nobody was woken.
    #[must_use]
    pub fn service(&self) -> u64 {
        self.length() - self.cpu_wait()
    }

    /// How long its thread waited for the CPU after the wake.
    #[must_use]
    pub fn cpu_wait(&self) -> u64 {
        match self.stages.last() {
            Some(&(Stage::Runnable, from, to)) if self.stages.len() > 1 => to - from,
            _ => 0,
        }
    }

    /// What it is counted as.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.end, self.shared_with, self.class) {
            (End::Spurious, ..) => "spurious",
            (End::Denied, ..) => "denied",
            (End::Cancelled, ..) => "cancelled",
            (End::Unknown, ..) => "unfinished",
            (End::Resolved, Some(_), _) => "coalesced",
            (End::Resolved, None, Some(class)) => class.name(),
            (End::Resolved, None, None) => "unknown",
        }
    }

    fn new(event: &Event) -> Self {
        Self {
            id: event.fault,
            task: event.task,
            space: event.space,
            address: event.a,
            instruction: None,
            access: 0,
            class: None,
            end: End::Unknown,
            shared_with: None,
            times: (event.time, event.time),
            stages: Vec::new(),
            events: Vec::new(),
        }
    }

    fn take(&mut self, index: usize, event: &Event) {
        self.events.push(index);
        match event.kind {
            Kind::FaultTrap => {
                let word = TrapWord(event.b);
                self.access = word.access();
                self.instruction = Some(word.instruction());
            }
            Kind::FaultServe => self.class = FaultClass::ALL.get(event.b as usize).copied(),
            Kind::FaultDenied => self.end = End::Denied,
            Kind::FaultSpurious => self.end = End::Spurious,
            Kind::FaultCancel => self.end = End::Cancelled,
            Kind::FaultWake | Kind::FaultResume if self.end != End::Denied => self.end = End::Resolved,
            _ => {}
        }
        // The waiters that joined are woken with the first one's number, later; that is none of its own stages.
        if event.kind == Kind::FaultWake && self.stages.iter().any(|stage| stage.0 == Stage::Woken) {
            return;
        }
        if let Some(stage) = Stage::ended_by(event.kind)
            && (self.events.len() > 1 || stage == Stage::Runnable)
        {
            // A fault that is served twice (its page table had to be made first) is in one stage twice in a row.
            match self.stages.last_mut() {
                Some(last) if last.0 == stage => last.2 = event.time,
                _ => self.stages.push((stage, self.times.1, event.time)),
            }
        }
        self.times.1 = event.time;
    }

    fn end_of(&self, stage: Stage) -> Option<u64> {
        self.stages.iter().find(|found| found.0 == stage).map(|found| found.2)
    }

    /// A fault that joined another one was queued until the other's waiters were woken.
    fn wait_until(&mut self, woken: u64) {
        if let Some((stage @ Stage::Runnable, from, to)) = self.stages.last().copied()
            && (from..to).contains(&woken)
        {
            self.stages.pop();
            self.stages.extend([(Stage::Queued, from, woken), (stage, woken, to)]);
        }
    }

    /// What is known only when all events are: a write to a copied page that got no frame kept the one it had.
    fn conclude(&mut self, events: &[Event]) {
        let got_frame = self.events.iter().any(|&index| events[index].kind == Kind::FaultFrame);
        if self.class == Some(FaultClass::CowCopy) && self.end == End::Resolved && !got_frame {
            self.class = Some(FaultClass::CowReuse);
        }
    }
}

/// The lives of all faults, in the order in which they began.
#[must_use]
pub fn of(recording: &Recording) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut by_id = HashMap::new();
    // Which fault has which slot.
    let mut slots = HashMap::new();
    for (index, event) in recording.events.iter().enumerate() {
        if event.fault == 0 {
            continue;
        }
        let place = *by_id.entry(event.fault).or_insert_with(|| {
            lives.push(Life::new(event));
            lives.len() - 1
        });
        lives[place].take(index, event);
        match event.kind {
            Kind::FaultQueue => drop(slots.insert(event.b, event.fault)),
            Kind::FaultJoin => lives[place].shared_with = slots.get(&event.b).copied(),
            _ => {}
        }
    }
    let woken: HashMap<u64, u64> = lives
        .iter()
        .filter_map(|life| Some((life.id, life.end_of(Stage::Woken)?)))
        .collect();
    for life in &mut lives {
        life.conclude(&recording.events);
        if let Some(time) = life.shared_with.and_then(|other| woken.get(&other)) {
            life.wait_until(*time);
        }
    }
    lives
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use faultline_trace::Category;
    use faultline_trace::wire::Damage;

    use super::*;

    /// Events given as time, kind, task, fault and payload.
    pub fn events(events: &[(u64, Kind, u32, u64, u64, u64)]) -> Vec<Event> {
        let event = |&(time, kind, task, fault, a, b): &_| Event {
            time,
            kind,
            cpu: 0,
            task,
            space: 1,
            fault,
            a,
            b,
        };
        events.iter().map(event).collect()
    }

    /// A recording of such events.
    pub fn recording(list: &[(u64, Kind, u32, u64, u64, u64)]) -> Recording {
        Recording {
            counter_hz: 1_000_000_000,
            start: 0,
            categories: Category::all(),
            events: events(list),
            lost: 0,
            damage: Damage::default(),
            ended: true,
            report: None,
            about: String::new(),
            names: BTreeMap::new(),
        }
    }

    /// Two threads on one page, and a fault that is denied.
    pub fn meeting() -> Recording {
        recording(&[
            (100, Kind::FaultTrap, 1, 7, 0x5010, TrapWord::new(1, 0x400).0),
            (140, Kind::FaultQueue, 1, 7, 0x5000, 3),
            (150, Kind::FaultTrap, 2, 8, 0x5020, TrapWord::new(1, 0x404).0),
            (180, Kind::FaultJoin, 2, 8, 0x5000, 3),
            (200, Kind::FaultServe, 2, 7, 0x5000, 0),
            (210, Kind::FaultFrame, 2, 7, 0x9000, 0),
            (260, Kind::FaultFill, 2, 7, 0x9000, 0),
            (270, Kind::FaultCommit, 2, 7, 0x5000, 0x9067),
            (280, Kind::FaultWake, 2, 7, 0x5000, 1),
            (285, Kind::FaultWake, 2, 7, 0x5000, 1),
            (300, Kind::FaultResume, 1, 7, 0x5010, 0),
            (330, Kind::FaultResume, 2, 8, 0x5020, 0),
            (400, Kind::FaultTrap, 1, 9, 0, TrapWord::new(0, 0x408).0),
            (420, Kind::FaultDenied, 1, 9, 0, 1),
        ])
    }

    #[test]
    fn events_become_stages() {
        let lives = of(&meeting());
        assert_eq!(lives.len(), 3);
        let first = &lives[0];
        assert_eq!((first.kind(), first.length()), ("demand-zero", 200));
        assert_eq!(
            first.stages,
            [
                (Stage::Trap, 100, 140),
                (Stage::Queued, 140, 200),
                (Stage::Serving, 200, 210),
                (Stage::Filling, 210, 260),
                (Stage::Commit, 260, 270),
                (Stage::Woken, 270, 280),
                (Stage::Runnable, 280, 300),
            ]
        );
        assert_eq!(first.instruction, Some(0x400));
    }

    #[test]
    fn one_that_joined_knows_whom() {
        let lives = of(&meeting());
        assert_eq!((lives[1].shared_with, lives[1].kind()), (Some(7), "coalesced"));
        assert_eq!(
            lives[1].stages[1..],
            [(Stage::Queued, 180, 280), (Stage::Runnable, 280, 330)]
        );
        assert_eq!((lives[2].end, lives[2].kind()), (End::Denied, "denied"));
    }

    #[test]
    fn a_kept_frame_is_told_from_a_copy() {
        let lives = of(&recording(&[
            (1, Kind::FaultTrap, 1, 1, 0x5000, 1),
            (2, Kind::FaultQueue, 1, 1, 0x5000, 0),
            (3, Kind::FaultServe, 1, 1, 0x5000, FaultClass::CowCopy as u64),
            (4, Kind::FaultCommit, 1, 1, 0x5000, 0),
            (5, Kind::FaultWake, 1, 1, 0x5000, 1),
            (6, Kind::FaultResume, 1, 1, 0x5000, 0),
        ]));
        assert_eq!(lives[0].kind(), "cow-reuse");
    }
}
