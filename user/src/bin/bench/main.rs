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
mod memory;
mod processes;
mod ranges;
mod series;

use std::time::Duration;

use faultline_user::Arguments;

use crate::series::{Bench, Form, Settings};

fn main() {
    let mut arguments = Arguments::new(
        "bench [--filter TEXT] [--largest-fork MIB] [--pages N] [--rest MILLISECONDS] [--fields] [--init]",
    );
    let mut settings = Settings {
        filter: None,
        form: Form::Table,
        pages: 1024,
        rest: Duration::ZERO,
    };
    let mut largest = 64;
    let is_init = std::env::args().any(|word| word == "--init");
    if is_init {
        // A kernel hands its first process also those words of its own command line that it doesn't know.
        while arguments.next_word().is_some_and(|word| word != "--init") {}
    }
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            // The words of a kernel's command line have no spaces in them.
            "--filter" if is_init => settings.filter = Some(arguments.value::<String>().replace('+', " ")),
            "--filter" => settings.filter = Some(arguments.value()),
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
        // In a child: Linux logs every signal of its first process, handled or not.
        init::settle();
        memory::wait(memory::fork(|| measure(settings, largest)));
        init::power_off();
    }
    measure(settings, largest);
}

/// Runs the benchmarks; `fork` alone up to `largest` MiB.
fn measure(settings: Settings, largest: usize) {
    let bench = Bench::new(settings);
    calls::run(&bench);
    faults::run(&bench);
    ranges::run(&bench);
    processes::run(&bench, largest);
    bench.finish();
}
