//! What memory operations cost, in ticks of the time-stamp counter.
//!
//! Under `-icount shift=0,sleep=off` one tick is one guest instruction and the figures are the same in every run; on
//! hardware they are time. Each operation is measured many times after a warm-up; the median and the 99th percentile are
//! printed, less the cost of reading the counter twice. The same binary runs on Linux, so that the columns can be laid
//! side by side.

use std::hint::black_box;
use std::process::exit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use faultline_user::{Arguments, PAGE, fail};

const MIB: usize = 1024 * 1024;

/// Reads the time-stamp counter.
fn ticks() -> u64 {
    // SAFETY: the instruction has no memory operands; the kernel and Linux both leave it to user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measurements of one operation.
struct Series {
    overhead: u64,
    values: Vec<u64>,
}

impl Series {
    fn new(overhead: u64) -> Self {
        Self {
            overhead,
            values: Vec::with_capacity(4096),
        }
    }

    /// Measures `operation` once.
    fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        let before = ticks();
        let result = black_box(operation());
        let after = ticks();
        self.values.push((after - before).saturating_sub(self.overhead));
        result
    }

    /// The value below which `percent` of the measurements lie.
    fn percentile(&mut self, percent: usize) -> u64 {
        self.values.sort_unstable();
        self.values[(self.values.len() - 1) * percent / 100]
    }
}

struct Bench {
    filter: Option<String>,
    overhead: u64,
}

impl Bench {
    fn new(filter: Option<String>) -> Self {
        let mut empty = Series::new(0);
        (0..1000).for_each(|_| empty.time(|| ()));
        let overhead = empty.percentile(50);
        Self { filter, overhead }
    }

    fn wanted(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Runs a benchmark and prints its line; `per` divides each measurement.
    fn run(&self, name: &str, per: u64, measure: impl FnOnce(&mut Series)) {
        if !self.wanted(name) {
            return;
        }
        let mut series = Series::new(self.overhead);
        measure(&mut series);
        let (median, p99) = (series.percentile(50) / per, series.percentile(99) / per);
        println!("{name:<44} {median:>10} {p99:>10} {:>7}", series.values.len());
    }
}

/// Private anonymous memory.
fn map(size: usize) -> *mut u8 {
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        fail("mmap");
    }
    address.cast()
}

fn unmap(address: *mut u8, size: usize) {
    // SAFETY: the caller mapped the range and uses it no more.
    if unsafe { libc::munmap(address.cast(), size) } != 0 {
        fail("munmap");
    }
}

fn protect(address: *mut u8, size: usize, protection: i32) {
    // SAFETY: the caller mapped the range; no reference into it is alive.
    if unsafe { libc::mprotect(address.cast(), size, protection) } != 0 {
        fail("mprotect");
    }
}

fn advise(address: *mut u8, size: usize, advice: i32) {
    // SAFETY: the caller mapped the range and wants the advice's effect.
    if unsafe { libc::madvise(address.cast(), size, advice) } != 0 {
        fail("madvise");
    }
}

fn write(address: *mut u8, page: usize) {
    // SAFETY: the page is in a mapping of the caller's that may be written.
    unsafe { address.add(page * PAGE).write_volatile(1) }
}

fn read(address: *mut u8, page: usize) -> u8 {
    // SAFETY: the page is in a mapping of the caller's that may be read.
    unsafe { address.add(page * PAGE).read_volatile() }
}

fn touch(address: *mut u8, size: usize) {
    (0..size / PAGE).for_each(|page| write(address, page));
}

/// Forks; the child runs `child` and exits.
fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the program has one thread, so the child may do what the parent may.
    match unsafe { libc::fork() } {
        -1 => fail("fork"),
        0 => {
            child();
            exit(0)
        }
        pid => pid,
    }
}

/// Forks a child that exits at once, without running destructors.
fn fork_and_exit() -> i32 {
    // SAFETY: as in `fork`; `_exit` ends the child at once.
    unsafe {
        match libc::fork() {
            -1 => fail("fork"),
            0 => libc::_exit(0),
            pid => pid,
        }
    }
}

fn wait(pid: i32) {
    let mut status = 0;
    // SAFETY: `status` may be written.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid || status != 0 {
        fail("a child failed");
    }
}

const PAGES: usize = 1024;

