//! Faults that wait for a disk: one beside three that don't, and two processes that wait for the same page.

use super::{Call, Settings};
use crate::trace::{Event, Trace};

/// The task whose faults wait.
pub const TASK: &[Call] = &[("wait", &[])];

/// How it is traced.
pub const SETTINGS: Settings = &[("trace", "text"), ("trace_categories", "fault"), ("zero_pool", "off")];

/// The disk that it waits for: slow enough that the trace, which an idle CPU prints, makes nobody wait longer.
pub const SWAP: &str = "model:1M,latency=50ms";

/// Faults that are served while one waits.
const SERVED: usize = 3;

/// A fault that waits for the disk, and others that are not behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The one that waits.
    pub waiting: u64,
    /// Those that trap, are served and resume before it is served again, in their order.
    pub served: Vec<u64>,
    /// How long it took, from its trap to its thread going on.
    pub ticks: u64,
}

impl Beside {
    /// The first fault with enough of the others.
    #[must_use]
    pub fn find(trace: &Trace) -> Option<Self> {
        trace.named("fault.wait").find_map(|wait| {
            let own = trace.fault(wait.fault);
            let woken = own.iter().find(|event| event.name == "fault.wake")?;
            let (trap, resumed) = (own.first()?, own.last()?);
            let during = |event: &&Event| event.space == wait.space && (wait.time..woken.time).contains(&event.time);
            let resumes = trace.named("fault.resume").filter(during);
            let served: Vec<_> = resumes
                .map(|event| event.fault)
                .filter(|&fault| {
                    let steps = trace.fault(fault);
                    steps[0].name == "fault.trap"
                        && during(&steps[0])
                        && steps.iter().all(|step| step.name != "fault.wait")
                })
                .collect();
            (served.len() >= SERVED).then_some(Self {
                waiting: wait.fault,
                served,
                ticks: resumed.time - trap.time,
            })
        })
    }
}

/// The first two faults of different spaces that wait for one page.
#[must_use]
pub fn joined(trace: &Trace) -> Option<[u64; 2]> {
    let second = trace.named("fault.wait").find(|event| event.number("joined") == 1)?;
    let first = trace.named("fault.wait").filter(|event| {
        event.number("joined") == 0
            && event.time < second.time
            && event.page() == second.page()
            && event.space != second.space
    });
    Some([first.last()?.fault, second.fault])
}

/// Prints both, and says whether both were found.
pub fn show(trace: &Trace) -> bool {
    let (beside, joined) = (Beside::find(trace), joined(trace));
    if let Some(beside) = &beside {
        println!(
            "\none waits for the disk, and others are served meanwhile (swap on a modelled disk that takes 50 ms)"
        );
        for event in &trace.events {
            let ends = ["fault.trap", "fault.resume"].contains(&event.name.as_str());
            if event.fault == beside.waiting || ends && beside.served.contains(&event.fault) {
                println!("{}", event.line);
            }
        }
        let (served, ticks) = (beside.served.len(), beside.ticks);
        println!("{served} faults came and went while one waited, {ticks} instructions from its trap on");
    }
    if let Some([first, second]) = joined {
        super::print_faults(
            "two processes want one page of a file: the disk reads it once",
            trace,
            &[first, second],
        );
    }
    let found = beside.is_some() && joined.is_some();
    if !found {
        println!("\nNO FAULT WAITED FOR THE DISK BESIDE OTHERS, OR NO TWO PROCESSES FOR ONE PAGE.");
    }
    found
}
