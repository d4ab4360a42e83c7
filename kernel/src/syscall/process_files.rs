//! Open files that stand for processes: `pidfd_open`, `pidfd_send_signal`, `pidfd_getfd`.

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::transfer::opened;
use super::{Caller, Errno, has_headroom};
use crate::fs::process_file::ProcessFile;
use crate::fs::{FileKind, OpenFile};
use crate::process::{Process, tree};
use crate::signal::wait;

/// The process that a descriptor stands for, and the open file.
///
/// # Errors
/// `EBADF`.
pub(super) fn process_of(caller: &Caller, descriptor: u64) -> Result<(Arc<OpenFile>, Arc<Process>), Errno> {
    let file = opened(caller, descriptor)?;
    match &file.kind {
        FileKind::Process(process) => {
            let process = process.0.clone();
            Ok((file, process))
        }
        _ => Err(Errno::EBADF),
    }
}

/// Gives the caller a descriptor for a process.
///
/// # Errors
/// `EMFILE`, `ENOMEM`.
pub(super) fn add(caller: &Caller, process: Arc<Process>, flags: u32) -> Result<u64, Errno> {
    let kind = FileKind::Process(ProcessFile(process));
    let mode = linux::O_RDWR | flags & linux::O_NONBLOCK;
    let file = Arc::try_new(OpenFile::new(kind, None, mode))?;
    let files = caller.thread.process.files();
    files.lock().add(file, true, 0)
}

/// `pidfd_open`.
///
/// # Errors
/// `EINVAL` for the number of a thread that is not the first, and for flags that there are not; `ESRCH`, `EMFILE`,
/// `ENOMEM`.
pub fn pidfd_open(caller: &Caller, pid: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !linux::O_NONBLOCK != 0 || pid as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    match tree::find_process(pid as u32) {
        Some(process) => add(caller, process, flags),
        None if tree::find_thread(pid as u32).is_some() => Err(Errno::EINVAL),
        None => Err(Errno::ESRCH),
    }
}

/// `pidfd_send_signal`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `EPERM`, `EFAULT`; `ESRCH` if the process was waited for.
pub async fn pidfd_send_signal(
    caller: Caller,
    descriptor: u64,
    number: u64,
    info: u64,
    flags: u64,
) -> Result<u64, Errno> {
    if flags as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let (_, process) = process_of(&caller, descriptor)?;
    // Its number may be another's by now.
    let is_there = tree::find_process(process.pid).is_some_and(|now| Arc::ptr_eq(&now, &process));
    wait::send(caller, &process, is_there, number as u32, info).await
}

/// `pidfd_getfd`.
///
/// # Errors
/// `EINVAL`, `EBADF`, `EMFILE`, `ENOMEM`; `ESRCH` if the process has ended.
pub fn pidfd_getfd(caller: &Caller, descriptor: u64, number: u64, flags: u64) -> Result<u64, Errno> {
    if flags as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let (_, process) = process_of(caller, descriptor)?;
    if process.is_gone() {
        return Err(Errno::ESRCH);
    }
    has_headroom()?;
    let file = process.files().lock().get(u64::from(number as u32))?;
    let files = caller.thread.process.files();
    files.lock().add(file, true, 0)
}
