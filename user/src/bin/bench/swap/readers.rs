//! Threads that read pages back, each its own.

use std::fmt;
use std::sync::Barrier;
use std::thread;

use faultline_user::{Mapping, shuffled};

use super::memory::check;
use crate::series::{Series, ticks};

/// The stack of a thread that does nothing but read.
pub const STACK: usize = 64 << 10;

/// In which order pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any.
    Random,
    /// By address.
    Sequential,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Sequential => "sequential",
        })
    }
}

/// Reads every page once by so many threads, notes how long each touch took, and returns how long all took together.
pub fn read_back(memory: &Mapping, seed: u64, threads: usize, order: Order, series: &mut Series) -> u64 {
    let pages = match order {
        Order::Random => shuffled(memory.pages(), seed),
        Order::Sequential => (0..memory.pages()).collect(),
    };
    // Not zeros, which would be pages that nobody has touched yet.
    let mut touches = vec![1u64; pages.len()];
    let share = pages.len().div_ceil(threads);
    let gate = Barrier::new(threads);
    let spans: Vec<(u64, u64)> = thread::scope(|scope| {
        let gate = &gate;
        let readers: Vec<_> = pages
            .chunks(share)
            .zip(touches.chunks_mut(share))
            .map(|(pages, touches)| {
                let reader = move || {
                    gate.wait();
                    let start = ticks();
                    for (page, touch) in pages.iter().zip(touches) {
                        let before = ticks();
                        check(memory, *page, seed);
                        *touch = ticks() - before;
                    }
                    (start, ticks())
                };
                let thread = thread::Builder::new().stack_size(STACK);
                thread
                    .spawn_scoped(scope, reader)
                    .expect("there is memory for a thread")
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader doesn't panic"))
            .collect()
    });
    series
        .values
        .extend(touches.iter().map(|touch| touch.saturating_sub(series.overhead)));
    let start = spans.iter().map(|(start, _)| *start).min().unwrap_or(0);
    let end = spans.iter().map(|(_, end)| *end).max().unwrap_or(0);
    end - start
}
