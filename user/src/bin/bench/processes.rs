//! Processes: fork, exit, wait, and a storm of them.

use faultline_user::PAGE;

use crate::memory::{fork, fork_and_exit, map, touch, unmap, wait};
use crate::series::{Bench, MIB};

/// Measures them; `fork` alone up to `largest` MiB.
pub fn run(bench: &Bench, largest: usize) {
    for size in [0, 16, 64] {
        bench.run(&format!("fork, exit and wait, {size} MiB touched"), 1, |series| {
            let memory = map((size * MIB).max(PAGE));
            touch(memory, size * MIB);
            series.begin();
            for _ in 0..8 {
                series.time(|| wait(fork_and_exit()));
            }
            series.end();
            unmap(memory, (size * MIB).max(PAGE));
        });
    }
    let mut size = 1;
    while size <= largest {
        bench.run(&format!("fork alone, {size} MiB touched"), 1, |series| {
            let memory = map(size * MIB);
            touch(memory, size * MIB);
            series.begin();
            for _ in 0..5 {
                let pid = series.time(fork_and_exit);
                wait(pid);
            }
            series.end();
            unmap(memory, size * MIB);
        });
        size *= 4;
    }
    bench.run("storm: 64 processes x 2 MiB, per fault", 64 * 512, |series| {
        series.begin();
        series.time(|| {
            let children: Vec<i32> = (0..64)
                .map(|_| {
                    fork(|| {
                        let memory = map(2 * MIB);
                        touch(memory, 2 * MIB);
                    })
                })
                .collect();
            children.into_iter().for_each(wait);
        });
        series.end();
    });
}
