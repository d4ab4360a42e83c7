//! What memory operations cost, in ticks of the time-stamp counter.
//!
//! Under `-icount shift=0,sleep=off` one tick is one guest instruction and the figures are the same in every run; on
//! hardware they are time. Each operation is measured many times after a warm-up; the median, the 99th percentile and
//! the mean are printed, less the cost of reading the counter twice. The same binary runs on Linux, also as its first
//! process (`--init`), so that the columns can be laid side by side.

mod calls;
mod counters;
mod faults;
mod init;
mod linux_swap;
mod memory;
mod processes;
mod ranges;
mod series;
mod swap;

use std::time::Duration;

use faultline_user::{Arguments, fail};

use crate::linux_swap::Device;
use crate::series::{Bench, Form, Settings};

fn main() {
    let mut arguments = Arguments::new(
        "bench [--suite memory|swap] [--filter TEXT]... [--largest-fork MIB] [--pages N] [--rest MILLISECONDS] [--fields] \
         [--init] [--latency NANOSECONDS] [--backed MIB] [--virtio MIB]",
    );
    let mut settings = Settings {
        filters: Vec::new(),
        form: Form::Table,
        pages: 1024,
        rest: Duration::ZERO,
    };
    let mut largest = 64;
    let mut suite = Suite::Memory;
    let (mut latency, mut backed, mut virtio) = (10_000, 0, None);
    let is_init = std::env::args().any(|word| word == "--init");
    if is_init {
        // A kernel hands its first process also those words of its own command line that it doesn't know.
        while arguments.next_word().is_some_and(|word| word != "--init") {}
    }
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            // The words of a kernel's command line have no spaces in them.
            "--filter" if is_init => settings.filters.push(arguments.value::<String>().replace('+', " ")),
            "--filter" => settings.filters.push(arguments.value()),
            "--suite" => match arguments.value::<String>().as_str() {
                "memory" => suite = Suite::Memory,
                "swap" => suite = Suite::Swap,
                _ => arguments.wrong(),
            },
            "--latency" => latency = arguments.value(),
            "--backed" => backed = arguments.value(),
            "--virtio" => virtio = Some(arguments.value()),
            "--largest-fork" => largest = arguments.value(),
            "--pages" => settings.pages = arguments.value(),
            "--rest" => settings.rest = Duration::from_millis(arguments.value()),
            "--fields" => settings.form = Form::Fields,
            _ => arguments.wrong(),
        }
    }
    if settings.pages < 2 {
        arguments.wrong();
    }
    if is_init {
        init::settle();
        if suite == Suite::Swap {
            let device = virtio.map_or(Device::NullBlock { latency, backed }, Device::Virtio);
            linux_swap::swap_on(device).unwrap_or_else(|error| fail(format_args!("no swap on Linux: {error}")));
        }
        // In a child: Linux logs every signal of its first process, handled or not.
        memory::wait(memory::fork(|| measure(suite, settings, largest)));
        init::power_off();
    }
    measure(suite, settings, largest);
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suite {
    /// Calls, faults that need nothing from a device, processes.
    Memory,
    /// Faults that wait for a device.
    Swap,
}

/// Runs the benchmarks; `fork` alone up to `largest` MiB.
fn measure(suite: Suite, settings: Settings, largest: usize) {
    let bench = Bench::new(settings);
    match suite {
        Suite::Memory => {
            calls::run(&bench);
            faults::run(&bench);
            ranges::run(&bench);
            processes::run(&bench, largest);
        }
        Suite::Swap => swap::run(&bench),
    }
    bench.finish();
}
