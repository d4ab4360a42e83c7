//! The text sink: one line an event on COM1.

use super::ring;
use crate::console::{self, Channel};

/// Writes out what was recorded and empties the block.
#[cold]
pub fn write_out() {
    let events = ring::recorded();
    if events.is_empty() {
        return;
    }
    for event in events {
        console::print(Channel::Log, format_args!("{event}\n"));
    }
    ring::set_current(0);
}
