//! Parents and children: births, waits, adoption.

use core::sync::atomic::{AtomicUsize, Ordering};
use faultline_fallible::Arc;

use super::place::{Line, Place, stage};
use super::{COUNT, Pid, TREE, Tree};
use crate::process::{ChildChange, ExitStatus, Process};
use crate::signal::Signal;

/// How many processes adopt orphans.
static ADOPTERS: AtomicUsize = AtomicUsize::new(0);

/// Which children a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any child.
    Any,
    /// This child.
    Child(Pid),
    /// Any child in this process group.
    Group(Pid),
}

/// What a wait wants to know of the children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Which children.
    pub wanted: Wanted,
    /// Children whose end raises `SIGCHLD`, which most do.
    pub usual: bool,
    /// Other children: clones.
    pub clones: bool,
    /// Those that have ended.
    pub ended: bool,
    /// Those that are stopped.
    pub stopped: bool,
    /// Those that go on.
    pub continued: bool,
    /// What is found can be found again.
    pub keep: bool,
}

impl Interest {
    /// Whether it is enough to wake one of those that wait so when a usual child has ended.
    #[must_use]
    pub fn takes_any(&self) -> bool {
        self.wanted == Wanted::Any && self.usual && self.ended && !(self.stopped || self.continued || self.keep)
    }

    fn is_in(&self, kind: Kind) -> bool {
        match kind {
            Kind::Usual => self.usual,
            Kind::Clone => self.clones,
        }
    }
}

/// What a look at the children found.
pub enum Found {
    /// There is no such child.
    Nothing,
    /// There is, and nothing that is wanted became of it.
    Unchanged,
    /// This became of it.
    Changed(Arc<Process>, ChildChange),
}

/// Why there can be no new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BirthError {
    /// The program that it would descend from has ended.
    RootEnded,
    /// A `SIGKILL` is on its way to where it would be.
    Killed,
}

/// The kinds of children that waits tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its end raises `SIGCHLD`.
    Usual,
    /// It raises another signal, or none.
    Clone,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Usual, Self::Clone];

    pub(super) fn of(process: &Process) -> Self {
        if process.exit_signal.load(Ordering::Relaxed) == Signal::SIGCHLD.number() {
            Self::Usual
        } else {
            Self::Clone
        }
    }
}

impl Tree {
    /// The process that gets the orphans of `pid`; 0 for nobody.
    pub(super) fn adopter_of(&self, pid: Pid) -> Pid {
        if ADOPTERS.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut ancestor = self.place(pid).parent.get();
        while ancestor != 0 {
            let place = self.place(ancestor);
            if place.adopts.get() != 0 && place.stage.get() == stage::LIVING {
                break;
            }
            ancestor = place.parent.get();
        }
        ancestor
    }

    /// Makes `pid` a child of `parent`, which is in the tree.
    pub(super) fn link_child(&self, parent: Pid, pid: Pid) {
        let Some(process) = self.process(pid) else { return };
        let (head, kind) = (self.place(parent), Kind::of(process));
        process.place.parent.set(parent);
        head.children[kind as usize].add(1);
        self.line_up(Line::Children, head, pid);
        if process.place.is_ended() {
            self.push_ended(&head.ended[kind as usize], pid);
        }
    }

    /// A child has ended, of which nothing else matters any more.
    pub(super) fn end_child(&self, parent: &Place, child: &Process) {
        self.unmark_changed(parent, child.pid);
        self.push_ended(&parent.ended[Kind::of(child) as usize], child.pid);
    }

    /// Takes `pid` from its parent, if it has one.
    pub(super) fn unlink_child(&self, pid: Pid) {
        let Some(process) = self.process(pid) else { return };
        let (place, kind) = (&process.place, Kind::of(process));
        let parent = place.parent.replace(0);
        if parent == 0 {
            return;
        }
        let head = self.place(parent);
        head.children[kind as usize].subtract(1);
        self.step_out(Line::Children, head, pid);
        self.unmark_changed(head, pid);
        if place.is_ended() {
            self.remove_ended(&head.ended[kind as usize], pid);
        }
    }

