//! The stack grows as it is touched, keeps what is on it, and ends at its guard.

use std::hint::black_box;

use faultline_user::{Arguments, Ended, expect, fail, probe, word};

/// Words in the frame of one call.
const FRAME: usize = 128;

fn main() {
    let mut arguments = Arguments::new("stack [--kib N] [--past-guard]");
    let mut kib = 4096;
    let mut past_guard = false;
    while let Some(text) = arguments.next_word() {
        match text.as_str() {
            "--kib" => kib = arguments.value(),
            "--past-guard" => past_guard = true,
            _ => arguments.wrong(),
        }
    }
    if past_guard {
        // SAFETY: the default action is valid for every signal; the Rust runtime's own handler would turn the signal
        // into a message and an abort.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        descend(usize::MAX);
        fail("the stack has no end");
    }
    let depth = kib * 1024 / (FRAME * 8);
    let sum = descend(depth);
    let expected = (0..=depth).fold(0_u64, |sum, level| sum.wrapping_add(word(level as u64, FRAME / 2)));
    if sum != expected {
        fail(format_args!("the frames sum up to {sum:#x}, not {expected:#x}"));
    }
    println!("{kib} KiB of frames kept what was written to them");
    let end = probe(|| {
        descend(usize::MAX);
    });
    expect(end, Ended::Signal(libc::SIGSEGV), "recursion without end");
    println!("recursion without end met the guard");
}

/// Fills a frame, calls itself, and checks the frame afterwards.
#[inline(never)]
fn descend(depth: usize) -> u64 {
    let mut frame = [0_u64; FRAME];
    for (index, slot) in black_box(&mut frame).iter_mut().enumerate() {
        *slot = word(depth as u64, index);
    }
    let below = if depth == 0 { 0 } else { descend(depth - 1) };
    for (index, slot) in black_box(&frame).iter().enumerate() {
        if *slot != word(depth as u64, index) {
            fail(format_args!("word {index} of the frame at depth {depth} changed"));
        }
    }
    below.wrapping_add(frame[FRAME / 2])
}
