//! Copy-on-write over three generations: every process sees what its parent had when it forked, and its own changes.
//!
//! Generation `g` rewrites every page whose number is a multiple of `g + 1`; so some pages are shared by all, some by
//! two, and some by nobody. Each process checks its whole memory before its change, after it, and after its child ended.

use faultline_user::{Arguments, Ended, Mapping, PAGE, PAGE_WORDS, expect, fork};

/// How many children deep.
const GENERATIONS: u64 = 3;

fn main() {
    let mut arguments = Arguments::new("cow [--pages N]");
    let mut pages = 256;
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--pages" => pages = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    let memory = Mapping::private(pages * PAGE);
    memory.fill(0..memory.words(), 0);
    let child = fork(|| generation(&memory, 1));
    expect(child.wait(), Ended::Exit(0), "the child");
    check(&memory, 0, "the parent at the end");

    // The parent writes first, while the child still looks at the old pages, and both end with pages of their own.
    let turn = Mapping::shared(PAGE);
    let until_parent_wrote = || {
        while turn.read(0) == 0 {
            std::thread::yield_now();
        }
    };
    let child = fork(|| {
        until_parent_wrote();
        check(&memory, 0, "the child, after its parent wrote");
    });
    memory.fill(0..memory.words(), 9);
    turn.write(0, 1);
    expect(child.wait(), Ended::Exit(0), "the second child");
    memory.check(0..memory.words(), 9, "the parent, after its own write");

    // The parent writes one page while the child shares all, and the others when it has them to itself again.
    turn.write(0, 0);
    let child = fork(until_parent_wrote);
    memory.fill(0..PAGE_WORDS, 10);
    turn.write(0, 1);
    expect(child.wait(), Ended::Exit(0), "the third child");
    memory.check(PAGE_WORDS..memory.words(), 9, "the parent, as the last owner");
    memory.fill(PAGE_WORDS..memory.words(), 10);
    memory.check(0..memory.words(), 10, "the parent at the very end");
    println!("{pages} pages, {GENERATIONS} generations: each process saw its own memory");
}

fn generation(memory: &Mapping, number: u64) {
    check(memory, number - 1, "before the change");
    for page in (0..memory.pages()).filter(|page| owner(*page, number) == number) {
        memory.fill(page * PAGE_WORDS..(page + 1) * PAGE_WORDS, number);
    }
    check(memory, number, "after the change");
    if number < GENERATIONS {
        let child = fork(|| generation(memory, number + 1));
        expect(child.wait(), Ended::Exit(0), "a grandchild");
        check(memory, number, "after the child's end");
    }
}

fn check(memory: &Mapping, number: u64, when: &str) {
    for page in 0..memory.pages() {
        let what = format!("page {page} in generation {number}, {when}");
        memory.check(page * PAGE_WORDS..(page + 1) * PAGE_WORDS, owner(page, number), &what);
    }
}

/// The last generation up to `number` that rewrote the page; 0 for the first process's own content.
fn owner(page: usize, number: u64) -> u64 {
    (1..=number)
        .rev()
        .find(|generation| (page as u64).is_multiple_of(generation + 1))
        .unwrap_or(0)
}
