//! Nothing but the start-up allocates what can't fail: what the compiler and clippy can't say of the kernel's sources.
//!
//! The types are kept away by the compiler, because the roots of `ext4`, `mm` and the kernel have no `extern crate alloc`, and in
//! the kernel by clippy (`kernel/clippy.toml`), which also knows what comes without a name. Left to say is where exceptions are.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the start-up, and of runs without programs.
const STARTUP: [&str; 9] = [
    "block/mod.rs",
    "block/model.rs",
    "block/virtio.rs",
    "config.rs",
    "executor_costs.rs",
    "floor.rs",
    "scenario.rs",
    "startup.rs",
    "trap_test/mod.rs",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The files below a crate's `src` whose text has one of these words, by their paths there.
fn with_words(krate: &str, words: &[&str]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    let has = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        words.iter().any(|word| text.contains(word))
    };
    let mut found: Vec<String> = files
        .into_iter()
        .filter(has)
        .map(|file| file.strip_prefix(&folder).unwrap().display().to_string())
        .collect();
    found.sort();
    found
}

#[test]
fn only_the_start_up_has_collections_that_cant_fail() {
    assert_eq!(with_words("kernel", &["extern crate"]), ["startup.rs"]);
    for krate in ["ext4", "mm"] {
        assert!(with_words(krate, &["extern crate alloc", "alloc::vec", "alloc::boxed"]).is_empty());
    }
    let lints = ["disallowed_types", "disallowed_methods", "disallowed_macros"];
    assert_eq!(with_words("kernel", &lints), STARTUP);
    let users = with_words("kernel", &["startup::"]);
    assert!(users.iter().all(|user| STARTUP.contains(&user.as_str())), "{users:?}");
}
