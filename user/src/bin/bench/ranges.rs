//! Calls that change what is mapped.

use faultline_user::PAGE;

use crate::memory::{advise, map, protect, touch, unmap, write};
use crate::series::{Bench, MIB};

/// Measures them.
pub fn run(bench: &Bench) {
    let pages = (64 * MIB / PAGE) as u64;
    bench.run("munmap of 64 MiB touched, per page", pages, |series| {
        for _ in 0..3 {
            let memory = map(64 * MIB);
            touch(memory, 64 * MIB);
            series.begin();
            series.time(|| unmap(memory, 64 * MIB));
            series.end();
        }
    });
    bench.run("mmap, touch and munmap of a page", 1, |series| {
        series.begin();
        for _ in 0..200 {
            series.time(|| {
                let memory = map(PAGE);
                write(memory, 0);
                unmap(memory, PAGE);
            });
        }
        series.end();
    });
    bench.run("mprotect R, then RW, touch", 1, |series| {
        let memory = map(PAGE);
        write(memory, 0);
        series.begin();
        for _ in 0..200 {
            series.time(|| {
                protect(memory, PAGE, libc::PROT_READ);
                protect(memory, PAGE, libc::PROT_READ | libc::PROT_WRITE);
                write(memory, 0);
            });
        }
        series.end();
        unmap(memory, PAGE);
    });
    bench.run("madvise DONTNEED, touch", 1, |series| {
        let memory = map(PAGE);
        write(memory, 0);
        series.begin();
        for _ in 0..200 {
            series.time(|| {
                advise(memory, PAGE, libc::MADV_DONTNEED);
                write(memory, 0);
            });
        }
        series.end();
        unmap(memory, PAGE);
    });
    bench.run("brk grow, touch", 1, |series| {
        series.begin();
        for _ in 0..200 {
            series.time(|| {
                // SAFETY: the heap grows by a page that nobody else uses; the program allocates nothing meanwhile.
                let memory = unsafe { libc::sbrk(PAGE as isize) };
                write(memory.cast(), 0);
            });
        }
        series.end();
    });
    for size in [16, 1024] {
        bench.run(
            &format!("munmap of one page of {size} MiB, 1,000 touched"),
            1,
            |series| {
                let memory = map(size * MIB);
                let stride = size * MIB / PAGE / 1000;
                (0..1000).for_each(|index| write(memory, index * stride));
                series.begin();
                for index in (0..1000).step_by(10) {
                    series.time(|| unmap(memory.wrapping_add(index * stride * PAGE), PAGE));
                }
                series.end();
                unmap(memory, size * MIB);
            },
        );
    }
}
