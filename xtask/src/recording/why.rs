//! `trace FILE --why FAULT`: where the time of one fault went, stage by stage, and what the CPU did meanwhile.
//!
//! There is one CPU, so the time between two events belongs to what the earlier of them began: the service of a fault, a
//! system call, a thread in user mode. What was recorded decides how much of it has a name; the categories task, fault and
//! syscall together leave little without one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use faultline_trace::{Event, Kind};

use super::lives::{Life, Stage};
use super::names::Threads;
use super::{Recording, text};
use crate::report::grouped;

/// How many things that the CPU did are told of a stage.
const TOLD: usize = 6;

/// What the CPU does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// Admits this fault.
    Admission(u64),
    /// Serves this fault.
    Service(u64),
    /// A system call of a thread.
    Call(u32, u64),
    /// A thread in user mode.
    User(u32),
    /// The kernel, between two of these.
    Kernel,
}

impl Doing {
    /// What the CPU does from this event on, if the event says so.
    fn since(event: &Event) -> Option<Self> {
        Some(match event.kind {
            Kind::FaultTrap => Self::Admission(event.fault),
            Kind::FaultServe | Kind::FaultFrame | Kind::FaultFill => Self::Service(event.fault),
            Kind::FaultResume | Kind::SyscallExit => Self::User(event.task),
            Kind::SyscallEnter => Self::Call(event.task, event.a),
            Kind::FaultQueue
            | Kind::FaultJoin
            | Kind::FaultCommit
            | Kind::FaultWake
            | Kind::FaultWait
            | Kind::TaskExit => Self::Kernel,
            Kind::TaskSwitch => Self::User(event.task),
            _ => return None,
        })
    }

    fn describe(&self, own: u64, lives: &[Life], threads: &Threads) -> String {
        let thread = |task: &u32| match threads.get(*task) {
            Some(running) if !running.program.is_empty() => format!("thread {task} ({})", running.program),
            _ => format!("thread {task}"),
        };
        match self {
            Self::Admission(fault) if *fault == own => "its own admission".to_owned(),
            Self::Service(fault) if *fault == own => "its own service".to_owned(),
            Self::Admission(fault) => format!("admission of fault {fault}"),
            Self::Service(fault) => {
                let kind = lives.iter().find(|life| life.id == *fault).map_or("", Life::kind);
                format!("service of fault {fault} ({kind})")
            }
            Self::Call(task, call) => format!("{} of {}", text::system_call(*call), thread(task)),
            Self::User(task) => format!("{} in user mode", thread(task)),
            Self::Kernel => "the kernel between these".to_owned(),
        }
    }
}

/// The critical path of a fault.
#[must_use]
pub fn explain(recording: &Recording, lives: &[Life], life: &Life) -> String {
    let mut threads = Threads::default();
    recording.events.iter().for_each(|event| threads.take(event));
    let mut told = format!(
        "fault {}: {}, {} of {:#x}: {} ticks from trap to wake, {} waiting for the CPU",
        life.id,
        life.kind(),
        text::access(life.access),
        life.address,
        grouped(&life.service().to_string()),
        grouped(&life.cpu_wait().to_string())
    );
    for &(stage, from, to) in &life.stages {
        let _ = write!(told, "\n{:<9}{:>10}  ", stage.name(), grouped(&(to - from).to_string()));
        let _ = write!(told, "{}", meaning(stage, life));
        if stage == Stage::Queued && life.shared_with.is_none() {
            let ahead = ahead(recording, life, from, to);
            match ahead.as_slice() {
                [] => told += "; nobody was ahead of it",
                [one] => {
                    let _ = write!(told, "; behind fault {one}");
                }
                several => {
                    let shown: Vec<_> = several.iter().take(TOLD).map(u64::to_string).collect();
                    let more = several.len().saturating_sub(TOLD);
                    let more = if more > 0 {
                        format!(" and {more} more")
                    } else {
                        String::new()
                    };
                    let _ = write!(told, "; behind {} faults: {}{more}", several.len(), shown.join(", "));
                }
            }
        }
        let mut did: Vec<_> = occupation(&recording.events, from, to).into_iter().collect();
        did.sort_by_key(|(_, ticks)| std::cmp::Reverse(*ticks));
        let rest: u64 = did.iter().skip(TOLD).map(|(_, ticks)| ticks).sum();
        for (doing, ticks) in did.iter().take(TOLD) {
            let _ = write!(
                told,
                "\n{:>21}  {}",
                grouped(&ticks.to_string()),
                doing.describe(life.id, lives, &threads)
            );
        }
        if rest > 0 {
            let _ = write!(told, "\n{:>21}  others", grouped(&rest.to_string()));
        }
    }
    if let Some(other) = life.shared_with
        && let Some(other) = lives.iter().find(|life| life.id == other)
        && other.shared_with.is_none()
    {
        let _ = write!(
            told,
            "\n\nit shares the service of\n{}",
            explain(recording, lives, other)
        );
    }
    told
}

