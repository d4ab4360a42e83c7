//! What the sample tasks share: memory that is written and checked word by word, and children whose end is checked.
//!
//! A sample task is an ordinary Linux program. It checks every word that it reads against what it wrote, and exits with
//! status 1 at the first wrong one, after a line on standard error that says where.

mod child;
mod mapping;
pub mod sequence;

use std::fmt;
use std::str::FromStr;

pub use child::{Child, Ended, expect, fork, probe, try_fork};
pub use mapping::{Access, Mapping};

/// The size of a page.
pub const PAGE: usize = 4096;

/// Words on a page.
pub const PAGE_WORDS: usize = PAGE / 8;

/// Ends the program with status 1 after a line that says why.
pub fn fail(why: impl fmt::Display) -> ! {
    eprintln!("FAILED: {why}");
    std::process::exit(1)
}

/// The word that belongs at `index` of memory that was filled with `seed`. It is never zero, and a neighbour's word or
/// another seed's is another one.
#[must_use]
pub fn word(seed: u64, index: usize) -> u64 {
    // The finaliser of SplitMix64.
    let mut mixed = (seed << 48) ^ (index as u64) ^ 0x9e37_79b9_7f4a_7c15;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) | 1
}

/// `0..count` in an order that looks random and is the same in every run with the same seed.
#[must_use]
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let other = usize::try_from(word(seed, last) >> 1).unwrap_or(0) % (last + 1);
        order.swap(last, other);
    }
    order
}

/// The program's arguments, read one by one; a wrong one ends the program with status 2.
#[derive(Debug)]
pub struct Arguments {
    usage: &'static str,
    rest: std::iter::Skip<std::env::Args>,
}

impl Arguments {
    /// The arguments after the program's name.
    #[must_use]
    pub fn new(usage: &'static str) -> Self {
        Self {
            usage,
            rest: std::env::args().skip(1),
        }
    }

    /// The next one, if there is one.
    pub fn next_word(&mut self) -> Option<String> {
        self.rest.next()
    }

    /// The value that has to follow an option.
    pub fn value<T: FromStr>(&mut self) -> T {
        let value = self.rest.next().and_then(|text| text.parse().ok());
        value.unwrap_or_else(|| self.wrong())
    }

    /// Says how the program is called and ends it.
    pub fn wrong(&self) -> ! {
        eprintln!("usage: {}", self.usage);
        std::process::exit(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_repeats() {
        let order = shuffled(1000, 7);
        assert_eq!(order, shuffled(1000, 7));
        assert_ne!(order, shuffled(1000, 8));
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..1000));
    }

    #[test]
    fn words_differ_and_are_never_zero() {
        let words: std::collections::HashSet<_> = (0..4)
            .flat_map(|seed| (0..1000).map(move |index| word(seed, index)))
            .collect();
        assert!(words.len() > 3990 && !words.contains(&0));
    }
}
