//! What is left to a thread that computes while others wait for pages.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use faultline_user::shuffled;

use super::memory::check;
use super::readers::STACK;
use super::{SEED, paged_out};
use crate::series::{Bench, ticks};

/// How long is computed, in ticks: 100 ms at one instruction a nanosecond.
const WINDOW: u64 = 100_000_000;

/// Threads that wait for pages.
const READERS: usize = 64;

/// Measures it: the share of its own instructions that it keeps.
pub fn run(bench: &Bench) {
    bench.run("compute beside 64 waiting threads", 1, |series| {
        let alone = compute();
        let memory = paged_out();
        let pages = shuffled(memory.pages(), SEED);
        let over = AtomicBool::new(false);
        let reads = AtomicUsize::new(0);
        let (beside, read) = thread::scope(|scope| {
            let (memory, over, reads) = (&memory, &over, &reads);
            for pages in pages.chunks(pages.len().div_ceil(READERS)) {
                let reader = move || {
                    for page in pages {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        check(memory, *page, SEED);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let thread = thread::Builder::new().stack_size(STACK);
                thread
                    .spawn_scoped(scope, reader)
                    .expect("there is memory for a thread");
            }
            // Until all of them wait for a page that is not their first.
            while reads.load(Ordering::Relaxed) < 2 * READERS {
                thread::sleep(Duration::from_millis(1));
            }
            let before = reads.load(Ordering::Relaxed);
            series.begin();
            let beside = compute();
            series.end();
            let read = reads.load(Ordering::Relaxed) - before;
            over.store(true, Ordering::Relaxed);
            (beside, read)
        });
        series.values.push(WINDOW);
        series.note("share", beside as f64 / alone as f64);
        series.note("reads", read as f64);
    });
}

/// How far a thread gets in the window.
fn compute() -> u64 {
    let start = ticks();
    let mut rounds = 0;
    while ticks() - start < WINDOW {
        (0..100u64).for_each(|number| {
            black_box(number);
        });
        rounds += 1;
    }
    rounds
}
