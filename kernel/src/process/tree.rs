//! The tree of processes, and who has which number.
//!
//! One lock guards the parent and child links, the zombies and the numbers. It is held for short looks only, never
//! across an await, and is taken before any lock of a process or thread.
//!
//! A process is in the tree from its birth until it is *reaped*: by `wait4` of its parent, or at its end when the
//! parent does not care. When a process ends, its children become children of its root, the program that the kernel
//! started; when a root ends, everything that descends from it is killed, as the end of a Linux PID namespace does.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::{ChildChange, ExitStatus, Process, Thread, jobs};
use crate::signal::{Signal, SignalInfo, raise};

/// Number of a process: that of its first thread.
pub type Pid = u32;

/// Number of a thread.
pub type Tid = u32;

/// Most threads at a time; `clone` returns `EAGAIN` beyond.
pub const MAX_THREADS: usize = 4096;

struct Member {
    process: Arc<Process>,
    parent: Option<Pid>,
    children: Vec<Pid>,
    zombie: Option<ExitStatus>,
}

struct Tree {
    members: BTreeMap<Pid, Member>,
    threads: BTreeMap<Tid, Arc<Thread>>,
    last: u32,
    started: (u64, u64),
}

static TREE: Mutex<Tree> = Mutex::new(Tree {
    members: BTreeMap::new(),
    threads: BTreeMap::new(),
    last: 0,
    started: (0, 0),
});

/// How many programs that the kernel started have ended.
static ROOTS_ENDED: AtomicU64 = AtomicU64::new(0);

/// How many processes there are; read without the lock.
static COUNT: AtomicU64 = AtomicU64::new(0);

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

/// What a look at the children found.
pub enum Found {
    /// There is no such child.
    Nothing,
    /// There is, and nothing that is wanted became of it.
    Unchanged,
    /// This became of it.
    Changed(Arc<Process>, ChildChange),
}

/// A number that no process, thread or process group has.
pub fn new_number() -> u32 {
    let mut tree = TREE.lock();
    loop {
        tree.last = if tree.last >= 0x3f_ffff { 300 } else { tree.last + 1 };
        let number = tree.last;
        if !tree.members.contains_key(&number) && !tree.threads.contains_key(&number) {
            return number;
        }
    }
}

/// Whether another thread may be started by a process that may have `most`; the machine has one user.
pub fn has_room(most: u64) -> bool {
    let count = TREE.lock().threads.len();
    count < MAX_THREADS && (count as u64) < most
}

/// Adds a process.
pub fn add_process(process: &Arc<Process>, parent: Option<Pid>) {
    let mut tree = TREE.lock();
    tree.started.0 += 1;
    let member = Member {
        process: process.clone(),
        parent,
        children: Vec::new(),
        zombie: None,
    };
    tree.members.insert(process.pid, member);
    COUNT.fetch_add(1, Ordering::Release);
    if let Some(parent) = parent.and_then(|parent| tree.members.get_mut(&parent)) {
        parent.children.push(process.pid);
    }
}

/// Takes a process out that never ran.
pub fn remove_unborn(pid: Pid) {
    reap(&mut TREE.lock(), pid);
}

/// Adds a thread.
pub fn add_thread(thread: &Arc<Thread>) {
    let mut tree = TREE.lock();
    tree.started.1 += 1;
    tree.threads.insert(thread.tid(), thread.clone());
}

/// Gives the last thread of a process the number of the first.
pub fn make_first(thread: &Arc<Thread>) {
    let mut tree = TREE.lock();
    tree.threads.remove(&thread.tid());
    thread.become_first();
    tree.threads.insert(thread.tid(), thread.clone());
}

/// Takes a thread out.
pub fn remove_thread(tid: Tid) {
    TREE.lock().threads.remove(&tid);
}

/// The process of that number, zombies included.
pub fn find_process(pid: Pid) -> Option<Arc<Process>> {
    TREE.lock().members.get(&pid).map(|member| member.process.clone())
}

