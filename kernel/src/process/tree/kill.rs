//! `SIGKILL` on its way to many.
//!
//! Whoever kills a group, or everything, goes from one process to the next and lets others run in between. Those that it
//! has not reached could make new processes faster than it goes on, and it would never come to its end. So while a
//! [`Kill`] lasts nothing is born where it has still to go: a fork there is told to try again, and the signal comes first.

use faultline_fallible::Arc;

use super::place::Word;
use super::{Pid, TREE, Tree};
use crate::process::Process;

/// Whom a `SIGKILL` is to reach.
#[derive(Clone, Copy)]
enum Reach {
    /// The members of the group that the process made.
    Group,
    /// What descends from the root.
    Descendants,
}

/// A `SIGKILL` is on its way until this is dropped.
#[must_use = "nothing is born only as long as it lasts"]
pub struct Kill {
    process: Arc<Process>,
    reach: Reach,
}

impl Kill {
    /// To the members of a group; `None` if there is no such group.
    pub fn of_group(group: Pid) -> Option<Self> {
        let tree = TREE.lock();
        let process = tree.group_head(group)?.clone();
        drop(tree);
        Some(Self::begin(process, Reach::Group))
    }

    /// To everything that descends from a root; `None` if that has ended.
    pub fn of_descendants(root: Pid) -> Option<Self> {
        let tree = TREE.lock();
        let process = tree.process(root)?.clone();
        drop(tree);
        Some(Self::begin(process, Reach::Descendants))
    }

    fn begin(process: Arc<Process>, reach: Reach) -> Self {
        let kill = Self { process, reach };
        let _tree = TREE.lock();
        kill.count().add(1);
        kill
    }

    fn count(&self) -> &Word {
        match self.reach {
            Reach::Group => &self.process.place.group.kills,
            Reach::Descendants => &self.process.place.kills,
        }
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        let _tree = TREE.lock();
        self.count().subtract(1);
    }
}

impl Tree {
    /// Whether a `SIGKILL` is on its way to where a new process would be. What the root itself makes, no signal to all
    /// reaches.
    pub(super) fn is_killed_at_birth(&self, process: &Process, parent: Option<Pid>) -> bool {
        let group = self.group_head(process.group());
        let root = self.process(process.root).filter(|root| parent != Some(root.pid));
        group.is_some_and(|head| head.place.group.kills.get() != 0)
            || root.is_some_and(|root| root.place.kills.get() != 0)
    }
}
