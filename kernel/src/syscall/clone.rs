//! `fork`, `vfork`, `clone` and `clone3`: new threads and new processes.

use core::sync::atomic::{AtomicU32, Ordering};
use faultline_fallible::{Arc, Box};

use faultline_mm::PAGE_SIZE;
use linux_raw_sys::general as linux;
use spin::Mutex;

use super::{Call, Caller, Errno, has_headroom, process_files, timers, user, value};
use crate::arch::UserContext;
use crate::heap::ProcessAccount;
use crate::process::limits::Limit;
use crate::process::tree::Reserved;
use crate::process::waiting::event;
use crate::process::{Inherited, Process, Resource, Thread, start, tree};
use crate::signal::Actions;

/// Size of the first published version of `struct clone_args`, and the largest that is read.
const ARGS_VERSION_0: u64 = linux::CLONE_ARGS_SIZE_VER0 as u64;
const ARGS_LARGEST: u64 = linux::CLONE_ARGS_SIZE_VER2 as u64;

/// Flags that would need what this kernel does not have.
const REFUSED: u64 = (linux::CLONE_NEWNS
    | linux::CLONE_NEWCGROUP
    | linux::CLONE_NEWUTS
    | linux::CLONE_NEWIPC
    | linux::CLONE_NEWUSER
    | linux::CLONE_NEWPID
    | linux::CLONE_NEWNET
    | linux::CLONE_PTRACE) as u64
    | linux::CLONE_INTO_CGROUP;

/// What is to be cloned, and how.
#[derive(Clone, Copy, Debug, Default)]
struct Request {
    flags: u64,
    /// New stack pointer; 0 to keep it.
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    exit_signal: u32,
    /// Where the descriptor of the child goes, if one is asked for.
    process_file: u64,
}

impl Request {
    const fn has(&self, flag: u32) -> bool {
        self.flags & flag as u64 != 0
    }
}

/// `fork`.
///
/// # Errors
/// `ENOMEM`.
pub fn fork(caller: Caller, context: &UserContext) -> Result<Call, Errno> {
    perform(
        caller,
        context,
        Request {
            exit_signal: linux::SIGCHLD,
            ..Request::default()
        },
    )
}

/// `vfork`.
///
/// # Errors
/// `ENOMEM`.
pub fn vfork(caller: Caller, context: &UserContext) -> Result<Call, Errno> {
    let flags = u64::from(linux::CLONE_VM | linux::CLONE_VFORK);
    perform(
        caller,
        context,
        Request {
            flags,
            exit_signal: linux::SIGCHLD,
            ..Request::default()
        },
    )
}

