//! The future that is a user thread.
//!
//! ```text
//!            +---------------------- User ----------------------+
//!            | page fault            | call that can wait       | end
//!            v                       v                          v
//!         Fault(future)           Call(future)               finished
//!            | ready: back to User   | ready: as its Outcome says
//! ```
//!
//! Before a thread enters user mode, every CPU has to have dropped what its space has taken away: so no access goes through a
//! translation that a call which has returned has removed. Where a CPU has not, the thread waits (`Flush`).
//!
//! The poll is one flat loop. A page fault's future lives inside the thread's, so a fault allocates nothing; a system
//! call that never waits is answered without leaving the loop; one that can wait is a boxed future, so that the thread's
//! own future stays small.
//!
//! # The end of a thread
//!
//! Whoever ends a thread sets its kill bit and wakes its task ([`thread`](super::thread)). The next poll drops the future
//! that the thread was waiting for: a fault's future takes its waiter off the fault slot, a sleep leaves the timer queue,
//! a futex wait leaves its queue. So nothing has to know how to be interrupted, except that dropping it cleans up. Then
//! the thread takes its leave ([`farewell`]), which may wait for pages, and is gone.

use core::future::Future;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll};
use faultline_fallible::Arc;

use faultline_mm::{Access, FaultError, FaultInfo, FaultOutcome, Protection};
use faultline_trace::{Kind, TrapWord};

use super::attention::Attended;
use super::thread::{KILLED, MOVES, NEW, STOPPED};
use super::{Thread, exit, farewell, peaks, run_time};
use crate::arch::{self, Trap, UserContext, clock};
use crate::heap;
use crate::machine::{self, FaultFuture, Flushed, Space};
use crate::syscall::{self, Call, Caller, Errno, Immediate, Outcome, processes};
use crate::{statistics, tracing};

/// A user thread.
///
/// Fields are dropped in the order of their declaration: the fault's future before the space that it borrows.
pub struct UserThread {
    pub(super) state: State,
    pub(super) context: UserContext,
    pub(super) thread: Arc<Thread>,
    /// None before the first `execve` and after the end.
    pub(super) space: Option<Arc<Space>>,
    /// The system call that a signal cut short, and whether a handler always ends it.
    pub(super) interrupted: Option<CutShort>,
    /// It has no more to do than to take its leave.
    leaves: bool,
    /// How often a signal has had to wait for room in the kernel heap.
    pub(super) waits_for_room: u16,
    /// Where the thread has faulted for nothing, and how often in a row, without a page that came or a call in between.
    stuck: (u64, u32),
}

