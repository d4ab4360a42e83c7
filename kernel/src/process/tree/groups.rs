//! Process groups and sessions.
//!
//! A group is a line of its members in the order in which they joined, headed by the process that made it and whose number
//! it has; that process's record stays with the number until the last member was reaped or has left. Two counts belong to
//! the group: its *anchors*, members whose parent could continue the group, and its stopped members. So it is known at
//! once whether a group is orphaned, and whether its orphaning has to be told.

use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use super::place::{Line, Stamp, Word, stage};
use super::{Pid, TREE, Tree};
use crate::process::Process;
use crate::process::jobs::State;
use crate::signal::Signal;

/// Why a process can't enter a group or make a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// The process is neither the caller nor a child of it.
    NotOwn,
    /// It is a child that has executed a program.
    Executed,
    /// It leads a session, is in another session than the caller, or there is no such group in the session.
    Forbidden,
}

impl Tree {
    /// The record of the process that made a group; `None` if nobody is in one of that number.
    pub(super) fn group_head(&self, group: Pid) -> Option<&Arc<Process>> {
        self.numbers.get(group)?.leader.as_ref()
    }

    /// Puts a process into a group: one that has members, or its own. Its session is set.
    pub(super) fn enter_group(&mut self, process: &Arc<Process>, group: Pid) {
        if self.group_head(group).is_none() {
            let session = process.session();
            process.place.group.session.set(session);
            self.numbers.change(group, |entry| entry.leader = Some(process.clone()));
            self.numbers.change(session, |entry| entry.groups += 1);
        }
        process.place.joined.set(self.next_stamp());
        process.group.store(group, Ordering::Relaxed);
        if let Some(head) = self.group_head(group) {
            self.line_up(Line::Members, &head.place, process.pid);
            if process.job.is_stopped() {
                head.place.group.stopped.add(1);
            }
        }
        self.review_anchor(process);
    }

    /// Takes a process out of its group; the group goes with its last member.
    pub(super) fn leave_group(&mut self, process: &Process) {
        let group = process.group();
        self.set_anchor(process, false);
        let Some(head) = self.group_head(group) else { return };
        self.step_out(Line::Members, &head.place, process.pid);
        if process.job.is_stopped() {
            head.place.group.stopped.subtract(1);
        }
        if head.place.first(Line::Members) == 0 && head.place.group.hangs_up.get() == 0 {
            self.forget_group(group);
        }
    }

    /// A group has no members any more.
    pub(super) fn forget_group(&mut self, group: Pid) {
        let Some(head) = self.group_head(group).cloned() else {
            return;
        };
        self.numbers.change(group, |entry| entry.leader = None);
        self.numbers
            .change(head.place.group.session.get(), |entry| entry.groups -= 1);
    }

    /// Whether a process is an anchor of its group, as it is now.
    fn anchors(&self, process: &Process) -> bool {
        let parent = self.process(process.place.parent.get());
        process.place.stage.get() == stage::LIVING
            && parent.is_some_and(|parent| parent.group() != process.group() && parent.session() == process.session())
    }

    /// Counts a process among the anchors of its group, or no longer, as it is now. Returns the group if it has lost its
    /// last anchor.
    pub(super) fn review_anchor(&self, process: &Process) -> Option<Pid> {
        self.set_anchor(process, self.anchors(process))
    }

    fn set_anchor(&self, process: &Process, anchors: bool) -> Option<Pid> {
        let before = process.place.is_anchor.replace(u32::from(anchors)) != 0;
        let group = process.group();
        let count = &self.group_head(group)?.place.group.anchors;
        match (before, anchors) {
            (false, true) => count.add(1),
            (true, false) if count.subtract(1) == 0 => return Some(group),
            _ => {}
        }
        None
    }

    /// The group or the session of a process has changed, so its children may or may not be anchors.
    fn review_children(&self, process: &Process) {
        let mut child = process.place.first(Line::Children);
        while let Some(next) = self.process(child) {
            self.review_anchor(next);
            child = next.place.link(Line::Children).after.get();
        }
    }

    fn is_orphaned(&self, group: Pid) -> bool {
        self.group_head(group)
            .is_none_or(|head| head.place.group.anchors.get() == 0)
    }