/// The thread of that number.
pub fn find_thread(tid: Tid) -> Option<Arc<Thread>> {
    TREE.lock().threads.get(&tid).cloned()
}

/// The parent of a process, 1 for an orphan, 0 for a root.
pub fn parent_of(pid: Pid) -> Pid {
    TREE.lock().members.get(&pid).map_or(0, |member| {
        member.parent.unwrap_or(Pid::from(member.process.root != pid))
    })
}

/// Whether `wanted` accepts a process that has not ended.
pub fn any_living(wanted: impl Fn(&Process) -> bool) -> bool {
    let tree = TREE.lock();
    tree.members
        .values()
        .any(|member| member.zombie.is_none() && wanted(&member.process))
}

/// Calls `act` for every process that has not ended, in the order of their numbers. Nothing is allocated, and no lock is
/// held meanwhile.
pub fn for_each_living(mut act: impl FnMut(&Arc<Process>)) {
    let mut last = 0;
    loop {
        let next = {
            let tree = TREE.lock();
            let mut above = tree.members.range((Bound::Excluded(last), Bound::Unbounded));
            above
                .find(|(_, member)| member.zombie.is_none())
                .map(|(_, member)| member.process.clone())
        };
        let Some(process) = next else { return };
        last = process.pid;
        act(&process);
    }
}

/// The parent of a process, if it has one.
pub fn parent_process(pid: Pid) -> Option<Arc<Process>> {
    let tree = TREE.lock();
    let parent = tree.members.get(&pid)?.parent?;
    tree.members.get(&parent).map(|member| member.process.clone())
}

/// Whether a process group is orphaned: nobody in it has a parent that is in another group of the same session, as a
/// shell with job control is, and could continue it.
pub fn is_orphaned(group: Pid) -> bool {
    let tree = TREE.lock();
    !tree.members.values().any(|member| {
        let parent = member.parent.and_then(|parent| tree.members.get(&parent));
        member.zombie.is_none()
            && member.process.group() == group
            && parent.is_some_and(|parent| {
                parent.zombie.is_none()
                    && parent.process.group() != group
                    && parent.process.session() == member.process.session()
            })
    })
}

/// How many processes there are, zombies included.
pub fn process_count() -> u64 {
    COUNT.load(Ordering::Acquire)
}

/// How many programs that the kernel started have ended.
pub fn roots_ended() -> u64 {
    ROOTS_ENDED.load(Ordering::Acquire)
}

/// Processes and threads started so far.
pub fn started() -> (u64, u64) {
    TREE.lock().started
}

/// Looks for a child of `parent` of which something became that the interest is in; an ended one is taken out of the
/// tree, unless it is to be kept.
pub fn look_for_child(parent: Pid, interest: Interest) -> Found {
    let mut tree = TREE.lock();
    let Some(member) = tree.members.get(&parent) else {
        return Found::Nothing;
    };
    let mut found = Found::Nothing;
    for pid in &member.children {
        let Some(child) = tree.members.get(pid) else { continue };
        let matches = match interest.wanted {
            Wanted::Any => true,
            Wanted::Child(wanted) => *pid == wanted,
            Wanted::Group(group) => child.process.group() == group,
        };
        let is_usual = child.process.exit_signal.load(Ordering::Relaxed) == Signal::SIGCHLD.number();
        if !matches || !(if is_usual { interest.usual } else { interest.clones }) {
            continue;
        }
        let change = match child.zombie {
            Some(status) if interest.ended => Some(ChildChange::Ended(status)),
            Some(_) => continue,
            None => child
                .process
                .job
                .report(interest.stopped, interest.continued, interest.keep),
        };
        if let Some(change) = change {
            found = Found::Changed(child.process.clone(), change);
            break;
        }
        found = Found::Unchanged;
    }
    if let (Found::Changed(child, ChildChange::Ended(_)), false) = (&found, interest.keep) {
        if let Some(member) = tree.members.get(&parent) {
            member.process.child_usage.add(&child.usage);
            member.process.child_usage.add(&child.child_usage);
        }
        reap(&mut tree, child.pid);
    }
    found
}

