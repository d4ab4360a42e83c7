//! Scenarios of processes.

use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use faultline_user::{Child, Ended, Mapping, PAGE, PAGE_WORDS, expect, fail, shuffled, try_fork, word};

use crate::memory::{insist, map, refused};
use crate::scenario::{Refused, Task};

/// How deep trees of processes are.
const DEPTH: u64 = 10;

/// Most processes of a tree.
const MOST: u64 = 24;

/// Most processes that want all the memory there is at the same time.
const MOST_HOGS: u64 = 3;

/// What a process that `exec` started exits with.
pub const LEAF: i32 = 7;

/// What it exits with where the kernel had no memory for it.
const NO_MEMORY: i32 = 100;

/// A child, unless the kernel has no memory for one.
pub fn fork(work: impl FnOnce()) -> Result<Child, Refused> {
    try_fork(work).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM | libc::EAGAIN) => Refused,
        _ => fail(format_args!("fork: {error}")),
    })
}

/// The number of a word of a page that the process at this depth writes.
fn place(page: usize, depth: u64) -> usize {
    page * PAGE_WORDS + usize::try_from(depth).unwrap_or(0)
}

/// A tree of processes, ten deep, each with its own copy of the same pages; they end in any order.
pub fn cow(task: &mut Task) -> Result<(), Refused> {
    let pages = task.settings.pages.min(32);
    let memory = map(pages * PAGE)?;
    let count = Mapping::try_shared(PAGE).map_err(refused)?;
    // SAFETY: the page is mapped as long as `count` lives, and only used as atomic words.
    let [started, ended] = [0, 1].map(|index| unsafe { AtomicU64::from_ptr(count.address(index)) });
    let seed = task.content();
    let refused = grow(&memory, seed, 0, started, ended).is_err();
    // Whoever ended before its children left them to others: they are counted, not waited for.
    while ended.load(Ordering::Acquire) < started.load(Ordering::Acquire) {
        thread::sleep(Duration::from_millis(1));
    }
    for page in 0..pages {
        memory.check(place(page, 0)..place(page, 0) + 1, seed, "cow, at the root");
        memory.check_zero(place(page, 1)..place(page, DEPTH + 1), "cow, at the root");
    }
    task.touched(pages * usize::try_from(started.load(Ordering::Relaxed) + 1).unwrap_or(0));
    if refused { Err(Refused) } else { Ok(()) }
}

/// One process of the tree: writes, has children, and checks that it sees its forebears' words and its own only.
fn grow(memory: &Mapping, seed: u64, depth: u64, started: &AtomicU64, ended: &AtomicU64) -> Result<(), Refused> {
    let pages = memory.pages();
    let mut chance = fastrand::Rng::with_seed(seed ^ (depth << 16) ^ (started.load(Ordering::Relaxed) << 24));
    let write = || {
        for page in shuffled(pages, seed ^ depth) {
            let index = place(page, depth);
            memory.write(index, word(seed, index));
        }
    };
    if chance.bool() {
        write();
    }
    let mut children = Vec::new();
    let mut refused = false;
    let wanted = if chance.u8(..4) == 0 { 2 } else { 1 };
    for _ in 0..wanted {
        if depth == DEPTH || started.load(Ordering::Acquire) >= MOST {
            break;
        }
        started.fetch_add(1, Ordering::AcqRel);
        let child = fork(|| {
            // A tree that the kernel had no memory for is a smaller one.
            let _ = grow(memory, seed, depth + 1, started, ended);
            ended.fetch_add(1, Ordering::AcqRel);
        });
        match child {
            Ok(child) => children.push(child),
            Err(Refused) => {
                ended.fetch_add(1, Ordering::AcqRel);
                refused = true;
            }
        }
    }
    write();
    for page in 0..pages {
        for above in 0..=depth {
            let index = place(page, above);
            let found = memory.read(index);
            // A forebear may have written after it had this child.
            let is_own = above == depth;
            if found != word(seed, index) && (is_own || found != 0) {
                fail(format_args!(
                    "cow: at depth {depth}, word {above} of page {page} is {found:#x}"
                ));
            }
        }
        memory.check_zero(place(page, depth + 1)..place(page, DEPTH + 2), "cow, of a descendant");
    }
    // Half of them wait; the others leave their children behind, as orphans. The root has to wait.
    if depth == 0 || chance.bool() {
        for child in children {
            expect(child.wait(), Ended::Exit(0), "a process of the tree");
        }
    }
    if refused { Err(Refused) } else { Ok(()) }
}

