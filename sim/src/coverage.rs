//! Which numbered transitions of the state diagrams were taken.
//!
//! The diagrams stand at the top of `mm::frame` (frames), `mm::entry` (leaves of page tables), `mm::fault::slot` (fault
//! slots) and `executor::task::state` (tasks). Frames and leaves are seen as their words change; slots and tasks by the
//! events that the crates trace.

use core::fmt;

use faultline_executor::{TaskEvent, TaskId};
use faultline_mm::{Entry, FrameState};
use faultline_trace::Kind;

use crate::machine::state_of;

/// A diagram: its name and how many transitions it has.
const DIAGRAMS: [(&str, u32); 4] = [("frame", 16), ("leaf", 6), ("slot", 6), ("task", 7)];
const FRAME: usize = 0;
const LEAF: usize = 1;
const SLOT: usize = 2;
const TASK: usize = 3;

/// The transitions taken, as one bit set for each diagram, and the classes of faults served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    taken: [u32; DIAGRAMS.len()],
    /// The task that each slot of the executor has, to see that a slot was used again.
    tasks: Vec<Option<TaskId>>,
    polling: Option<TaskId>,
    waiting: Vec<u64>,
}

impl Coverage {
    fn take(&mut self, diagram: usize, number: u32) {
        self.taken[diagram] |= 1 << number;
    }

    /// A frame's word has changed.
    pub(crate) fn frame(&mut self, old: u64, new: u64) {
        use FrameState::{Absent, Cached, Free, Mapped, PageTable, Pinned, Quarantined, Reserved, Zeroed};
        let number = match (state_of(old), state_of(new)) {
            (None | Some(Free), Some(Cached)) => 1,
            (Some(Cached | Zeroed), None | Some(Free)) => 2,
            (Some(Free | Cached | Zeroed), Some(Reserved)) => 3,
            (Some(Reserved), Some(Free | Cached)) => 4,
            (Some(Reserved), Some(Zeroed)) => 5,
            (None | Some(Reserved), Some(Mapped)) => 6,
            (Some(Mapped), Some(Mapped)) | (Some(Pinned), Some(Pinned)) => 7,
            (Some(Mapped), Some(Reserved)) => 8,
            (Some(Reserved), Some(PageTable)) => 9,
            (Some(PageTable), Some(PageTable)) => 10,
            (Some(PageTable), Some(Reserved)) => 11,
            (Some(Reserved), Some(Pinned)) => 12,
            (Some(Pinned), Some(Reserved)) => 13,
            (Some(Absent), Some(Pinned)) => 14,
            (Some(Reserved), Some(Quarantined)) => 15,
            (Some(Quarantined), Some(Cached | Zeroed)) => 16,
            _ => return,
        };
        self.take(FRAME, number);
    }

    /// An entry of a page table has changed.
    pub(crate) fn entry(&mut self, old: u64, new: u64) {
        let (old, new) = (Entry::from_bits(old), Entry::from_bits(new));
        let is_absent = |entry: Entry| entry.is_empty() || entry.named_slot().is_some();
        let number = if is_absent(old) && new.marker().is_some() {
            1
        } else if old.marker().is_some() && new.is_present() {
            2
        } else if old.marker().is_some() && is_absent(new) {
            3
        } else if old.is_present() && new.is_present() && old.has(Entry::BUSY) != new.has(Entry::BUSY) {
            4
        } else if new.is_empty() {
            5
        } else if old.is_present() && new.named_slot().is_some() {
            6
        } else {
            return;
        };
        self.take(LEAF, number);
    }

    /// An event of `mm`.
    pub(crate) fn event(&mut self, kind: Kind, fault: u64, queued: bool) {
        match kind {
            Kind::FaultQueue => {
                self.take(SLOT, 1);
                if queued {
                    self.take(SLOT, 2);
                }
            }
            Kind::FaultServe => {
                self.take(SLOT, 3);
                if let Some(index) = self.waiting.iter().position(|&waiting| waiting == fault) {
                    self.waiting.swap_remove(index);
                    self.take(SLOT, 5);
                }
            }
            Kind::MemoryWait | Kind::FaultWait => {
                self.take(SLOT, 4);
                self.waiting.push(fault);
            }
            Kind::FaultWake | Kind::FaultCancel => self.take(SLOT, 6),
            _ => {}
        }
    }

    /// An event of the executor.
    pub(crate) fn task(&mut self, event: TaskEvent) {
        match event {
            TaskEvent::Spawned { task, .. } => {
                self.take(TASK, 1);
                let index = task.index() as usize;
                if self.tasks.len() <= index {
                    self.tasks.resize(index + 1, None);
                }
                if self.tasks[index].replace(task).is_some() {
                    self.take(TASK, 7);
                }
            }
            TaskEvent::Woken { task } => self.take(TASK, if self.polling == Some(task) { 3 } else { 4 }),
            TaskEvent::Polled { task } => {
                self.take(TASK, 2);
                // The poll before returned, and its task did not end.
                if self.polling.is_some() {
                    self.take(TASK, 5);
                }
                self.polling = Some(task);
            }
            TaskEvent::Finished { .. } | TaskEvent::Cancelled { .. } => {
                self.take(TASK, 6);
                self.polling = None;
            }
        }
    }

    /// Adds what another world has covered.
    pub fn merge(&mut self, other: &Self) {
        for (taken, other) in self.taken.iter_mut().zip(other.taken) {
            *taken |= other;
        }
    }

    /// The transitions that were never taken, such as `frame 13`.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for ((name, count), taken) in DIAGRAMS.iter().zip(self.taken) {
            missing.extend(
                (1..=*count)
                    .filter(|number| taken & 1 << number == 0)
                    .map(|number| format!("{name} {number}")),
            );
        }
        missing
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((name, count), taken)) in DIAGRAMS.iter().zip(self.taken).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {} of {count}", taken.count_ones())?;
        }
        Ok(())
    }
}
