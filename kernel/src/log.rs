//! The `log` crate's back end: lines on COM1, `[   0.012345] text`, with the level in front of warnings and errors.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::arch::clock;
use crate::console::{self, Channel};

struct SerialLog;

impl Log for SerialLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let microseconds = clock::now() / 1000;
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
        console::print(
            Channel::Log,
            format_args!("[{seconds:>4}.{fraction:06}] {level}{}\n", record.args()),
        );
    }

    fn flush(&self) {}
}

/// Sends everything up to `info` to COM1.
pub fn start() {
    // Fails only if a logger is set already, which would be this one.
    let _ = log::set_logger(&SerialLog);
    log::set_max_level(LevelFilter::Info);
}
