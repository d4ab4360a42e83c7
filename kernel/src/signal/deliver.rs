//! Entering a handler, and coming back from it.
//!
//! The frame is written through the space like any other user memory, so its pages may fault, and be served, on the
//! way. A frame that can't be written ends the process with `SIGSEGV`, as on Linux.

use alloc::boxed::Box;

use faultline_trace::Kind;
use linux_raw_sys::general as linux;

use super::frame::{self, FpuImage, Registers, Saved};
use super::{Action, AlternateStack, Signal, SignalInfo, pending};
use crate::arch::USER_SELECTORS;
use crate::process::{ExitStatus, Thread};
use crate::syscall::{Call, Caller, Errno, Outcome, user};
use crate::tracing;

/// Flag of an alternate stack that is disarmed while a handler runs on it.
const SS_AUTODISARM: u32 = 1 << 31;

/// Direction, trap and resume flag, which a handler does not inherit.
const HANDLER_CLEARS: u64 = 0x400 | 0x100 | 0x1_0000;

/// Makes the thread enter the handler of `action`.
pub fn deliver(
    caller: Caller,
    info: SignalInfo,
    action: Action,
    registers: Box<Registers>,
    fpu: Box<FpuImage>,
) -> Call {
    Box::pin(async move {
        match enter(&caller, info, action, registers, fpu).await {
            Ok(registers) => Outcome::Resume(registers),
            Err(_) => {
                log::debug!("thread {}: no room for a signal frame", caller.thread.tid);
                caller.thread.process.begin_exit(ExitStatus::Killed(Signal::SIGSEGV));
                Outcome::End(ExitStatus::Killed(Signal::SIGSEGV))
            }
        }
    })
}

async fn enter(
    caller: &Caller,
    info: SignalInfo,
    action: Action,
    mut registers: Box<Registers>,
    mut fpu: Box<FpuImage>,
) -> Result<Box<Registers>, Errno> {
    let thread = &caller.thread;
    tracing::record(Kind::SignalDeliver, u64::from(info.signal.number()), action.handler);
    let (mask, alternate) = {
        let mut own = thread.signals.lock();
        let mask = own.restore.take().unwrap_or(own.blocked);
        (mask, own.alternate)
    };
    let on_alternate = alternate.contains(registers.rsp);
    let switch = action.has(linux::SA_ONSTACK) && !on_alternate && alternate.flags & linux::SS_DISABLE == 0;
    let top = if switch {
        alternate.base + alternate.size
    } else {
        registers.rsp.wrapping_sub(frame::RED_ZONE)
    };
    let (address, fpu_address) = frame::place(top, fpu.frame_size());
    if (switch || on_alternate) && address < alternate.base {
        return Err(Errno::EFAULT);
    }
    fpu.mark();
    let saved = Saved {
        registers: *registers,
        mask,
        alternate,
        fpu: fpu_address,
    };
    let bytes = Box::new(frame::encode(
        &saved,
        action.restorer,
        fpu.features != 0,
        &info,
        USER_SELECTORS,
    ));
    user::write(&caller.space, fpu_address, &fpu.bytes).await?;
    user::write(&caller.space, address, bytes.as_slice()).await?;

    {
        let mut own = thread.signals.lock();
        own.blocked = mask.union(action.mask);
        if !action.has(linux::SA_NODEFER) {
            own.blocked = own.blocked.union(info.signal.set());
        }
        if alternate.flags & SS_AUTODISARM != 0 {
            own.alternate = AlternateStack::NONE;
        }
    }
    registers.rdi = u64::from(info.signal.number());
    registers.rsi = address + frame::INFO;
    registers.rdx = address + frame::CONTEXT;
    registers.rax = 0;
    registers.rsp = address;
    registers.rip = action.handler;
    registers.rflags &= !HANDLER_CLEARS;
    if !registers.is_resumable() {
        return Err(Errno::EFAULT);
    }
    Ok(registers)
}

/// `rt_sigreturn`: back to what a handler interrupted.
pub fn sigreturn(caller: Caller, registers: Box<Registers>) -> Call {
    Box::pin(async move {
        match leave(&caller, &registers).await {
            Ok(outcome) => outcome,
            Err(_) => {
                caller.thread.process.begin_exit(ExitStatus::Killed(Signal::SIGSEGV));
                Outcome::End(ExitStatus::Killed(Signal::SIGSEGV))
            }
        }
    })
}

async fn leave(caller: &Caller, registers: &Registers) -> Result<Outcome, Errno> {
    let mut bytes = Box::new([0; frame::SIZE]);
    user::read(&caller.space, registers.rsp.wrapping_sub(8), bytes.as_mut_slice()).await?;
    let saved = frame::decode(&bytes);
    if !saved.registers.is_resumable() {
        return Err(Errno::EFAULT);
    }
    let image = match saved.fpu {
        0 => None,
        address => {
            let mut image = FpuImage::blank()?;
            user::read(&caller.space, address, &mut image.bytes).await?;
            image.recognise();
            Some(image)
        }
    };
    {
        let mut own = caller.thread.signals.lock();
        own.blocked = saved.mask;
        if saved.alternate.flags & linux::SS_DISABLE != 0 {
            own.alternate = AlternateStack::NONE;
        } else if saved.alternate.size >= u64::from(linux::MINSIGSTKSZ) {
            own.alternate = saved.alternate;
        }
    }
    pending::review(&caller.thread);
    let registers = Box::new(saved.registers);
    Ok(match image {
        Some(image) => Outcome::ResumeWithFpu(registers, image),
        None => Outcome::Resume(registers),
    })
}

/// Goes back to the mask from before a `sigsuspend` that ended without a handler.
pub fn restore_mask(thread: &Thread) {
    let mut own = thread.signals.lock();
    if let Some(mask) = own.restore.take() {
        own.blocked = mask;
        drop(own);
        pending::review(thread);
    }
}
