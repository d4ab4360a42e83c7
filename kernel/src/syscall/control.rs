//! `prctl`: what a process or a thread says about itself.

use core::sync::atomic::Ordering;

use linux_raw_sys::prctl as linux;

use super::{Caller, Errno, privileges, user};
use crate::process::tree;
use crate::signal::Signal;

/// Bytes of the name of a thread, with a NUL.
const NAME: usize = 16;

/// The time by which a sleep may be late, in nanoseconds, of a program that the kernel starts.
pub const FIRST_TIMER_SLACK: u64 = 50_000;

/// `prctl`.
pub async fn prctl(caller: Caller, option: u64, arguments: [u64; 4]) -> Result<u64, Errno> {
    let [argument, ..] = arguments;
    let (thread, process) = (&caller.thread, &caller.thread.process);
    let others_are_zero = arguments[1..] == [0; 3];
    match option as u32 {
        linux::PR_SET_PDEATHSIG => {
            let signal = u32::try_from(argument)
                .ok()
                .filter(|&signal| signal == 0 || Signal::new(signal).is_some());
            let signal = signal.ok_or(Errno::EINVAL)?;
            process.parent_death_signal.store(signal, Ordering::Relaxed);
            Ok(0)
        }
        linux::PR_GET_PDEATHSIG => {
            let signal = process.parent_death_signal.load(Ordering::Relaxed);
            user::write_u32(&caller.space, argument, signal).await?;
            Ok(0)
        }
        linux::PR_GET_DUMPABLE => Ok(u64::from(!process.is_undumpable.load(Ordering::Relaxed))),
        linux::PR_SET_DUMPABLE => {
            if argument > 1 {
                return Err(Errno::EINVAL);
            }
            process.is_undumpable.store(argument == 0, Ordering::Relaxed);
            Ok(0)
        }
        linux::PR_SET_NAME => {
            // Up to 15 bytes, however long the string is; no page behind them has to be there.
            let name = user::read_prefix(&caller.space, argument, NAME - 1).await?;
            let mut bytes = [0; NAME];
            bytes[..name.len()].copy_from_slice(&name);
            thread.set_name(Some(bytes));
            Ok(0)
        }
        linux::PR_GET_NAME => {
            user::write(&caller.space, argument, &thread.name()).await?;
            Ok(0)
        }
        linux::PR_SET_TIMERSLACK => {
            // Not above 0 means the one that the thread began with.
            let slack = if argument as i64 <= 0 {
                thread.first_timer_slack
            } else {
                argument
            };
            thread.timer_slack.store(slack, Ordering::Relaxed);
            Ok(0)
        }
        linux::PR_GET_TIMERSLACK => Ok(thread.timer_slack.load(Ordering::Relaxed)),
        linux::PR_SET_CHILD_SUBREAPER => {
            tree::adopt_orphans(process, argument != 0);
            Ok(0)
        }
        linux::PR_GET_CHILD_SUBREAPER => {
            let adopts = tree::adopts_orphans(process);
            user::write_u32(&caller.space, argument, u32::from(adopts)).await?;
            Ok(0)
        }
        linux::PR_SET_NO_NEW_PRIVS => {
            if argument != 1 || !others_are_zero {
                return Err(Errno::EINVAL);
            }
            thread.no_new_privileges.store(true, Ordering::Relaxed);
            Ok(0)
        }
        linux::PR_GET_NO_NEW_PRIVS => {
            if argument != 0 || !others_are_zero {
                return Err(Errno::EINVAL);
            }
            Ok(u64::from(thread.no_new_privileges.load(Ordering::Relaxed)))
        }
        option => privileges::prctl(thread, option, arguments).unwrap_or(Err(Errno::EINVAL)),
    }
}