/// `clone`: flags, stack, parent tid, child tid, tls.
///
/// # Errors
/// `ENOMEM`.
pub fn clone(caller: Caller, context: &UserContext) -> Result<Call, Errno> {
    let request = Request {
        flags: context.rdi & 0xffff_ff00,
        stack: context.rsi,
        parent_tid: context.rdx,
        child_tid: context.r10,
        tls: context.r8,
        exit_signal: context.rdi as u32 & 0xff,
        // It shares the pointer with the number.
        process_file: context.rdx,
    };
    if request.has(linux::CLONE_PIDFD) && request.has(linux::CLONE_PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    perform(caller, context, request)
}

/// `clone3`: address and size of its arguments.
///
/// # Errors
/// `ENOMEM`.
pub fn clone3(caller: Caller, context: &UserContext) -> Result<Call, Errno> {
    let (address, size) = (context.rdi, context.rsi);
    let context = Box::try_new(context.fork()?)?;
    value(|| async move {
        if size < ARGS_VERSION_0 {
            return Err(Errno::EINVAL);
        }
        if size > PAGE_SIZE {
            return Err(Errno::E2BIG);
        }
        let known = size.min(ARGS_LARGEST);
        check_zeros(&caller, address.wrapping_add(known), size - known).await?;
        let mut bytes = [[0; 8]; ARGS_LARGEST as usize / 8];
        user::read(&caller.space, address, &mut bytes.as_flattened_mut()[..known as usize]).await?;
        let [
            flags,
            process_file,
            child_tid,
            parent_tid,
            exit_signal,
            stack,
            stack_size,
            tls,
            set_tid,
            set_tid_size,
            _,
        ] = bytes.map(u64::from_le_bytes);
        // A thread, and a sibling, have no end signal of their own.
        let has_none = u64::from(linux::CLONE_THREAD | linux::CLONE_PARENT);
        if flags & 0xff != 0
            || flags & has_none != 0 && exit_signal != 0
            || exit_signal > 64
            || set_tid_size != 0
            || set_tid != 0
            || (stack == 0) != (stack_size == 0)
        {
            return Err(Errno::EINVAL);
        }
        let stack = stack.checked_add(stack_size).ok_or(Errno::EINVAL)?;
        let request = Request {
            flags,
            stack,
            parent_tid,
            child_tid,
            tls,
            exit_signal: exit_signal as u32,
            process_file,
        };
        run(caller, context, request).await
    })
}

/// What a structure has beyond what this kernel knows has to be zero: it asks for nothing.
async fn check_zeros(caller: &Caller, mut address: u64, mut size: u64) -> Result<(), Errno> {
    let mut piece = [0; 128];
    while size > 0 {
        let length = size.min(piece.len() as u64);
        let piece = &mut piece[..length as usize];
        user::read(&caller.space, address, piece).await?;
        if piece.iter().any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
        address = address.wrapping_add(length);
        size -= length;
    }
    Ok(())
}

fn perform(caller: Caller, context: &UserContext, request: Request) -> Result<Call, Errno> {
    let context = Box::try_new(context.fork()?)?;
    value(|| run(caller, context, request))
}

async fn run(caller: Caller, context: Box<UserContext>, request: Request) -> Result<u64, Errno> {
    check(&request)?;
    has_headroom()?;
    if !tree::has_room(caller.thread.process.limits.current(Resource::NPROC)) {
        return Err(Errno::EAGAIN);
    }
    let child = make(&caller, context.into_inner(), &request).await?;
    if request.has(linux::CLONE_VFORK) {
        // The child's end or `execve` lets its parent go on. A signal has to wait, as on Linux.
        let child = &child.process;
        let released = child.changes.wait_until(|| child.has_released_parent().then_some(()));
        caller.thread.waiting(event("vfork"), released).await;
    }
    Ok(u64::from(child.tid()))
}

fn check(request: &Request) -> Result<(), Errno> {
    let bad = request.flags & REFUSED != 0
        || request.has(linux::CLONE_THREAD) && !request.has(linux::CLONE_SIGHAND)
        || request.has(linux::CLONE_SIGHAND) && !request.has(linux::CLONE_VM)
        || request.has(linux::CLONE_THREAD) && (request.has(linux::CLONE_VFORK) || request.has(linux::CLONE_PIDFD))
        || request.flags & linux::CLONE_CLEAR_SIGHAND != 0 && request.has(linux::CLONE_SIGHAND);
    if bad { Err(Errno::EINVAL) } else { Ok(()) }
}

async fn make(caller: &Caller, mut context: UserContext, request: &Request) -> Result<Arc<Thread>, Errno> {
    let parent = &caller.thread.process;
    context.rax = 0;
    if request.stack != 0 {
        context.set_rsp(request.stack);
    }
    if request.has(linux::CLONE_SETTLS) && !context.set_fs_base(request.tls) {
        return Err(Errno::EPERM);
    }
    let space = if request.has(linux::CLONE_VM) {
        caller.space.clone()
    } else {
        let copy = Arc::try_new(caller.space.fork_in_steps().await?)?;
        // Before the child looks at its memory, no thread of the parent may still write to pages that are shared now.
        if let Some(flushed) = caller.space.unflushed() {
            flushed.await;
        }
        copy
    };
    let number = Reserved::new()?;
    let tid = number.number();
    // The child's memory is written before the child runs; for a thread it is the parent's own.
    if request.has(linux::CLONE_CHILD_SETTID) {
        user::write_u32(&space, request.child_tid, tid).await?;
    }
    if request.has(linux::CLONE_PARENT_SETTID) {
        user::write_u32(&caller.space, request.parent_tid, tid).await?;
    }
    let is_thread = request.has(linux::CLONE_THREAD);
    let process = if is_thread {
        parent.clone()
    } else {
        Arc::try_new(Process::new(tid, Some(space.clone()), inherit(parent, request)?))?
    };
    let (blocked, alternate) = {
        let own = caller.thread.signals.lock();
        (own.blocked, own.alternate)
    };
    let thread = Arc::try_new(Thread::new(tid, process, blocked, Some(&caller.thread)))?;
    if !request.has(linux::CLONE_VM) || request.has(linux::CLONE_VFORK) {
        thread.signals.lock().alternate = alternate;
    }
    if request.has(linux::CLONE_CHILD_CLEARTID) {
        thread.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
    }
    thread.set_name(caller.thread.given_name());
    let descriptor = if request.has(linux::CLONE_PIDFD) {
        let descriptor = process_files::add(caller, thread.process.clone(), 0)?;
        let descriptor = Descriptor {
            caller,
            number: Some(descriptor),
        };
        user::write_u32(
            &caller.space,
            request.process_file,
            descriptor.number.unwrap_or(0) as u32,
        )
        .await?;
        Some(descriptor)
    } else {
        None
    };
    if !is_thread {
        let grandparent = request.has(linux::CLONE_PARENT).then(|| tree::parent_of(parent.pid));
        let parent = grandparent.filter(|&pid| pid != 0).unwrap_or(parent.pid);
        tree::add_process(&thread.process, Some(parent)).map_err(|_| Errno::EAGAIN)?;
        if thread.process.limits.current(Resource::CPU) != Limit::INFINITY
            && let Err(error) = timers::hold_cpu_limit(&thread.process)
        {
            tree::remove_unborn(tid);
            return Err(error);
        }
    }
    let started = start::thread(&thread, Some(space), context, None);
    if started.is_err() && !is_thread {
        thread.process.timers.cancel();
        tree::remove_unborn(tid);
    }
    if started.is_ok()
        && let Some(mut descriptor) = descriptor
    {
        descriptor.number = None;
    }
    started.map(|()| thread)
}

/// The descriptor of a child that may not come to be: it is closed with this.
struct Descriptor<'a> {
    caller: &'a Caller,
    number: Option<u64>,
}

