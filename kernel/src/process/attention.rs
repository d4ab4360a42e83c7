//! What a user thread does about signals: the ones that its own instructions cause, and the ones that others raise.

use faultline_fallible::Box;
use faultline_mm::FaultError;
use linux_raw_sys::general as linux;

use super::ExitStatus;
use super::jobs;
use super::thread::{KILLED, SIGNALLED, STOPPED};
use super::user_thread::{State, UserThread};
use crate::heap;
use crate::signal::frame::{FpuImage, Registers};
use crate::signal::{Disposition, Signal, SignalInfo, deliver, pending, raise};

/// What to do after the attention word was looked at.
pub(super) enum Attended {
    Proceed,
    Again,
    Later,
    Stopped,
    Ended,
}

/// How many turns a signal waits for room in the kernel heap before it ends the process instead of reaching its handler.
const PATIENCE: u16 = 10_000;

impl UserThread {
    /// Turns a refused access into its signal.
    #[cold]
    pub(super) fn refuse(&mut self, error: FaultError) {
        let (signal, code) = match error {
            FaultError::NonCanonical { .. } => (Signal::SIGSEGV, linux::SI_KERNEL),
            FaultError::Protection { .. } => (Signal::SIGSEGV, linux::SEGV_ACCERR),
            FaultError::BeyondEnd { .. } | FaultError::ReadFailed { .. } => (Signal::SIGBUS, linux::BUS_ADRERR),
            _ => (Signal::SIGSEGV, linux::SEGV_MAPERR),
        };
        log::debug!("thread {}: {error}; {signal:?}", self.thread.tid());
        self.raise_own(&SignalInfo::fault(signal, code, error.address()));
    }

    /// Raises a signal that the thread's own instruction has caused.
    fn raise_own(&mut self, info: &SignalInfo) {
        if self.interrupted.is_none()
            && let Some(space) = &self.space
            && deliver::try_catch(&self.thread, space, info, &mut self.context)
        {
            // The handler's own calls have their own deadlines.
            self.thread.take_deadline();
            return;
        }
        raise::force(&self.thread, *info);
    }

    /// Turns an exception other than a page fault into its signal.
    #[cold]
    pub(super) fn except(&mut self, vector: u8, error: u64) {
        let address = self.context.rip();
        let info = match vector {
            0 => SignalInfo::fault(Signal::SIGFPE, linux::FPE_INTDIV, address),
            1 => SignalInfo::fault(Signal::SIGTRAP, linux::TRAP_TRACE, address),
            3 => SignalInfo::kernel(Signal::SIGTRAP),
            4 => SignalInfo::kernel(Signal::SIGSEGV),
            5 => SignalInfo::kernel(Signal::SIGSEGV),
            6 => SignalInfo::fault(Signal::SIGILL, linux::ILL_ILLOPN, address),
            12 => SignalInfo::kernel(Signal::SIGBUS),
            16 | 19 => SignalInfo::fault(Signal::SIGFPE, linux::FPE_FLTINV, address),
            17 => SignalInfo::fault(Signal::SIGBUS, linux::BUS_ADRALN, 0),
            _ => SignalInfo::kernel(Signal::SIGSEGV),
        };
        log::debug!(
            "thread {}: exception {vector} (error {error:#x}) at {address:#x}",
            self.thread.tid()
        );
        self.raise_own(&info);
    }

    /// Acts upon the attention word.
    #[cold]
    pub(super) fn attend(&mut self) -> Attended {
        let attention = self.thread.attention();
        if attention & KILLED != 0 {
            return Attended::Ended;
        }
        if attention & STOPPED != 0 {
            return Attended::Stopped;
        }
        if attention & SIGNALLED == 0 {
            return Attended::Proceed;
        }
        if heap::is_short() && self.waits_for_room < PATIENCE {
            // Others are on their way into or out of the kernel; what they use comes free.
            self.waits_for_room += 1;
            return Attended::Later;
        }
        self.waits_for_room = 0;
        match pending::next(&self.thread) {
            None => {
                if let Some(cut) = self.interrupted.take() {
                    self.restart(cut.number);
                }
                deliver::restore_mask(&self.thread);
                if self.thread.attention() == 0 {
                    Attended::Proceed
                } else {
                    Attended::Again
                }
            }
            Some((info, Disposition::Handle(action))) => {
                if let Some(cut) = self.interrupted.take()
                    && cut.restartable
                    && action.has(linux::SA_RESTART)
                {
                    self.restart(cut.number);
                }
                // The handler's own calls have their own deadlines.
                self.thread.take_deadline();
                if let Some(space) = &self.space
                    && deliver::try_deliver(&self.thread, space, &info, &action, &mut self.context)
                {
                    return Attended::Again;
                }
                // Without room for the frame, ever, the handler can't run, and the signal has to act in some way.
                let signal = info.signal;
                let call = heap::for_a_while(|| {
                    let fpu = FpuImage::of(&self.context).ok()?;
                    let registers = Box::try_new(Registers::of(&self.context)).ok()?;
                    deliver::deliver(self.caller()?, info, action, registers, fpu).ok()
                });
                match call {
                    Some(call) => self.state = State::Call(call),
                    None => self.thread.process.begin_exit(ExitStatus::Killed(signal)),
                }
                Attended::Again
            }
            Some((info, Disposition::Stop)) => {
                jobs::stop(&self.thread.process, info.signal);
                Attended::Again
            }
            Some((info, _)) => {
                self.thread.process.begin_exit(ExitStatus::Killed(info.signal));
                Attended::Again
            }
        }
    }

    /// Makes the thread execute its `syscall` instruction, two bytes long, again.
    fn restart(&mut self, number: u64) {
        self.context.set_rip(self.context.rip().wrapping_sub(2));
        self.context.rax = number;
    }
}
