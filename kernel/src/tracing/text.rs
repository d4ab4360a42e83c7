//! The text sink: one line an event on COM1.

use crate::arch::{cpu, smp};
use crate::console::{self, Channel};

/// Writes out what this CPU has recorded and empties its block.
pub fn write_out() {
    write_out_of(cpu::index());
}

/// Writes out what every CPU has recorded. The others stand still.
pub fn write_out_all() {
    (0..smp::count()).for_each(write_out_of);
}

#[cold]
fn write_out_of(index: usize) {
    let words = &cpu::locals()[index].tracing.words;
    let events = words.recorded();
    if events.is_empty() {
        return;
    }
    for event in events {
        console::print(Channel::Log, format_args!("{event}\n"));
    }
    words.set_current(index);
}
