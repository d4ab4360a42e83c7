//! The place of a process in the tree: what its record has for the tree's links.
//!
//! Every word of it is guarded by the lock of the tree. The words are atomic only because the record is shared; loads and
//! stores are plain. A link is the number of a process in the tree, 0 for none: what is linked is in the tree, so nothing
//! is counted, and nothing is dropped, when links change.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::process::Pid;

/// A word that the lock of the tree guards.
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU32);

impl Word {
    pub(super) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    pub(super) fn set(&self, value: u32) {
        self.0.store(value, Relaxed);
    }

    pub(super) fn replace(&self, value: u32) -> u32 {
        let before = self.get();
        self.set(value);
        before
    }

    pub(super) fn add(&self, more: u32) {
        self.set(self.get() + more);
    }

    pub(super) fn subtract(&self, less: u32) -> u32 {
        let left = self.get() - less;
        self.set(left);
        left
    }
}

/// A word of 64 bits that the lock of the tree guards.
#[derive(Debug, Default)]
pub(super) struct Stamp(AtomicU64);

impl Stamp {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// The lines that a process stands in, and those that it heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The children of a process, in the order of their birth.
    Children,
    /// Those of them that stopped or continued, which no wait has said.
    Changed,
    /// The members of a group, in the order in which they joined; headed by the process that made it.
    Members,
}

/// How a process stands in a line.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) before: Word,
    pub(super) after: Word,
}

/// Both ends of a line.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) first: Word,
    pub(super) last: Word,
}

/// How a process stands in a heap of ended children; see [`heap`](super::heap).
#[derive(Debug, Default)]
pub(super) struct HeapLink {
    /// The first of those below it.
    pub(super) below: Word,
    /// The next one below the same.
    pub(super) after: Word,
    /// The one before it below the same, or the one that it is below.
    pub(super) before: Word,
}

/// What a process is, from its birth to its end.
///
/// ```text
///  LIVING ── the last thread is gone ──► LEAVING ── no child and no group is left to look after ──► ENDED ── reaped
/// ```
pub(super) mod stage {
    /// It has threads, or will have.
    pub(crate) const LIVING: u32 = 0;
    /// Its threads are gone; its children are given to others, piece by piece.
    pub(crate) const LEAVING: u32 = 1;
    /// It waits to be reaped.
    pub(crate) const ENDED: u32 = 2;
}

/// The group that a process made.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Members that have not ended and whose parent, in another group of the same session, could continue the group. An
    /// orphaned group has none.
    pub(super) anchors: Word,
    /// Members that are stopped.
    pub(super) stopped: Word,
    /// The session that it is in.
    pub(super) session: Word,
    /// The next group that waits to be hung up by the same process.
    pub(super) next_to_hang_up: Word,
    /// Whether it waits to be.
    pub(super) hangs_up: Word,
    /// How many `SIGKILL`s are on their way to all members.
    pub(super) kills: Word,
}

/// The place of a process in the tree.
#[derive(Debug, Default)]
pub struct Place {
    pub(super) parent: Word,
    pub(super) stage: Word,
    /// [`ExitStatus::pack`](crate::process::ExitStatus) once it has ended.
    pub(super) status: Word,
    /// Orders children.
    pub(super) born: Stamp,
    /// Orders the members of a group.
    pub(super) joined: Stamp,
    lines: [Ends; 3],
    links: [Link; 3],
    /// Children of each [kind](super::children::Kind).
    pub(super) children: [Word; 2],
    /// The root of the heap of ended children of each kind.
    pub(super) ended: [Word; 2],
    pub(super) heap: HeapLink,
    /// Whether it stands in its parent's line of changed children.
    pub(super) is_changed: Word,
    /// Whether it counts as an anchor of its group.
    pub(super) is_anchor: Word,
    /// Whether it adopts the orphans among its descendants.
    pub(super) adopts: Word,
    pub(super) group: Group,
    /// The first group that it has to hang up before it has ended.
    pub(super) to_hang_up: Word,
    /// How far it is with that: the member that was told last, and when it joined.
    pub(super) told: Word,
    pub(super) told_joined: Stamp,
    /// For the end of a root: the number of the descendant that was killed last.
    pub(super) killed: Word,
    /// How many `SIGKILL`s are on their way to all that descends from it.
    pub(super) kills: Word,
}

impl Place {
    pub(super) fn ends(&self, line: Line) -> &Ends {
        &self.lines[line as usize]
    }

    pub(super) fn link(&self, line: Line) -> &Link {
        &self.links[line as usize]
    }

    pub(super) fn is_ended(&self) -> bool {
        self.stage.get() == stage::ENDED
    }

    /// The first of a line that it heads; 0 for nobody.
    pub(super) fn first(&self, line: Line) -> Pid {
        self.ends(line).first.get()
    }
}
