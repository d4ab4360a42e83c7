//! `exit`, `execve` and the waits.

use core::sync::atomic::Ordering;
use faultline_fallible::{Arc, Box};

use faultline_executor::yield_now;
use faultline_trace::Kind;
use linux_raw_sys::general as linux;

use super::{Caller, Errno, Outcome, has_headroom, memory, process_files, usage, user};
use crate::exec::stack::Arguments;
use crate::exec::strings::Strings;
use crate::exec::{self, Image};
use crate::fs::table::LIMIT;
use crate::process::limits::Resource;
use crate::process::tree::{Found, Interest, Wanted, look_for_child};
use crate::process::waiting::event;
use crate::process::{ChildChange, ExitStatus, Process, Thread, farewell, tree};
use crate::tracing;

/// Longest single argument, its NUL included.
const MAX_STRING: usize = 128 * 1024;

/// `exit`: the end of one thread. Its next poll sees it.
pub fn exit_now(thread: &Thread, status: ExitStatus) {
    if thread.tid() == thread.process.pid {
        thread.process.set_leader_status(status);
    }
    thread.kill();
}

/// `execve`.
pub async fn execve(caller: Caller, path: u64, arguments: u64, environment: u64) -> Outcome {
    match prepare(&caller, path, arguments, environment).await {
        Ok(image) => {
            memory::hold_stack(&caller.thread.process, &image.space);
            Outcome::Execute(image)
        }
        Err(errno) => Outcome::Return(Err(errno)),
    }
}

async fn prepare(caller: &Caller, path: u64, arguments: u64, environment: u64) -> Result<Box<Image>, Errno> {
    has_headroom()?;
    let path = user::read_path(&caller.space, path).await?;
    let most = argument_room(&caller.thread.process);
    let mut room = most.saturating_sub(path.len() as u64 + 1);
    let mut arguments = Arguments {
        path: faultline_fallible::Vec::try_from_slice(&path)?,
        script: faultline_fallible::Vec::new(),
        arguments: read_strings(caller, arguments, &mut room).await?,
        environment: read_strings(caller, environment, &mut room).await?,
    };
    if arguments.arguments.count() == 0 {
        // A program finds its own name there; Linux gives it an empty one.
        arguments.arguments.push(b"")?;
    }
    let directory = caller.thread.process.directory.lock().0.clone();
    let image = exec::load(&directory, &caller.thread, arguments, most).await?;
    become_single(caller).await;
    if let Some(rest) = farewell::begin(&caller.thread, &caller.space) {
        rest.await;
    }
    commit(&caller.thread.process, &image);
    caller.thread.signals.lock().alternate = crate::signal::AlternateStack::NONE;
    caller.thread.set_name(None);
    caller.thread.capabilities.lock().execute();
    Ok(image)
}

/// Ends every other thread of the process, waits until they are gone, and takes the number of the first.
async fn become_single(caller: &Caller) {
    let process = &caller.thread.process;
    process.kill_others(&caller.thread);
    let alone = process.alone.wait_until(|| (process.thread_count() <= 1).then_some(()));
    caller.thread.waiting(event("threads"), alone).await;
    if caller.thread.tid() != process.pid {
        tree::make_first(&caller.thread);
    }
}

/// What `execve` changes in the process.
pub fn commit(process: &Process, image: &Image) {
    let path = image.started.path.as_ref().map_or(&[][..], |path| path);
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    tracing::name(process.pid, name);
    tracing::record_for(process.pid, Kind::TaskExec, image.space.id(), image.entry);
    process.actions.lock().forget_handlers();
    tree::become_usual(process);
    process.timers.forget_posix();
    process.has_executed.store(true, Ordering::Relaxed);
    let files = process.files();
    loop {
        // Each is closed when the lock is gone.
        let closed = files.lock().take(0, LIMIT, true);
        if closed.is_none() {
            break;
        }
    }
    let old = core::mem::replace(&mut *process.started.lock(), image.started.clone());
    drop(old);
}

/// Bytes that arguments, environment and their pointers may take together, as on Linux: a quarter of the stack's limit,
/// within bounds.
pub fn argument_room(process: &Process) -> u64 {
    let limit = process.limits.current(Resource::STACK) / 4;
    limit.clamp(128 * 1024, 6 << 20)
}

/// Reads an array of strings that ends with a null pointer; `room` shrinks by what they take. Others run in between.
async fn read_strings(caller: &Caller, array: u64, room: &mut u64) -> Result<Strings, Errno> {
    /// Strings that are read before others run.
    const TURN: u64 = 16;
    let mut strings = Strings::new()?;
    if array == 0 {
        return Ok(strings);
    }
    loop {
        let at = array.wrapping_add(strings.count() * 8);
        let [pointer] = user::read_words(&caller.space, at).await?;
        if pointer == 0 {
            return Ok(strings);
        }
        *room = room.checked_sub(8).ok_or(Errno::E2BIG)?;
        read_string(caller, pointer, room, &mut strings).await?;
        if strings.count().is_multiple_of(TURN) {
            yield_now().await;
        }
    }
}

/// Adds the string at `address`.
async fn read_string(caller: &Caller, address: u64, room: &mut u64, strings: &mut Strings) -> Result<(), Errno> {
    const PIECE: usize = 256;
    /// Pieces that are read before others run.
    const TURN: u32 = 16;
    let mut piece = [0; PIECE];
    let mut length = 0;
    for step in 1_u32.. {
        // A read that stops at the end of its page touches no page that the string may not reach.
        let at = address.wrapping_add(length);
        let size = PIECE.min(4096 - (at % 4096) as usize);
        let piece = &mut piece[..size];
        user::read(&caller.space, at, piece).await?;
        let end = piece.iter().position(|&byte| byte == 0);
        let part = &piece[..end.unwrap_or(size)];
        length += part.len() as u64;
        if length >= MAX_STRING as u64 {
            return Err(Errno::E2BIG);
        }
        *room = room
            .checked_sub(part.len() as u64 + u64::from(end.is_some()))
            .ok_or(Errno::E2BIG)?;
        strings.append(part)?;
        if end.is_some() {
            return strings.end();
        }
        if step.is_multiple_of(TURN) {
            yield_now().await;
        }
    }
    Err(Errno::E2BIG)
}

