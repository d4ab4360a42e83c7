//! Where the simulation looks into `mm` and `executor`.
//!
//! With their feature `simulation`, both crates take their atomics and locks from here. Each access is then a *point*: a
//! place at which the simulation may let another virtual CPU run, and each write is shown to it. Without the feature
//! nothing of this is compiled.
//!
//! One thread of the host runs one simulated machine, so all state here is the thread's own; where no machine runs, a
//! point costs one decrement. The order of memory accesses is that of the program: weak memory is not simulated (loom
//! does that for the executor).

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod atomic;
mod mutants;
mod mutex;

use core::cell::Cell;

pub use mutants::{Mutant, is_on, switch_on};
pub use mutex::{Mutex, MutexGuard};

/// What the simulation wants to be told. All functions are called on the thread that called [`install`].
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// The points that were granted are used up: another CPU may run.
    pub preempt: fn(),
    /// A lock is held by somebody who does not run.
    pub spin: fn(),
    /// The lock at this address was taken.
    pub locked: fn(usize),
    /// The lock at this address is free again.
    pub unlocked: fn(usize),
    /// The word at this address, inside the watched memory, was changed from one value to another.
    pub wrote: fn(usize, u64, u64),
}

fn nothing() {}
fn no_lock(_: usize) {}
fn no_write(_: usize, _: u64, _: u64) {}

/// What a thread without a simulated machine does.
const IDLE: Hooks = Hooks {
    preempt: nothing,
    spin: std::thread::yield_now,
    locked: no_lock,
    unlocked: no_lock,
    wrote: no_write,
};

thread_local! {
    static HOOKS: Cell<Hooks> = const { Cell::new(IDLE) };
    static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    static WATCHED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// From now on this thread simulates a machine, whose memory is `length` bytes from `start`.
pub fn install(hooks: Hooks, start: usize, length: usize) {
    HOOKS.set(hooks);
    WATCHED.set((start, length));
    LEFT.set(u32::MAX);
}

/// The simulated machine of this thread is gone.
pub fn uninstall() {
    install(IDLE, 0, 0);
}

/// Grants `points` until the next call of [`Hooks::preempt`]; `u32::MAX` stands for as good as any number. Returns what
/// was left of the last grant.
pub fn grant(points: u32) -> u32 {
    LEFT.replace(points)
}

/// A place at which another CPU may run.
#[inline]
pub fn point() {
    let left = LEFT.get();
    if left == 0 {
        run_out();
    } else {
        LEFT.set(left - 1);
    }
}

#[cold]
#[inline(never)]
fn run_out() {
    LEFT.set(u32::MAX);
    (HOOKS.get().preempt)();
}

/// A turn of a loop that waits for somebody else.
#[cold]
pub fn spin_loop() {
    (HOOKS.get().spin)();
}

#[inline]
fn wrote(address: usize, old: u64, new: u64) {
    let (start, length) = WATCHED.get();
    if address.wrapping_sub(start) < length && old != new {
        (HOOKS.get().wrote)(address, old, new);
    }
}
