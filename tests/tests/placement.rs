//! Address-space randomisation: the seed, and nothing else, says where the parts of a program are.

use std::collections::BTreeMap;
use std::path::Path;

use faultline_tests::{Libc, Run, c_program, native_file, position_independent};

const PAGE: u64 = 4096;

/// What `layout` says of each program that it was: itself, and itself again after `execve`.
fn places(file: &Path, seed: u64) -> Vec<BTreeMap<String, String>> {
    let guest = Run::file(file, &["again"]).set("seed", seed).boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    programs(&guest.stdout)
}

fn programs(output: &[u8]) -> Vec<BTreeMap<String, String>> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 12, "two programs of six places each:\n{text}");
    let pairs = |lines: &[&str]| {
        let pairs = lines
            .iter()
            .map(|line| line.split_once(' ').expect("a name and a value"));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    lines.chunks(6).map(pairs).collect()
}

fn address(places: &BTreeMap<String, String>, name: &str) -> u64 {
    u64::from_str_radix(&places[name], 16).unwrap()
}

#[test]
fn the_seed_says_where_a_program_is() {
    let file = position_independent("layout");
    assert_eq!(native_file(&file, &["again"]).status, 0, "on Linux");
    let [first, same, other] = [7, 7, 8].map(|seed| places(&file, seed));
    assert_eq!(first, same, "the same seed, the same places");
    let all = [&first[0], &first[1], &other[0], &other[1]];
    for name in ["code", "heap", "mmap", "stack", "local", "random"] {
        for (index, places) in all.iter().enumerate() {
            for later in &all[index + 1..] {
                assert_ne!(
                    places[name], later[name],
                    "{name}: another seed, and each execve, is another chance"
                );
            }
        }
    }
    for places in all {
        let [code, heap, mmap, stack] = ["code", "heap", "mmap", "stack"].map(|name| address(places, name));
        assert!((0x5555_5555_4000..0x5655_5a00_0000).contains(&code), "{code:#x}");
        assert!(heap > code && heap - code < 40 << 20, "{heap:#x} after {code:#x}");
        assert!(mmap > heap && mmap < stack, "{mmap:#x}");
        assert!((0x7ffb_0000_0000..0x7fff_ffff_0000).contains(&stack), "{stack:#x}");
        assert!([heap, mmap, stack].iter().all(|place| place.is_multiple_of(PAGE)));
    }
    assert_eq!(address(all[0], "code") % PAGE, address(all[2], "code") % PAGE);
}

#[test]
fn a_program_with_fixed_addresses_keeps_them_and_its_heap_moves() {
    let file = c_program("layout", Libc::Musl);
    let [first, other] = [1, 2].map(|seed| places(&file, seed).remove(0));
    assert_eq!(first["code"], other["code"]);
    for name in ["heap", "mmap", "stack", "local", "random"] {
        assert_ne!(first[name], other[name], "{name}");
    }
}

#[test]
fn seed_0_moves_nothing() {
    let file = position_independent("layout");
    let places = places(&file, 0);
    for name in ["code", "heap", "mmap", "stack"] {
        assert_eq!(places[0][name], places[1][name], "{name}");
    }
    assert_eq!(address(&places[0], "code") & !0xf_ffff, 0x5555_5550_0000);
}
