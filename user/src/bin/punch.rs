//! Mappings with holes: munmap in the middle, new memory in the hole, a change of size, and of what pages allow.

use faultline_user::{Access, Arguments, Ended, Mapping, PAGE, PAGE_WORDS, expect, probe};

const SEGV: Ended = Ended::Signal(libc::SIGSEGV);

fn main() {
    let mut arguments = Arguments::new("punch [--pages N]");
    let mut pages = 96;
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--pages" => pages = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    let words = |page: usize| page * PAGE_WORDS..(page + 1) * PAGE_WORDS;

    let memory = Mapping::private(pages * PAGE);
    memory.fill(0..memory.words(), 1);
    let holes = || (1..pages).step_by(3);
    for hole in holes() {
        memory.punch(hole..hole + 1);
    }
    for page in (0..pages).filter(|page| page % 3 != 1) {
        memory.check(words(page), 1, "a neighbour of a hole");
    }
    let hole = holes().next_back().unwrap_or(1);
    expect(probe(|| _ = memory.read(words(hole).start)), SEGV, "a read in a hole");
    expect(probe(|| memory.write(words(hole).start, 1)), SEGV, "a write in a hole");
    for hole in holes() {
        memory.patch(hole..hole + 1);
        memory.check_zero(words(hole), "new memory in a hole");
        memory.fill(words(hole), 1);
    }
    memory.check(0..memory.words(), 1, "the mended mapping");
    println!("{} holes punched and mended", holes().count());

    memory.protect(8..16, Access::Read);
    memory.check(words(8).start..words(15).end, 1, "read-only pages");
    expect(
        probe(|| memory.write(words(9).start, 1)),
        SEGV,
        "a write to a read-only page",
    );
    memory.protect(10..12, Access::None);
    expect(
        probe(|| _ = memory.read(words(10).start)),
        SEGV,
        "a read of a page that allows nothing",
    );
    memory.protect(8..16, Access::ReadWrite);
    memory.check(0..memory.words(), 1, "pages that allow everything again");
    memory.fill(words(9), 2);
    memory.check(words(9), 2, "a page that is writable again");
    memory.fill(words(9), 1);
    println!("what pages allow was taken and given back");

    memory.discard(4..6);
    memory.check_zero(words(4).start..words(5).end, "discarded pages");
    memory.fill(words(4).start..words(5).end, 1);
    println!("discarded pages were zero");

    let mut memory = memory;
    memory.resize(2 * pages * PAGE);
    memory.check(0..pages * PAGE_WORDS, 1, "the mapping after it grew");
    memory.check_zero(pages * PAGE_WORDS..2 * pages * PAGE_WORDS, "the part that is new");
    memory.fill(pages * PAGE_WORDS..2 * pages * PAGE_WORDS, 1);
    memory.resize(pages / 2 * PAGE);
    memory.check(0..memory.words(), 1, "the mapping after it shrank");
    println!("the mapping grew and shrank");
}
