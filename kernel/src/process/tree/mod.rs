//! The tree of processes, and who has which number.
//!
//! One lock guards the parent and child links, groups and sessions, what waits to be reaped, and the numbers. It is held
//! for short looks only, never across an await, and is taken before any lock of a process or thread.
//!
//! A process is in the tree from its birth until it is *reaped*: by a wait of its parent, or at its end when the parent
//! does not care. When a process ends, its children are given to the nearest ancestor that asked for orphans
//! (`PR_SET_CHILD_SUBREAPER`), or to nobody; when a root ends, a program that the kernel started, everything that descends
//! from it is killed, as the end of a Linux PID namespace does.
//!
//! # What a step costs
//!
//! Links are numbers in the records of the processes ([`place`]), so that nothing here allocates but chunks of the table
//! of [`numbers`]. Finding a number, a child by its number, the oldest ended child ([`heap`]), whether a group is orphaned
//! ([`groups`]) are steps; none walks over processes that it is not about. What has to reach many, such as a signal to a
//! group or the end of a parent, goes from one to the next without the lock in between ([`walk`]), and whoever does it
//! lets others run after [`PIECE`] of them; what is to be killed makes nothing new meanwhile ([`kill`]).

mod children;
mod groups;
mod heap;
mod kill;
mod leave;
mod line;
mod numbers;
pub(super) mod place;
mod walk;

use core::sync::atomic::{AtomicU64, Ordering};
use faultline_fallible::Arc;

use spin::Mutex;

use self::numbers::Numbers;
use self::place::Place;
use super::{Process, Thread};

pub use children::{
    Found, Interest, Wanted, add_process, adopt_orphans, adopts_orphans, become_usual, look_for_child, parent_of,
    parent_process, reap_root, remove_unborn,
};
pub use groups::{GroupError, continue_process, is_group_of, is_orphaned, join_group, new_session, stop_process};
pub use kill::Kill;
pub use leave::leave;
pub use numbers::{END, NumberError};
pub use walk::{Walk, for_each_living};

/// Number of a process: that of its first thread.
pub type Pid = u32;

/// Number of a thread.
pub type Tid = u32;

/// Most threads at a time; `clone` returns `EAGAIN` beyond.
pub const MAX_THREADS: usize = 4096;

/// After how many processes that a call or an end has to reach others run.
pub const PIECE: usize = 32;

struct Tree {
    numbers: Numbers,
    threads: usize,
    started: (u64, u64),
    /// Counts births and joinings.
    stamp: u64,
}

static TREE: Mutex<Tree> = Mutex::new(Tree {
    numbers: Numbers::EMPTY,
    threads: 0,
    started: (0, 0),
    stamp: 0,
});

/// How many programs that the kernel started have ended.
static ROOTS_ENDED: AtomicU64 = AtomicU64::new(0);

/// How many processes there are; read without the lock.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl Tree {
    fn process(&self, pid: Pid) -> Option<&Arc<Process>> {
        self.numbers.get(pid)?.process.as_ref()
    }

    /// The place of a process that a link names.
    ///
    /// # Panics
    /// If it isn't in the tree, where everything is that a link names.
    fn place(&self, pid: Pid) -> &Place {
        &self.process(pid).expect("what is linked is in the tree").place
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}

/// A number that is reserved: nobody has it, and nobody else gets it until this is dropped.
#[derive(Debug)]
pub struct Reserved(u32);

impl Reserved {
    /// Reserves a number that no process, thread, group or session has.
    ///
    /// # Errors
    /// When every number is taken, or without memory for its entry.
    pub fn new() -> Result<Self, NumberError> {
        TREE.lock().numbers.reserve().map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        TREE.lock().numbers.unreserve(self.0);
    }
}

/// Whether another thread may be started by a process that may have `most`; the machine has one user.
pub fn has_room(most: u64) -> bool {
    let count = TREE.lock().threads;
    count < MAX_THREADS && (count as u64) < most
}

/// Adds a thread, whose number is reserved.
pub fn add_thread(thread: &Arc<Thread>) {
    let mut tree = TREE.lock();
    tree.started.1 += 1;
    tree.threads += 1;
    tree.numbers
        .change(thread.tid(), |entry| entry.thread = Some(thread.clone()));
}

/// Gives the last thread of a process the number of the first.
pub fn make_first(thread: &Arc<Thread>) {
    let mut tree = TREE.lock();
    tree.numbers.change(thread.tid(), |entry| entry.thread = None);
    thread.become_first();
    tree.numbers
        .change(thread.tid(), |entry| entry.thread = Some(thread.clone()));
}

/// Takes a thread out.
pub fn remove_thread(tid: Tid) {
    let removed = {
        let mut tree = TREE.lock();
        let removed = tree.numbers.change(tid, |entry| entry.thread.take()).flatten();
        tree.threads -= usize::from(removed.is_some());
        removed
    };
    drop(removed);
}

/// The process of that number, zombies included.
pub fn find_process(pid: Pid) -> Option<Arc<Process>> {
    TREE.lock().process(pid).cloned()
}

/// Whether a process has ended, so that its parent can learn of it.
pub fn has_ended(process: &Process) -> bool {
    let _tree = TREE.lock();
    process.place.is_ended()
}

/// The thread of that number.
pub fn find_thread(tid: Tid) -> Option<Arc<Thread>> {
    TREE.lock().numbers.get(tid)?.thread.clone()
}

/// The process of that number, or the one whose thread has it, as Linux finds the target of a signal.
pub fn find_process_of(number: u32) -> Option<Arc<Process>> {
    let tree = TREE.lock();
    let entry = tree.numbers.get(number)?;
    let of_thread = || entry.thread.as_ref().map(|thread| &thread.process);
    entry.process.as_ref().or_else(of_thread).cloned()
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