/// What the thread is doing. With a tag of its own: one that the compiler hides in the fault's future costs more to read.
#[repr(u8)]
pub(super) enum State {
    /// It is about to enter user mode.
    User,
    /// It waits for a page. The future borrows the space that `space` holds.
    Fault { future: FaultFuture<'static>, since: u64 },
    /// It waits in a system call, or for its signal frame.
    Call(Call),
    /// It may not run before other CPUs have dropped translations. The future borrows the space that `space` holds.
    Flush(Flushed<'static>),
}

/// A system call that a signal cut short.
#[derive(Clone, Copy)]
pub(super) struct CutShort {
    pub(super) number: u64,
    /// The call goes on after a handler with `SA_RESTART`, else only if no handler ran.
    pub(super) restartable: bool,
}

/// What follows a trap.
#[derive(PartialEq, Eq)]
enum Next {
    /// Back to user mode, where nothing has changed: interrupts were off, and the call did nothing but answer.
    Resume,
    /// Back to user mode, unless somebody wants attention.
    Enter,
    /// Look at the state first.
    Look,
    /// Somebody else may have to run first: the executor decides.
    Pause,
    /// The thread waits.
    Wait,
}

impl UserThread {
    /// A thread that enters user mode with `context`, or first completes `first`.
    #[must_use]
    pub fn new(thread: Arc<Thread>, space: Option<Arc<Space>>, context: UserContext, first: Option<Call>) -> Self {
        let state = first.map_or(State::User, State::Call);
        Self {
            state,
            context,
            thread,
            space,
            interrupted: None,
            leaves: false,
            waits_for_room: 0,
            stuck: (0, 0),
        }
    }

    /// Leaves the fault that has just begun with the CPU, if it is a usual one; the executor has it served when the poll is
    /// over.
    #[inline(always)]
    fn leave_fault(&mut self, cx: &mut Context<'_>) -> bool {
        let State::Fault { future, .. } = &mut self.state else {
            return false;
        };
        // SAFETY: as in `poll_fault`.
        unsafe { Pin::new_unchecked(future) }.leave(cx.waker())
    }

    /// Polls the fault that the thread waits for. `Ready` means that the loop goes on.
    #[inline(always)]
    fn poll_fault(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Fault { future, since } = &mut self.state else {
            return Poll::Ready(());
        };
        // SAFETY: 1. `self` is reached through the pinned future of the task only, and nothing moves out of `state` while
        // it is `Fault`: it is replaced in place, which drops the future where it is.
        let mut future = unsafe { Pin::new_unchecked(future) };
        let (fault, since) = (future.id(), *since);
        let outcome = match future.as_mut().try_outcome() {
            Some(outcome) => outcome,
            None => match future.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(outcome)) => outcome,
                Poll::Ready(Err(error)) => {
                    self.state = State::User;
                    self.refuse(error);
                    return Poll::Ready(());
                }
            },
        };
        // SAFETY: 1. the place is that of `state`; 2. what is overwritten without a drop is a future that is over, and
        // dropping that does nothing.
        unsafe { (&raw mut self.state).write(State::User) };
        self.trace_resume(fault);
        if let FaultOutcome::Resolved(class) | FaultOutcome::Read(class) = outcome {
            self.stuck.1 = 0;
            statistics::fault_resolved(class, since);
        } else if self.is_stuck() {
            self.refuse(FaultError::Protection {
                address: self.context.cr2(),
                access: Access::Read,
                protection: Protection::empty(),
            });
        }
        match outcome {
            FaultOutcome::Read(_) => self.thread.usage.count_major_fault(),
            _ => self.thread.usage.count_fault(),
        }
        Poll::Ready(())
    }

    /// Whether one instruction has faulted again and again, although its page allows the access: whatever the processor
    /// wants there, it does not get it by asking for ever.
    #[cold]
    fn is_stuck(&mut self) -> bool {
        /// Far more often than translations that were not flushed yet can cause.
        const MOST: u32 = 1000;
        let rip = self.context.rip();
        let (place, times) = &mut self.stuck;
        if core::mem::replace(place, rip) == rip {
            *times += 1;
        } else {
            *times = 1;
        }
        if *times < MOST {
            return false;
        }
        *times = 0;
        true
    }

    /// Waits until other CPUs have flushed.
    #[cold]
    fn wait_for_flush(&mut self, future: Flushed<'static>) -> Next {
        self.state = State::Flush(future);
        Next::Look
    }