    /// A child has stopped or continued, and its parent is to learn of it.
    pub(super) fn mark_changed(&self, pid: Pid) {
        let place = self.place(pid);
        let parent = place.parent.get();
        if parent != 0 && place.is_changed.replace(1) == 0 {
            self.line_up(Line::Changed, self.place(parent), pid);
        }
    }

    fn unmark_changed(&self, parent: &Place, pid: Pid) {
        if self.place(pid).is_changed.replace(0) != 0 {
            self.step_out(Line::Changed, parent, pid);
        }
    }

    /// Takes a process out of the tree.
    pub(super) fn reap(&mut self, pid: Pid) {
        let Some(process) = self.process(pid).cloned() else {
            return;
        };
        self.unlink_child(pid);
        self.leave_group(&process);
        if process.place.adopts.replace(0) != 0 {
            ADOPTERS.fetch_sub(1, Ordering::Relaxed);
        }
        self.numbers.change(pid, |entry| entry.process = None);
        COUNT.fetch_sub(1, Ordering::Release);
    }

    /// What became of a child that the interest is in.
    fn change_of(&self, child: &Process, interest: &Interest) -> Option<ChildChange> {
        if child.place.is_ended() {
            let status = ExitStatus::unpack(child.place.status.get())?;
            return interest.ended.then_some(ChildChange::Ended(status));
        }
        child.job.report(interest.stopped, interest.continued)
    }

    /// The oldest child of which something became that the interest is in, where every child is wanted.
    fn find_any(&self, parent: &Place, interest: &Interest) -> Pid {
        let mut found = 0;
        let mut consider = |pid: Pid| {
            if pid != 0 && (found == 0 || self.place(pid).born.get() < self.place(found).born.get()) {
                found = pid;
            }
        };
        for kind in Kind::ALL {
            if interest.ended && interest.is_in(kind) {
                consider(parent.ended[kind as usize].get());
            }
        }
        if interest.stopped || interest.continued {
            consider(self.find_in(Line::Changed, parent, interest, |_| true).0);
        }
        found
    }

    /// The first in a line of children that `matches` and of which something became, and whether there is one that
    /// matches at all.
    fn find_in(
        &self,
        line: Line,
        parent: &Place,
        interest: &Interest,
        matches: impl Fn(&Process) -> bool,
    ) -> (Pid, bool) {
        let (mut pid, mut any) = (parent.first(line), false);
        while let Some(child) = self.process(pid) {
            if interest.is_in(Kind::of(child)) && matches(child) {
                any = true;
                if self.change_of(child, interest).is_some() {
                    return (pid, true);
                }
            }
            pid = child.place.link(line).after.get();
        }
        (0, any)
    }
}

/// Adds a process, whose number is reserved, as a child of `parent`, or of whoever adopts the children of one that ends.
///
/// # Errors
/// [`BirthError`].
pub fn add_process(process: &Arc<Process>, parent: Option<Pid>) -> Result<(), BirthError> {
    let mut tree = TREE.lock();
    let is_root = process.root == process.pid;
    let root_lives = tree
        .process(process.root)
        .is_some_and(|root| root.place.stage.get() == stage::LIVING);
    if !is_root && !root_lives {
        return Err(BirthError::RootEnded);
    }
    if tree.is_killed_at_birth(process, parent) {
        return Err(BirthError::Killed);
    }
    tree.started.0 += 1;
    COUNT.fetch_add(1, Ordering::Release);
    tree.numbers
        .change(process.pid, |entry| entry.process = Some(process.clone()));
    process.place.born.set(tree.next_stamp());
    let parent = parent.filter(|&parent| tree.process(parent).is_some()).unwrap_or(0);
    let parent = match tree.process(parent) {
        Some(named) if named.place.stage.get() != stage::LIVING => tree.adopter_of(parent),
        _ => parent,
    };
    if parent != 0 {
        tree.link_child(parent, process.pid);
    }
    tree.enter_group(process, process.group());
    Ok(())
}

/// Takes a process out that never ran.
pub fn remove_unborn(pid: Pid) {
    TREE.lock().reap(pid);
}

