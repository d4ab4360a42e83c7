//! What `top` knows of a running kernel: the events, summed up.
//!
//! Events may be missing (the kernel drops them rather than wait for a viewer). So totals come from the kernel's own
//! samples, and the state of a task is what the last event said; the next one puts it right.

use std::collections::{BTreeMap, HashSet};

use faultline_trace::wire::Frame;
use faultline_trace::{Event, FaultClass, Kind};

use crate::recording::names::Threads;
use crate::recording::text::system_call;

const EXIT: u64 = 60;
const EXIT_GROUP: u64 = 231;

/// What a task is doing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// In user mode.
    Running,
    /// Runnable, while another one runs.
    Ready,
    /// It waits for a page.
    Fault {
        /// The address that it wants.
        address: u64,
        /// The fault.
        fault: u64,
    },
    /// It is in a system call.
    Call(u64),
}

impl State {
    /// A word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Fault { .. } => "fault",
            Self::Call(_) => "call",
        }
    }

    /// What it waits for.
    #[must_use]
    pub fn waits_for(&self) -> String {
        match self {
            Self::Running | Self::Ready => String::new(),
            Self::Fault { address, fault } => format!("page {:#x} (fault {fault})", address & !0xfff),
            Self::Call(number) => system_call(*number),
        }
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its number.
    pub id: u32,
    /// The number of its process.
    pub process: u32,
    /// What it runs.
    pub program: String,
    /// What it is doing.
    pub state: State,
    /// Its faults so far.
    pub faults: u64,
    /// Its system calls so far.
    pub calls: u64,
    /// Faults a second, lately.
    pub rate: u64,
    /// Its faults at the last look.
    before: u64,
}

/// Counters, as the kernel sampled them last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Free frames, and zeroed ones.
    pub free: (u64, u64),
    /// Mapped frames, and page tables.
    pub used: (u64, u64),
    /// Frames in flight, and frames that wait for a flush.
    pub held: (u64, u64),
    /// Faults in flight, and those that wait for memory.
    pub faults: (u64, u64),
    /// Faults served, by class.
    pub served: [u64; FaultClass::ALL.len()],
    /// Whole flushes, and pages.
    pub flushes: (u64, u64),
    /// Flushes that were not needed, and generations bumped.
    pub skips: (u64, u64),
}

/// What is known.
#[derive(Debug, Default)]
pub struct Model {
    threads: Threads,
    tasks: BTreeMap<u32, Task>,
    /// The counters.
    pub counters: Counters,
    /// Counters a second, lately.
    pub rates: Counters,
    before: Counters,
    queued: HashSet<u64>,
    counter_hz: u64,
    start: u64,
    now: u64,
    looked: u64,
    /// Events seen.
    pub events: u64,
    /// Events that the kernel dropped.
    pub lost: u64,
}