/// A child that touches without end is stopped, continued and killed at any point; what it shared with its parent is
/// whole.
pub fn kill(task: &mut Task) -> Result<(), Refused> {
    let pages = task.settings.pages.min(64);
    let memory = map(pages * PAGE)?;
    let seed = task.content();
    memory.fill(0..memory.words().min(pages * 2), seed);
    let child = fork(|| {
        for round in 1u64.. {
            let Ok(own) = map(pages * PAGE) else { continue };
            for page in 0..pages {
                own.write(page * PAGE_WORDS, round);
                memory.write(page * PAGE_WORDS, round);
            }
        }
    })?;
    pause(task);
    for _ in 0..task.draw(3) {
        child.kill(libc::SIGSTOP);
        pause(task);
        // One that is stopped is killed too.
        if task.draw(4) > 0 {
            child.kill(libc::SIGCONT);
            pause(task);
        }
    }
    child.kill(libc::SIGKILL);
    expect(child.wait(), Ended::Signal(libc::SIGKILL), "a child that was killed");
    memory.check(0..memory.words().min(pages * 2), seed, "kill");
    task.touched(pages);
    Ok(())
}

/// Lets others run for a while, or not.
fn pause(task: &mut Task) {
    match task.draw(3) {
        0 => {}
        1 => (0..task.draw(20)).for_each(|_| thread::yield_now()),
        _ => thread::sleep(Duration::from_micros(task.draw(3000) as u64)),
    }
}

/// A process whose threads touch its memory becomes another program meanwhile.
pub fn exec(task: &mut Task) -> Result<(), Refused> {
    let pages = task.settings.pages.min(64);
    let program = CString::new(task.settings.program.as_str()).unwrap_or_default();
    let seed = CString::new(task.content().to_string()).unwrap_or_default();
    let pause = Duration::from_micros(task.draw(2000) as u64);
    let memory = map(pages * PAGE)?;
    let child = fork(|| {
        thread::scope(|scope| {
            for thread in 0..3 {
                let memory = &memory;
                let touch = move || {
                    for round in 1u64.. {
                        (0..pages).for_each(|page| memory.write(page * PAGE_WORDS + thread, round));
                        insist(|| memory.try_discard(0..pages / 2));
                    }
                };
                // With fewer of them there is less fire.
                let _ = thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, touch);
            }
            thread::sleep(pause);
            let arguments = [program.as_ptr(), c"--leaf".as_ptr(), seed.as_ptr(), std::ptr::null()];
            // SAFETY: the strings end in NULs and the list in a null pointer.
            unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
            // SAFETY: the call ends all threads at once.
            unsafe { libc::_exit(NO_MEMORY) };
        });
    })?;
    match child.wait() {
        Ended::Exit(LEAF) => {}
        // The kernel had no memory for the program.
        Ended::Exit(NO_MEMORY) => return Err(Refused),
        other => fail(format_args!("exec: {other}")),
    }
    task.touched(pages);
    Ok(())
}

/// What the program does that `exec` starts: its memory has nothing of the former program's.
pub fn leaf(seed: u64) -> ! {
    let Ok(memory) = map(32 * PAGE) else {
        std::process::exit(NO_MEMORY)
    };
    memory.check_zero(0..memory.words(), "exec");
    memory.fill(0..memory.words(), seed);
    memory.check(0..memory.words(), seed, "exec");
    std::process::exit(LEAF)
}

/// Processes that want more memory than there is: everybody waits, and the kernel kills the one that holds most.
pub fn shortage(task: &mut Task) -> Result<(), Refused> {
    let hogs = &task.board.hogs;
    let one_more = |count| (count < MOST_HOGS).then_some(count + 1);
    // Seldom enough that there is also time without a shortage.
    let wants = task.draw(8) == 0;
    if !wants
        || hogs
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more)
            .is_err()
    {
        // This task wants a little memory meanwhile.
        return crate::memory::sweep(task);
    }
    let bytes = task.settings.shortage_mib << 20;
    let child = fork(|| {
        if let Ok(memory) = map(bytes) {
            (0..memory.pages()).for_each(|page| memory.write(page * PAGE_WORDS, 1));
        }
    });
    let ended = child.map(Child::wait);
    hogs.fetch_sub(1, Ordering::AcqRel);
    match ended? {
        Ended::Exit(0) => task.touched(bytes / PAGE),
        Ended::Signal(libc::SIGKILL) => {
            task.board.victims.fetch_add(1, Ordering::Relaxed);
        }
        other => fail(format_args!("shortage: {other}")),
    }
    Ok(())
}