fn meaning(stage: Stage, life: &Life) -> String {
    match (stage, life.shared_with) {
        (Stage::Trap, _) => "from the trap to the end of admission".to_owned(),
        (Stage::Queued, Some(other)) => format!("waits with fault {other}, which is in flight already"),
        (Stage::Queued, None) => "in the queue of the fault service".to_owned(),
        (Stage::Serving, _) => "the service looks for a frame".to_owned(),
        (Stage::Filling, _) => "the frame gets its content".to_owned(),
        (Stage::Commit, _) => "the entry is published".to_owned(),
        (Stage::Woken, _) => "its thread is woken".to_owned(),
        (Stage::Runnable, _) => "its thread waits for the CPU".to_owned(),
    }
}

/// The faults that were served while this one was queued, and had come before it.
fn ahead(recording: &Recording, life: &Life, from: u64, to: u64) -> Vec<u64> {
    let events = within(&recording.events, from, to);
    let mut ahead: Vec<u64> = events
        .iter()
        .filter(|event| event.kind == Kind::FaultServe && event.fault != life.id)
        .map(|event| event.fault)
        .collect();
    ahead.dedup();
    ahead
}

/// The events from `from` to just before `to`.
fn within(events: &[Event], from: u64, to: u64) -> &[Event] {
    let first = events.partition_point(|event| event.time < from);
    let last = events.partition_point(|event| event.time < to);
    &events[first..last.max(first)]
}

/// What the CPU did in a stretch of time, and for how many ticks.
fn occupation(events: &[Event], from: u64, to: u64) -> BTreeMap<Doing, u64> {
    let first = events.partition_point(|event| event.time <= from);
    let mut doing = events[..first]
        .iter()
        .rev()
        .find_map(Doing::since)
        .unwrap_or(Doing::Kernel);
    let mut since = from;
    let mut did = BTreeMap::new();
    for event in events[first..].iter().take_while(|event| event.time < to) {
        let Some(next) = Doing::since(event) else { continue };
        *did.entry(doing).or_default() += event.time - since;
        (doing, since) = (next, event.time);
    }
    *did.entry(doing).or_default() += to - since;
    did.retain(|_, ticks| *ticks > 0);
    did
}

#[cfg(test)]
mod tests {
    use super::super::lives::{self, tests::meeting};
    use super::*;

    #[test]
    fn each_stage_says_what_the_cpu_did() {
        let recording = meeting();
        let lives = lives::of(&recording);
        let told = explain(&recording, &lives, &lives[0]);
        assert!(
            told.starts_with("fault 7: demand-zero, write of 0x5010: 180 ticks from trap to wake, 20 waiting"),
            "{told}"
        );
        for line in [
            "trap             40  from the trap to the end of admission\n                   40  its own admission",
            "queued           60  in the queue of the fault service; nobody was ahead of it",
            "                   30  admission of fault 8",
            "filling          50  the frame gets its content\n                   50  its own service",
            "runnable         20  its thread waits for the CPU",
        ] {
            assert!(told.contains(line), "{line}\n---\n{told}");
        }
    }

    #[test]
    fn one_that_joined_shows_the_service_that_it_shares() {
        let recording = meeting();
        let lives = lives::of(&recording);
        let told = explain(&recording, &lives, &lives[1]);
        assert!(
            told.contains("waits with fault 7") && told.contains("it shares the service of\nfault 7: "),
            "{told}"
        );
    }

    #[test]
    fn the_ticks_of_a_stretch_add_up() {
        let recording = meeting();
        let did = occupation(&recording.events, 100, 330);
        assert_eq!(did.values().sum::<u64>(), 230);
    }
}