    /// The member of a group that joined next after the one of that number and stamp. While that one is still there, this
    /// is a step.
    pub(super) fn member_after(&self, group: Pid, last: Pid, joined: u64) -> Option<&Arc<Process>> {
        let head = self.group_head(group)?;
        let still = self.process(last).filter(|last| {
            let place = &last.place;
            last.group() == group && place.joined.get() == joined
        });
        if let Some(last) = still {
            return self.process(last.place.link(Line::Members).after.get());
        }
        let mut member = self.process(head.place.first(Line::Members))?;
        while member.place.joined.get() <= joined {
            member = self.process(member.place.link(Line::Members).after.get())?;
        }
        Some(member)
    }

    /// As [`member_after`](Self::member_after), from what `told` remembers, which is brought up to date.
    pub(super) fn next_member(&self, group: Pid, told: &Word, joined: &Stamp) -> Option<Arc<Process>> {
        let next = self.member_after(group, told.get(), joined.get()).cloned();
        told.set(next.as_ref().map_or(0, |next| next.pid));
        joined.set(next.as_ref().map_or(0, |next| next.place.joined.get()));
        next
    }
}

/// Whether a session has a group of that number.
pub fn is_group_of(session: Pid, group: Pid) -> bool {
    let tree = TREE.lock();
    tree.group_head(group)
        .is_some_and(|head| head.place.group.session.get() == session)
}

/// Whether a process group is orphaned: nobody in it has a parent that is in another group of the same session, as a
/// shell with job control is, and could continue it.
pub fn is_orphaned(group: Pid) -> bool {
    TREE.lock().is_orphaned(group)
}

/// Puts the caller, or the child of that number, into a group, as `setpgid` does.
///
/// # Errors
/// See [`GroupError`].
pub fn join_group(caller: &Process, pid: Pid, group: Pid) -> Result<(), GroupError> {
    let mut tree = TREE.lock();
    let target = tree.process(pid).ok_or(GroupError::NotOwn)?.clone();
    let session = caller.session();
    if pid != caller.pid {
        if target.place.parent.get() != caller.pid {
            return Err(GroupError::NotOwn);
        }
        if target.session() != session {
            return Err(GroupError::Forbidden);
        }
        if target.has_executed.load(Ordering::Relaxed) {
            return Err(GroupError::Executed);
        }
    }
    let exists = tree
        .group_head(group)
        .is_some_and(|head| head.place.group.session.get() == session);
    if target.session() == pid || !(exists || group == pid && tree.group_head(group).is_none()) {
        return Err(GroupError::Forbidden);
    }
    if target.group() != group {
        tree.leave_group(&target);
        tree.enter_group(&target, group);
        tree.review_children(&target);
    }
    Ok(())
}

/// Makes a session, with a group, of which the process is the first.
///
/// # Errors
/// [`GroupError::Forbidden`] if there is a group with its number.
pub fn new_session(pid: Pid) -> Result<(), GroupError> {
    let mut tree = TREE.lock();
    let process = tree.process(pid).ok_or(GroupError::NotOwn)?.clone();
    if tree.group_head(pid).is_some() {
        return Err(GroupError::Forbidden);
    }
    tree.leave_group(&process);
    process.session.store(pid, Ordering::Relaxed);
    tree.enter_group(&process, pid);
    tree.review_children(&process);
    Ok(())
}

/// Marks a process as stopped by a signal; says whether it was not before. A signal of a terminal's stops nobody whom
/// nobody could continue.
pub fn stop_process(process: &Process, signal: Signal) -> bool {
    let tree = TREE.lock();
    let group = process.group();
    if process.place.stage.get() != stage::LIVING || process.ending().is_some() || process.job.is_stopped() {
        return false;
    }
    if signal != Signal::SIGSTOP && tree.is_orphaned(group) {
        return false;
    }
    process.job.set(State::Stopped {
        signal,
        reported: false,
    });
    if let Some(head) = tree.group_head(group) {
        head.place.group.stopped.add(1);
    }
    tree.mark_changed(process.pid);
    true
}

/// Marks a stopped process as one that goes on; says whether it was stopped.
pub fn continue_process(process: &Process) -> bool {
    let tree = TREE.lock();
    let was_stopped = tree.unstop(process, State::Continued);
    if was_stopped {
        tree.mark_changed(process.pid);
    }
    was_stopped
}

impl Tree {
    pub(super) fn unstop(&self, process: &Process, state: State) -> bool {
        let was_stopped = process.job.is_stopped();
        process.job.set(if was_stopped { state } else { process.job.state() });
        if was_stopped && let Some(head) = self.group_head(process.group()) {
            head.place.group.stopped.subtract(1);
        }
        was_stopped
    }
}
