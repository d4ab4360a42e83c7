//! Scenarios of one thread and its own memory.

use std::io;
use std::ptr::null_mut;
use std::thread;
use std::time::{Duration, Instant};

use faultline_user::{Access, Ended, Mapping, PAGE, PAGE_WORDS, expect, fail, shuffled, word};

use crate::processes;
use crate::scenario::{Refused, Task};

const MIB: usize = 1024 * 1024;

/// How long a shortage of memory may go on without a victim.
const LONGEST_SHORTAGE: Duration = Duration::from_secs(30);

/// Private memory, unless the kernel has none for the mapping.
pub fn map(bytes: usize) -> Result<Mapping, Refused> {
    Mapping::try_private(bytes).map_err(refused)
}

/// What a call that was refused means: want of memory, or a failure.
pub fn refused(error: io::Error) -> Refused {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => Refused,
        _ => fail(format_args!("mmap: {error}")),
    }
}

/// Makes a call until the kernel has memory for it; that it never has is a failure.
pub fn insist(call: impl Fn() -> io::Result<()>) {
    let started = Instant::now();
    while let Err(error) = call() {
        if error.raw_os_error() != Some(libc::ENOMEM) || started.elapsed() > LONGEST_SHORTAGE {
            fail(format_args!("a call of memory: {error}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn ticks() -> u64 {
    // SAFETY: the instruction has no memory operands, and user mode may use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Faults of this thread that were answered, as the kernel counts them. A thread of the scenario before may still be about to
/// end.
fn answered() -> i64 {
    // SAFETY: the structure is plain data, and the call fills it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_minflt + usage.ru_majflt
    }
}

/// Writes the first word of a page and takes the time of it.
fn touch(task: &Task, memory: &Mapping, page: usize, seed: u64) {
    let index = page * PAGE_WORDS;
    let before = ticks();
    memory.write(index, word(seed, index));
    task.board.latency.add(ticks() - before);
}

/// Writes first words of new pages in the given order, and checks that each was one fault, answered once.
fn touch_all(task: &Task, memory: &Mapping, order: impl ExactSizeIterator<Item = usize>, seed: u64) {
    let pages = order.len();
    let before = answered();
    order.for_each(|page| touch(task, memory, page, seed));
    let faults = answered() - before;
    // Linux may answer several at once with a huge page, and both kernels by running ahead, but never one of them twice.
    if faults > pages as i64 || (faults < pages as i64 && answers_each_alone()) {
        fail(format_args!("{pages} first touches, but {faults} faults answered"));
    }
    task.touched(pages);
}

/// Whether this kernel has answered each first touch by itself: it is Faultline, and does not run ahead.
fn answers_each_alone() -> bool {
    let counters = std::fs::read_to_string("/proc/faultline/counters").unwrap_or_default();
    counters.lines().any(|line| line == "ahead 0")
}

/// Checks one word of each page, and the rest of some.
fn check_pages(memory: &Mapping, pages: impl Iterator<Item = usize>, seed: u64, what: &str) {
    for page in pages {
        let index = page * PAGE_WORDS;
        memory.check(index..index + 1, seed, what);
        if page % 8 == 0 {
            memory.check_zero(index + 1..index + PAGE_WORDS, what);
        }
    }
}

/// New pages from the first to the last: each is zero but for what was written.
pub fn sweep(task: &mut Task) -> Result<(), Refused> {
    let memory = map(task.settings.pages * PAGE)?;
    let seed = task.content();
    touch_all(task, &memory, 0..memory.pages(), seed);
    if task.breaks() {
        memory.write(0, 0xbad);
    }
    check_pages(&memory, 0..memory.pages(), seed, "sweep");
    Ok(())
}

/// New pages in any order, some given back and touched again.
pub fn random(task: &mut Task) -> Result<(), Refused> {
    let memory = map(task.settings.pages * PAGE)?;
    let (seed, pages) = (task.content(), memory.pages());
    touch_all(task, &memory, shuffled(pages, seed).into_iter(), seed);
    let first = task.draw(pages);
    let end = first + 1 + task.draw(pages - first);
    insist(|| memory.try_discard(first..end));
    for page in first..end {
        memory.check_zero(page * PAGE_WORDS..page * PAGE_WORDS + 1, "discarded");
    }
    task.touched(end - first);
    (first..end).for_each(|page| touch(task, &memory, page, seed));
    task.touched(end - first);
    check_pages(&memory, 0..pages, seed, "random");
    Ok(())
}

/// The heap's end up and down; nothing allocates meanwhile.
pub fn brk(task: &mut Task) -> Result<(), Refused> {
    let seed = task.content();
    let steps: [usize; 8] = std::array::from_fn(|_| 1 + task.draw(task.settings.pages));
    let start = set_break(0);
    let mut failed = None;
    for pages in steps {
        let end = start + pages * PAGE;
        if set_break(end) != end {
            set_break(start);
            return Err(Refused);
        }
        let words = |page: usize| (start + page * PAGE).next_multiple_of(8) as *mut u64;
        for page in 0..pages {
            // SAFETY: the heap was just made this long; the word lies below its end, because a page is more than the
            // alignment took, and nobody else uses it.
            let found = unsafe {
                let found = words(page).read_volatile();
                words(page).write_volatile(word(seed, page));
                found
            };
            if found != 0 {
                failed = Some((page, found));
            }
        }
        for page in 0..pages {
            // SAFETY: as above.
            let found = unsafe { words(page).read_volatile() };
            if found != word(seed, page) {
                failed = Some((page, found));
            }
        }
        // The part of a page that lay in use before keeps its content: it is made zero for the next step.
        // SAFETY: as above.
        unsafe { words(0).write_volatile(0) };
        if set_break(start) != start {
            failed = Some((0, 0));
        }
    }
    if let Some((page, found)) = failed {
        fail(format_args!("brk: page {page} of the heap had {found:#x}"));
    }
    task.touched(steps.iter().sum());
    Ok(())
}

/// Moves the end of the heap and says where it is; 0 only asks.
fn set_break(end: usize) -> usize {
    // SAFETY: the heap's own part below `start` is never given back, and the part above is used by `brk` only.
    let end = unsafe { libc::syscall(libc::SYS_brk, end) };
    usize::try_from(end).unwrap_or(0)
}

/// Huge pages that are split by changes of a part.
pub fn huge(task: &mut Task) -> Result<(), Refused> {
    const HUGE: usize = 2 * MIB;
    let memory = map(2 * HUGE)?;
    let first = (memory.address(0) as usize).next_multiple_of(HUGE) - memory.address(0) as usize;
    let (first, count) = (first / PAGE, HUGE / PAGE);
    // SAFETY: the pages are this mapping's own.
    unsafe { libc::madvise(memory.address(first * PAGE_WORDS).cast(), HUGE, libc::MADV_HUGEPAGE) };
    let seed = task.content();
    let pages = first..first + count;
    for page in pages.clone() {
        memory.fill(page * PAGE_WORDS..page * PAGE_WORDS + 1, seed);
    }
    task.touched(1);
    let (read_only, gone, discarded) = (
        first + task.draw(count),
        first + task.draw(count),
        first + task.draw(count),
    );
    insist(|| memory.try_protect(read_only..read_only + 1, Access::Read));
    let child = processes::fork(|| {
        for page in pages.clone().filter(|page| *page != read_only) {
            memory.check(page * PAGE_WORDS..page * PAGE_WORDS + 1, seed, "huge, in the child");
            memory.write(page * PAGE_WORDS, 1);
        }
    })?;
    insist(|| memory.try_discard(discarded..discarded + 1));
    insist(|| memory.try_punch(gone..gone + 1));
    for page in pages.clone().filter(|page| *page != gone) {
        let index = page * PAGE_WORDS;
        if page == discarded {
            memory.check_zero(index..index + 1, "huge, discarded");
        } else {
            memory.check(index..index + 1, seed, "huge, split");
        }
    }
    expect(child.wait(), Ended::Exit(0), "a child with a copy of a huge page");
    Ok(())
}

/// The program's own file, mapped: equal to what was read from it, and writes stay private.
pub fn file(task: &mut Task) -> Result<(), Refused> {
    let (file, seed) = (task.file, task.content());
    let pages = (file.len() / PAGE).min(task.settings.pages);
    let start = task.draw(file.len() / PAGE - pages + 1) * PAGE;
    let path = std::ffi::CString::new(task.settings.program.as_str()).unwrap_or_default();
    // SAFETY: the path ends in a NUL; the mapping is new memory at an address of the kernel's choice.
    let (descriptor, base) = unsafe {
        let descriptor = libc::open(path.as_ptr(), libc::O_RDONLY);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = start as libc::off_t;
        (
            descriptor,
            libc::mmap(
                null_mut(),
                pages * PAGE,
                protection,
                libc::MAP_PRIVATE,
                descriptor,
                offset,
            ),
        )
    };
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(descriptor) };
    if base == libc::MAP_FAILED {
        return Err(Refused);
    }
    let expected = |index: usize| u64::from_le_bytes(file[start + index * 8..][..8].try_into().unwrap_or_default());
    for page in shuffled(pages, seed) {
        for index in [page * PAGE_WORDS, page * PAGE_WORDS + PAGE_WORDS - 1] {
            let place = base.cast::<u64>().wrapping_add(index);
            // SAFETY: the word lies in the mapping.
            let found = unsafe { place.read_volatile() };
            if found != expected(index) {
                fail(format_args!(
                    "file: word {index} from {start:#x} is {found:#x}, not {:#x}",
                    expected(index)
                ));
            }
            if page % 2 == 0 {
                // SAFETY: the mapping is private and writable.
                unsafe { place.write_volatile(word(seed, index)) };
            }
        }
    }
    for index in (0..pages).step_by(2).map(|page| page * PAGE_WORDS) {
        // SAFETY: as above.
        let found = unsafe { base.cast::<u64>().wrapping_add(index).read_volatile() };
        if found != word(seed, index) {
            fail(format_args!("file: the private copy of word {index} is {found:#x}"));
        }
    }
    // SAFETY: the mapping is this function's own.
    unsafe { libc::munmap(base, pages * PAGE) };
    task.touched(pages);
    Ok(())
}

/// Sleeps, and sees how late it goes on.
pub fn timer(task: &mut Task) -> Result<(), Refused> {
    for _ in 0..8 {
        let time = Duration::from_micros(500 + task.draw(4000) as u64);
        let due = Instant::now() + time;
        thread::sleep(time);
        let late = Instant::now().checked_duration_since(due);
        let Some(late) = late else {
            fail("a sleep ended too early")
        };
        task.board.lateness.add(late.as_nanos() as u64);
    }
    Ok(())
}
