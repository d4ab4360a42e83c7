//! The end of a task: its future is ready, was cancelled or has panicked; its slot goes back when nobody needs it any more.

use core::task::Poll;

use crate::{
    Executor, Hooks, TaskEvent,
    cpu::Cpu,
    sync::Ordering,
    task::{Completed, Released, Slot, bits},
    turn::Unwind,
};

impl<H: Hooks> Executor<H> {
    /// Ends a task whose output is in the slot. Kept out of the loop, which is tighter without it.
    #[inline(never)]
    pub(crate) fn finish(&'static self, cpu: &'static Cpu) {
        if let Some(length) = self.long_poll(cpu) {
            return self.finish_long(cpu, length);
        }
        self.finish_measured(cpu);
    }

    #[cold]
    #[inline(never)]
    fn finish_long(&'static self, cpu: &'static Cpu, length: u32) {
        let unwind = Unwind { executor: self, cpu };
        self.look_at(cpu, length);
        core::mem::forget(unwind);
        self.finish_measured(cpu);
    }

    #[inline(always)]
    fn finish_measured(&'static self, cpu: &'static Cpu) {
        let Some(slot) = cpu.current() else { return };
        cpu.fair.ended(slot);
        if H::TRACE_POLLS && self.hooks.tracing() {
            let unwind = Unwind { executor: self, cpu };
            self.hooks.trace(TaskEvent::Finished { task: slot.id() });
            core::mem::forget(unwind);
        }
        self.complete_with_output(slot);
    }

    /// The `PollFunction` of a task that has ended: lets go of the slot, which was still in a queue.
    unsafe fn bury(slot: &'static Slot) -> Poll<()> {
        // SAFETY: the slot was popped, so it is `LIVE`. Its queue belongs to the executor that owns the slot, and has these
        // hooks.
        let (queue, executor) = unsafe { (slot.queue(), &*slot.queue().executor.cast::<Self>()) };
        let cpu = &executor.cpus[queue.cpu];
        cpu.fair.ended(slot);
        // The slot may be free after this: `run` must not touch it again.
        cpu.current.store(core::ptr::null_mut(), Ordering::Relaxed);
        if slot.state.leave_queue() == Released::Freed {
            executor.free(slot);
        }
        Poll::Pending
    }

    /// The `PollFunction` of a task that is to be cancelled.
    pub(crate) unsafe fn divert(slot: &'static Slot) -> Poll<()> {
        if slot.state.load() & bits::DONE != 0 {
            // It ended while it was being cancelled.
            // SAFETY: the caller's promise.
            return unsafe { Self::bury(slot) };
        }
        // SAFETY: the task is `LIVE`. The queue of a slot belongs to the executor that owns the slot, and has these hooks.
        let (queue, executor) = unsafe { (slot.queue(), &*slot.queue().executor.cast::<Self>()) };
        let cpu = &executor.cpus[queue.cpu];
        cpu.fair.ended(slot);
        // SAFETY: the caller says that the storage is ours and has a future.
        unsafe { (slot.table().drop_future)(slot) };
        if H::TRACE_POLLS && executor.hooks.tracing() {
            executor.hooks.trace(TaskEvent::Cancelled { task: slot.id() });
        }
        executor.measure(cpu);
        // The slot may be free after this: `run` must not touch it again.
        cpu.current.store(core::ptr::null_mut(), Ordering::Relaxed);
        executor.complete::<0>(slot);
        Poll::Pending
    }

    /// Ends a task whose output is in the slot.
    #[inline(always)]
    fn complete_with_output(&'static self, slot: &'static Slot) {
        // SAFETY: the task is `LIVE`.
        let needs_drop = unsafe { slot.table() }.drop_output.is_some();
        if !needs_drop && slot.state.complete_alone() {
            return self.free(slot);
        }
        if slot.state.load() & bits::HANDLE != 0 {
            self.complete::<{ bits::OUTPUT }>(slot);
        } else if needs_drop {
            self.complete_rest(slot, Completed::Unclaimed);
        } else {
            self.complete::<0>(slot);
        }
    }

    /// Ends a task whose future is gone.
    #[inline(always)]
    pub(crate) fn complete<const OUTCOME: u64>(&'static self, slot: &'static Slot) {
        // For the case that a queue has the slot. Who cancels may write another function over it at this moment: `divert`,
        // which sees that the task is done.
        slot.set_poll(Self::bury);
        match slot.state.complete::<OUTCOME>() {
            Completed::Released => {}
            Completed::Freed => self.free(slot),
            rest => self.complete_rest(slot, rest),
        }
    }

    /// The rarer endings.
    #[cold]
    #[inline(never)]
    fn complete_rest(&'static self, slot: &'static Slot, rest: Completed) {
        if rest == Completed::Unclaimed {
            let _end = Finally(|| self.complete::<0>(slot));
            // SAFETY: the task is `LIVE`; the storage has an output, and there is no join handle that could own it.
            unsafe { slot.table().drop_output(slot) };
            return;
        }
        let _end = Finally(|| {
            if rest == Completed::WakeJoiner && slot.state.release(bits::LIVE) == Released::Freed {
                self.free(slot);
            }
        });
        slot.joiner.with(|joiner| {
            // SAFETY: `JOINER` was set when the task became `DONE`: the join handle does not write the cell any more,
            // and `LIVE` keeps the slot.
            if let Some(waker) = unsafe { &*joiner } {
                waker.wake_by_ref();
            }
        });
    }
}

/// Does something at the end of its scope, also if that is left by unwinding.
struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
