//! Timers: a treap of sleeping tasks per CPU, `sleep_until` and `timeout`.

mod queue;
mod sleep;
mod treap;

pub use sleep::{Elapsed, Sleep, Timeout, Timers};

pub(crate) use queue::TimerQueue;