fn faults(bench: &Bench) {
    bench.run("anonymous write fault", 1, |series| {
        let memory = map(PAGES * PAGE);
        write(memory, 0);
        (1..PAGES).for_each(|page| series.time(|| write(memory, page)));
        unmap(memory, PAGES * PAGE);
    });
    bench.run("anonymous read fault", 1, |series| {
        let memory = map(PAGES * PAGE);
        read(memory, 0);
        for page in 1..PAGES {
            series.time(|| read(memory, page));
        }
        unmap(memory, PAGES * PAGE);
    });
    bench.run("write after read", 1, |series| {
        let memory = map(PAGES * PAGE);
        for page in 0..PAGES {
            read(memory, page);
        }
        (1..PAGES).for_each(|page| series.time(|| write(memory, page)));
        unmap(memory, PAGES * PAGE);
    });
    copies(bench);
    bench.run("huge-page fault, 2 MiB", 1, |series| {
        for _ in 0..8 {
            let memory = map(4 * MIB);
            let aligned = memory.wrapping_add(memory.align_offset(2 * MIB));
            advise(aligned, 2 * MIB, libc::MADV_HUGEPAGE);
            series.time(|| write(aligned, 0));
            unmap(memory, 4 * MIB);
        }
    });
}

fn copies(bench: &Bench) {
    bench.run("copy-on-write in the child", 1, |series| {
        let memory = map(PAGES * PAGE);
        touch(memory, PAGES * PAGE);
        // The child measures and reports through shared memory.
        let shared = share(PAGES * 8);
        let overhead = series.overhead;
        let pid = fork(|| {
            let mut own = Series::new(overhead);
            (1..PAGES).for_each(|page| own.time(|| write(memory, page)));
            for (index, value) in own.values.iter().enumerate() {
                // SAFETY: the shared memory has room for one word for each page.
                unsafe { shared.add(index).write_volatile(*value) };
            }
        });
        wait(pid);
        // SAFETY: the child wrote these words and is gone.
        series
            .values
            .extend((0..PAGES - 1).map(|index| unsafe { shared.add(index).read_volatile() }));
        unmap(memory, PAGES * PAGE);
        unmap(shared.cast(), PAGES * 8);
    });
    bench.run("copy-on-write, sole owner left", 1, |series| {
        let memory = map(PAGES * PAGE);
        touch(memory, PAGES * PAGE);
        wait(fork_and_exit());
        write(memory, 0);
        (1..PAGES).for_each(|page| series.time(|| write(memory, page)));
        unmap(memory, PAGES * PAGE);
    });
}

/// Memory that parent and child both see.
fn share(size: usize) -> *mut u64 {
    // SAFETY: as in `map`.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        fail("mmap");
    }
    address.cast()
}

fn ranges(bench: &Bench) {
    let pages = (64 * MIB / PAGE) as u64;
    bench.run("munmap of 64 MiB touched, per page", pages, |series| {
        for _ in 0..3 {
            let memory = map(64 * MIB);
            touch(memory, 64 * MIB);
            series.time(|| unmap(memory, 64 * MIB));
        }
    });
    bench.run("mmap, touch and munmap of a page", 1, |series| {
        for _ in 0..200 {
            series.time(|| {
                let memory = map(PAGE);
                write(memory, 0);
                unmap(memory, PAGE);
            });
        }
    });
    bench.run("mprotect R, then RW, touch", 1, |series| {
        let memory = map(PAGE);
        write(memory, 0);
        for _ in 0..200 {
            series.time(|| {
                protect(memory, PAGE, libc::PROT_READ);
                protect(memory, PAGE, libc::PROT_READ | libc::PROT_WRITE);
                write(memory, 0);
            });
        }
        unmap(memory, PAGE);
    });
    bench.run("madvise DONTNEED, touch", 1, |series| {
        let memory = map(PAGE);
        write(memory, 0);
        for _ in 0..200 {
            series.time(|| {
                advise(memory, PAGE, libc::MADV_DONTNEED);
                write(memory, 0);
            });
        }
        unmap(memory, PAGE);
    });
    bench.run("brk grow, touch", 1, |series| {
        for _ in 0..200 {
            series.time(|| {
                // SAFETY: the heap grows by a page that nobody else uses; the program allocates nothing meanwhile.
                let memory = unsafe { libc::sbrk(PAGE as isize) };
                write(memory.cast(), 0);
            });
        }
    });
    for size in [16, 1024] {
        bench.run(
            &format!("munmap of one page of {size} MiB, 1,000 touched"),
            1,
            |series| {
                let memory = map(size * MIB);
                let stride = size * MIB / PAGE / 1000;
                (0..1000).for_each(|index| write(memory, index * stride));
                for index in (0..1000).step_by(10) {
                    series.time(|| unmap(memory.wrapping_add(index * stride * PAGE), PAGE));
                }
                unmap(memory, size * MIB);
            },
        );
    }
}

