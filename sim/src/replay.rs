//! From a trace of a real run to a script.
//!
//! Reads the text form of a trace, as `cargo run -- trace run.fltrace --text` prints it, and makes a script in which the
//! same faults come in the same order, from as many tasks in as many spaces. What the model does not reach is counted.

use std::collections::BTreeMap;

use faultline_mm::Protection;
use thiserror::Error;

use crate::schedule::Schedule;
use crate::script::{Backing, Process, Script, Settings, Step, Thread, WINDOW_PAGES};

/// Spaces that a script can have, and threads of all of them.
const SPACES: usize = 12;
const THREADS: usize = 40;
/// Faults that are taken over.
const FAULTS: usize = 4_000;

/// A script made from a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The script.
    pub script: Script,
    /// Faults that it repeats.
    pub faults: usize,
    /// Forks that it repeats.
    pub forks: usize,
    /// Faults of the trace that it does not: a page, a task or a space too many.
    pub left_out: usize,
}

/// What is wrong with a trace.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TraceError {
    /// A line is not an event.
    #[error("line {line} is not an event of a trace: {text}")]
    NotAnEvent {
        /// The line, from 1 on.
        line: usize,
        /// The line itself.
        text: String,
    },
    /// Nothing to repeat.
    #[error("there is no page fault in the trace")]
    NoFault,
}

/// One line of a trace.
struct Event<'a> {
    task: u64,
    space: u64,
    fault: u64,
    kind: &'a str,
    words: BTreeMap<&'a str, &'a str>,
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace().peekable();
        number(words.next()?)?;
        words.next()?.strip_prefix("cpu")?;
        let mut named = |name| {
            if *words.peek()? != name {
                return None;
            }
            words.next();
            number(words.next()?)
        };
        let task = named("task")?;
        let (space, fault) = (named("space").unwrap_or(0), named("fault").unwrap_or(0));
        Some(Self {
            task,
            space,
            fault,
            kind: words.next()?,
            words: words.filter_map(|word| word.split_once('=')).collect(),
        })
    }

    fn word(&self, name: &str) -> Option<u64> {
        self.words.get(name).and_then(|word| number(word))
    }
}

/// What the rest of the trace says of a fault.
#[derive(Clone, Copy)]
struct Fate {
    backing: Backing,
    /// Why it was refused, as [`FaultError::reason`](faultline_mm::FaultError::reason) numbers it.
    refused: Option<u64>,
}

#[derive(Default)]
struct Builder {
    /// By space id: the process of the script.
    spaces: BTreeMap<u64, usize>,
    /// By task and process: the thread.
    threads: BTreeMap<(u64, usize), usize>,
    processes: Vec<Process>,
    /// The rights of the pages that each process has.
    mapped: Vec<BTreeMap<usize, Protection>>,
    /// By page address: the page of the window.
    pages: BTreeMap<u64, usize>,
    turn: u64,
    faults: usize,
    forks: usize,
    left_out: usize,
}

impl Builder {
    /// A group of steps that is done in its turn; the last may still be under way when the next turn begins.
    fn push(&mut self, process: usize, thread: usize, mut steps: Vec<Step>) {
        let last = steps.pop();
        let thread = &mut self.processes[process].threads[thread].steps;
        thread.push(Step::Await { turn: self.turn });
        thread.append(&mut steps);
        thread.push(Step::Advance);
        thread.extend(last);
        self.turn += 1;
    }

    fn add_process(&mut self) -> usize {
        self.processes.push(Process {
            threads: vec![Thread::default()],
        });
        self.mapped.push(BTreeMap::new());
        self.processes.len() - 1
    }

    /// The process of a space; a new one is forked from that of `parent`, or begins empty.
    fn process(&mut self, space: u64, parent: Option<u64>) -> Option<usize> {
        if let Some(&process) = self.spaces.get(&space) {
            return Some(process);
        }
        if self.spaces.len() == SPACES {
            return None;
        }
        let child = self.add_process();
        let from = parent.and_then(|parent| self.spaces.get(&parent).copied()).unwrap_or(0);
        self.push(from, 0, vec![Step::Fork { process: child }, Step::Yield]);
        self.forks += usize::from(from != 0);
        if from == 0 {
            self.processes[child].threads[0].steps.push(Step::Exec);
        } else {
            self.mapped[child] = self.mapped[from].clone();
        }
        self.spaces.insert(space, child);
        Some(child)
    }

    fn thread(&mut self, task: u64, process: usize) -> Option<usize> {
        if let Some(&thread) = self.threads.get(&(task, process)) {
            return Some(thread);
        }
        let used = self.threads.len();
        let first = !self.threads.keys().any(|&(_, other)| other == process);
        if used == THREADS {
            return None;
        }
        let thread = if first {
            0
        } else {
            let threads = &mut self.processes[process].threads;
            threads.push(Thread::default());
            let thread = threads.len() - 1;
            self.push(process, 0, vec![Step::Start { thread }, Step::Yield]);
            thread
        };
        self.threads.insert((task, process), thread);
        Some(thread)
    }

