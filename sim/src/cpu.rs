//! Virtual CPUs: coroutines that are switched at points.
//!
//! A CPU runs the real executor's turns on a stack of its own. It gives way at a point when its grant is used up, when it
//! finds a lock held, in user mode, at the end of a turn, and when it halts. What fails gives way and is never resumed:
//! nothing unwinds, so a failed world stays as it was at the failure.

use std::cell::Cell;
use std::panic::PanicHookInfo;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use faultline_probe as probe;

use crate::world::{has_world, world};

/// Why a CPU gave way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its grant was used up.
    Preempted,
    /// It waits for a lock.
    Spins,
    /// It is in user mode.
    User,
    /// Between two turns.
    Turned,
    /// It has nothing to do.
    Halted,
    /// Something is wrong.
    Failed,
}

/// One virtual CPU.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    /// It waits for an interrupt.
    pub halted: Cell<bool>,
    /// It was asked to flush, and has not.
    pub flush_asked: Cell<bool>,
    /// Work was queued for it while it slept.
    pub notified: Cell<bool>,
    /// It is in user mode.
    pub user: Cell<bool>,
    /// The space whose root is loaded.
    pub space: Cell<Option<usize>>,
    /// It waits for a lock, and nobody else has run since.
    pub spins: Cell<bool>,
    /// Polls in its turn so far.
    pub polls: Cell<u32>,
    /// When its next timer is due.
    pub deadline: Cell<Option<u64>>,
    /// The space that a call of its thread changes: from the end of the call's hold of the lock to the change of the
    /// model nobody else runs, so that the model changes in the order of the holds.
    pub calling: Cell<Option<usize>>,
    /// What was left of the grant when that began.
    held: Cell<Option<u32>>,
    yielder: Cell<Option<*const Yielder<(), Reason>>>,
}

impl Cpu {
    /// Nobody else runs until [`go_on`](Self::go_on).
    pub fn hold(&self) {
        if self.held.get().is_none() {
            self.held.set(Some(probe::grant(u32::MAX)));
        }
    }

    /// Others may run again.
    pub fn go_on(&self) {
        self.calling.set(None);
        if let Some(left) = self.held.take() {
            probe::grant(left);
        }
    }

    /// Whether it holds nothing of the kernel's.
    pub fn is_settled(&self) -> bool {
        self.halted.get() || self.user.get()
    }
}

thread_local! {
    /// How the code that runs gives way; `None` outside of coroutines.
    static RUNNING: Cell<Option<*const Yielder<(), Reason>>> = const { Cell::new(None) };
    /// The supervisor runs: no other CPU may.
    static SUPERVISED: Cell<bool> = const { Cell::new(false) };
}

pub(crate) type Fiber = Coroutine<(), Reason, (), DefaultStack>;

/// Lets somebody else run.
pub(crate) fn give_way(reason: Reason) {
    let yielder = RUNNING.get().expect("only a virtual CPU gives way");
    // SAFETY: the yielder lives on the stack of the coroutine that runs, which set it, or whose `resume` did.
    unsafe { (*yielder).suspend(reason) };
}

/// Never runs again.
pub(crate) fn stop() -> ! {
    loop {
        give_way(Reason::Failed);
    }
}

/// A coroutine that runs `body`.
pub(crate) fn fiber(stack: DefaultStack, cpu: Option<usize>, body: impl FnOnce() + 'static) -> Fiber {
    Coroutine::with_stack(stack, move |yielder: &Yielder<(), Reason>, ()| {
        let yielder: *const _ = yielder;
        RUNNING.set(Some(yielder));
        if let Some(cpu) = cpu {
            world().cpus[cpu].yielder.set(Some(yielder));
        }
        body();
    })
}

/// Runs a CPU for so many points; `None` when its body has ended.
pub(crate) fn resume(fiber: &mut Fiber, cpu: usize, points: u32) -> Option<Reason> {
    let state = &world().cpus[cpu];
    world().current.set(cpu);
    RUNNING.set(state.yielder.get());
    probe::grant(if state.held.get().is_some() { u32::MAX } else { points });
    let result = fiber.resume(());
    probe::grant(u32::MAX);
    RUNNING.set(None);
    match result {
        CoroutineResult::Yield(reason) => Some(reason),
        CoroutineResult::Return(()) => None,
    }
}

/// Runs `body` as the supervisor: as CPU 0, to its end, while no other CPU runs. False if something was wrong.
pub(crate) fn supervise(stack: DefaultStack, body: impl FnOnce() + 'static) -> (DefaultStack, bool) {
    let before = world().current.replace(0);
    SUPERVISED.set(true);
    let mut fiber = fiber(stack, None, body);
    probe::grant(u32::MAX);
    let result = fiber.resume(());
    SUPERVISED.set(false);
    RUNNING.set(None);
    world().current.set(before);
    let fine = matches!(result, CoroutineResult::Return(()));
    (end(fiber), fine)
}

/// Ends a coroutine wherever it is; what its stack holds is leaked.
pub(crate) fn end(mut fiber: Fiber) -> DefaultStack {
    if !fiber.done() {
        // SAFETY: what is on the stack is never used again: the world that it belongs to has failed.
        unsafe { fiber.force_reset() };
    }
    fiber.into_stack()
}

/// The hooks of the probe.
pub(crate) const HOOKS: probe::Hooks = probe::Hooks {
    preempt,
    spin,
    locked,
    unlocked,
    wrote,
};

fn preempt() {
    if !SUPERVISED.get() && RUNNING.get().is_some() {
        give_way(Reason::Preempted);
    }
}

fn spin() {
    if SUPERVISED.get() || RUNNING.get().is_none() {
        crate::world::fail("the supervisor found a lock held".to_owned());
    }
    give_way(Reason::Spins);
}

fn locked(address: usize) {
    let world = world();
    world.lock_changed(address, Some(world.current.get()));
}

fn unlocked(address: usize) {
    world().unlocks.set(world().unlocks.get() + 1);
    world().lock_changed(address, None);
}

fn wrote(address: usize, old: u64, new: u64) {
    world().physical.wrote(address, old, new);
}

/// Makes panics of virtual CPUs end their worlds. A thread on which one has panicked must not run another world.
pub(crate) fn install_panic_hook() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if has_world() && RUNNING.get().is_some() {
                let place = info
                    .location()
                    .map_or(String::new(), |place| format!("{}:{}: ", place.file(), place.line()));
                let message = info.payload_as_str().unwrap_or("a panic");
                PANICKED.set(true);
                crate::world::fail(format!("{place}{message}"));
            }
            before(info);
        }));
    });
}

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a virtual CPU has panicked on this thread.
pub(crate) fn has_panicked() -> bool {
    PANICKED.get()
}
