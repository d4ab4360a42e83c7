//! Pages that many processes share leave.

use std::ptr;

use faultline_user::{Child, Mapping, fail, fork};

use super::SEED;
use super::memory::{fill, page_out, present};
use crate::series::{Bench, MIB, ticks};

/// How much leaves.
const BYTES: usize = 4 * MIB;

/// Measures it.
pub fn run(bench: &Bench) {
    for (name, others) in [("of one process", 0), ("that 1,000 processes share", 999)] {
        bench.run(&format!("evicting a page {name}"), 1, |series| {
            let memory = Mapping::private(BYTES);
            fill(&memory, SEED);
            let children: Vec<Child> = (0..others).map(|_| fork(pause)).collect();
            series.begin();
            let before = ticks();
            page_out(&memory);
            let took = ticks() - before;
            series.end();
            series.values.push(took / memory.pages() as u64);
            series.note("left", present(&memory));
            for child in children {
                child.kill(libc::SIGKILL);
                child.wait();
            }
        });
    }
}

/// Waits for a signal that ends the process.
fn pause() {
    // SAFETY: null pointers make the call wait for ever.
    unsafe { libc::select(0, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) };
    fail("a child that waits was woken");
}
