//! Calls that never wait: answered in the thread's loop.

use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use linux_raw_sys::general as linux;

use super::{
    Arguments, Errno, advice, at_once, descriptors, futex, groups, information, memory, posix_timers, processes, remap,
    scheduling, time, timers,
};
use crate::arch::UserContext;
use crate::machine::Space;
use crate::process::{ExitStatus, Thread, tree};
use crate::signal;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Immediate {
    /// This is its result.
    Value(u64),
    /// This is its result, and the call has changed nothing: no mapping, and nothing that wants attention.
    Known(u64),
    /// The thread lets others run; the result is 0.
    Yield,
    /// It can wait: start it.
    Waits,
}

impl From<Result<u64, Errno>> for Immediate {
    #[inline]
    fn from(result: Result<u64, Errno>) -> Self {
        Self::Value(result.unwrap_or_else(Errno::to_register))
    }
}

/// Answers a call, if it never waits.
#[inline]
pub fn immediate(thread: &Arc<Thread>, space: &Arc<Space>, context: &mut UserContext) -> Immediate {
    match context.rax as u32 {
        linux::__NR_getpid => Immediate::Known(u64::from(thread.process.pid)),
        linux::__NR_gettid => Immediate::Known(u64::from(thread.tid())),
        linux::__NR_sched_yield => Immediate::Yield,
        _ => other(thread, space, context),
    }
}

#[inline(never)]
fn sigreturn(thread: &Thread, space: &Space, context: &mut UserContext) -> Immediate {
    if signal::deliver::try_sigreturn(thread, space, context) {
        // The result is the register that was interrupted.
        Immediate::Value(context.rax)
    } else {
        Immediate::Waits
    }
}

/// The result of a call, if it was made at once.
fn made(result: Option<u64>) -> Immediate {
    result.map_or(Immediate::Waits, Immediate::Value)
}

#[inline(never)]
fn other(thread: &Arc<Thread>, space: &Arc<Space>, context: &mut UserContext) -> Immediate {
    if context.rax == u64::from(linux::__NR_rt_sigreturn) {
        return sigreturn(thread, space, context);
    }
    let process = &thread.process;
    let Arguments([a, b, c, d, e, f]) = Arguments::of(context);
    let Ok(number) = u32::try_from(context.rax) else {
        return Immediate::Waits;
    };
    let result = match number {
        linux::__NR_getppid => Ok(u64::from(tree::parent_of(process.pid))),
        linux::__NR_getuid | linux::__NR_geteuid | linux::__NR_getgid | linux::__NR_getegid => {
            return Immediate::Known(0);
        }
        linux::__NR_getpgrp => Ok(u64::from(process.group())),
        linux::__NR_getpgid => groups::getpgid(process, a as u32),
        linux::__NR_getsid => groups::getsid(process, a as u32),
        linux::__NR_setpgid => groups::setpgid(process, a as u32, b as u32),
        linux::__NR_setsid => groups::setsid(process),
        linux::__NR_umask => Ok(u64::from(process.umask.swap(a as u32 & 0o777, Ordering::Relaxed))),
        linux::__NR_set_tid_address => {
            thread.clear_child_tid.store(a, Ordering::Relaxed);
            Ok(u64::from(thread.tid()))
        }
        linux::__NR_personality => Ok(information::personality(thread, a)),
        linux::__NR_set_robust_list => information::set_robust_list(thread, a, b),
        linux::__NR_arch_prctl => match a as u32 {
            information::ARCH_SET_FS | information::ARCH_SET_GS => information::arch_prctl_set(context, a as u32, b),
            _ => return Immediate::Waits,
        },
        linux::__NR_exit => {
            processes::exit_now(thread, ExitStatus::Exited(a as u8));
            Ok(0)
        }
        linux::__NR_exit_group => {
            process.begin_exit(ExitStatus::Exited(a as u8));
            Ok(0)
        }
        linux::__NR_kill if a as i32 > 0 => signal::calls::kill_one(process, a as u32, b as u32),
        linux::__NR_tkill => signal::calls::tgkill(process, None, a as u32, b as u32),
        linux::__NR_tgkill => signal::calls::tgkill(process, Some(a as u32), b as u32, c as u32),

        linux::__NR_read => return made(at_once::read(thread, space, [a, b, c], None)),
        linux::__NR_pread64 => return made(at_once::read(thread, space, [a, b, c], Some(d))),
        linux::__NR_write => return made(at_once::write(thread, space, a, b, c)),
        linux::__NR_fstat => return made(at_once::fstat(thread, space, a, b)),

        linux::__NR_munmap if memory::is_short(b) => memory::munmap(space, a, b),
        linux::__NR_brk if !space.locks_future() => memory::brk(process, space, a),
        linux::__NR_mprotect if memory::is_short(b) => memory::mprotect(process, space, [a, b, c]),
        linux::__NR_mmap if memory::is_one_step(space, b, d) => memory::mmap(process, space, [a, b, c, d, e, f]),
        linux::__NR_mremap if remap::is_one_step(space, b, c, d) => remap::mremap(process, space, [a, b, c, d, e]),
        linux::__NR_madvise if memory::is_short(b) && !advice::waits(c) => advice::madvise(space, a, b, c),

        linux::__NR_close => descriptors::close(process, a),
        linux::__NR_close_range => descriptors::close_range(process, a, b, c),
        linux::__NR_lseek => descriptors::lseek(process, a, b as i64, c as u32),
        linux::__NR_dup => descriptors::dup(process, a),
        linux::__NR_dup2 => descriptors::dup3(process, a, b, 0, true),
        linux::__NR_dup3 => descriptors::dup3(process, a, b, c as u32, false),
        linux::__NR_fcntl if super::is_about_locks(b) => return Immediate::Waits,
        linux::__NR_fcntl => descriptors::fcntl(process, a, b as u32, c),
        linux::__NR_fsync | linux::__NR_fdatasync => descriptors::fsync(process, a),
        linux::__NR_fadvise64 => descriptors::fadvise(process, a, b, c as i64, d as u32),
        linux::__NR_ftruncate => descriptors::ftruncate(thread, a, b),
        linux::__NR_fchmod => descriptors::fchmod(process, a, b as u32),
        linux::__NR_fchown => descriptors::fchown(process, a),
        linux::__NR_sync => Ok(0),
        linux::__NR_alarm => timers::alarm(process, a),
        linux::__NR_timer_getoverrun => posix_timers::timer_getoverrun(process, a),
        linux::__NR_timer_delete => posix_timers::timer_delete(process, a),
        linux::__NR_sched_getscheduler => scheduling::sched_getscheduler(thread, a),
        linux::__NR_sched_get_priority_max => scheduling::sched_get_priority(a, true),
        linux::__NR_sched_get_priority_min => scheduling::sched_get_priority(a, false),

        linux::__NR_futex => match futex::wake_now(space, a, b as u32, c as u32, f as u32) {
            Some(woken) => Ok(woken),
            None => return Immediate::Waits,
        },
        linux::__NR_clock_gettime => match time::clock_gettime_now(space, thread, a, b) {
            Some(value) => Ok(value),
            None => return Immediate::Waits,
        },
        _ => return Immediate::Waits,
    };
    if result == Err(Errno::EWAIT) {
        return Immediate::Waits;
    }
    result.into()
}
