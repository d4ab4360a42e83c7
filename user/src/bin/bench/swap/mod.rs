//! Faults that wait for a device: memory is written, paged out by `MADV_PAGEOUT`, and read back.
//!
//! The machine has swap switched on before. What a kernel keeps of pages that it has written out is made to go, so that
//! each page that is read back is a read of the device; the major faults beside the figures say how many were.

mod compute;
mod file;
mod memory;
mod readers;
mod shared;
mod steady;

use std::thread;
use std::time::Duration;

use faultline_user::Mapping;

use crate::series::{Bench, MIB, Series, ticks};
use memory::{drop_copies, page_out};
use readers::Order;

/// How much is paged out and read back.
const BYTES: usize = 32 * MIB;

/// The seed of what is written.
const SEED: u64 = 14;

/// Measures them.
pub fn run(bench: &Bench) {
    memory::lock_own();
    bench.run("swap-out, a page", 1, swap_out);
    for (threads, order) in [
        (1, Order::Random),
        (8, Order::Random),
        (64, Order::Random),
        (1, Order::Sequential),
    ] {
        let plural = if threads == 1 { "" } else { "s" };
        bench.run(&format!("swap-in, {threads} thread{plural}, {order}"), 1, |series| {
            swap_in(series, threads, order)
        });
    }
    compute::run(bench);
    steady::run(bench);
    file::run(bench);
    shared::run(bench);
}

/// Memory that is written and paged out; nothing of it is left in memory but what a kernel can't be talked out of.
fn paged_out() -> Mapping {
    let memory = Mapping::private(BYTES);
    memory::fill(&memory, SEED);
    page_out(&memory);
    drop_copies();
    // Until the device has written what that paged out.
    thread::sleep(Duration::from_secs(1));
    memory
}

fn swap_out(series: &mut Series) {
    let memory = Mapping::private(BYTES);
    memory::fill(&memory, SEED);
    series.begin();
    let before = ticks();
    page_out(&memory);
    let took = ticks() - before;
    series.end();
    series.values.push(took / memory.pages() as u64);
    series.note("left", memory::present(&memory));
}

fn swap_in(series: &mut Series, threads: usize, order: Order) {
    let memory = paged_out();
    series.note("left", memory::resident(&memory));
    let faults = memory::major_faults();
    series.begin();
    let took = readers::read_back(&memory, SEED, threads, order, series);
    series.end();
    series.note("each", took as f64 / memory.pages() as f64);
    series.note(
        "majors",
        (memory::major_faults() - faults) as f64 / memory.pages() as f64,
    );
}