    /// Polls the call that the thread waits for. `Ready` means that the loop goes on.
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Call(future) = &mut self.state else {
            return Poll::Ready(());
        };
        self.thread.set_waiting(false);
        let began = clock::counter();
        let polled = future.as_mut().poll(cx);
        let spent = clock::counter().wrapping_sub(began);
        self.thread.clock.charge_system(spent);
        self.thread.process.clock.charge_system(spent);
        let Poll::Ready(outcome) = polled else {
            self.thread.usage.wait();
            self.thread.set_waiting(true);
            return Poll::Pending;
        };
        self.state = State::User;
        self.conclude(outcome);
        Poll::Ready(())
    }

    /// Traces that the faulting instruction is about to be executed again.
    #[inline(always)]
    fn trace_resume(&self, fault: u64) {
        if tracing::is_on(Kind::FaultResume) {
            let space = self.space.as_ref().map_or(0, |space| space.id());
            tracing::emit(Kind::FaultResume, space, fault, self.context.cr2(), 0);
        }
    }

    /// Applies what a system call came to.
    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Return(Ok(value)) => self.return_from_call(value),
            Outcome::Return(Err(errno)) => {
                let restartable = errno == Errno::ERESTARTSYS;
                if restartable || errno == Errno::ERESTARTNOHAND || errno == Errno::ERESTARTBLOCK {
                    self.interrupted = Some(CutShort {
                        number: self.context.rax,
                        restartable,
                    });
                    self.thread.notice_signals();
                    self.return_from_call(Errno::EINTR.to_register());
                } else {
                    self.return_from_call(errno.to_register());
                }
            }
            Outcome::Resume(registers) => registers.load_into(&mut self.context),
            Outcome::ResumeWithFpu(registers, image) => {
                registers.load_into(&mut self.context);
                self.context.fpu_mut().replace(&image.bytes);
            }
            Outcome::Execute(image) => {
                let image = image.into_inner();
                let process = &self.thread.process;
                drop(self.space.replace(image.space.clone()));
                drop(process.replace_space(Some(image.space)));
                process.release_parent();
                self.context.restart(image.entry, image.stack_pointer);
            }
            Outcome::End(status) => {
                processes::exit_now(&self.thread, status);
            }
        }
    }

    fn return_from_call(&mut self, value: u64) {
        tracing::record(Kind::SyscallExit, self.context.rax, value);
        self.context.set_return(value);
    }

    pub(super) fn caller(&self) -> Option<Caller> {
        let space = self.space.clone()?;
        Some(Caller {
            thread: self.thread.clone(),
            space,
        })
    }

    /// The thread leaves user mode for good.
    #[cold]
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        heap::charge_nobody();
        if !self.leaves {
            self.leaves = true;
            // What the thread waited for is given up here.
            self.state = State::User;
            if let Some(space) = &self.space
                && let Some(rest) = peaks::before_the_end(&self.thread, farewell::begin(&self.thread, space))
            {
                self.state = State::Call(rest);
            }
        }
        if let State::Call(rest) = &mut self.state {
            if rest.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.state = State::User;
        }
        if self
            .space
            .as_ref()
            .is_some_and(|space| exit::dismantle(&self.thread, space))
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.space = None;
        if exit::thread_gone(&self.thread) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Answers a system call, or starts it.
    #[inline(always)]
    fn call(&mut self) -> Next {
        tracing::arguments::enter(self.space.as_ref(), &self.context);
        statistics::syscall();
        self.stuck.1 = 0;
        let Some(space) = &self.space else { return Next::Look };
        match syscall::immediate(&self.thread, space, &mut self.context) {
            Immediate::Known(value) => {
                self.return_from_call(value);
                Next::Resume
            }
            Immediate::Value(value) => {
                self.return_from_call(value);
                if machine::executor().has_woken_user() {
                    Next::Pause
                } else {
                    Next::Enter
                }
            }
            Immediate::Yield => {
                self.return_from_call(0);
                machine::executor().pass();
                Next::Pause
            }
            Immediate::Waits => {
                self.start_call();
                Next::Look
            }
        }
    }

    #[inline(never)]
    fn start_call(&mut self) {
        let Some(caller) = self.caller() else { return };
        match syscall::start(caller, &self.context) {
            Ok(call) => self.state = State::Call(call),
            Err(errno) => self.return_from_call(errno.to_register()),
        }
    }

    /// Lets the executor decide who goes on.
    fn pause(cx: &Context<'_>) -> Poll<()> {
        machine::executor().wake_next(cx.waker().clone());
        Poll::Pending
    }

    /// Starts a fault of the space that the thread runs in.
    #[inline(always)]
    fn start_fault(&mut self, address: u64, error: u64) {
        let since = clock::counter();
        let Some(space) = &self.space else { return };
        let future = space.handle_page_fault(FaultInfo::from_error_code(address, error));
        if tracing::is_on(Kind::FaultTrap) {
            let word = TrapWord::new(error >> 1 & 1 | error >> 3 & 2, self.context.rip());
            tracing::emit(Kind::FaultTrap, space.id(), future.id(), address, word.0);
        }
        // SAFETY: 1. the future borrows what the `Arc` in `self.space` points to, which does not move; 2. that `Arc` is
        // replaced or dropped only while `state` is not `Fault` (nor `Flush`): in `conclude`, which `poll_call` calls after it set
        // `state` to `User`, in `finish`, which does so first, and when `self` is dropped, `state` before `space`.
        let future = unsafe { mem::transmute::<FaultFuture<'_>, FaultFuture<'static>>(future) };
        debug_assert!(
            matches!(self.state, State::User),
            "a thread that waits is not in user mode"
        );
        // SAFETY: 1. the place is that of `state`; 2. what is overwritten without a drop is `User`, which has nothing to drop.
        unsafe { (&raw mut self.state).write(State::Fault { future, since }) };
    }

    /// Runs the thread in user mode until its next trap, and does what the trap asks for as far as it can be done now.
    #[inline(always)]
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        let Some(space) = &self.space else {
            // A thread whose program could not be loaded has its kill bit by now; this is not reached otherwise.
            self.thread.kill();
            return Next::Look;
        };
        space.memory().switch_to(space);
        // SAFETY: as in `start_fault`: the `Arc` in `self.space` outlives `state`, where the future goes.
        let flushed =
            unsafe { mem::transmute::<Option<Flushed<'_>>, Option<Flushed<'static>>>(space.unflushed_elsewhere()) };
        if let Some(flushed) = flushed {
            return self.wait_for_flush(flushed);
        }
        loop {
            // SAFETY: 1. the root that `switch_to` loaded has the template's kernel half, and its lower half holds only
            // what the space maps for user mode; 2. kernel code runs with interrupts off, on the CPU's own stack.
            let next = match unsafe { arch::enter_user(&mut self.context) } {
                Trap::PageFault { address, error } => {
                    self.start_fault(address, error);
                    if self.leave_fault(cx) {
                        Next::Wait
                    } else {
                        match self.poll_fault(cx) {
                            Poll::Ready(()) => Next::Enter,
                            Poll::Pending => Next::Wait,
                        }
                    }
                }
                Trap::Syscall => self.call(),
                Trap::Interrupt(vector) => {
                    tracing::record(Kind::Interrupt, u64::from(vector), 0);
                    statistics::tick();
                    self.thread.usage.interrupt();
                    machine::executor().end_turn_soon();
                    Next::Pause
                }
                Trap::Exception { vector, error } => {
                    self.except(vector, error);
                    Next::Look
                }
            };
            if next != Next::Resume {
                return next;
            }
        }
    }
}

