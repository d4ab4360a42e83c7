//! The record of a process: what its threads share.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use faultline_fallible::{AllocError, Arc, Vec};

use faultline_executor::WaitQueue;
use spin::{Mutex, Once};

use super::jobs::Job;
use super::limits::Limits;
use super::run_time::CpuClock;
use super::thread::Name;
use super::tree::place::Place;
use super::usage::Usage;
use super::{ExitStatus, Pid, Thread};
use crate::exec::ExecError;
use crate::fs::table::LIMIT;
use crate::fs::{Directory, FileTable, Node};
use crate::heap::ProcessAccount;
use crate::machine::Space;
use crate::signal::{Actions, Pending, Signal};
use crate::syscall::Errno;
use crate::syscall::timers::Timers;

/// What a process was started as.
#[derive(Clone, Default)]
pub struct Started {
    /// The path of its program.
    pub path: Option<Arc<faultline_fallible::Vec<u8>>>,
    /// Where its first stack has the arguments.
    pub arguments: Range<u64>,
    /// Where its first stack has the environment.
    pub environment: Range<u64>,
    /// Where its first stack has the auxiliary vector.
    pub auxiliary: Range<u64>,
    /// The file of the program.
    pub node: Option<Arc<Node>>,
}

/// The files of processes at their ends.
static NO_FILES: Once<Arc<Mutex<FileTable>>> = Once::new();

/// Makes what is needed before the first process.
///
/// # Errors
/// There is no memory.
pub fn prepare() -> Result<(), AllocError> {
    let none = Arc::try_new(Mutex::new(FileTable::default()))?;
    NO_FILES.call_once(|| none);
    Ok(())
}

fn no_files() -> Arc<Mutex<FileTable>> {
    NO_FILES.get().expect("prepared before the first process").clone()
}

/// The record of a process.
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// The first program that it descends from; with it ends all that descends from it.
    pub root: Pid,
    /// The signal its parent gets when it ends; 0 for none.
    pub exit_signal: AtomicU32,
    /// What it does about signals; shared with a process that was cloned so.
    pub actions: Arc<Mutex<Actions>>,
    /// Signals raised for the process as a whole.
    pub pending: Mutex<Pending>,
    /// Its open files; shared with a process that was cloned so.
    /// None at its end.
    files: Mutex<Option<Arc<Mutex<FileTable>>>>,
    /// Why its first program could not be started.
    pub start_error: Once<ExecError>,
    /// Its working directory; shared with a process that was cloned so.
    pub directory: Arc<Mutex<Directory>>,
    /// Permissions that new files do not get; shared as the working directory is.
    pub umask: Arc<AtomicU32>,
    /// What it was started as.
    pub started: Mutex<Started>,
    /// How many programs it has begun to load.
    pub programs: AtomicU32,
    /// What its threads used that have ended.
    pub ended_usage: Usage,
    /// What its children used that it has waited for.
    pub child_usage: Usage,
    /// Its CPU time.
    pub clock: CpuClock,
    /// The CPU time of its children that it has waited for: all, and system time, in nanoseconds.
    pub child_times: [AtomicU64; 2],
    /// Process group; the lock of the tree guards its changes.
    pub(super) group: AtomicU32,
    /// Session; likewise.
    pub(super) session: AtomicU32,
    /// Whether others may not look into it, as it has asked.
    pub is_undumpable: AtomicBool,
    /// How much likelier than by what it holds it is chosen as a victim when memory runs out (`oom_score_adj`): thousandths
    /// of all memory, from [`UNCHOSEN`] to 1,000. Kept across `execve`.
    pub victim_adjustment: AtomicI32,
    /// Its place in the tree.
    pub(super) place: Place,
    /// Whether it has executed a program since it was made.
    pub has_executed: AtomicBool,
    /// Whoever waits for it: for what becomes of it, or for it to let the `vfork` of its parent go on.
    pub changes: WaitQueue,
    /// Its threads that wait for the end of any usual child; one of them is woken for each.
    pub waits_for_any: WaitQueue,
    /// Its threads that wait for other things of its children.
    pub waits_for_some: WaitQueue,
    /// Who waits for signals that are read from files, or polls them.
    pub signalled: WaitQueue,
    /// The thread that executes a program and waits for the others to be gone.
    pub alone: WaitQueue,
    /// The signal that it gets when its parent ends; 0 for none. Not inherited.
    pub parent_death_signal: AtomicU32,
    /// Whether it is stopped; not inherited.
    pub job: Job,
    /// What it holds of the kernel heap; not inherited.
    pub heap: ProcessAccount,
    /// What its resource limits are; inherited, and kept across `execve`.
    pub limits: Limits,
    /// Its timers; not inherited.
    pub timers: Timers,
    space: Mutex<Option<Arc<Space>>>,
    threads: Mutex<Vec<Arc<Thread>>>,
    /// [`ExitStatus::pack`], or 0 while the process lives.
    ending: AtomicU32,
    /// [`ExitStatus::pack`] of the first thread, or 0 while it lives.
    leader_status: AtomicU32,
    /// Whether the parent's `vfork` may go on.
    released: AtomicU32,
}

