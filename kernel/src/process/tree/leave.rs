//! The end of a process whose threads are gone, piece by piece.
//!
//! First everything that descends from a root is killed; then each child gets another parent, or none, and the signal that
//! it asked for; then the groups that this has orphaned, and in which somebody is stopped, are told to hang up and go on.
//! Only then has the process ended, and its parent is told. Its last thread does this, and others run in between: nothing
//! of it needs memory, and however many children, groups and members a program has made, no piece is long.

use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use super::place::{Line, stage};
use super::{PIECE, Pid, ROOTS_ENDED, TREE, Tree};
use crate::process::jobs::{self, State};
use crate::process::{ChildChange, ExitStatus, Process};
use crate::signal::{Signal, SignalInfo, raise};

/// Does a piece of what a process leaves to be done whose threads are gone; says whether more is left.
pub fn leave(process: &Arc<Process>, status: ExitStatus) -> bool {
    begin(process);
    for _ in 0..PIECE {
        if !(kill_descendant(process) || give_away_child(process) || hang_up_member(process)) {
            end(process, status);
            return false;
        }
    }
    true
}

fn begin(process: &Arc<Process>) {
    let tree = TREE.lock();
    let place = &process.place;
    if place.stage.get() == stage::LIVING {
        place.stage.set(stage::LEAVING);
        tree.unstop(process, State::Running);
        process.job.set(State::Running);
        let orphaned = tree.review_anchor(process);
        tree.queue_hangup(process, orphaned);
    }
}

/// Kills the next process that descends from this root, if it is one; says whether there was one.
fn kill_descendant(process: &Process) -> bool {
    if process.root != process.pid {
        return false;
    }
    let next = {
        let tree = TREE.lock();
        let next = tree.numbers.process_above(process.place.killed.get()).cloned();
        process
            .place
            .killed
            .set(next.as_ref().map_or(super::END, |next| next.pid));
        next
    };
    if let Some(other) = &next
        && other.root == process.pid
        && other.pid != process.pid
    {
        other.begin_exit(ExitStatus::Killed(Signal::SIGKILL));
    }
    next.is_some()
}

/// Gives the first child to whoever adopts it; says whether there was one.
fn give_away_child(process: &Arc<Process>) -> bool {
    let mut tree = TREE.lock();
    let pid = process.place.first(Line::Children);
    let Some(child) = tree.process(pid).cloned() else {
        return false;
    };
    let adopter = tree.adopter_of(process.pid);
    tree.unlink_child(pid);
    let has_ended = child.place.is_ended();
    let adopter = tree.process(adopter).cloned();
    match &adopter {
        Some(adopter) => {
            tree.make_usual(&child);
            tree.link_child(adopter.pid, pid);
        }
        // Nobody waits for it: it vanishes when it ends, as with Linux's first process as its parent.
        None if has_ended => tree.reap(pid),
        None => {}
    }
    let orphaned = tree.review_anchor(&child);
    tree.queue_hangup(process, orphaned);
    drop(tree);
    if has_ended {
        if let (Some(adopter), Some(status)) = (&adopter, ExitStatus::unpack(child.place.status.get())) {
            tell(&child, status, adopter);
        }
    } else if let Some(signal) = Signal::new(child.parent_death_signal.load(Ordering::Relaxed)) {
        raise::to_process(&child, SignalInfo::sent_by(process.pid, signal));
    }
    true
}

impl Tree {
    /// A group has lost its last anchor by the end of `process`: if somebody in it is stopped, it will be told.
    fn queue_hangup(&self, process: &Process, orphaned: Option<Pid>) {
        let Some((group, head)) = orphaned.and_then(|group| Some((group, self.group_head(group)?))) else {
            return;
        };
        let state = &head.place.group;
        if state.stopped.get() > 0 && state.hangs_up.replace(1) == 0 {
            state.next_to_hang_up.set(process.place.to_hang_up.replace(group));
            process.place.told.set(0);
            process.place.told_joined.set(0);
        }
    }
}

/// Tells the next member of the groups that hang up; says whether there was one, or another group.
fn hang_up_member(process: &Process) -> bool {
    let place = &process.place;
    let member = {
        let mut tree = TREE.lock();
        let group = place.to_hang_up.get();
        let Some(head) = tree.group_head(group).cloned() else {
            return false;
        };
        let member = tree.next_member(group, &place.told, &place.told_joined);
        if member.is_none() {
            let state = &head.place.group;
            place.to_hang_up.set(state.next_to_hang_up.replace(0));
            state.hangs_up.set(0);
            if head.place.first(Line::Members) == 0 {
                tree.forget_group(group);
            }
        }
        member
    };
    if let Some(member) = member.filter(|member| member.place.stage.get() == stage::LIVING) {
        log::debug!(
            "process {}: its end leaves group {} orphaned",
            process.pid,
            member.group()
        );
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            raise::to_process(&member, SignalInfo::kernel(signal));
        }
    }
    true
}

/// The process has ended: its parent is told, or nobody.
fn end(process: &Arc<Process>, status: ExitStatus) {
    let mut tree = TREE.lock();
    let (pid, is_root) = (process.pid, process.root == process.pid);
    let place = &process.place;
    let parent = tree.process(place.parent.get()).cloned();
    place.status.set(status.pack());
    place.stage.set(stage::ENDED);
    if let Some(parent) = &parent {
        tree.end_child(&parent.place, process);
    }
    let vanishes = !is_root && parent.as_ref().is_none_or(|parent| parent.ignores_children());
    if vanishes {
        tree.reap(pid);
    }
    drop(tree);
    if is_root {
        ROOTS_ENDED.fetch_add(1, Ordering::Release);
    }
    process.changes.wake_all();
    if let Some(parent) = parent {
        tell(process, status, &parent);
        if vanishes {
            parent.waits_for_any.wake_all();
        }
    }
}

/// Tells a parent that a child has ended.
fn tell(child: &Process, status: ExitStatus, parent: &Process) {
    let number = child.exit_signal.load(Ordering::Relaxed);
    if let Some(signal) = Signal::new(number) {
        raise::to_process(parent, jobs::child_signal(signal, child, ChildChange::Ended(status)));
    }
    if number == Signal::SIGCHLD.number() {
        parent.waits_for_any.wake_one();
    } else {
        parent.waits_for_any.wake_all();
    }
    parent.waits_for_some.wake_all();
}
