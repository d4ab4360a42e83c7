//! Entering a handler, and coming back from it.
//!
//! The frame is written through the space like any other user memory. If its pages are there, which is the usual case,
//! that is done at once ([`try_deliver`], [`try_sigreturn`]); else by a future ([`deliver`], [`sigreturn`]), so that they
//! may fault, and be served, on the way. A frame that can't be written, or read back, is a `SIGSEGV` that can't be put off,
//! whose handler may have another stack, as on Linux.

use faultline_fallible::Box;
use faultline_mm::{Access, PAGE_SIZE, UserBytes};
use faultline_trace::Kind;
use linux_raw_sys::general as linux;

use super::frame::{self, FpuImage, Registers, Saved};
use super::{Action, AlternateStack, Signal, SignalInfo, SignalSet, pending, raise};
use crate::arch::{USER_SELECTORS, UserContext, fpu};
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
    fn new(thread: &Thread, action: &Action, rsp: u64) -> Result<Self, Errno> {
        let (mask, alternate) = {
            let own = thread.signals.lock();
            let mask = own.restore.unwrap_or(own.blocked);
            (mask, own.alternate)
        };
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
        {
            let mut own = thread.signals.lock();
            own.restore = None;
            own.blocked = self.mask.union(action.mask);
            if !action.has(linux::SA_NODEFER) {
                own.blocked = own.blocked.union(info.signal.set());
            }
            if self.alternate.flags & SS_AUTODISARM != 0 {
                own.alternate = AlternateStack::NONE;
            }
        }
        registers.rdi = u64::from(info.signal.number());
        registers.rsi = self.address + frame::INFO;
        registers.rdx = self.address + frame::CONTEXT;
        registers.rax = 0;
        registers.rsp = self.address;
        registers.rflags &= !HANDLER_CLEARS;
        Ok(())
    }
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
    if thread.signals.lock().restore.is_some() {
        return false;
    }
    let Ok(plan) = Plan::new(thread, action, context.rsp()) else {
        return false;
    };
    let mut registers = Registers::of(context);
    // The frame and the FPU area above it most often lie in one page.
    let fpu = plan.fpu.wrapping_sub(plan.address) as usize;
    let image = context.fpu().image();
    let written = space.with_user_bytes(plan.address, fpu + image.len(), Access::Write, |mut bytes| {
        bytes
            .part(0, frame::SIZE)
            .set_words(0, plan.frame(&registers, action, info));
        bytes.write(fpu, image);
    });
    if written.is_none() && !try_write_apart(&plan, space, image, plan.frame(&registers, action, info))
        || plan.begin(thread, info, action, &mut registers).is_err()
    {
        return false;
    }
    tracing::record(Kind::SignalDeliver, u64::from(info.signal.number()), action.handler);
    registers.load_into(context);
    true
}

/// Writes a frame that does not lie in one page with its FPU area.
#[cold]
fn try_write_apart(plan: &Plan, space: &Space, image: &[u8], frame: [u64; frame::WORDS]) -> bool {
    space.try_write_user(plan.fpu, image)
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
    let plan = Plan::new(thread, &action, registers.rsp)?;
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
            && context.fpu_mut().refill(|area| {
                bytes.read(offset as usize, area);
                frame::recognised(area)
            });
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
