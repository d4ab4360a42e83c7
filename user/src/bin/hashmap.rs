//! A hash map of the standard library that may be larger than memory: it grows, and every key has its value.

use std::collections::HashMap;

use faultline_user::{Arguments, fail, shuffled, word};

/// Words of a value: some seven values are in a page.
const WORDS: usize = 64;

fn value(key: usize, version: u64) -> [u64; WORDS] {
    std::array::from_fn(|index| word(version, key * WORDS + index))
}

fn main() {
    let mut arguments = Arguments::new("hashmap [--entries N]");
    let mut entries = 1000;
    while let Some(argument) = arguments.next_word() {
        match argument.as_str() {
            "--entries" => entries = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    let mut map = HashMap::new();
    for key in 0..entries {
        map.insert(key, value(key, 1));
    }
    for key in (0..entries).step_by(3) {
        map.insert(key, value(key, 2));
    }
    for key in (0..entries).step_by(5) {
        map.remove(&key);
    }
    let mut sum = 0u64;
    for key in shuffled(entries, 3) {
        let expected = (key % 5 != 0).then(|| value(key, if key % 3 == 0 { 2 } else { 1 }));
        if map.get(&key) != expected.as_ref() {
            fail(format_args!("key {key} has another value"));
        }
        sum = expected.map_or(sum, |value| sum.wrapping_mul(31).wrapping_add(value[key % WORDS]));
    }
    println!("{} entries, checksum {sum:#018x}", map.len());
}
