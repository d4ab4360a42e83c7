//! Threads that fault on the same pages at the same time: each sees the others' words, none is lost.

use std::sync::Barrier;
use std::thread;

use faultline_user::{Arguments, Mapping, PAGE, PAGE_WORDS, fail, word};

fn main() {
    refuse_misplaced_futex();
    let mut arguments = Arguments::new("threads [--threads N] [--pages N]");
    let mut threads = 4;
    let mut pages = 64;
    while let Some(text) = arguments.next_word() {
        match text.as_str() {
            "--threads" => threads = arguments.value(),
            "--pages" => pages = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    if !(1..=PAGE_WORDS).contains(&threads) {
        arguments.wrong();
    }
    let memory = Mapping::private(pages * PAGE);
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (memory, barrier) = (&memory, &barrier);
            scope.spawn(move || work(memory, barrier, thread, threads));
        }
    });
    for index in 0..memory.words() {
        let expected = if index % PAGE_WORDS < threads {
            word(index as u64 % PAGE_WORDS as u64, index)
        } else {
            0
        };
        let found = memory.read(index);
        if found != expected {
            fail(format_args!("word {index} is {found:#018x}, not {expected:#018x}"));
        }
    }
    println!("{threads} threads met on each of {pages} pages");
}

/// Writes this thread's word of each page, all threads page by page in step, and checks the others' words.
///
/// Thread `t` of `n` writes word `t` of each page, and nobody else does.
fn work(memory: &Mapping, barrier: &Barrier, thread: usize, threads: usize) {
    for page in 0..memory.pages() {
        barrier.wait();
        let own = page * PAGE_WORDS + thread;
        memory.write(own, word(thread as u64, own));
        barrier.wait();
        for other in 0..threads {
            let index = page * PAGE_WORDS + other;
            let found = memory.read(index);
            if found != word(other as u64, index) {
                fail(format_args!(
                    "thread {thread} sees {found:#018x} in word {index} of thread {other}"
                ));
            }
        }
    }
}

/// A futex that is not on a multiple of 4 is refused; the kernel once looked for it without end.
fn refuse_misplaced_futex() {
    let words = [0_u32; 2];
    let misplaced = words.as_ptr().cast::<u8>().wrapping_add(1);
    // SAFETY: the call would change a word of `words` at most, which nothing else uses; it takes no other memory.
    let result = unsafe { libc::syscall(libc::SYS_futex, words.as_ptr(), libc::FUTEX_WAKE_OP, 1, 1, misplaced, 0) };
    let error = std::io::Error::last_os_error().raw_os_error();
    if (result, error) != (-1, Some(libc::EINVAL)) {
        faultline_user::fail(format_args!("a misplaced futex gave {result}, {error:?}"));
    }
}
