//! Entering a handler, and coming back from it.
//!
//! The frame is written through the space like any other user memory. If its pages are there, which is the usual case,
//! that is done at once ([`try_deliver`], [`try_sigreturn`]); else by a future ([`deliver`], [`sigreturn`]), so that they
//! may fault, and be served, on the way. A signal that the thread's own instruction has caused is not pending before: it
//! goes straight to its handler ([`try_catch`]) in the usual case. A frame that can't be written, or read back, is a `SIGSEGV` that can't be put off,
//! whose handler may have another stack, as on Linux.

use faultline_fallible::Box;
use faultline_mm::{Access, PAGE_SIZE, UserBytes};
use faultline_trace::Kind;
use linux_raw_sys::general as linux;

use super::frame::{self, FpuImage, Registers, Saved};
use super::{Action, AlternateStack, Disposition, Signal, SignalInfo, SignalSet, ThreadSignals, pending, raise};
use crate::arch::{USER_SELECTORS, UserContext, fpu};
use crate::exec::elf::USER_END;
use crate::heap;
use crate::machine::Space;
use crate::process::{ExitStatus, Thread};
use crate::syscall::{self, Call, Caller, Errno, Outcome, user};
use crate::tracing;

/// Flag of an alternate stack that is disarmed while a handler runs on it.
const SS_AUTODISARM: u32 = 1 << 31;

/// Direction, trap and resume flag, which a handler does not inherit.
const HANDLER_CLEARS: u64 = 0x400 | 0x100 | 0x1_0000;

/// Where the frame of a handler goes, and what it is to restore.
struct Plan {
    address: u64,
    fpu: u64,
    mask: SignalSet,
    alternate: AlternateStack,
}

impl Plan {
    /// # Errors
    /// `EFAULT` if the frame does not fit on the alternate stack.
    fn new(own: &ThreadSignals, action: &Action, rsp: u64) -> Result<Self, Errno> {
        let mask = own.restore.unwrap_or(own.blocked);
        let alternate = own.alternate;
        let on_alternate = alternate.contains(rsp);
        let switch = action.has(linux::SA_ONSTACK) && !on_alternate && alternate.flags & linux::SS_DISABLE == 0;
        let top = if switch {
            alternate.base + alternate.size
        } else {
            rsp.wrapping_sub(frame::RED_ZONE)
        };
        let (address, fpu) = frame::place(top, fpu::image_size());
        if (switch || on_alternate) && address < alternate.base {
            return Err(Errno::EFAULT);
        }
        Ok(Self {
            address,
            fpu,
            mask,
            alternate,
        })
    }

    #[inline(always)]
    fn frame(&self, registers: &Registers, action: &Action, info: &SignalInfo) -> [u64; frame::WORDS] {
        let saved = Saved {
            registers: *registers,
            mask: self.mask,
            alternate: self.alternate,
            fpu: self.fpu,
        };
        frame::encode(&saved, action.restorer, fpu::components() != 0, info, USER_SELECTORS)
    }

    /// The frame is written: blocks what the handler blocks, and sets the registers with which it starts.
    ///
    /// # Errors
    /// `EFAULT` if the handler is at an address that user mode can't have.
    fn begin(
        &self,
        thread: &Thread,
        info: &SignalInfo,
        action: &Action,
        registers: &mut Registers,
    ) -> Result<(), Errno> {
        let interrupted = core::mem::replace(&mut registers.rip, action.handler);
        if !registers.is_resumable() {
            registers.rip = interrupted;
            return Err(Errno::EFAULT);
        }
        self.block(&mut thread.signals.lock(), info, action);
        registers.rdi = u64::from(info.signal.number());
        registers.rsi = self.address + frame::INFO;
        registers.rdx = self.address + frame::CONTEXT;
        registers.rax = 0;
        registers.rsp = self.address;
        registers.rflags &= !HANDLER_CLEARS;
        Ok(())
    }

    /// Blocks what the handler blocks.
    #[inline(always)]
    fn block(&self, own: &mut ThreadSignals, info: &SignalInfo, action: &Action) {
        own.restore = None;
        own.blocked = self.mask.union(action.mask);
        if !action.has(linux::SA_NODEFER) {
            own.blocked = own.blocked.union(info.signal.set());
        }
        if self.alternate.flags & SS_AUTODISARM != 0 {
            own.alternate = AlternateStack::NONE;
        }
    }

    /// As [`begin`](Self::begin), where the other registers are in the thread's context already. The handler is at an
    /// address that user mode can have.
    #[inline(always)]
    fn enter(&self, info: &SignalInfo, action: &Action, context: &mut UserContext) {
        context.rdi = u64::from(info.signal.number());
        context.rsi = self.address + frame::INFO;
        context.rdx = self.address + frame::CONTEXT;
        context.rax = 0;
        context.set_rip(action.handler);
        context.set_rsp(self.address);
        context.set_rflags(context.rflags() & !HANDLER_CLEARS);
    }
}