/// The parent of a process, 1 for an orphan, 0 for a root.
pub fn parent_of(pid: Pid) -> Pid {
    let tree = TREE.lock();
    tree.process(pid).map_or(0, |process| match process.place.parent.get() {
        0 => Pid::from(process.root != pid),
        parent => parent,
    })
}

/// The parent of a process, if it has one.
pub fn parent_process(pid: Pid) -> Option<Arc<Process>> {
    let tree = TREE.lock();
    let parent = tree.process(pid)?.place.parent.get();
    tree.process(parent).cloned()
}

/// A process adopts the orphans among its descendants from now on, or does not.
pub fn adopt_orphans(process: &Process, adopts: bool) {
    let _tree = TREE.lock();
    let before = process.place.adopts.replace(u32::from(adopts)) != 0;
    match (before, adopts) {
        (false, true) => {
            ADOPTERS.fetch_add(1, Ordering::Relaxed);
        }
        (true, false) => {
            ADOPTERS.fetch_sub(1, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// Whether a process adopts the orphans among its descendants.
pub fn adopts_orphans(process: &Process) -> bool {
    process.place.adopts.get() != 0
}

/// A process is a usual child from now on, whose end raises `SIGCHLD`, as everything is that has executed a program.
pub fn become_usual(process: &Process) {
    let tree = TREE.lock();
    tree.make_usual(process);
}

impl Tree {
    pub(super) fn make_usual(&self, process: &Process) {
        let parent = process.place.parent.get();
        if Kind::of(process) == Kind::Clone && parent != 0 {
            let counts = &self.place(parent).children;
            counts[Kind::Clone as usize].subtract(1);
            counts[Kind::Usual as usize].add(1);
        }
        process.exit_signal.store(Signal::SIGCHLD.number(), Ordering::Relaxed);
    }
}

/// Looks for a child of `parent` of which something became that the interest is in; an ended one is taken out of the
/// tree, unless it is to be kept.
pub fn look_for_child(parent: &Process, interest: Interest) -> Found {
    let mut tree = TREE.lock();
    let place = &parent.place;
    let count = |kind: Kind| place.children[kind as usize].get();
    let (pid, any) = match interest.wanted {
        Wanted::Any => {
            let any = Kind::ALL
                .into_iter()
                .any(|kind| interest.is_in(kind) && count(kind) > 0);
            (tree.find_any(place, &interest), any)
        }
        Wanted::Child(pid) => {
            let child = tree.process(pid);
            let child = child.filter(|child| child.place.parent.get() == parent.pid && interest.is_in(Kind::of(child)));
            let changed = child.is_some_and(|child| tree.change_of(child, &interest).is_some());
            (if changed { pid } else { 0 }, child.is_some())
        }
        Wanted::Group(group) => tree.find_in(Line::Children, place, &interest, |child| child.group() == group),
    };
    let Some(child) = tree.process(pid).cloned() else {
        return if any { Found::Unchanged } else { Found::Nothing };
    };
    let Some(change) = tree.change_of(&child, &interest) else {
        return Found::Unchanged;
    };
    if interest.keep {
        return Found::Changed(child, change);
    }
    if let ChildChange::Ended(_) = change {
        parent.add_child(&child);
        let kind = Kind::of(&child);
        tree.reap(pid);
        let is_last = place.children[kind as usize].get() == 0;
        drop(tree);
        // Whoever else waits for it, or for its like, has nothing to wait for any more.
        child.changes.wake_all();
        parent.waits_for_some.wake_all();
        if is_last {
            parent.waits_for_any.wake_all();
        }
    } else {
        child.job.reported();
        tree.unmark_changed(place, pid);
    }
    Found::Changed(child, change)
}

/// Takes the zombie of a root out of the tree and says how it ended.
pub fn reap_root(pid: Pid) -> Option<ExitStatus> {
    let mut tree = TREE.lock();
    let place = &tree.process(pid)?.place;
    let status = if place.is_ended() {
        ExitStatus::unpack(place.status.get())?
    } else {
        return None;
    };
    tree.reap(pid);
    Some(status)
}
