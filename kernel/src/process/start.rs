//! Starting threads and programs.

use core::sync::atomic::AtomicU32;
use faultline_fallible::Arc;

use faultline_executor::{Class, SpawnError};
use faultline_trace::Kind;
use spin::Mutex;

use super::tree::Reserved;
use super::{ExitStatus, Inherited, Limits, Pid, Process, Started, Thread, UserThread, record, tree};
use crate::arch::UserContext;
use crate::exec::{self, stack::Arguments};
use crate::fs::tree as fs_tree;
use crate::fs::{Directory, FileTable, console};
use crate::heap::{self, ProcessAccount};
use crate::machine::{Space, executor};
use crate::signal::{Actions, SignalSet};
use crate::syscall::{self, Call, Errno, Outcome, processes};
use crate::tracing;

/// The permissions that new files of a first program do not get.
const FIRST_UMASK: u32 = 0o022;

/// Starts a thread whose record is complete: it becomes part of its process and gets a task.
///
/// # Errors
/// `EAGAIN` if its process is ending or there is no task for it, `ENOMEM` without memory for one.
pub fn thread(
    thread: &Arc<Thread>,
    space: Option<Arc<Space>>,
    context: UserContext,
    first: Option<Call>,
) -> Result<(), Errno> {
    thread.process.add_thread(thread)?;
    tree::add_thread(thread);
    tracing::record_for(
        thread.tid(),
        Kind::TaskStart,
        thread.process.pid.into(),
        tracing::current().into(),
    );
    let future = UserThread::new(thread.clone(), space, context, first);
    let room = heap::for_good(|| executor().reserve());
    match room.and_then(|()| executor().spawn("user thread", Class::User, future)) {
        Ok(task) => {
            task.detach();
            Ok(())
        }
        Err(error) => {
            tree::remove_thread(thread.tid());
            thread.process.remove_thread(thread);
            Err(match error {
                SpawnError::OutOfMemory => Errno::ENOMEM,
                _ => Errno::EAGAIN,
            })
        }
    }
}

/// Starts a program as a process of its own, without a parent. Its first thread loads it, so that the faults of loading
/// are served like any other.
///
/// # Errors
/// When there is no memory or no task for it.
pub fn program(arguments: Arguments) -> Result<Pid, Errno> {
    record::prepare()?;
    let mut files = FileTable::default();
    for file in console::standard_files()? {
        files.add(file, false, 0)?;
    }
    let number = Reserved::new()?;
    let pid = number.number();
    let inherited = Inherited {
        root: pid,
        exit_signal: 0,
        actions: Arc::try_new(Mutex::new(Actions::default()))?,
        files: Arc::try_new(Mutex::new(files))?,
        directory: Arc::try_new(Mutex::new(Directory(fs_tree::root().clone())))?,
        umask: Arc::try_new(AtomicU32::new(FIRST_UMASK))?,
        victim_adjustment: 0,
        started: Started::default(),
        group: pid,
        session: pid,
        limits: Limits::first(),
        heap: ProcessAccount::open()?,
    };
    let process = Arc::try_new(Process::new(pid, None, inherited))?;
    let record = Arc::try_new(Thread::new(pid, process.clone(), SignalSet::EMPTY, None))?;
    let (context, first) = (UserContext::new(0, 0)?, first_load(record.clone(), arguments)?);
    tree::add_process(&process, None).map_err(|_| Errno::EAGAIN)?;
    let started = thread(&record, None, context, Some(first));
    if started.is_err() {
        tree::remove_unborn(pid);
    }
    started.map(|()| pid)
}

/// What the first thread of a program does before it enters user mode.
fn first_load(thread: Arc<Thread>, arguments: Arguments) -> Result<Call, Errno> {
    syscall::boxed(|| async move {
        let room = processes::argument_room(&thread.process);
        match exec::load(fs_tree::root(), &thread, arguments, room).await {
            Ok(image) => {
                processes::commit(&thread.process, &image);
                Outcome::Execute(image)
            }
            Err(error) => {
                thread.process.start_error.call_once(|| error);
                Outcome::End(ExitStatus::Exited(error.shell_status()))
            }
        }
    })
}

/// Kernel memory of an idle user thread in bytes, without its FPU area: its task with the future in it, and its record.
#[must_use]
pub fn thread_bytes() -> ThreadBytes {
    let counts = 2 * size_of::<usize>();
    let slot = executor().bytes_per_task();
    let future = size_of::<UserThread>();
    ThreadBytes {
        task: if future > slot { slot + future } else { slot },
        future,
        record: size_of::<Thread>() + counts,
    }
}

/// The parts of [`thread_bytes`].
#[derive(Clone, Copy, Debug)]
pub struct ThreadBytes {
    /// The task's slot, and the future's box if it does not fit in the slot.
    pub task: usize,
    /// The future alone.
    pub future: usize,
    /// The record, with its reference counts.
    pub record: usize,
}

impl ThreadBytes {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.task + self.record
    }
}
