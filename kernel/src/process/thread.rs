//! The record of a user thread: what others may know of it and ask of it.
//!
//! # Attention
//!
//! The thread's own future ([`UserThread`](super::UserThread)) holds its registers and what it waits for; nobody else
//! touches those. Others leave a mark in the *attention word* and wake the future's task:
//!
//! | bit | set by | meaning | cleared by |
//! |---|---|---|---|
//! | [`NEW`] | its creation | leave your waker here, by which you can be woken | the first poll |
//! | [`KILLED`] | the end of the process, `execve` by another thread | drop what you wait for and end | never |
//! | [`STOPPED`] | a signal that stops the process | end your wait, and stay out of user mode | the process's continuation |
//! | [`MOVES`] | a change of the CPUs that it may run on | look whether this CPU is one of them | the look itself |
//! | [`SIGNALLED`] | a raised signal with a handler, a changed mask | look at the pending signals | the look itself, before it looks |
//!
//! The mark is set (release) before the wake, and the future tests it (acquire) at each poll before anything else and
//! before each entry to user mode, so no mark is missed: either the poll that is running sees it, or the wake causes
//! another. A waker is a word of the executor; waking a task that is gone is harmless. A thread that is in user mode on
//! another CPU has to be interrupted to look: whoever wakes it reads which CPU it is on after it has set the mark, and the
//! thread writes that before it tests the mark, so one of them sees the other.

use core::future::Future;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering, fence};
use core::task::Waker;
use faultline_fallible::Arc;

use faultline_executor::{Event, Waiting};
use spin::{Mutex, Once};

use super::capabilities::Capabilities;
use super::run_time::{self, CpuClock};
use super::usage::Usage;
use super::waiting::Interruptible;
use super::{Process, Tid};
use crate::arch::{cpu, smp};
use crate::machine::executor;
use crate::signal::{SignalSet, ThreadSignals};
use crate::syscall::control::FIRST_TIMER_SLACK;

/// The thread has to end.
pub const KILLED: u32 = 1;

/// A signal may be waiting for the thread.
pub const SIGNALLED: u32 = 2;

/// The process is stopped.
pub const STOPPED: u32 = 4;

/// The thread's task was not polled yet.
pub const NEW: u32 = 8;

/// The thread may not be allowed to run on its CPU any more.
pub const MOVES: u32 = 16;

/// The name of a thread, filled up with at least one NUL.
pub type Name = [u8; 16];

/// The record of a user thread.
pub struct Thread {
    tid: AtomicU32,
    /// Its process.
    pub process: Arc<Process>,
    /// Its signals.
    pub signals: Mutex<ThreadSignals>,
    /// Where to store 0 and wake a futex when it ends; 0 for nowhere.
    pub clear_child_tid: AtomicU64,
    /// Head of its list of robust futexes; 0 for none.
    pub robust_list: AtomicU64,
    /// The name that it was given, if any.
    name: Mutex<Option<Name>>,
    /// Where it is among the threads of its process; the lock of that list guards it.
    place: AtomicU32,
    /// What it has used.
    pub usage: Usage,
    /// Its CPU time.
    pub clock: CpuClock,
    /// By how much its sleeps may be late, in nanoseconds, and what that was when it began.
    pub timer_slack: AtomicU64,
    /// See [`timer_slack`](Self::timer_slack).
    pub first_timer_slack: u64,
    /// Whether it gave up gaining rights by `execve`, which nobody here does.
    pub no_new_privileges: AtomicBool,
    /// Its personality: bits that ask for the behaviour of other systems.
    pub personality: AtomicU32,
    /// Its capabilities.
    pub capabilities: Mutex<Capabilities>,
    /// Its nice value.
    pub nice: AtomicI32,
    /// Whether it waits in a call.
    waits: AtomicBool,
    attention: AtomicU32,
    /// The CPU that it runs on, or ran on last.
    cpu: AtomicU32,
    /// The CPUs that it may run on, as a bit set.
    affinity: AtomicU64,
    waker: Once<Waker>,
    /// When the call ends that is made again after a stop; 0 for none. The thread's own.
    deadline: AtomicU64,
}

impl Drop for Thread {
    fn drop(&mut self) {
        run_time::forget(self);
    }
}

impl Thread {
    /// A new thread of `process` that blocks `blocked`, made by `maker` or by the kernel.
    #[must_use]
    pub fn new(tid: Tid, process: Arc<Process>, blocked: SignalSet, maker: Option<&Thread>) -> Self {
        let slack = maker.map_or(FIRST_TIMER_SLACK, |maker| maker.timer_slack.load(Ordering::Relaxed));
        let gave_up = maker.is_some_and(|maker| maker.no_new_privileges.load(Ordering::Relaxed));
        Self {
            tid: AtomicU32::new(tid),
            process,
            signals: Mutex::new(ThreadSignals::new(blocked)),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            name: Mutex::new(None),
            place: AtomicU32::new(u32::MAX),
            usage: Usage::default(),
            clock: CpuClock::default(),
            timer_slack: AtomicU64::new(slack),
            first_timer_slack: slack,
            no_new_privileges: AtomicBool::new(gave_up),
            personality: AtomicU32::new(maker.map_or(0, |maker| maker.personality.load(Ordering::Relaxed))),
            capabilities: Mutex::new(maker.map_or(Capabilities::ROOT, |maker| *maker.capabilities.lock())),
            nice: AtomicI32::new(maker.map_or(0, |maker| maker.nice.load(Ordering::Relaxed))),
            waits: AtomicBool::new(false),
            attention: AtomicU32::new(NEW),
            cpu: AtomicU32::new(0),
            affinity: AtomicU64::new(maker.map_or(u64::MAX, Thread::affinity)),
            waker: Once::new(),
            deadline: AtomicU64::new(0),
        }
    }