/// Makes the thread enter its handler for a signal that its own instruction has caused, at once and without the signal having
/// been pending; false, and nothing has changed, if that is not the usual case: another signal may go first, the signal is
/// blocked, the handler is to run once, or a page of its frame is not there. Then [`raise::force`] does it.
#[inline]
pub fn try_catch(thread: &Thread, space: &Space, info: &SignalInfo, context: &mut UserContext) -> bool {
    if thread.attention() != 0 {
        return false;
    }
    let Disposition::Handle(action) = thread.process.actions.lock().disposition(info.signal) else {
        return false;
    };
    if action.has(linux::SA_RESETHAND) {
        return false;
    }
    let mut own = thread.signals.lock();
    if own.blocked.contains(info.signal) || !enter_at_once(&mut own, space, info, &action, context) {
        return false;
    }
    drop(own);
    raise::trace(thread.tid(), info);
    tracing::record(Kind::SignalDeliver, u64::from(info.signal.number()), action.handler);
    true
}

/// Makes the thread enter the handler of `action` at once, if every page of its frame is there. Else nothing has changed
/// but memory below the stack pointer, and [`deliver`] does it.
pub fn try_deliver(
    thread: &Thread,
    space: &Space,
    info: &SignalInfo,
    action: &Action,
    context: &mut UserContext,
) -> bool {
    if !enter_at_once(&mut thread.signals.lock(), space, info, action, context) {
        return false;
    }
    tracing::record(Kind::SignalDeliver, u64::from(info.signal.number()), action.handler);
    true
}

/// Writes the frame and enters the handler, if every page of the frame is there.
fn enter_at_once(
    own: &mut ThreadSignals,
    space: &Space,
    info: &SignalInfo,
    action: &Action,
    context: &mut UserContext,
) -> bool {
    if own.restore.is_some() || action.handler >= USER_END {
        return false;
    }
    let Ok(plan) = Plan::new(own, action, context.rsp()) else {
        return false;
    };
    // The frame and the FPU area above it most often lie in one page.
    let (fpu, size) = (plan.fpu.wrapping_sub(plan.address) as usize, fpu::image_size());
    let written = space.with_user_bytes(plan.address, fpu + size, Access::Write, |mut bytes| {
        bytes
            .part(0, frame::SIZE)
            .set_words(0, plan.frame(&Registers::of(context), action, info));
        // SAFETY: 1. these bytes of the page are there for as long as the lock is held, which is until the end of the call;
        // 2. `frame::place` aligns the address to 64, and pages lie as their addresses do.
        unsafe { context.fpu().write_image(bytes.as_mut_ptr(fpu, size)) };
    });
    if written.is_none() && !try_write_apart(&plan, space, info, action, context) {
        return false;
    }
    plan.block(own, info, action);
    plan.enter(info, action, context);
    true
}

/// Writes a frame that does not lie in one page with its FPU area.
#[cold]
fn try_write_apart(plan: &Plan, space: &Space, info: &SignalInfo, action: &Action, context: &UserContext) -> bool {
    let frame = plan.frame(&Registers::of(context), action, info);
    space.try_write_user(plan.fpu, context.fpu().image())
        && space.try_write_user(plan.address, frame.map(u64::to_le_bytes).as_flattened())
}

/// Makes the thread enter the handler of `action`.
///
/// # Errors
/// `ENOMEM` without room for the call.
pub fn deliver(
    caller: Caller,
    info: SignalInfo,
    action: Action,
    registers: Box<Registers>,
    fpu: Box<FpuImage>,
) -> Result<Call, Errno> {
    syscall::boxed(|| async move {
        let mut registers = registers;
        let entered = enter(&caller, info, action, &mut registers, fpu).await;
        if entered.is_err() {
            log::debug!("thread {}: no room for a signal frame", caller.thread.tid());
            if info.signal == Signal::SIGSEGV {
                // Its handler would have no room either.
                caller.thread.process.begin_exit(ExitStatus::Killed(Signal::SIGSEGV));
            } else {
                raise::force(&caller.thread, SignalInfo::kernel(Signal::SIGSEGV));
            }
        }
        Outcome::Resume(registers)
    })
}

async fn enter(
    caller: &Caller,
    info: SignalInfo,
    action: Action,
    registers: &mut Registers,
    fpu: Box<FpuImage>,
) -> Result<(), Errno> {
    let thread = &caller.thread;
    tracing::record(Kind::SignalDeliver, u64::from(info.signal.number()), action.handler);
    let plan = Plan::new(&thread.signals.lock(), &action, registers.rsp)?;
    let bytes = heap::for_a_while(|| Box::try_new(plan.frame(registers, &action, &info).map(u64::to_le_bytes)))?;
    user::write(&caller.space, plan.fpu, &fpu.bytes).await?;
    user::write(&caller.space, plan.address, bytes.as_flattened()).await?;
    plan.begin(thread, &info, &action, registers)
}

