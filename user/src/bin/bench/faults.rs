//! Faults of each kind.

use std::time::Duration;

use faultline_user::PAGE;

use crate::memory::{advise, fork, fork_and_exit, map, read, share, touch, unmap, wait, write};
use crate::series::{Bench, MIB, Series};

/// Measures them.
pub fn run(bench: &Bench) {
    let pages = bench.settings.pages;
    bench.run("anonymous write fault", 1, |series| {
        let memory = map(pages * PAGE);
        write(memory, 0);
        series.begin();
        (1..pages).for_each(|page| series.time(|| write(memory, page)));
        series.end();
        unmap(memory, pages * PAGE);
    });
    bench.run("anonymous read fault", 1, |series| {
        let memory = map(pages * PAGE);
        read(memory, 0);
        series.begin();
        for page in 1..pages {
            series.time(|| read(memory, page));
        }
        series.end();
        unmap(memory, pages * PAGE);
    });
    bench.run("write after read", 1, |series| {
        let memory = map(pages * PAGE);
        for page in 0..pages {
            read(memory, page);
        }
        series.begin();
        (1..pages).for_each(|page| series.time(|| write(memory, page)));
        series.end();
        unmap(memory, pages * PAGE);
    });
    copies(bench, pages);
    bench.run("huge-page fault, 2 MiB", 1, |series| {
        series.begin();
        for _ in 0..8 {
            let memory = map(4 * MIB);
            let aligned = memory.wrapping_add(memory.align_offset(2 * MIB));
            advise(aligned, 2 * MIB, libc::MADV_HUGEPAGE);
            series.time(|| write(aligned, 0));
            unmap(memory, 4 * MIB);
        }
        series.end();
    });
}

fn copies(bench: &Bench, pages: usize) {
    bench.run("copy-on-write in the child", 1, |series| {
        let memory = map(pages * PAGE);
        touch(memory, pages * PAGE);
        // The child measures and reports through shared memory.
        let shared = share(pages * 8);
        let overhead = series.overhead;
        let pid = fork(|| {
            let mut own = Series::new(overhead, Duration::ZERO);
            (1..pages).for_each(|page| own.time(|| write(memory, page)));
            for (index, value) in own.values.iter().enumerate() {
                // SAFETY: the shared memory has room for one word for each page.
                unsafe { shared.add(index).write_volatile(*value) };
            }
        });
        wait(pid);
        // SAFETY: the child wrote these words and is gone.
        series
            .values
            .extend((0..pages - 1).map(|index| unsafe { shared.add(index).read_volatile() }));
        unmap(memory, pages * PAGE);
        unmap(shared.cast(), pages * 8);
    });
    bench.run("copy-on-write, sole owner left", 1, |series| {
        let memory = map(pages * PAGE);
        touch(memory, pages * PAGE);
        wait(fork_and_exit());
        write(memory, 0);
        series.begin();
        (1..pages).for_each(|page| series.time(|| write(memory, page)));
        series.end();
        unmap(memory, pages * PAGE);
    });
}