impl Model {
    /// Takes notice of a frame.
    pub fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Start { counter_hz, time, .. } => {
                (self.counter_hz, self.start) = (*counter_hz, *time);
                (self.now, self.looked) = (*time, *time);
            }
            Frame::Events { lost, events, .. } => {
                if *lost > self.lost {
                    // The end of a fault that is waited for may be among them.
                    self.queued.clear();
                    self.lost = *lost;
                }
                self.events += events.len() as u64;
                events.iter().for_each(|event| self.event(event));
            }
            Frame::Attachment { .. } | Frame::End { .. } => {}
        }
    }

    fn task(&mut self, id: u32) -> &mut Task {
        let running = self.threads.get(id).cloned().unwrap_or_default();
        self.tasks.entry(id).or_insert_with(|| Task {
            id,
            process: if running.process == 0 { id } else { running.process },
            program: running.program,
            state: State::Ready,
            faults: 0,
            calls: 0,
            rate: 0,
            before: 0,
        })
    }

    fn event(&mut self, event: &Event) {
        self.now = event.time;
        match event.kind {
            Kind::TaskStart => {
                self.threads.take(event);
                self.task(event.task);
            }
            Kind::TaskName => {
                self.threads.take(event);
                let program = self.threads.get(event.task).map(|running| running.program.clone());
                for task in self.tasks.values_mut().filter(|task| task.process == event.task) {
                    task.program = program.clone().unwrap_or_default();
                }
            }
            Kind::TaskSwitch => {
                if let Some(before) = self.tasks.get_mut(&(event.a as u32))
                    && before.state == State::Running
                {
                    before.state = State::Ready;
                }
                self.task(event.task).state = State::Running;
            }
            Kind::TaskExit => self.tasks.retain(|_, task| task.process != event.task),
            Kind::SyscallEnter if event.a == EXIT => drop(self.tasks.remove(&event.task)),
            Kind::SyscallEnter if event.a != EXIT_GROUP => {
                let task = self.task(event.task);
                task.calls += 1;
                task.state = State::Call(event.a);
            }
            Kind::SyscallExit => self.task(event.task).state = State::Running,
            Kind::FaultTrap => {
                let task = self.task(event.task);
                task.faults += 1;
                task.state = State::Fault {
                    address: event.a,
                    fault: event.fault,
                };
            }
            Kind::FaultResume => self.task(event.task).state = State::Running,
            Kind::FaultQueue => drop(self.queued.insert(event.fault)),
            Kind::FaultServe | Kind::FaultCancel => drop(self.queued.remove(&event.fault)),
            _ => self.sample(event),
        }
    }

    fn sample(&mut self, event: &Event) {
        let both = (event.a, event.b);
        match event.kind {
            Kind::SampleFree => self.counters.free = both,
            Kind::SampleUsed => self.counters.used = both,
            Kind::SampleHeld => self.counters.held = both,
            Kind::SampleFaults => self.counters.faults = both,
            Kind::SampleFlushes => self.counters.flushes = both,
            Kind::SampleSkips => self.counters.skips = both,
            Kind::SampleServed => {
                if let Some(count) = self.counters.served.get_mut(event.a as usize) {
                    *count = event.b;
                }
            }
            _ => {}
        }
    }

    /// Computes what happened a second since the last look, in the machine's time. Too short a time since then is no look.
    pub fn look(&mut self) {
        let ticks = self.now.saturating_sub(self.looked);
        if self.counter_hz == 0 || ticks < self.counter_hz / 20 {
            return;
        }
        let hz = self.counter_hz;
        let rate = |now: u64, before: u64| {
            let more = u128::from(now.saturating_sub(before));
            u64::try_from(more * u128::from(hz) / u128::from(ticks)).unwrap_or(u64::MAX)
        };
        for task in self.tasks.values_mut() {
            task.rate = rate(task.faults, task.before);
            task.before = task.faults;
        }
        let (now, before) = (self.counters, self.before);
        let pair = |now: (u64, u64), before: (u64, u64)| (rate(now.0, before.0), rate(now.1, before.1));
        self.rates.served = std::array::from_fn(|class| rate(now.served[class], before.served[class]));
        self.rates.flushes = pair(now.flushes, before.flushes);
        self.rates.skips = pair(now.skips, before.skips);
        self.before = now;
        self.looked = self.now;
    }

    /// The tasks, by their numbers.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        self.tasks.values().cloned().collect()
    }

    /// Faults in the queue.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.queued.len()
    }

    /// How long the machine has been traced, in seconds of its own time.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        (self.now - self.start) as f64 / self.counter_hz.max(1) as f64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use faultline_trace::{Category, TrapWord};

    use super::*;
    use crate::recording::lives::tests::events;

    fn frame(lost: u64, list: &[(u64, Kind, u32, u64, u64, u64)]) -> Frame {
        Frame::Events {
            cpu: 0,
            first: 0,
            lost,
            events: events(list),
        }
    }

    /// A machine with two tasks, one of which waits for a page.
    pub fn model() -> Model {
        let mut model = Model::default();
        model.take(&Frame::Start {
            counter_hz: 1000,
            time: 0,
            categories: Category::all(),
            cpus: 1,
        });
        let [name, rest] = [*b"touch\0\0\0", [0; 8]].map(u64::from_le_bytes);
        model.take(&frame(
            0,
            &[
                (1, Kind::TaskStart, 1, 0, 1, 0),
                (2, Kind::TaskName, 1, 0, name, rest),
                (3, Kind::TaskStart, 2, 0, 2, 1),
                (4, Kind::TaskSwitch, 1, 0, 0, 0),
                (5, Kind::SyscallEnter, 1, 0, 61, 0),
                (6, Kind::TaskSwitch, 2, 0, 1, 0),
                (7, Kind::FaultTrap, 2, 9, 0x5010, TrapWord::new(1, 0).0),
                (8, Kind::FaultQueue, 2, 9, 0x5000, 0),
                (9, Kind::SampleServed, 0, 0, 0, 500),
                (10, Kind::SampleFree, 0, 0, 1000, 20),
                (500, Kind::SampleSkips, 0, 0, 10, 4),
            ],
        ));
        model.look();
        model
    }

    #[test]
    fn tasks_have_states() {
        let model = model();
        let tasks = model.tasks();
        let states: Vec<_> = tasks
            .iter()
            .map(|task| (task.id, task.state.name(), task.state.waits_for()))
            .collect();
        assert_eq!(
            states,
            [
                (1, "call", "wait4".to_owned()),
                (2, "fault", "page 0x5000 (fault 9)".to_owned())
            ]
        );
        assert_eq!((tasks[1].program.as_str(), model.queue_depth()), ("touch", 1));
    }

    #[test]
    fn rates_are_of_the_machine_s_time() {
        let mut model = model();
        assert_eq!((model.rates.served[0], model.rates.skips.0), (1000, 20));
        model.take(&frame(0, &[(1000, Kind::SampleServed, 0, 0, 0, 600)]));
        model.look();
        assert_eq!(model.rates.served[0], 200);
    }

    #[test]
    fn a_task_ends_with_its_process_or_by_itself() {
        let mut model = model();
        model.take(&frame(0, &[(600, Kind::SyscallEnter, 2, 0, EXIT, 0)]));
        assert_eq!(model.tasks().len(), 1);
        model.take(&frame(0, &[(700, Kind::TaskExit, 1, 0, 0, 0)]));
        assert!(model.tasks().is_empty());
    }

    #[test]
    fn lost_events_empty_the_queue() {
        let mut model = model();
        model.take(&frame(3, &[(600, Kind::FaultResume, 2, 9, 0x5010, 0)]));
        assert_eq!((model.queue_depth(), model.lost), (0, 3));
    }
}
