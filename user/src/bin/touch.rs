//! First touches of anonymous memory: in order, in random order, and reads before writes.
//!
//! Every page is checked to be zero at its first read and, word by word, to hold what was written in the end.

use faultline_user::{Arguments, Mapping, PAGE, PAGE_WORDS, shuffled};

fn main() {
    let mut arguments = Arguments::new("touch [--mib N | --pages N] [--seed N] [sequential|random|read-write]...");
    let mut pages = 64 * 1024 * 1024 / PAGE;
    let mut seed = 1;
    let mut orders = Vec::new();
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--mib" => pages = arguments.value::<usize>() * 1024 * 1024 / PAGE,
            "--pages" => pages = arguments.value(),
            "--seed" => seed = arguments.value(),
            "sequential" | "random" | "read-write" => orders.push(word),
            _ => arguments.wrong(),
        }
    }
    if orders.is_empty() {
        orders = ["sequential", "random", "read-write"].map(str::to_owned).to_vec();
    }
    for order in orders {
        let memory = Mapping::private(pages * PAGE);
        match order.as_str() {
            "sequential" => (0..pages).for_each(|page| write(&memory, page, seed)),
            "random" => shuffled(pages, seed)
                .into_iter()
                .for_each(|page| write(&memory, page, seed)),
            _ => {
                memory.check_zero(0..memory.words(), "memory that nobody wrote to");
                (0..pages).for_each(|page| write(&memory, page, seed));
            }
        }
        memory.check(0..memory.words(), seed, &order);
        println!("{order}: {pages} pages written and read back");
    }
}

fn write(memory: &Mapping, page: usize, seed: u64) {
    memory.fill(page * PAGE_WORDS..(page + 1) * PAGE_WORDS, seed);
}