/// Records the end of a process whose threads are gone: its children are orphans, its parent is told.
pub fn end_process(process: &Arc<Process>, status: ExitStatus) {
    let mut tree = TREE.lock();
    let Some(member) = tree.members.get_mut(&process.pid) else {
        return;
    };
    member.zombie = Some(status);
    let parent = member.parent;
    let orphans = core::mem::take(&mut member.children);
    // Nobody waits for an orphan: it vanishes when it ends, as with Linux's first process as its parent.
    for &orphan in &orphans {
        if let Some(child) = tree.members.get_mut(&orphan) {
            child.parent = None;
            if child.zombie.is_some() {
                reap(&mut tree, orphan);
            }
        }
    }
    let teller = parent
        .and_then(|parent| tree.members.get(&parent))
        .map(|member| member.process.clone());
    let is_root = process.root == process.pid;
    if is_root {
        ROOTS_ENDED.fetch_add(1, Ordering::Release);
    }
    if !is_root && teller.as_ref().is_none_or(|parent| parent.ignores_children()) {
        reap(&mut tree, process.pid);
    }
    drop(tree);

    process.job.end();
    tell_orphans(process, &orphans);
    if is_root {
        for_each_living(|other| {
            if other.root == process.pid {
                other.begin_exit(ExitStatus::Killed(Signal::SIGKILL));
            }
        });
    } else if jobs::any_stopped() {
        release_orphaned_groups(process, teller.as_deref(), &orphans);
    }
    if let Some(parent) = teller {
        if let Some(signal) = Signal::new(process.exit_signal.load(Ordering::Relaxed)) {
            raise::to_process(&parent, jobs::child_signal(signal, process, ChildChange::Ended(status)));
        }
        parent.wake_threads();
    }
}

/// Sends the children of a process that has ended what they asked for.
fn tell_orphans(parent: &Process, orphans: &[Pid]) {
    for child in orphans.iter().filter_map(|&orphan| find_process(orphan)) {
        if let Some(signal) = Signal::new(child.parent_death_signal.load(Ordering::Relaxed)) {
            raise::to_process(&child, SignalInfo::sent_by(parent.pid, signal));
        }
    }
}

/// Looks after the process groups that the end of `process` may have orphaned: its own, which its parent could continue,
/// and those of its children, which it could.
fn release_orphaned_groups(process: &Process, parent: Option<&Process>, children: &[Pid]) {
    let session = process.session();
    if parent.is_some_and(|parent| parent.group() != process.group() && parent.session() == session) {
        jobs::release_orphaned_group(process, process.group());
    }
    for child in children.iter().filter_map(|&child| find_process(child)) {
        if child.group() != process.group() && child.session() == session {
            jobs::release_orphaned_group(process, child.group());
        }
    }
}

/// Wakes the threads of the parent: a child has ended, or runs another program.
pub fn wake_parent(pid: Pid) {
    let parent = {
        let tree = TREE.lock();
        let parent = tree.members.get(&pid).and_then(|member| member.parent);
        parent
            .and_then(|parent| tree.members.get(&parent))
            .map(|member| member.process.clone())
    };
    if let Some(parent) = parent {
        parent.wake_threads();
    }
}

/// Takes the zombie of a root out of the tree and says how it ended.
pub fn reap_root(pid: Pid) -> Option<ExitStatus> {
    let mut tree = TREE.lock();
    let status = tree.members.get(&pid)?.zombie?;
    reap(&mut tree, pid);
    Some(status)
}

fn reap(tree: &mut Tree, pid: Pid) {
    let Some(member) = tree.members.remove(&pid) else {
        return;
    };
    COUNT.fetch_sub(1, Ordering::Release);
    if let Some(parent) = member.parent.and_then(|parent| tree.members.get_mut(&parent)) {
        parent.children.retain(|&child| child != pid);
    }
}
