//! Spawning: a future gets a slot, and the slot a place in a run queue.

use core::{future::Future, ptr};

use crate::{
    Class, Executor, Hooks, JoinHandle, SpawnError, TaskEvent, TaskId,
    sync::Ordering,
    task::{self, Slot},
};

impl<H: Hooks> Executor<H> {
    /// Spawns a task on the current CPU. It is polled for the first time in a later turn, never here.
    ///
    /// The name is for people: it appears in traces, stall reports and the wait-for graph. Dropping the handle detaches
    /// the task, but [`JoinHandle::detach`] says so.
    ///
    /// # Errors
    /// [`SpawnError::Full`] or [`SpawnError::OutOfMemory`]; the future has been dropped then.
    #[inline]
    pub fn spawn<F>(
        &'static self,
        name: &'static str,
        class: Class,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_on(self.hooks.cpu(), name, class, future)
    }

    /// Spawns a task on a CPU; see [`Executor::spawn`].
    ///
    /// # Errors
    /// As [`Executor::spawn`]; [`SpawnError::NoSuchCpu`].
    #[inline]
    pub fn spawn_on<F>(
        &'static self,
        cpu: usize,
        name: &'static str,
        class: Class,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (slot, id) = self.start::<F, true>(cpu, name, class, future)?;
        Ok(JoinHandle::new(slot, id))
    }

    /// Spawns a task that nobody awaits on the current CPU: [`Executor::spawn`] and [`JoinHandle::detach`] in one, which is
    /// cheaper.
    ///
    /// # Errors
    /// As [`Executor::spawn`].
    #[inline]
    pub fn spawn_detached<F>(&'static self, name: &'static str, class: Class, future: F) -> Result<TaskId, SpawnError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (_, id) = self.start::<F, false>(self.hooks.cpu(), name, class, future)?;
        Ok(id)
    }

    /// Makes slots for more tasks if none is free, so that the next spawn needs memory for its future at most: for whoever
    /// counts what a spawn takes, as slots are never given back.
    ///
    /// # Errors
    /// [`SpawnError::OutOfMemory`], [`SpawnError::Full`].
    pub fn reserve(&self) -> Result<(), SpawnError> {
        let slot = self.slab.take()?;
        self.slab.give(slot);
        Ok(())
    }

    /// Puts a future into a slot, and queues it. `HANDLE` says whether the caller makes a join handle.
    #[inline(always)]
    fn start<F: Future, const HANDLE: bool>(
        &'static self,
        cpu: usize,
        name: &'static str,
        class: Class,
        future: F,
    ) -> Result<(&'static Slot, TaskId), SpawnError> {
        let home = self.cpus.get(cpu).ok_or(SpawnError::NoSuchCpu { cpu })?;
        let queue = &home.queues[class.index()];
        let install = task::install::<F>().ok_or(SpawnError::OutOfMemory)?;
        let slot = self.slab.take()?;
        let state = slot.state.spawn::<HANDLE>();
        // SAFETY: the slot came from the free list: it is ours until it is pushed. The cells are written and not
        // dropped: what they held before needs no dropping.
        unsafe {
            install.finish(slot, future);
            slot.set_waker(task::waker::<H>(slot, state));
            slot.name.with_mut(|place| *place = name);
            slot.set_base(class);
        }
        slot.queue.store(ptr::from_ref(queue).cast_mut(), Ordering::Relaxed);
        let id = slot.id_at(state);
        if self.hooks.tracing() {
            self.hooks.trace(TaskEvent::Spawned { task: id, name, class });
        }
        self.push(queue, slot);
        Ok((slot, id))
    }
}
