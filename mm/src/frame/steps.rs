//! Counts the accesses to frame metadata, as a measure of work that is the same on every machine.

extern crate std;

use core::cell::Cell;

std::thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// One access.
pub(super) fn step() {
    STEPS.set(STEPS.get() + 1);
}

/// The accesses that `work` makes on this thread.
pub(super) fn count(work: impl FnOnce()) -> u64 {
    let before = STEPS.get();
    work();
    STEPS.get() - before
}