/// `wait4`.
pub async fn wait4(caller: Caller, pid: i32, status: u64, options: u64, usage: u64) -> Result<u64, Errno> {
    // An `int`, of which the highest bit has a meaning.
    let options = u64::from(options as u32);
    let known = linux::WNOHANG | linux::WUNTRACED | linux::WCONTINUED | linux::__WALL | linux::__WCLONE;
    if options & !u64::from(known | linux::__WNOTHREAD) != 0 {
        return Err(Errno::EINVAL);
    }
    if pid == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let wanted = match pid {
        1.. => Wanted::Child(pid as u32),
        -1 => Wanted::Any,
        0 => Wanted::Group(caller.thread.process.group()),
        _ => Wanted::Group(pid.unsigned_abs()),
    };
    let has = |flag: u32| options & u64::from(flag) != 0;
    let interest = Interest {
        wanted,
        usual: !has(linux::__WCLONE) || has(linux::__WALL),
        clones: has(linux::__WCLONE) || has(linux::__WALL),
        ended: true,
        stopped: has(linux::WUNTRACED),
        continued: has(linux::WCONTINUED),
        keep: false,
    };
    let Some((child, change)) = wait(&caller, interest, has(linux::WNOHANG)).await? else {
        return Ok(0);
    };
    if status != 0 {
        user::write_u32(&caller.space, status, change.to_wait_word()).await?;
    }
    if usage != 0 {
        user::write_words(&caller.space, usage, usage_words(&child)).await?;
    }
    Ok(u64::from(child.pid))
}

/// `waitid`.
pub async fn waitid(caller: Caller, kind: u64, id: u64, info: u64, options: u64, usage: u64) -> Result<u64, Errno> {
    let mut waits = true;
    let wanted = match kind as u32 {
        linux::P_ALL => Wanted::Any,
        linux::P_PID => Wanted::Child(id as u32),
        linux::P_PGID if id == 0 => Wanted::Group(caller.thread.process.group()),
        linux::P_PGID => Wanted::Group(id as u32),
        linux::P_PIDFD => {
            let (file, process) = process_files::process_of(&caller, id)?;
            waits &= !file.is_non_blocking();
            Wanted::Child(process.pid)
        }
        _ => return Err(Errno::EINVAL),
    };
    let options = u64::from(options as u32);
    let changes = linux::WEXITED | linux::WSTOPPED | linux::WCONTINUED;
    let known = changes | linux::WNOHANG | linux::WNOWAIT | linux::__WALL | linux::__WCLONE | linux::__WNOTHREAD;
    if options & u64::from(changes) == 0 || options & !u64::from(known) != 0 {
        return Err(Errno::EINVAL);
    }
    let has = |flag: u32| options & u64::from(flag) != 0;
    let interest = Interest {
        wanted,
        usual: !has(linux::__WCLONE) || has(linux::__WALL),
        clones: has(linux::__WCLONE) || has(linux::__WALL),
        ended: has(linux::WEXITED),
        stopped: has(linux::WSTOPPED),
        continued: has(linux::WCONTINUED),
        keep: has(linux::WNOWAIT),
    };
    let found = wait(&caller, interest, !waits || has(linux::WNOHANG)).await?;
    if !waits && found.is_none() && !has(linux::WNOHANG) {
        return Err(Errno::EAGAIN);
    }
    if info != 0 {
        let mut bytes = [0; 128];
        if let Some((child, change)) = &found {
            let (code, status) = change.to_child_code();
            for (offset, word) in [
                (0, linux::SIGCHLD as i32),
                (8, code),
                (16, child.pid as i32),
                (24, status),
            ] {
                bytes[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        user::write(&caller.space, info, &bytes).await?;
    }
    if let (Some((child, _)), true) = (&found, usage != 0) {
        user::write_words(&caller.space, usage, usage_words(child)).await?;
    }
    Ok(0)
}

async fn wait(
    caller: &Caller,
    interest: Interest,
    at_once: bool,
) -> Result<Option<(Arc<Process>, ChildChange)>, Errno> {
    let process = &caller.thread.process;
    let look = || match look_for_child(process, interest) {
        Found::Nothing => Some(Err(Errno::ECHILD)),
        Found::Changed(child, change) => Some(Ok(Some((child, change)))),
        Found::Unchanged if at_once => Some(Ok(None)),
        Found::Unchanged => None,
    };
    // Most often the child has ended, or has not and nobody waits: no queue is needed for that.
    if let Some(found) = look() {
        return found;
    }
    let child = match interest.wanted {
        Wanted::Child(pid) => Some(tree::find_process(pid).ok_or(Errno::ECHILD)?),
        _ => None,
    };
    // What becomes of a child wakes those that wait for it, and of those that wait for any as many as it can serve.
    let queue = match &child {
        Some(child) => &child.changes,
        None if interest.takes_any() => &process.waits_for_any,
        None => &process.waits_for_some,
    };
    let found = caller
        .thread
        .interruptible(event("child"), queue.wait_until(look))
        .await;
    found.unwrap_or(Err(Errno::ERESTARTSYS))
}

fn usage_words(child: &Process) -> [u64; 18] {
    usage::words(child.totals().and(child.child_totals()), 0)
}
