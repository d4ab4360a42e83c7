//! System calls: a documented subset of Linux x86-64, with Linux's numbers and error numbers.
//!
//! # Two ways
//!
//! - [`immediate()`] answers what never waits, in the thread's loop, without a future and without allocation.
//! - [`start`] makes a boxed future for a call that can wait. Reading or writing user memory can wait, for the page may
//!   not be there yet.
//!
//! # Rules
//!
//! - Every user pointer goes through [`user`], which resolves faults as user mode would and reports `EFAULT`.
//! - No lock is held across an await.
//! - Every allocation can fail. A call that keeps a thread, an open file or the like in the kernel heap asks
//!   [`has_headroom`] first, so that something is left for those who use it only while a call lasts.
//! - A typed error becomes a number in [`errno`] and nowhere else.
//! - A call that the kernel does not have is `ENOSYS`; its number is named once in the trace and the log.

pub mod advice;
mod at_once;
mod attributes;
pub mod clone;
pub mod control;
mod copying;
pub mod descriptors;
pub mod epolls;
pub mod errno;
pub mod events;
pub mod files;
pub mod futex;
pub mod groups;
mod identity;
pub mod immediate;
pub mod information;
pub mod memory;
mod paging;
pub mod paths;
mod peers;
pub mod pieces;
pub mod pipes;
pub mod polling;
pub mod posix_timers;
mod privileges;
mod process_files;
pub mod processes;
pub mod remap;
pub mod scheduling;
mod signals;
pub mod sockets;
mod splicing;
mod swapping;
pub mod time;
pub mod timers;
pub mod transfer;
pub mod usage;
pub mod user;

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use faultline_fallible::{Arc, Box};

use faultline_fallible as fallible;
use faultline_trace::Kind;
use linux_raw_sys::general as linux;

use attributes::Of;
use peers::Way;

use crate::arch::UserContext;
use crate::exec::Image;
use crate::heap;
use crate::ipc::{messages as queues, semaphores, shared};
use crate::machine::Space;
use crate::process::{ExitStatus, Thread};
use crate::signal::Signal;
use crate::signal::frame::{FpuImage, Registers};
use crate::{signal, tracing};
use sockets::messages;

pub use errno::Errno;
pub use immediate::{Immediate, immediate};

/// Who makes a call.
#[derive(Clone)]
pub struct Caller {
    /// The calling thread.
    pub thread: Arc<Thread>,
    /// Its address space.
    pub space: Arc<Space>,
}

/// What a system call came to.
pub enum Outcome {
    /// A value or an error for `rax`.
    Return(Result<u64, Errno>),
    /// The thread goes on with other registers.
    Resume(Box<Registers>),
    /// The thread goes on with other registers and another FPU state.
    ResumeWithFpu(Box<Registers>, Box<FpuImage>),
    /// The thread runs another program.
    Execute(Box<Image>),
    /// The thread ends.
    End(ExitStatus),
}

/// A system call that waits.
pub type Call = fallible::BoxFuture<'static, Outcome>;

/// Bytes of kernel heap that no call which keeps something there may use.
const LASTING_RESERVE: usize = 128 * 1024;

/// Whether a call may keep something in the kernel heap: a thread, an open file.
///
/// # Errors
/// `ENOMEM` if it may not.
#[inline]
pub fn has_headroom() -> Result<(), Errno> {
    keep_free(LASTING_RESERVE)
}

fn keep_free(reserve: usize) -> Result<(), Errno> {
    if heap::has_room(reserve) {
        Ok(())
    } else {
        Err(Errno::ENOMEM)
    }
}

/// The six arguments of a call.
#[derive(Clone, Copy, Debug)]
pub struct Arguments(pub [u64; 6]);

impl Arguments {
    /// The arguments in the registers of a thread.
    #[inline]
    #[must_use]
    pub fn of(context: &UserContext) -> Self {
        Self(context.syscall_arguments())
    }
}

/// A call that returns a value.
struct Value<F>(F);