/// `rt_sigreturn`, if every page of the frame is there: back to what a handler interrupted. Else nothing has changed,
/// except the FPU registers that are to be replaced, and [`sigreturn`] does it.
pub fn try_sigreturn(thread: &Thread, space: &Space, context: &mut UserContext) -> bool {
    let address = context.rsp().wrapping_sub(8);
    let rest_of_page = (PAGE_SIZE - address % PAGE_SIZE) as usize;
    let saved = space.with_user_bytes(address, rest_of_page, Access::Read, |bytes| {
        if rest_of_page < frame::SIZE {
            return None;
        }
        let saved = decode(&bytes.part(0, frame::SIZE));
        // The FPU area most often lies in the same page.
        let offset = saved.fpu.wrapping_sub(address);
        let size = fpu::area_size();
        let is_whole = saved.fpu != 0
            && saved.registers.is_resumable()
            && offset < PAGE_SIZE
            && offset as usize + size <= rest_of_page
            && load_fpu(&bytes, offset as usize, context);
        is_whole.then_some(saved)
    });
    let saved = match saved.flatten().or_else(|| try_read_apart(address, space, context)) {
        Some(saved) => saved,
        None => return false,
    };
    resume(thread, &saved);
    saved.registers.load_into(context);
    true
}

/// Loads the FPU registers from a frame: straight from there if nothing has to be corrected.
#[inline(always)]
fn load_fpu(bytes: &UserBytes<'_>, offset: usize, context: &mut UserContext) -> bool {
    let fpu = context.fpu_mut();
    // SAFETY: 1. these bytes of the page are there for as long as the lock is held, which is until the end of the call; 2.
    // this is the one CPU, with interrupts off, and devices write to memory that user mode has not got.
    let is_loaded = unsafe { fpu.load_image(bytes.as_ptr(offset, fpu::area_size())) };
    is_loaded
        || fpu.refill(|area| {
            bytes.read(offset, area);
            frame::recognised(area)
        })
}

#[inline(always)]
fn decode(bytes: &UserBytes<'_>) -> Saved {
    frame::decode(|offset| {
        let [word] = bytes.words(offset);
        word
    })
}

/// Reads a frame that does not lie in one page with its FPU area, or has none.
#[cold]
fn try_read_apart(address: u64, space: &Space, context: &mut UserContext) -> Option<Saved> {
    let mut words = [[0; 8]; frame::WORDS];
    if !space.try_read_user(address, words.as_flattened_mut()) {
        return None;
    }
    let saved = frame::decode(|offset| u64::from_le_bytes(words[offset / 8]));
    if !saved.registers.is_resumable() {
        return None;
    }
    let is_complete = saved.fpu == 0
        || context.fpu_mut().refill(|area| {
            if space.try_read_user(saved.fpu, area) {
                frame::recognised(area)
            } else {
                0
            }
        });
    is_complete.then_some(saved)
}

/// `rt_sigreturn`: back to what a handler interrupted.
///
/// # Errors
/// `ENOMEM` without room for the call.
pub fn sigreturn(caller: Caller, registers: Box<Registers>) -> Result<Call, Errno> {
    syscall::boxed(|| async move {
        match leave(&caller, &registers).await {
            Ok(outcome) => outcome,
            Err(_) => {
                raise::force(&caller.thread, SignalInfo::kernel(Signal::SIGSEGV));
                Outcome::Return(Ok(0))
            }
        }
    })
}

async fn leave(caller: &Caller, registers: &Registers) -> Result<Outcome, Errno> {
    let mut words = heap::for_a_while(|| Box::try_new([[0; 8]; frame::WORDS]))?;
    user::read(&caller.space, registers.rsp.wrapping_sub(8), words.as_flattened_mut()).await?;
    let saved = frame::decode(|offset| u64::from_le_bytes(words[offset / 8]));
    if !saved.registers.is_resumable() {
        return Err(Errno::EFAULT);
    }
    let image = match saved.fpu {
        0 => None,
        address => {
            let mut image = heap::for_a_while(FpuImage::blank)?;
            user::read(&caller.space, address, &mut image.bytes).await?;
            image.recognise();
            Some(image)
        }
    };
    let registers = heap::for_a_while(|| Box::try_new(saved.registers))?;
    resume(&caller.thread, &saved);
    Ok(match image {
        Some(image) => Outcome::ResumeWithFpu(registers, image),
        None => Outcome::Resume(registers),
    })
}

/// Goes back to the mask and the alternate stack that a frame has saved.
fn resume(thread: &Thread, saved: &Saved) {
    {
        let mut own = thread.signals.lock();
        own.blocked = saved.mask;
        if saved.alternate.flags & linux::SS_DISABLE != 0 {
            own.alternate = AlternateStack::NONE;
        } else if saved.alternate.size >= u64::from(linux::MINSIGSTKSZ) {
            own.alternate = saved.alternate;
        }
    }
    pending::review(thread);
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