impl Future for UserThread {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: 1. only `state` holds something that must not move, and `poll_fault` is the one place that pins it;
        // 2. no method moves `state` out of `self`.
        let this = unsafe { self.get_unchecked_mut() };
        if statistics::entering(this.thread.tid()) {
            run_time::switch_to(&this.thread);
        }
        // SAFETY: the thread, which holds the process, is dropped after the poll.
        let _charge = unsafe { heap::charge(&this.thread.process.heap) };
        loop {
            let attention = this.thread.attention();
            if attention & (NEW | KILLED | STOPPED | MOVES) != 0 {
                if attention & NEW != 0 {
                    this.thread.begin(cx.waker());
                    continue;
                }
                if attention & (KILLED | MOVES) == MOVES {
                    if this.thread.has_to_move() {
                        machine::executor().leave_here();
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    continue;
                }
                if attention & KILLED != 0 {
                    return this.finish(cx);
                }
                // A wait in a call ends now, for what it waits for may be wanted by others. A fault goes on without the
                // thread, which looks at it when the process continues.
                let _ = this.poll_call(cx);
                return Poll::Pending;
            }
            let calls = matches!(this.state, State::Call(_));
            let wait = match this.state {
                State::User => Poll::Ready(()),
                State::Fault { .. } => this.poll_fault(cx),
                State::Call(_) => this.poll_call(cx),
                State::Flush(ref mut future) => {
                    let wait = Pin::new(future).poll(cx);
                    if wait.is_ready() {
                        this.state = State::User;
                    }
                    wait
                }
            };
            if wait.is_pending() {
                return Poll::Pending;
            }
            if calls && machine::executor().has_woken_user() {
                // The call has woken another thread, which may have to run first.
                return Self::pause(cx);
            }
            if this.thread.attention() != 0 {
                match this.attend() {
                    Attended::Proceed => {}
                    Attended::Again => continue,
                    Attended::Later => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Attended::Stopped => return Poll::Pending,
                    Attended::Ended => return this.finish(cx),
                }
            }
            let next = loop {
                let next = this.run(cx);
                if next != Next::Enter || this.thread.attention() != 0 {
                    break next;
                }
            };
            match next {
                Next::Resume | Next::Enter | Next::Look => {}
                Next::Pause => return Self::pause(cx),
                Next::Wait => return Poll::Pending,
            }
        }
    }
}
