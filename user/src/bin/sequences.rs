//! Random sequences of memory calls, accesses and forks, each in a process of its own: a hash of what each one saw.
//!
//! The same lines on two kernels mean that they behaved the same. `--verbose` prints every step, so that the first
//! difference can be seen.

use faultline_user::sequence::{Counts, Sequence, probe};
use faultline_user::{Arguments, Ended, Mapping, PAGE, PAGE_WORDS, fail, fork};

fn main() {
    let mut arguments = Arguments::new("sequences [--first SEED] [--count N] [--verbose]");
    let (mut first, mut count, mut verbose) = (0, 100, false);
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--first" => first = arguments.value(),
            "--count" => count = arguments.value(),
            "--verbose" => verbose = true,
            _ => arguments.wrong(),
        }
    }
    // SAFETY: the path is a C string.
    let file = unsafe { libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY) };
    if file < 0 {
        fail("the program's own file can't be opened");
    }
    let results = Mapping::shared(4 * PAGE);
    let mut sum = Counts::default();
    for seed in first..first + count {
        let ended = fork(|| {
            probe::catch_signals();
            let counts = Sequence::new(seed, file, &results, verbose).run();
            let words = [counts.hash, counts.calls, counts.accesses, counts.signals, counts.forks];
            for (index, word) in words.into_iter().enumerate() {
                results.write(3 * PAGE_WORDS + index, word);
            }
        })
        .wait();
        if ended != Ended::Exit(0) {
            fail(format_args!("seed {seed}: {ended}"));
        }
        let [hash, calls, accesses, signals, forks] = [0, 1, 2, 3, 4].map(|index| results.read(3 * PAGE_WORDS + index));
        println!("seed {seed}: {hash:016x}");
        sum.calls += calls;
        sum.accesses += accesses;
        sum.signals += signals;
        sum.forks += forks;
    }
    println!(
        "{count} sequences: {} calls, {} accesses, {} signals, {} forks",
        sum.calls, sum.accesses, sum.signals, sum.forks
    );
}