/// The adjustment of a process that is chosen only if there is no other.
pub const UNCHOSEN: i32 = -1000;

/// What a new process takes over from the one that made it.
pub struct Inherited {
    /// Its parent's root, or itself.
    pub root: Pid,
    /// See [`Process::exit_signal`].
    pub exit_signal: u32,
    /// See [`Process::actions`].
    pub actions: Arc<Mutex<Actions>>,
    /// See [`Process::files`].
    pub files: Arc<Mutex<FileTable>>,
    /// See [`Process::directory`].
    pub directory: Arc<Mutex<Directory>>,
    /// See [`Process::victim_adjustment`].
    pub victim_adjustment: i32,
    /// See [`Process::umask`].
    pub umask: Arc<AtomicU32>,
    /// See [`Process::started`].
    pub started: Started,
    /// Process group.
    pub group: Pid,
    /// Session.
    pub session: Pid,
    /// See [`Process::limits`].
    pub limits: Limits,
    /// See [`Process::heap`].
    pub heap: ProcessAccount,
}

/// Why a thread can't join a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The process is ending.
    Ending,
    /// The heap is full.
    OutOfMemory,
}

impl Process {
    /// A process without threads.
    #[must_use]
    pub fn new(pid: Pid, space: Option<Arc<Space>>, inherited: Inherited) -> Self {
        Self {
            pid,
            root: inherited.root,
            exit_signal: AtomicU32::new(inherited.exit_signal),
            actions: inherited.actions,
            pending: Mutex::new(Pending::EMPTY),
            files: Mutex::new(Some(inherited.files)),
            start_error: Once::new(),
            directory: inherited.directory,
            umask: inherited.umask,
            started: Mutex::new(inherited.started),
            programs: AtomicU32::new(0),
            ended_usage: Usage::default(),
            child_usage: Usage::default(),
            clock: CpuClock::default(),
            child_times: [const { AtomicU64::new(0) }; 2],
            group: AtomicU32::new(inherited.group),
            session: AtomicU32::new(inherited.session),
            is_undumpable: AtomicBool::new(false),
            victim_adjustment: AtomicI32::new(inherited.victim_adjustment),
            place: Place::default(),
            has_executed: AtomicBool::new(false),
            changes: WaitQueue::new(),
            waits_for_any: WaitQueue::new(),
            waits_for_some: WaitQueue::new(),
            signalled: WaitQueue::new(),
            alone: WaitQueue::new(),
            parent_death_signal: AtomicU32::new(0),
            job: Job::default(),
            heap: inherited.heap,
            limits: inherited.limits,
            timers: Timers::default(),
            space: Mutex::new(space),
            threads: Mutex::new(Vec::new()),
            ending: AtomicU32::new(0),
            leader_status: AtomicU32::new(0),
            released: AtomicU32::new(0),
        }
    }

    /// Its process group.
    #[must_use]
    pub fn group(&self) -> Pid {
        self.group.load(Ordering::Relaxed)
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> Pid {
        self.session.load(Ordering::Relaxed)
    }

    /// Its open files; at its end, a table that is always empty.
    pub fn files(&self) -> Arc<Mutex<FileTable>> {
        self.files.lock().as_ref().map_or_else(no_files, Arc::clone)
    }

    /// Gives it a table of open files of its own, if it shares one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn unshare_files(&self) -> Result<(), Errno> {
        let shared = self.files();
        // The record's hold and this one.
        if Arc::strong_count(&shared) > 2 {
            let own = Arc::try_new(Mutex::new(shared.lock().try_clone()?))?;
            let old = self.files.lock().replace(own);
            drop(old);
        }
        Ok(())
    }

    /// Closes some of its open files, unless another process shares them; says whether some may be left. With its end they
    /// all go, and closing many takes long.
    pub fn close_some(&self) -> bool {
        const PIECE: usize = 64;
        let files = self.files.lock().clone();
        // The record's hold and this one.
        let Some(files) = files.filter(|files| Arc::strong_count(files) <= 2) else {
            return false;
        };
        for _ in 0..PIECE {
            let closed = files.lock().take(0, LIMIT, false);
            if closed.is_none() {
                return false;
            }
        }
        true
    }

    /// Lets go of its open files; they are closed unless another process shares them.
    pub fn release_files(&self) {
        let files = self.files.lock().take();
        drop(files);
    }

    /// Its address space; none before the first `execve` and after the end.
    pub fn space(&self) -> Option<Arc<Space>> {
        self.space.lock().clone()
    }

    /// Replaces the address space; the caller drops the old one.
    pub fn replace_space(&self, space: Option<Arc<Space>>) -> Option<Arc<Space>> {
        core::mem::replace(&mut *self.space.lock(), space)
    }

