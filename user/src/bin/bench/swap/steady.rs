//! Many threads over more pages than there is memory: every read of a page that is out puts another one out.

use std::sync::Barrier;
use std::thread;

use faultline_user::{Mapping, PAGE, word};

use super::SEED;
use super::memory::{check, fill, major_faults, meminfo};
use super::readers::STACK;
use crate::series::{Bench, ticks};

/// Threads, each with pages of its own.
const THREADS: usize = 64;

/// Reads of each thread: so many before the kernel is in a steady state, and so many that are measured.
const WARM: usize = 128;
const MEASURED: usize = 256;

/// Measures it.
pub fn run(bench: &Bench) {
    bench.run("steady state, 64 threads, random, 1.5 x memory", 1, |series| {
        let pages = meminfo("MemFree:") * 1024 / PAGE * 3 / 2 / THREADS * THREADS;
        let memory = Mapping::private(pages * PAGE);
        fill(&memory, SEED);
        let own = pages / THREADS;
        let gate = Barrier::new(THREADS + 1);
        let spans: Vec<(u64, u64)> = thread::scope(|scope| {
            let (memory, gate) = (&memory, &gate);
            let reader = |number: usize| {
                move || {
                    let read = |round| {
                        let page = usize::try_from(word(number as u64, round) >> 8).unwrap_or(0) % own;
                        check(memory, number * own + page, SEED);
                    };
                    (0..WARM).for_each(read);
                    gate.wait();
                    gate.wait();
                    let start = ticks();
                    (WARM..WARM + MEASURED).for_each(read);
                    (start, ticks())
                }
            };
            let readers: Vec<_> = (0..THREADS)
                .map(|number| {
                    let thread = thread::Builder::new().stack_size(STACK);
                    thread
                        .spawn_scoped(scope, reader(number))
                        .expect("there is memory for a thread")
                })
                .collect();
            gate.wait();
            let faults = major_faults();
            series.begin();
            gate.wait();
            let spans = readers
                .into_iter()
                .map(|reader| reader.join().expect("a reader doesn't panic"))
                .collect();
            series.end();
            series.note("majors", (major_faults() - faults) as f64 / (THREADS * MEASURED) as f64);
            spans
        });
        let start = spans.iter().map(|(start, _)| *start).min().unwrap_or(0);
        let end = spans.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let each = (end - start) as f64 / (THREADS * MEASURED) as f64;
        series.values.push(each as u64);
        series.note("each", each);
        series.note("pages", pages as f64);
    });
}
