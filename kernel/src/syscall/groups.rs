//! Process groups and sessions.

use faultline_fallible::Arc;

use super::Errno;
use crate::process::{Process, tree};

/// The process that `number` names: 0 the caller, else that of any thread.
fn named(process: &Process, number: u32, of: impl Fn(&Process) -> u64) -> Result<u64, Errno> {
    if number == 0 {
        return Ok(of(process));
    }
    let other: Arc<Process> = tree::find_process_of(number).ok_or(Errno::ESRCH)?;
    Ok(of(&other))
}

/// `getpgid`.
///
/// # Errors
/// `ESRCH`.
pub fn getpgid(process: &Process, number: u32) -> Result<u64, Errno> {
    named(process, number, |other| other.group().into())
}

/// `getsid`.
///
/// # Errors
/// `ESRCH`.
pub fn getsid(process: &Process, number: u32) -> Result<u64, Errno> {
    named(process, number, |other| other.session().into())
}

/// `setpgid`.
///
/// # Errors
/// `EINVAL` for a negative group, or the number of a thread that is not the first; `ESRCH` if the process is neither the
/// caller nor one of its children; `EACCES` for a child that has executed a program; `EPERM` for the leader of a session,
/// a child in another session, and a group that is not in the caller's session.
pub fn setpgid(process: &Process, pid: u32, group: u32) -> Result<u64, Errno> {
    if (group as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let pid = if pid == 0 { process.pid } else { pid };
    if tree::find_process(pid).is_none() && tree::find_thread(pid).is_some() {
        return Err(Errno::EINVAL);
    }
    let group = if group == 0 { pid } else { group };
    tree::join_group(process, pid, group)?;
    Ok(0)
}

/// `setsid`.
///
/// # Errors
/// `EPERM` if there is a group with the number of the caller.
pub fn setsid(process: &Process) -> Result<u64, Errno> {
    tree::new_session(process.pid)?;
    Ok(u64::from(process.pid))
}