impl<F: Future<Output = Result<u64, Errno>>> Future for Value<F> {
    type Output = Outcome;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        // SAFETY: the field is pinned because the whole is, and nothing moves out of it.
        let future = unsafe { self.map_unchecked_mut(|value| &mut value.0) };
        future.poll(context).map(Outcome::Return)
    }
}

/// Boxes a call. Its future is made in the box: it is large next to its arguments, and copying it would cost more than
/// most calls.
///
/// # Errors
/// `ENOMEM` without room for the box.
#[inline(always)]
pub fn boxed<F>(make: impl FnOnce() -> F) -> Result<Call, Errno>
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let future = heap::for_a_while(|| fallible::Box::try_new_with(make))?;
    Ok(future
        .unsize::<dyn Future<Output = Outcome> + Send>(|inner| inner)
        .into_pin())
}

/// Boxes a call that returns a value.
///
/// # Errors
/// As [`boxed`].
#[inline(always)]
fn value<F>(make: impl FnOnce() -> F) -> Result<Call, Errno>
where
    F: Future<Output = Result<u64, Errno>> + Send + 'static,
{
    boxed(|| Value(make()))
}

/// Whether a command of `fcntl` is about locks, which can wait.
const fn is_about_locks(command: u64) -> bool {
    matches!(
        command as u32,
        linux::F_GETLK
            | linux::F_SETLK
            | linux::F_SETLKW
            | linux::F_OFD_GETLK
            | linux::F_OFD_SETLK
            | linux::F_OFD_SETLKW
    )
}

