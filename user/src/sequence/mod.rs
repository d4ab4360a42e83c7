//! Random sequences of memory calls and accesses, and a hash of all that they showed.
//!
//! A sequence is everything that follows from its seed: calls on an arena of 64 pages at a fixed address and on the
//! break, reads, writes and jumps there, and forks whose child goes on with a sequence of its own. Everything that a
//! program can see goes into the hash: the result or the error of each call, the value that each read gave, number,
//! code and address of each signal, how each child ended, and at the end every byte of the arena. Two kernels on which
//! the hashes are equal have shown the program the same.
//!
//! Left out is what Linux does not promise: where a mapping without a fixed address goes, what `mincore` says (whether a page
//! is in memory depends on what there is to swap to, and on everybody else), whether a page that `MADV_FREE` was said of is
//! still there (that it is all there or all gone is checked by the program itself), and what the model names.

pub mod model;
mod operations;
pub mod probe;
pub mod random;

use std::io::Write;

use model::{ALL, Model};
use random::{Random, mix};

use crate::PAGE;

/// The address of the arena: far from everything that a static program has.
pub const ARENA: u64 = 0x10_0000_0000;

/// Deepest nesting of forks.
const DEEPEST: u32 = 2;

/// What is shared between a sequence and whoever waits for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// The hash.
    pub hash: u64,
    /// Calls made.
    pub calls: u64,
    /// Accesses made.
    pub accesses: u64,
    /// Signals caught.
    pub signals: u64,
    /// Children forked.
    pub forks: u64,
}

/// A sequence that is under way.
pub struct Sequence<'a> {
    random: Random,
    model: Model,
    counts: Counts,
    depth: u32,
    steps: u64,
    heap: u64,
    file: i32,
    pipe: [i32; 2],
    results: &'a crate::Mapping,
    verbose: bool,
}

impl<'a> Sequence<'a> {
    /// The sequence of a seed. `file` is an open file to map, `results` shared memory for the children's results, one
    /// page for each depth.
    ///
    /// # Panics
    /// Panics without a pipe.
    #[must_use]
    pub fn new(seed: u64, file: i32, results: &'a crate::Mapping, verbose: bool) -> Self {
        let mut pipe = [0; 2];
        // SAFETY: the call writes two words to the array.
        let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK) };
        assert_eq!(made, 0, "no pipe");
        let mut random = Random::new(seed);
        let steps = 20 + random.below(60);
        // SAFETY: `brk` with 0 moves nothing.
        let end = unsafe { libc::syscall(libc::SYS_brk, 0) }.cast_unsigned();
        Self {
            random,
            model: Model::default(),
            counts: Counts {
                hash: seed,
                ..Counts::default()
            },
            depth: 0,
            steps,
            heap: end.next_multiple_of(PAGE as u64),
            file,
            pipe,
            results,
            verbose,
        }
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(mut self) -> Counts {
        for step in 0..self.steps {
            self.fold("step", step);
            self.step();
        }
        self.look_at_everything();
        self.counts
    }

    /// Takes a word into the hash.
    fn fold(&mut self, what: &str, word: u64) {
        self.counts.hash = mix(self.counts.hash ^ word).wrapping_add(self.counts.hash.rotate_left(7));
        if self.verbose {
            say(format_args!(
                "{:width$}{what} {word:#x}\n",
                "",
                width = self.depth as usize * 4
            ));
        }
    }

    /// Takes the outcome of an access into the hash; the address of a signal counts from `base`.
    fn fold_access<T>(&mut self, what: &str, base: u64, outcome: Result<T, probe::Caught>, word: impl Fn(T) -> u64) {
        self.counts.accesses += 1;
        match outcome {
            Ok(value) => self.fold(what, word(value)),
            Err(caught) => {
                self.counts.signals += 1;
                self.fold(what, caught.signal << 32 | caught.code << 16 | 1);
                self.fold("at", caught.address.wrapping_sub(base));
            }
        }
    }

    /// Every word of every page of the arena and of the break.
    fn look_at_everything(&mut self) {
        let step = if self.depth == 0 { 8 } else { 256 };
        for page in 0..ALL {
            let start = ARENA + page * PAGE as u64;
            let first = probe::read(start);
            let readable = first.is_ok();
            self.fold_access("page", ARENA, first, |word| word);
            if readable {
                let mut sum = 0;
                for offset in (8..PAGE as u64).step_by(step) {
                    match probe::read(start + offset) {
                        Ok(word) => sum = mix(sum ^ word),
                        Err(caught) => sum = mix(sum ^ caught.signal),
                    }
                }
                self.fold("sum", sum);
            }
        }
        for page in 0..operations::HEAP_PAGES {
            let outcome = probe::read(self.heap + page * PAGE as u64);
            self.fold_access("heap", self.heap, outcome, |word| word);
        }
    }
}

/// Writes a line to standard output without allocating and in one piece.
pub fn say(text: std::fmt::Arguments<'_>) {
    let mut line = [0_u8; 200];
    let mut rest = &mut line[..];
    let _ = rest.write_fmt(text);
    let left = rest.len();
    let used = line.len() - left;
    // SAFETY: the bytes lie in the array.
    unsafe { libc::write(1, line.as_ptr().cast(), used) };
}
