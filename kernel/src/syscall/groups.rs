//! Process groups and sessions.

use core::sync::atomic::Ordering;

use super::Errno;
use crate::process::{Pid, Process, tree};

/// `getpgid`.
///
/// # Errors
/// `ESRCH`.
pub fn getpgid(process: &Process, pid: u32) -> Result<u64, Errno> {
    match pid {
        0 => Ok(u64::from(process.group())),
        _ => tree::find_process(pid)
            .map(|other| u64::from(other.group()))
            .ok_or(Errno::ESRCH),
    }
}

/// `getsid`.
///
/// # Errors
/// `ESRCH`.
pub fn getsid(process: &Process, pid: u32) -> Result<u64, Errno> {
    match pid {
        0 => Ok(u64::from(process.session())),
        _ => tree::find_process(pid)
            .map(|other| u64::from(other.session()))
            .ok_or(Errno::ESRCH),
    }
}

/// `setpgid`.
///
/// # Errors
/// `EINVAL` for a negative group; `ESRCH` if the process is neither the caller nor one of its children; `EPERM` for the
/// leader of a session, a child in another session, and a group that is not in the caller's session.
pub fn setpgid(process: &Process, pid: u32, group: u32) -> Result<u64, Errno> {
    if (group as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let pid = if pid == 0 { process.pid } else { pid };
    let group = if group == 0 { pid } else { group };
    let child = if pid == process.pid {
        None
    } else {
        let child = tree::find_process(pid).filter(|_| tree::parent_of(pid) == process.pid);
        Some(child.ok_or(Errno::ESRCH)?)
    };
    let target = child.as_deref().unwrap_or(process);
    let session = process.session();
    if target.session() != session || session == pid || (group != pid && !is_group_of(session, group)) {
        return Err(Errno::EPERM);
    }
    target.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// Whether a session has a group of that number.
pub fn is_group_of(session: Pid, group: Pid) -> bool {
    tree::any_living(|other| other.group() == group && other.session() == session)
}

/// `setsid`.
///
/// # Errors
/// `EPERM` if there is a group with the number of the caller.
pub fn setsid(process: &Process) -> Result<u64, Errno> {
    if tree::any_living(|other| other.group() == process.pid) {
        return Err(Errno::EPERM);
    }
    process.group.store(process.pid, Ordering::Relaxed);
    process.session.store(process.pid, Ordering::Relaxed);
    Ok(u64::from(process.pid))
}