/// Starts a call that can wait.
///
/// # Errors
/// `ENOSYS` for a call that the kernel does not have, `ENOMEM` without heap for the future.
pub fn start(caller: Caller, context: &UserContext) -> Result<Call, Errno> {
    let number = context.rax;
    let Arguments([a, b, c, d, e, f]) = Arguments::of(context);
    if number == u64::from(linux::__NR_rt_sigreturn) {
        let thread = caller.thread.clone();
        if let Ok(registers) = heap::for_a_while(|| Box::try_new(Registers::of(context)))
            && let Ok(call) = signal::deliver::sigreturn(caller, registers)
        {
            return Ok(call);
        }
        thread.process.begin_exit(ExitStatus::Killed(Signal::SIGSEGV));
        return Err(Errno::ENOMEM);
    }
    let call = match u32::try_from(number).map_err(|_| unknown(number))? {
        linux::__NR_read => value(|| transfer::read(caller, a, b, c))?,
        linux::__NR_write => value(|| transfer::write(caller, a, b, c))?,
        linux::__NR_pread64 => value(|| transfer::pread(caller, a, b, c, d))?,
        linux::__NR_pwrite64 => value(|| transfer::pwrite(caller, a, b, c, d))?,
        linux::__NR_readv => value(|| transfer::readv(caller, a, b, c))?,
        linux::__NR_writev => value(|| transfer::writev(caller, a, b, c))?,
        linux::__NR_preadv => value(|| transfer::preadv(caller, a, b, c, d))?,
        linux::__NR_pwritev => value(|| transfer::pwritev(caller, a, b, c, d))?,
        linux::__NR_getdents64 => value(|| files::getdents64(caller, a, b, c))?,
        linux::__NR_pipe => value(|| pipes::pipe2(caller, a, 0))?,
        linux::__NR_pipe2 => value(|| pipes::pipe2(caller, a, b))?,
        linux::__NR_ioctl => value(|| files::ioctl(caller, a, b, c))?,
        linux::__NR_fstat => value(|| files::fstat(caller, a, b))?,
        linux::__NR_sendfile => value(|| copying::sendfile(caller, a, b, c, d))?,
        linux::__NR_open => value(|| paths::openat(caller, paths::AT_CWD, a, b, c))?,
        linux::__NR_openat => value(|| paths::openat(caller, a, b, c, d))?,
        linux::__NR_creat => {
            let flags = linux::O_CREAT | linux::O_WRONLY | linux::O_TRUNC;
            value(|| paths::openat(caller, paths::AT_CWD, a, u64::from(flags), b))?
        }
        linux::__NR_stat => value(|| paths::newfstatat(caller, paths::AT_CWD, a, b, 0))?,
        linux::__NR_lstat => {
            value(|| paths::newfstatat(caller, paths::AT_CWD, a, b, u64::from(linux::AT_SYMLINK_NOFOLLOW)))?
        }
        linux::__NR_newfstatat => value(|| paths::newfstatat(caller, a, b, c, d))?,
        linux::__NR_statx => value(|| paths::statx(caller, a, b, c, d, e))?,
        linux::__NR_access => value(|| paths::faccessat(caller, paths::AT_CWD, a, b, 0))?,
        linux::__NR_faccessat => value(|| paths::faccessat(caller, a, b, c, 0))?,
        linux::__NR_faccessat2 => value(|| paths::faccessat(caller, a, b, c, d))?,
        linux::__NR_readlink => value(|| paths::readlinkat(caller, paths::AT_CWD, a, b, c))?,
        linux::__NR_readlinkat => value(|| paths::readlinkat(caller, a, b, c, d))?,
        linux::__NR_getcwd => value(|| paths::getcwd(caller, a, b))?,
        linux::__NR_chdir => value(|| paths::chdir(caller, a))?,
        linux::__NR_fchdir => value(|| paths::fchdir(caller, a))?,
        linux::__NR_mkdir => value(|| paths::mkdirat(caller, paths::AT_CWD, a, b))?,
        linux::__NR_mkdirat => value(|| paths::mkdirat(caller, a, b, c))?,
        linux::__NR_unlink => value(|| paths::unlinkat(caller, paths::AT_CWD, a, 0))?,
        linux::__NR_rmdir => value(|| paths::unlinkat(caller, paths::AT_CWD, a, u64::from(linux::AT_REMOVEDIR)))?,
        linux::__NR_unlinkat => value(|| paths::unlinkat(caller, a, b, c))?,
        linux::__NR_rename => value(|| paths::renameat2(caller, [paths::AT_CWD, a], [paths::AT_CWD, b], 0))?,
        linux::__NR_renameat => value(|| paths::renameat2(caller, [a, b], [c, d], 0))?,
        linux::__NR_renameat2 => value(|| paths::renameat2(caller, [a, b], [c, d], e))?,
        linux::__NR_link => value(|| paths::linkat(caller, [paths::AT_CWD, a], [paths::AT_CWD, b], 0))?,
        linux::__NR_linkat => value(|| paths::linkat(caller, [a, b], [c, d], e))?,
        linux::__NR_symlink => value(|| paths::symlinkat(caller, a, paths::AT_CWD, b))?,
        linux::__NR_symlinkat => value(|| paths::symlinkat(caller, a, b, c))?,
        linux::__NR_truncate => value(|| paths::truncate(caller, a, b))?,
        linux::__NR_chmod => value(|| paths::fchmodat(caller, paths::AT_CWD, a, b, 0))?,
        linux::__NR_fchmodat => value(|| paths::fchmodat(caller, a, b, c, 0))?,
        linux::__NR_fchmodat2 => value(|| paths::fchmodat(caller, a, b, c, d))?,
        linux::__NR_chown => value(|| paths::fchownat(caller, paths::AT_CWD, a, 0))?,
        linux::__NR_lchown => {
            value(|| paths::fchownat(caller, paths::AT_CWD, a, u64::from(linux::AT_SYMLINK_NOFOLLOW)))?
        }
        linux::__NR_fchownat => value(|| paths::fchownat(caller, a, b, e))?,
        linux::__NR_utime => value(|| paths::utime(caller, a, b))?,
        linux::__NR_utimes => value(|| paths::futimesat(caller, paths::AT_CWD, a, b))?,
        linux::__NR_futimesat => value(|| paths::futimesat(caller, a, b, c))?,
        linux::__NR_utimensat => value(|| paths::utimensat(caller, a, b, c, d))?,
        linux::__NR_getxattr => value(|| attributes::get(caller, Of::Path(a), b))?,
        linux::__NR_lgetxattr => value(|| attributes::get(caller, Of::Link(a), b))?,
        linux::__NR_fgetxattr => value(|| attributes::get(caller, Of::Descriptor(a), b))?,
        linux::__NR_setxattr => value(|| attributes::set(caller, Of::Path(a), b, [c, d, e]))?,
        linux::__NR_lsetxattr => value(|| attributes::set(caller, Of::Link(a), b, [c, d, e]))?,
        linux::__NR_fsetxattr => value(|| attributes::set(caller, Of::Descriptor(a), b, [c, d, e]))?,
        linux::__NR_listxattr => value(|| attributes::list(caller, Of::Path(a)))?,
        linux::__NR_llistxattr => value(|| attributes::list(caller, Of::Link(a)))?,
        linux::__NR_flistxattr => value(|| attributes::list(caller, Of::Descriptor(a)))?,
        linux::__NR_removexattr => value(|| attributes::remove(caller, Of::Path(a), b))?,
        linux::__NR_lremovexattr => value(|| attributes::remove(caller, Of::Link(a), b))?,
        linux::__NR_fremovexattr => value(|| attributes::remove(caller, Of::Descriptor(a), b))?,
        linux::__NR_statfs => value(|| paths::statfs(caller, a, b))?,
        linux::__NR_fstatfs => value(|| paths::fstatfs(caller, a, b))?,
        linux::__NR_fcntl => value(|| files::fcntl_lock(caller, a, b as u32, c))?,
        linux::__NR_flock => value(|| files::flock(caller, a, b))?,
        linux::__NR_fadvise64 => value(|| files::fadvise_in_steps(caller, a, b, c))?,
        linux::__NR_ftruncate => value(|| files::ftruncate_waiting(caller, a, b))?,
        linux::__NR_fallocate => value(|| files::fallocate(caller, a, b, c, d))?,
        linux::__NR_poll => value(|| polling::poll(caller, a, b, c))?,
        linux::__NR_ppoll => value(|| polling::ppoll(caller, a, b, c, d))?,

        linux::__NR_select => value(|| polling::select(caller, a, [b, c, d], e))?,
        linux::__NR_pselect6 => value(|| polling::pselect6(caller, a, [b, c, d], e, f))?,
        linux::__NR_memfd_create => value(|| files::memfd_create(caller, a, b))?,
        linux::__NR_setitimer => value(|| timers::setitimer(caller, a, b, c))?,
        linux::__NR_timer_create => value(|| posix_timers::timer_create(caller, a, b, c))?,
        linux::__NR_timer_settime => value(|| posix_timers::timer_settime(caller, a, b, c, d))?,
        linux::__NR_timer_gettime => value(|| posix_timers::timer_gettime(caller, a, b))?,
        linux::__NR_getpriority => value(|| scheduling::getpriority(caller, a, b))?,
        linux::__NR_setpriority => value(|| scheduling::setpriority(caller, a, b, c))?,
        linux::__NR_sched_setaffinity => value(|| scheduling::sched_setaffinity(caller, a, b, c))?,
        linux::__NR_sched_setscheduler => value(|| scheduling::sched_setscheduler(caller, a, b, c))?,
        linux::__NR_sched_getparam => value(|| scheduling::sched_getparam(caller, a, b))?,
        linux::__NR_sched_setparam => value(|| scheduling::sched_setparam(caller, a, b))?,
        linux::__NR_sched_rr_get_interval => value(|| scheduling::sched_rr_get_interval(caller, a, b))?,
        linux::__NR_getitimer => value(|| timers::getitimer(caller, a, b))?,
        linux::__NR_eventfd => value(|| events::eventfd2(caller, a, 0))?,
        linux::__NR_eventfd2 => value(|| events::eventfd2(caller, a, b))?,
        linux::__NR_epoll_create => value(|| epolls::epoll_create(caller, a))?,
        linux::__NR_epoll_create1 => value(|| epolls::epoll_create1(caller, a))?,
        linux::__NR_epoll_ctl => value(|| epolls::epoll_ctl(caller, a, b, c, d))?,
        linux::__NR_epoll_wait => value(|| epolls::epoll_wait(caller, a, b, c, d))?,
        linux::__NR_epoll_pwait => value(|| epolls::epoll_pwait(caller, a, b, c, d, e))?,
        linux::__NR_socket => value(|| sockets::socket(caller, a, b, c))?,
        linux::__NR_socketpair => value(|| sockets::socketpair(caller, a, b, c, d))?,
        linux::__NR_bind => value(|| sockets::bind(caller, a, b, c))?,
        linux::__NR_listen => value(|| async move { sockets::listen(&caller, a, b) })?,
        linux::__NR_accept => value(|| sockets::accept4(caller, a, b, c, 0))?,
        linux::__NR_accept4 => value(|| sockets::accept4(caller, a, b, c, d))?,
        linux::__NR_connect => value(|| sockets::connect(caller, a, b, c))?,
        linux::__NR_shutdown => value(|| async move { sockets::shutdown(&caller, a, b) })?,
        linux::__NR_getsockname => value(|| sockets::getsockname(caller, a, b, c))?,
        linux::__NR_getpeername => value(|| sockets::getpeername(caller, a, b, c))?,
        linux::__NR_getsockopt => value(|| sockets::getsockopt(caller, [a, b, c, d, e]))?,
        linux::__NR_setsockopt => value(|| sockets::setsockopt(caller, [a, b, c, d, e]))?,
        linux::__NR_sendto => value(|| messages::sendto(caller, [a, b, c, d, e, f]))?,
        linux::__NR_recvfrom => value(|| messages::recvfrom(caller, [a, b, c, d, e, f]))?,
        linux::__NR_sendmsg => value(|| messages::sendmsg(caller, a, b, c))?,
        linux::__NR_recvmsg => value(|| messages::recvmsg(caller, a, b, c))?,
        linux::__NR_sendmmsg => value(|| messages::sendmmsg(caller, a, b, c, d))?,
        linux::__NR_recvmmsg => value(|| messages::recvmmsg(caller, [a, b, c, d, e]))?,

        linux::__NR_setuid | linux::__NR_setgid => value(|| async move { identity::set(a) })?,
        linux::__NR_setreuid | linux::__NR_setregid => value(|| async move { identity::set_several(&[a, b]) })?,
        linux::__NR_setresuid | linux::__NR_setresgid => value(|| async move { identity::set_several(&[a, b, c]) })?,
        linux::__NR_getresuid | linux::__NR_getresgid => value(|| identity::get_several(caller, [a, b, c]))?,
        // The number before, which is that of the one user.
        linux::__NR_setfsuid | linux::__NR_setfsgid => value(|| async { Ok(0) })?,
        linux::__NR_getgroups => value(|| async move { identity::getgroups(a) })?,
        linux::__NR_setgroups => value(|| identity::setgroups(caller, a, b))?,
        linux::__NR_sync_file_range => value(|| copying::sync_file_range(caller, [a, b, c, d]))?,
        linux::__NR_syncfs => value(|| async move { descriptors::check(&caller.thread.process, a) })?,
        linux::__NR_shmget => value(|| async move { shared::shmget(&caller, a, b, c) })?,
        linux::__NR_shmat => value(|| shared::shmat(caller, a, b, c))?,
        linux::__NR_shmdt => value(|| shared::shmdt(caller, a))?,
        linux::__NR_shmctl => value(|| shared::shmctl(caller, a, b, c))?,
        linux::__NR_semget => value(|| async move { semaphores::semget(a, b, c) })?,
        linux::__NR_semop => value(|| semaphores::semop(caller, a, b, c))?,
        linux::__NR_semtimedop => value(|| semaphores::semtimedop(caller, a, b, c, d))?,
        linux::__NR_semctl => value(|| semaphores::semctl(caller, a, b, c, d))?,
        linux::__NR_msgget => value(|| async move { queues::msgget(a, b) })?,
        linux::__NR_msgsnd => value(|| queues::msgsnd(caller, a, b, c, d))?,
        linux::__NR_msgrcv => value(|| queues::msgrcv(caller, [a, b, c, d, e]))?,
        linux::__NR_msgctl => value(|| queues::msgctl(caller, a, b, c))?,
        linux::__NR_signalfd => value(|| signals::signalfd4(caller, a, b, c, 0))?,
        linux::__NR_signalfd4 => value(|| signals::signalfd4(caller, a, b, c, d))?,
        linux::__NR_pidfd_open => value(|| async move { process_files::pidfd_open(&caller, a, b) })?,
        linux::__NR_pidfd_send_signal => value(|| process_files::pidfd_send_signal(caller, a, b, c, d))?,
        linux::__NR_pidfd_getfd => value(|| async move { process_files::pidfd_getfd(&caller, a, b, c) })?,
        linux::__NR_preadv2 => value(|| transfer::preadv2(caller, [a, b, c, d, f]))?,
        linux::__NR_pwritev2 => value(|| transfer::pwritev2(caller, [a, b, c, d, f]))?,
        linux::__NR_splice => value(|| splicing::splice(caller, [a, b, c, d, e, f]))?,
        linux::__NR_tee => value(|| splicing::tee(caller, a, b, c, d))?,
        linux::__NR_vmsplice => value(|| splicing::vmsplice(caller, a, b, c, d))?,
        linux::__NR_copy_file_range => value(|| copying::copy_file_range(caller, [a, b, c, d, e, f]))?,
        linux::__NR_mknod => value(|| paths::mknodat(caller, paths::AT_CWD, a, b))?,
        linux::__NR_mknodat => value(|| paths::mknodat(caller, a, b, c))?,
        linux::__NR_epoll_pwait2 => value(|| epolls::epoll_pwait2(caller, [a, b, c, d, e]))?,

        linux::__NR_timerfd_create => value(|| timers::timerfd_create(caller, a, b))?,
        linux::__NR_timerfd_settime => value(|| timers::timerfd_settime(caller, a, b, c, d))?,
        linux::__NR_timerfd_gettime => value(|| timers::timerfd_gettime(caller, a, b))?,

        linux::__NR_mmap => value(|| memory::mmap_in_turn(caller, [a, b, c, d, e, f]))?,
        linux::__NR_munmap => value(|| memory::munmap_in_turn(caller, a, b))?,
        linux::__NR_brk => value(|| memory::brk_in_turn(caller, a))?,
        linux::__NR_mprotect => value(|| memory::mprotect_in_turn(caller, [a, b, c]))?,
        linux::__NR_mremap => value(|| remap::mremap_in_turn(caller, [a, b, c, d, e]))?,
        linux::__NR_madvise => value(|| advice::madvise_in_turn(caller, a, b, c))?,
        linux::__NR_mincore => value(|| advice::mincore(caller, a, b, c))?,
        linux::__NR_msync => value(|| advice::msync(caller, a, b, c))?,
        linux::__NR_mlock => value(|| advice::mlock(caller, a, b, 0))?,
        linux::__NR_mlock2 => value(|| advice::mlock(caller, a, b, c))?,
        linux::__NR_munlock => value(|| advice::munlock(caller, a, b))?,
        linux::__NR_mlockall => value(|| advice::mlockall(caller, a))?,
        linux::__NR_munlockall => value(|| advice::munlockall(caller))?,

        linux::__NR_swapon => value(|| swapping::swapon(caller, a, b))?,
        linux::__NR_swapoff => value(|| swapping::swapoff(caller, a))?,

        linux::__NR_futex => value(|| futex::futex(caller, a, b as u32, c as u32, d, e, f as u32))?,

        linux::__NR_clock_gettime => value(|| time::clock_gettime(caller, a, b))?,
        linux::__NR_clock_getres => value(|| time::clock_getres(caller, a, b))?,
        linux::__NR_gettimeofday => value(|| time::gettimeofday(caller, a, b))?,
        linux::__NR_time => value(|| time::time(caller, a))?,
        linux::__NR_nanosleep => value(|| time::nanosleep(caller, a, b))?,
        linux::__NR_clock_nanosleep => value(|| time::clock_nanosleep(caller, a, b, c, d))?,
        linux::__NR_times => value(|| usage::times(caller, a))?,

        linux::__NR_fork => clone::fork(caller, context)?,
        linux::__NR_vfork => clone::vfork(caller, context)?,
        linux::__NR_clone => clone::clone(caller, context)?,
        linux::__NR_clone3 => clone::clone3(caller, context)?,
        linux::__NR_execve => boxed(|| processes::execve(caller, a, b, c))?,
        linux::__NR_wait4 => value(|| processes::wait4(caller, a as i32, b, c, d))?,
        linux::__NR_waitid => value(|| processes::waitid(caller, a, b, c, d, e))?,

        linux::__NR_kill => value(|| signal::calls::kill_many(caller, a as i32, b as u32))?,
        linux::__NR_rt_sigaction => value(|| signal::calls::rt_sigaction(caller, a, b, c, d))?,
        linux::__NR_rt_sigprocmask => value(|| signal::calls::rt_sigprocmask(caller, a, b, c, d))?,
        linux::__NR_rt_sigpending => value(|| signal::calls::rt_sigpending(caller, a, b))?,
        linux::__NR_rt_sigsuspend => value(|| signal::calls::rt_sigsuspend(caller, a, b))?,
        linux::__NR_sigaltstack => value(|| signal::calls::sigaltstack(caller, a, b, context.rsp()))?,
        linux::__NR_rt_sigtimedwait => value(|| signal::wait::rt_sigtimedwait(caller, a, b, c, d))?,
        linux::__NR_rt_sigqueueinfo => value(|| signal::wait::rt_sigqueueinfo(caller, a, None, b, c))?,
        linux::__NR_rt_tgsigqueueinfo => value(|| signal::wait::rt_sigqueueinfo(caller, a, Some(b), c, d))?,
        linux::__NR_pause => value(|| signal::calls::pause(caller))?,

        linux::__NR_get_robust_list => value(|| information::get_robust_list(caller, a, b, c))?,
        linux::__NR_getrandom => value(|| information::getrandom(caller, a, b, c))?,
        linux::__NR_uname => value(|| information::uname(caller, a))?,
        linux::__NR_sysinfo => value(|| information::sysinfo(caller, a))?,
        linux::__NR_prlimit64 => value(|| information::prlimit64(caller, a, b, c, d))?,
        linux::__NR_setrlimit => value(|| information::setrlimit(caller, a, b))?,
        linux::__NR_getrlimit => value(|| information::getrlimit(caller, a, b))?,
        linux::__NR_getrusage => value(|| usage::getrusage(caller, a as i32, b))?,
        linux::__NR_sched_getaffinity => value(|| scheduling::sched_getaffinity(caller, a, b, c))?,
        linux::__NR_getcpu => value(|| information::getcpu(caller, a, b))?,
        linux::__NR_arch_prctl => {
            value(|| information::arch_prctl_get(caller, a, b, context.fs_base(), context.gs_base()))?
        }
        linux::__NR_process_vm_readv => value(|| peers::process_vm(caller, Way::In, a, [b, c, d, e, f]))?,
        linux::__NR_process_vm_writev => value(|| peers::process_vm(caller, Way::Out, a, [b, c, d, e, f]))?,
        linux::__NR_kcmp => value(|| async move { peers::kcmp(&caller, [a, b, c, d, e]) })?,
        linux::__NR_capget => value(|| privileges::capget(caller, a, b))?,
        linux::__NR_capset => value(|| privileges::capset(caller, a, b))?,
        linux::__NR_prctl => value(|| control::prctl(caller, a, [b, c, d, e]))?,
        _ => return Err(unknown(number)),
    };
    Ok(call)
}

/// Names a call that the kernel does not have, once.
#[cold]
fn unknown(number: u64) -> Errno {
    static NAMED: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    // Numbers beyond the table share its last bit.
    let index = number.min(511) as usize;
    let bit = 1 << (index % 64);
    if NAMED[index / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        tracing::record(Kind::SyscallUnknown, number, 0);
        log::debug!("system call {number} is not implemented");
    }
    Errno::ENOSYS
}