impl Drop for Descriptor<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let files = self.caller.thread.process.files();
            let closed = files.lock().remove(number);
            drop(closed);
        }
    }
}

/// What a new process takes over.
fn inherit(parent: &Process, request: &Request) -> Result<Inherited, Errno> {
    let actions = if request.has(linux::CLONE_SIGHAND) {
        parent.actions.clone()
    } else if request.flags & linux::CLONE_CLEAR_SIGHAND != 0 {
        Arc::try_new(Mutex::new(Actions::default()))?
    } else {
        Arc::try_new(Mutex::new(parent.actions.lock().clone()))?
    };
    let files = parent.files();
    let files = if request.has(linux::CLONE_FILES) {
        files
    } else {
        Arc::try_new(Mutex::new(files.lock().try_clone()?))?
    };
    let (directory, umask) = if request.has(linux::CLONE_FS) {
        (parent.directory.clone(), parent.umask.clone())
    } else {
        let umask = parent.umask.load(Ordering::Relaxed);
        (
            Arc::try_new(Mutex::new(parent.directory.lock().clone()))?,
            Arc::try_new(AtomicU32::new(umask))?,
        )
    };
    Ok(Inherited {
        heap: ProcessAccount::open()?,
        root: parent.root,
        exit_signal: if request.has(linux::CLONE_PARENT) {
            parent.exit_signal.load(Ordering::Relaxed)
        } else {
            request.exit_signal
        },
        actions,
        files,
        directory,
        umask,
        victim_adjustment: parent.victim_adjustment.load(Ordering::Relaxed),
        started: parent.started.lock().clone(),
        group: parent.group(),
        session: parent.session(),
        limits: parent.limits.inherit(),
    })
}
