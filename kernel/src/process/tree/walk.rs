//! Walks over processes that go on without the lock of the tree between one and the next.
//!
//! A process that joins the group while a walk is under way is visited too: what a member that was not visited yet makes
//! does not escape. Nothing is allocated.

use faultline_fallible::Arc;

use super::{Pid, TREE};
use crate::process::Process;

/// A walk over processes; those that have ended and wait to be reaped are among them.
#[derive(Debug)]
pub struct Walk {
    over: Over,
    last: Pid,
    joined: u64,
}

#[derive(Clone, Copy, Debug)]
enum Over {
    All,
    Group(Pid),
}

impl Walk {
    /// A walk over all processes, in the order of their numbers.
    #[must_use]
    pub const fn all() -> Self {
        Self::above(0)
    }

    /// A walk over the processes with numbers above `last`, in the order of their numbers.
    #[must_use]
    pub const fn above(last: Pid) -> Self {
        Self {
            over: Over::All,
            last,
            joined: 0,
        }
    }

    /// A walk over the members of a group, in the order in which they joined.
    #[must_use]
    pub const fn group(group: Pid) -> Self {
        Self {
            over: Over::Group(group),
            last: 0,
            joined: 0,
        }
    }
}

impl Iterator for Walk {
    type Item = Arc<Process>;

    fn next(&mut self) -> Option<Arc<Process>> {
        let tree = TREE.lock();
        let next = match self.over {
            Over::All => tree.numbers.process_above(self.last),
            Over::Group(group) => tree.member_after(group, self.last, self.joined),
        }?;
        self.last = next.pid;
        self.joined = next.place.joined.get();
        Some(next.clone())
    }
}

/// Calls `act` for every process that has not ended, in the order of their numbers. Nothing is allocated, and no lock is
/// held meanwhile.
pub fn for_each_living(mut act: impl FnMut(&Arc<Process>)) {
    for process in Walk::all() {
        if !process.place.is_ended() {
            act(&process);
        }
    }
}