fn processes(bench: &Bench, largest: usize) {
    for size in [0, 16, 64] {
        bench.run(&format!("fork, exit and wait, {size} MiB touched"), 1, |series| {
            let memory = map((size * MIB).max(PAGE));
            touch(memory, size * MIB);
            for _ in 0..8 {
                series.time(|| wait(fork_and_exit()));
            }
            unmap(memory, (size * MIB).max(PAGE));
        });
    }
    let mut size = 1;
    while size <= largest {
        bench.run(&format!("fork alone, {size} MiB touched"), 1, |series| {
            let memory = map(size * MIB);
            touch(memory, size * MIB);
            for _ in 0..5 {
                let pid = series.time(fork_and_exit);
                wait(pid);
            }
            unmap(memory, size * MIB);
        });
        size *= 4;
    }
    bench.run("storm: 64 processes x 2 MiB, per fault", 64 * 512, |series| {
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
    });
}

fn calls(bench: &Bench) {
    bench.run("getpid", 1, |series| {
        for _ in 0..1000 {
            // SAFETY: the call has no pointer arguments.
            series.time(|| unsafe { libc::syscall(libc::SYS_getpid) });
        }
    });
    const ROUNDS: usize = 1000;
    bench.run(
        "sched_yield between two processes, a switch",
        2 * ROUNDS as u64,
        |series| {
            let spin = || {
                for _ in 0..ROUNDS {
                    // SAFETY: the call has no arguments.
                    unsafe { libc::syscall(libc::SYS_sched_yield) };
                }
            };
            let gate = share(PAGE).cast::<AtomicUsize>();
            // SAFETY: the shared page is mapped for the rest of the program and only used as an atomic word.
            let gate = unsafe { &*gate };
            let pid = fork(|| {
                gate.store(1, Ordering::Release);
                while gate.load(Ordering::Acquire) != 2 {
                    // SAFETY: the call has no arguments.
                    unsafe { libc::syscall(libc::SYS_sched_yield) };
                }
                spin();
                // Stays runnable until the parent has ended its rounds.
                while gate.load(Ordering::Acquire) != 3 {
                    // SAFETY: the call has no arguments.
                    unsafe { libc::syscall(libc::SYS_sched_yield) };
                }
            });
            while gate.load(Ordering::Acquire) != 1 {
                // SAFETY: the call has no arguments.
                unsafe { libc::syscall(libc::SYS_sched_yield) };
            }
            gate.store(2, Ordering::Release);
            series.time(spin);
            gate.store(3, Ordering::Release);
            wait(pid);
        },
    );
    signals(bench);
}

static FAULT_PAGE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn mend(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let page = FAULT_PAGE.load(Ordering::Relaxed) as *mut libc::c_void;
    // SAFETY: `mprotect` is a bare system call, and the page is a mapping of `signals`.
    unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
}

fn signals(bench: &Bench) {
    bench.run("SIGSEGV to a handler that mends, and back", 1, |series| {
        let memory = map(PAGE);
        write(memory, 0);
        FAULT_PAGE.store(memory as usize, Ordering::Relaxed);
        // SAFETY: the structure is plain data, and the handler only makes a system call.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = mend as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSEGV, &raw const action, null_mut());
        }
        for _ in 0..200 {
            protect(memory, PAGE, libc::PROT_NONE);
            series.time(|| write(memory, 0));
        }
        // SAFETY: the default action touches nothing of the program's.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        unmap(memory, PAGE);
    });
}

fn main() {
    let mut arguments = Arguments::new("bench [--filter TEXT] [--largest-fork MIB]");
    let (mut filter, mut largest) = (None, 64);
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--filter" => filter = Some(arguments.value()),
            "--largest-fork" => largest = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    let bench = Bench::new(filter);
    println!(
        "{:<44} {:>10} {:>10} {:>7}",
        "ticks of the time-stamp counter", "median", "p99", "runs"
    );
    calls(&bench);
    faults(&bench);
    ranges(&bench);
    processes(&bench, largest);
}
