//! Time slices: how long a thread runs before the others of its class have their turn.
//!
//! A slice is some ticks of user mode. A fault does not end it: the thread whose fault was served goes on before the
//! others, with what is left of its slice, so that a storm of faults does not switch address spaces once a fault. A tick
//! that does not end it lets whatever is due go first (timers, drivers), and then the same thread. With a length of 0
//! every fault and every tick sends the thread to the end of the queue.

use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

static LENGTH: AtomicU16 = AtomicU16::new(0);

/// Sets the length of the slices that begin from now on, in ticks.
pub fn set_length(ticks: u16) {
    LENGTH.store(ticks, Relaxed);
}

/// What a thread has left of its slice.
#[derive(Default)]
pub(super) struct Slice {
    /// In ticks; 0 at the beginning of a slice.
    left: u16,
}

impl Slice {
    /// A tick has gone by. Returns whether the slice is over; then the next one begins.
    pub(super) fn tick(&mut self) -> bool {
        if self.left == 0 {
            self.left = LENGTH.load(Relaxed);
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
}