    /// The first thread that `wanted` accepts.
    pub fn find_thread(&self, wanted: impl Fn(&Thread) -> bool) -> Option<Arc<Thread>> {
        self.threads.lock().iter().find(|thread| wanted(thread)).cloned()
    }

    /// The last part of the path of its program, as far as it fits.
    pub fn program_name(&self) -> Name {
        let path = self.started.lock().path.clone();
        let path = path.as_ref().map_or(&[][..], |path| path);
        let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
        let mut name = Name::default();
        let length = base.len().min(name.len() - 1);
        name[..length].copy_from_slice(&base[..length]);
        name
    }

    /// Its name: that of its first thread.
    pub fn name(&self) -> Name {
        // While the first thread is there, it is at the first place.
        let first = self.find_thread(|_| true).filter(|thread| thread.tid() == self.pid);
        first.map_or_else(|| self.program_name(), |thread| thread.name())
    }

    /// Calls `act` for every thread; `act` must not add or remove one.
    pub fn for_each_thread(&self, act: impl Fn(&Thread)) {
        self.threads.lock().iter().for_each(|thread| act(thread));
    }

    /// Calls `act` with the number of every thread.
    pub fn for_each_thread_number(&self, mut act: impl FnMut(u32)) {
        self.threads.lock().iter().for_each(|thread| act(thread.tid()));
    }

    /// Changes `value` by every thread; `change` must not add or remove one.
    pub fn fold_threads<T>(&self, value: &mut T, change: impl Fn(&mut T, &Thread)) {
        self.threads.lock().iter().for_each(|thread| change(value, thread));
    }

    /// How many threads it has.
    pub fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// Adds a thread, unless the process is ending.
    ///
    /// # Errors
    /// When the process is ending, or without memory: the thread must not start.
    pub fn add_thread(&self, thread: &Arc<Thread>) -> Result<(), AddError> {
        let mut threads = self.threads.lock();
        if self.ending().is_some() {
            return Err(AddError::Ending);
        }
        let place = threads.len();
        threads.try_push(thread.clone()).map_err(|_| AddError::OutOfMemory)?;
        if self.job.is_stopped() {
            thread.stop();
        }
        thread.set_place(Some(place));
        Ok(())
    }

    /// Takes a thread out; says how many are left, or nothing if it was out already.
    pub fn remove_thread(&self, thread: &Thread) -> Option<usize> {
        let mut threads = self.threads.lock();
        let place = thread.place().filter(|&place| place < threads.len())?;
        thread.set_place(None);
        let removed = threads.swap_remove(place);
        if let Some(moved) = threads.get(place) {
            moved.set_place(Some(place));
        }
        let left = threads.len();
        drop(threads);
        drop(removed);
        if left <= 1 {
            // `execve` of another thread may be waiting to be alone.
            self.alone.wake_all();
        }
        Some(left)
    }

    /// Whether its threads are gone, and what they had with them.
    pub fn is_gone(&self) -> bool {
        self.ending().is_some() && self.thread_count() == 0
    }

    /// How the process is ending, if it is.
    pub fn ending(&self) -> Option<ExitStatus> {
        ExitStatus::unpack(self.ending.load(Ordering::Acquire))
    }

    /// Starts the end of the process: every thread is told to end. The first status stays.
    pub fn begin_exit(&self, status: ExitStatus) {
        let threads = self.threads.lock();
        let first = self
            .ending
            .compare_exchange(0, status.pack(), Ordering::AcqRel, Ordering::Acquire);
        // No thread joins a process that is ending: each is told once.
        if first.is_ok() {
            threads.iter().for_each(|thread| thread.kill());
        }
    }

    /// The first thread has ended with this status, which is that of the process if no other is given.
    pub fn set_leader_status(&self, status: ExitStatus) {
        self.leader_status.store(status.pack(), Ordering::Release);
    }

    /// How the process ended, once its threads are gone.
    pub fn final_status(&self) -> ExitStatus {
        let leader = || ExitStatus::unpack(self.leader_status.load(Ordering::Acquire));
        self.ending().or_else(leader).unwrap_or(ExitStatus::Exited(0))
    }

    /// Tells every thread but `survivor` to end.
    pub fn kill_others(&self, survivor: &Thread) {
        let threads = self.threads.lock();
        threads
            .iter()
            .filter(|thread| !core::ptr::eq(&raw const ***thread, survivor))
            .for_each(|thread| thread.kill());
    }

    /// Lets the `vfork` of the parent go on: the process has its own space, or none any more.
    pub fn release_parent(&self) {
        self.released.store(1, Ordering::Release);
        self.changes.wake_all();
    }

    /// Whether [`release_parent`](Self::release_parent) was called.
    pub fn has_released_parent(&self) -> bool {
        self.released.load(Ordering::Acquire) != 0
    }

    /// Whether it ignores the end of its children, so that they leave no zombie.
    pub fn ignores_children(&self) -> bool {
        let action = self.actions.lock().get(Signal::SIGCHLD);
        action.handler == 1 || action.has(linux_raw_sys::general::SA_NOCLDWAIT)
    }
}