    fn page(&mut self, address: u64) -> Option<usize> {
        let next = self.pages.len();
        let page = *self.pages.entry(address & !0xfff).or_insert(next);
        (page < WINDOW_PAGES).then_some(page)
    }

    /// Repeats a fault; `None` if the model does not reach it.
    fn fault(&mut self, event: &Event<'_>, parent: Option<u64>, fate: Fate) -> Option<()> {
        let page = self.page(event.word("addr")?)?;
        let process = self.process(event.space, parent)?;
        let thread = self.thread(event.task, process)?;
        let (touch, needed) = match event.word("access")? & 3 {
            0 => (Step::Read { page }, Protection::READ),
            1 => (Step::Write { page }, Protection::READ_WRITE),
            _ => (Step::Execute { page }, Protection::READ_EXECUTE),
        };
        let count = 1;
        let mut steps = Vec::new();
        let rights = self.mapped[process].get(&page).copied();
        match (fate.refused, rights) {
            (Some(4), _) => {
                let protection = Protection::empty();
                if rights.is_none() {
                    steps.push(Step::Map {
                        page,
                        count,
                        protection,
                        backing: fate.backing,
                    });
                } else {
                    steps.push(Step::Protect {
                        page,
                        count,
                        protection,
                    });
                }
                self.mapped[process].insert(page, protection);
            }
            (Some(_), _) => {
                if rights.is_some() {
                    steps.push(Step::Unmap { page, count });
                    self.mapped[process].remove(&page);
                }
            }
            (None, None) => {
                let protection = Protection::READ_WRITE | needed;
                steps.push(Step::Map {
                    page,
                    count,
                    protection,
                    backing: fate.backing,
                });
                self.mapped[process].insert(page, protection);
            }
            (None, Some(rights)) if !rights.contains(needed) => {
                let protection = rights | Protection::READ_WRITE | needed;
                steps.push(Step::Protect {
                    page,
                    count,
                    protection,
                });
                self.mapped[process].insert(page, protection);
            }
            (None, Some(_)) => {}
        }
        steps.push(touch);
        self.push(process, thread, steps);
        Some(())
    }
}

/// Makes a script from the text form of a trace. Its decisions are kept in this far: the order in which faults begin,
/// their pages (renumbered), kinds of access and backings, refusals, the tree of forks, and which thread faults.
///
/// # Errors
/// [`TraceError`] names the line that is no event; a trace without a fault is refused, too.
pub fn read_trace(text: &str) -> Result<Replay, TraceError> {
    let mut events = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        events.push(Event::parse(line).ok_or_else(|| TraceError::NotAnEvent {
            line: index + 1,
            text: line.trim().to_owned(),
        })?);
    }
    let mut fates: BTreeMap<u64, Fate> = BTreeMap::new();
    for event in events.iter().filter(|event| event.fault != 0) {
        let fate = fates.entry(event.fault).or_insert(Fate {
            backing: Backing::Anonymous,
            refused: None,
        });
        match event.kind {
            "fault.serve" => match event.words.get("class") {
                Some(&"file") => fate.backing = Backing::File,
                Some(&"shared") => fate.backing = Backing::Shared,
                _ => {}
            },
            "fault.denied" => fate.refused = event.word("reason"),
            _ => {}
        }
    }
    let mut builder = Builder::default();
    builder.add_process();
    let (mut processes, mut parents, mut latest) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for event in &events {
        match event.kind {
            "task.start" => {
                if let (Some(process), Some(parent)) = (event.word("process"), event.word("parent")) {
                    processes.insert(event.task, process);
                    parents.insert(process, parent);
                }
            }
            "fault.trap" => {
                let process = processes.get(&event.task).copied();
                let parent = process
                    .and_then(|process| parents.get(&process))
                    .and_then(|parent| latest.get(parent).copied());
                let Some(&fate) = fates.get(&event.fault) else { continue };
                let repeated = builder.faults < FAULTS && builder.fault(event, parent, fate).is_some();
                if let Some(process) = process {
                    latest.insert(process, event.space);
                }
                builder.faults += usize::from(repeated);
                builder.left_out += usize::from(!repeated);
            }
            _ => {}
        }
    }
    if builder.faults == 0 {
        return Err(TraceError::NoFault);
    }
    let frames = 512 + 24 * builder.processes.len() + builder.faults + builder.pages.len();
    Ok(Replay {
        faults: builder.faults,
        forks: builder.forks,
        left_out: builder.left_out,
        script: Script {
            settings: Settings {
                frames: frames.min(16_384) as u32,
                slots: 64,
                ..Settings::default()
            },
            schedule: Schedule::default(),
            processes: builder.processes,
        },
    })
}