    /// Its number.
    #[inline(always)]
    pub fn tid(&self) -> Tid {
        self.tid.load(Ordering::Relaxed)
    }

    /// Gives it the number of its process, which the first thread had: `execve` has left no other.
    pub fn become_first(&self) {
        self.tid.store(self.process.pid, Ordering::Relaxed);
    }

    /// Its name: the one that it was given, or that of its program.
    pub fn name(&self) -> Name {
        self.given_name().unwrap_or_else(|| self.process.program_name())
    }

    /// The name that it was given.
    pub fn given_name(&self) -> Option<Name> {
        *self.name.lock()
    }

    /// Gives it a name, or takes it away.
    pub fn set_name(&self, name: Option<Name>) {
        *self.name.lock() = name;
    }

    /// Where it is among the threads of its process.
    pub(super) fn place(&self) -> Option<usize> {
        let place = self.place.load(Ordering::Relaxed);
        (place != u32::MAX).then_some(place as usize)
    }

    /// It is at that place now, or nowhere.
    pub(super) fn set_place(&self, place: Option<usize>) {
        self.place
            .store(place.map_or(u32::MAX, |place| place as u32), Ordering::Relaxed);
    }

    /// Whether it waits in a call; else it runs, or will.
    pub fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// It waits in a call, or no longer.
    pub(super) fn set_waiting(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// The attention word.
    #[inline(always)]
    pub fn attention(&self) -> u32 {
        self.attention.load(Ordering::Acquire)
    }

    /// Tells the thread to end.
    pub fn kill(&self) {
        self.attention.fetch_or(KILLED, Ordering::Release);
        self.wake();
    }

    /// Tells the thread to stay out of user mode; the caller wakes it.
    pub fn stop(&self) {
        self.attention.fetch_or(STOPPED, Ordering::Release);
    }

    /// Lets the thread go on; the caller wakes it.
    pub fn resume(&self) {
        self.attention.fetch_and(!STOPPED, Ordering::AcqRel);
    }

    /// Tells the thread to look at its signals; the caller wakes it if it may be waiting.
    pub fn notice_signals(&self) {
        self.attention.fetch_or(SIGNALLED, Ordering::Release);
    }

    /// Takes the signal mark away, before the look.
    pub fn forget_signals(&self) {
        self.attention.fetch_and(!SIGNALLED, Ordering::AcqRel);
    }

    /// The first poll of the thread's task, whose waker never changes. To be called before the other marks are looked at.
    #[cold]
    pub fn begin(&self, waker: &Waker) {
        self.waker.call_once(|| waker.clone());
        self.attention.fetch_and(!NEW, Ordering::AcqRel);
        let affinity = self.affinity();
        if affinity != u64::MAX {
            self.set_affinity(affinity);
        }
    }

    /// The CPUs that it may run on, as a bit set.
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Ordering::Relaxed)
    }

    /// Sets the CPUs that it may run on: at least one that there is.
    pub fn set_affinity(&self, cpus: u64) {
        self.affinity.store(cpus, Ordering::Relaxed);
        if let Some(waker) = self.waker.get() {
            executor().restrict(waker, cpus);
        }
        self.attention.fetch_or(MOVES, Ordering::Release);
        self.wake();
    }

    /// Takes the mark of a move away, and says whether the thread has to leave the CPU that it is polled on.
    #[cold]
    pub fn has_to_move(&self) -> bool {
        self.attention.fetch_and(!MOVES, Ordering::AcqRel);
        self.affinity() & (1 << cpu::index()) == 0
    }

    /// Makes the thread's task look again, also if it is in user mode on another CPU.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        // Pairs with the fence in `is_on`.
        fence(Ordering::SeqCst);
        smp::interrupt(self.cpu());
    }

    /// The CPU that it runs on, or ran on last.
    pub fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed) as usize
    }

    /// It is about to be entered on that CPU.
    pub(super) fn is_on(&self, cpu: usize) {
        self.cpu.store(cpu as u32, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Waits for `future`, or until a signal has to be handled or the process is stopped: then the wait ends with
    /// [`Interrupted`](super::waiting::Interrupted), and the future is dropped. While it waits, the wait-for graph says so.
    /// For a condition it is `thread.interruptible(event("child"), queue.wait_until(|| look()))`, with a
    /// [`WaitQueue`](faultline_executor::WaitQueue) that is woken when the condition may have changed.
    pub fn interruptible<F: Future>(&self, event: Event, future: F) -> Waiting<Interruptible<'_, F>> {
        self.waiting(event, Interruptible::new(self, future))
    }

    /// Waits for `future` whatever signals come; only the end of the thread ends the wait. While it waits, the wait-for
    /// graph says so.
    pub fn waiting<F: Future>(&self, event: Event, future: F) -> Waiting<F> {
        executor().wait_for(event, self.tid(), future)
    }

    /// Keeps the deadline of a call that was cut short, for the case that it is made again without a handler having run.
    pub fn keep_deadline(&self, deadline: u64) {
        self.deadline.store(deadline.max(1), Ordering::Relaxed);
    }

    /// Takes the deadline of a call that is made again.
    pub fn take_deadline(&self) -> Option<u64> {
        Some(self.deadline.swap(0, Ordering::Relaxed)).filter(|&deadline| deadline != 0)
    }
}
