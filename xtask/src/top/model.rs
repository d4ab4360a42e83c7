//! What `top` knows of a running kernel: the events, summed up.
//!
//! Events may be missing (the kernel drops them rather than wait for a viewer). So totals come from the kernel's own
//! samples, and the state of a task is what the last event said; the next one puts it right. Where the end of a thread is
//! among the missing events, it is taken for ended when it is said to run and nothing was heard of it for `SILENCE`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use faultline_trace::wire::Frame;
use faultline_trace::{Event, FaultClass, Kind};

use crate::recording::names::Threads;
use crate::recording::text::system_call;

const EXIT: u64 = 60;
const EXIT_GROUP: u64 = 231;

/// How long a thread that can run is silent before it counts as ended, in seconds, where events were lost.
const SILENCE: u64 = 2;

/// Looks that are remembered.
pub const HISTORY: usize = 24;

/// Threads that have ended and are remembered, so that events on their way out do not bring them back.
const ENDED: usize = 100_000;

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
        /// The fault whose service it waits for: the same, or one that it has joined.
        served: u64,
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
            Self::Fault { address, fault, .. } => format!("page {:#x} (fault {fault})", address & !0xfff),
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
    /// When it was last heard of.
    seen: u64,
}

/// What a look saw, for the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Faults served a second.
    pub faults: u64,
    /// Faults in flight.
    pub in_flight: u64,
    /// Free frames, the zeroed ones too.
    pub free: u64,
    /// Whole flushes and single pages a second.
    pub flushes: u64,
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
    /// The fault that a slot is for.
    slots: HashMap<u64, u64>,
    ended: HashSet<u32>,
    /// The thread that runs, or ran last.
    current: u32,
    /// The last looks, the newest last.
    pub history: VecDeque<Look>,
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
            seen: 0,
        })
    }

    /// A thread has ended.
    fn end(&mut self, id: u32) {
        self.tasks.remove(&id);
        if self.ended.len() >= ENDED {
            self.ended.clear();
        }
        self.ended.insert(id);
    }

    fn event(&mut self, event: &Event) {
        self.now = event.time;
        if event.kind == Kind::TaskStart {
            self.ended.remove(&event.task);
        } else if self.ended.contains(&event.task) {
            return;
        }
        if let Some(task) = self.tasks.get_mut(&event.task) {
            task.seen = event.time;
        }
        match event.kind {
            Kind::TaskStart => {
                self.threads.take(event);
                self.task(event.task).seen = event.time;
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
                self.current = event.task;
                self.task(event.task).state = State::Running;
            }
            Kind::TaskExit => {
                let of_process = self.tasks.values().filter(|task| task.process == event.task);
                let mut ended: Vec<_> = of_process.map(|task| task.id).collect();
                ended.push(event.task);
                ended.into_iter().for_each(|id| self.end(id));
            }
            Kind::SyscallEnter if event.a == EXIT => self.end(event.task),
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
                    served: event.fault,
                };
            }
            Kind::FaultResume => self.task(event.task).state = State::Running,
            Kind::FaultQueue => {
                self.queued.insert(event.fault);
                self.slots.insert(event.b, event.fault);
            }
            Kind::FaultJoin => {
                let joined = self.slots.get(&event.b).copied();
                if let (State::Fault { served, .. }, Some(joined)) = (&mut self.task(event.task).state, joined) {
                    *served = joined;
                }
            }
            Kind::FaultWake => {
                for task in self.tasks.values_mut() {
                    if matches!(task.state, State::Fault { served, .. } if served == event.fault) {
                        // Its page is there: it waits for the CPU.
                        task.state = State::Ready;
                    }
                }
            }
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
        if self.lost > 0 {
            let silent = self.now.saturating_sub(SILENCE * hz);
            let current = self.current;
            self.tasks
                .retain(|id, task| *id == current || task.seen >= silent || matches!(task.state, State::Call(_)));
        }
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
        self.history.push_back(Look {
            faults: self.rates.served.iter().sum(),
            in_flight: now.faults.0,
            free: now.free.0 + now.free.1,
            flushes: self.rates.flushes.0 + self.rates.flushes.1,
        });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
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
    fn a_thread_whose_page_is_there_waits_for_the_cpu_also_if_it_had_joined() {
        let mut model = model();
        model.take(&frame(
            0,
            &[
                (600, Kind::TaskStart, 3, 0, 2, 1),
                (610, Kind::FaultTrap, 3, 10, 0x5020, TrapWord::new(1, 0).0),
                (620, Kind::FaultJoin, 3, 10, 0x5000, 0),
            ],
        ));
        assert_eq!(model.tasks()[2].state.name(), "fault");
        model.take(&frame(0, &[(630, Kind::FaultWake, 2, 9, 0x5000, 2)]));
        let states: Vec<_> = model.tasks().iter().map(|task| task.state.name()).collect();
        assert_eq!(states, ["call", "ready", "ready"]);
    }

    #[test]
    fn what_a_thread_does_on_its_way_out_does_not_bring_it_back() {
        let mut model = model();
        model.take(&frame(
            0,
            &[
                (600, Kind::SyscallEnter, 2, 0, EXIT, 0),
                (610, Kind::FaultTrap, 2, 10, 0x6000, 0),
                (620, Kind::TaskSwitch, 2, 0, 1, 0),
            ],
        ));
        assert_eq!(model.tasks().len(), 1);
        // Its number is given to another one.
        model.take(&frame(0, &[(700, Kind::TaskStart, 2, 0, 2, 1)]));
        assert_eq!(model.tasks().len(), 2);
    }

    #[test]
    fn a_thread_that_could_run_and_does_not_has_ended_where_events_were_lost() {
        let mut model = model();
        model.take(&frame(0, &[(4000, Kind::TaskSwitch, 1, 0, 2, 0)]));
        model.look();
        assert_eq!(model.tasks().len(), 2, "nothing was lost");
        model.take(&frame(1, &[(8000, Kind::SyscallEnter, 1, 0, 61, 0)]));
        model.look();
        let left: Vec<_> = model.tasks().iter().map(|task| task.id).collect();
        assert_eq!(left, [1]);
    }

    #[test]
    fn the_history_has_the_newest_look_last() {
        let mut model = model();
        for look in 1..=HISTORY as u64 + 5 {
            model.take(&frame(
                0,
                &[(500 + 1000 * look, Kind::SampleServed, 0, 0, 0, 500 + 100 * look)],
            ));
            model.look();
        }
        assert_eq!(model.history.len(), HISTORY);
        assert_eq!(
            model.history.back().map(|look| (look.faults, look.free)),
            Some((100, 1020))
        );
    }

    #[test]
    fn lost_events_empty_the_queue() {
        let mut model = model();
        model.take(&frame(3, &[(600, Kind::FaultResume, 2, 9, 0x5010, 0)]));
        assert_eq!((model.queue_depth(), model.lost), (0, 3));
    }
}
