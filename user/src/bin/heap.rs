//! The heap's end, up and down with brk: new memory is zero, kept memory keeps its content, sub-page moves count.

use std::ptr;

use faultline_user::{Arguments, Ended, PAGE, expect, fail, probe, word};

fn main() {
    let mut arguments = Arguments::new("heap [--pages N]");
    let mut pages = 512;
    while let Some(text) = arguments.next_word() {
        match text.as_str() {
            "--pages" => pages = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    // The allocator's own use of brk is over once both outputs have their buffers.
    println!("up and down over {pages} pages");
    let start = brk(0).next_multiple_of(PAGE);
    let end = start + pages * PAGE;
    let half = start + pages / 2 * PAGE;

    set(end);
    check(start..end, |_| 0, "new heap");
    fill(start..end, 1);
    check(start..end, |address| word(1, address), "the heap after the first write");

    set(half);
    check(start..half, |address| word(1, address), "the kept half");
    expect(
        probe(|| fill(half..half + PAGE, 1)),
        Ended::Signal(libc::SIGSEGV),
        "a write beyond the end of the heap",
    );

    set(end);
    check(
        start..half,
        |address| word(1, address),
        "the kept half after growing again",
    );
    check(half..end, |_| 0, "the part that grew again");
    fill(half..end, 2);

    // Within a page: the end moves, the page stays.
    set(end + 1);
    set(end + 100);
    fill(end..end + 96, 3);
    set(end + 1000);
    check(end..end + 96, |address| word(3, address), "the page of the end");
    for step in 0..200 {
        set(end + step * 48);
    }
    for step in (0..200).rev() {
        set(end + step * 48);
    }
    check(half..end, |address| word(2, address), "the second half at the end");

    if brk(1) != end {
        fail("an end below the start of the heap was accepted");
    }
    set(start);
    println!("the heap kept what it had to keep, and was zero where it was new");
}

/// The system call itself: 0 asks, anything else moves; the answer is the end as it is now.
fn brk(end: usize) -> usize {
    // SAFETY: this program has one thread and allocates nothing while the end is moved, so the allocator never meets
    // memory that went away.
    usize::try_from(unsafe { libc::syscall(libc::SYS_brk, end) }).unwrap_or(0)
}

fn set(end: usize) {
    let now = brk(end);
    if now != end {
        fail(format_args!("brk to {end:#x} left the end at {now:#x}"));
    }
}

fn fill(addresses: std::ops::Range<usize>, seed: u64) {
    for address in addresses.step_by(8) {
        // SAFETY: the address is aligned and lies in the heap above the allocator's part, or in a page whose touch is
        // meant to end this process.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(word(seed, address)) };
    }
}

fn check(addresses: std::ops::Range<usize>, expected: impl Fn(usize) -> u64, what: &str) {
    for address in addresses.step_by(8) {
        // SAFETY: as in `fill`.
        let found = unsafe { ptr::with_exposed_provenance::<u64>(address).read_volatile() };
        if found != expected(address) {
            fail(format_args!(
                "{what}: {found:#018x} at {address:#x}, not {:#018x}",
                expected(address)
            ));
        }
    }
}
