//! The benchmark command, without Linux: counted runs agree, and nothing is cheaper than the hardware lets it be.

use std::fs;

use clap::Parser;
use faultline_xtask::bench;
use faultline_xtask::cli::{Cli, Command};
use serde_json::Value;

/// Runs `bench` with these arguments; the folder holds a page with a place for the tables.
fn bench(arguments: &[&str]) -> anyhow::Result<u8> {
    let words = ["faultline", "bench", "--rounds", "0"].iter().chain(arguments);
    let Some(Command::Bench(arguments)) = Cli::parse_from(words).command else {
        panic!("not bench")
    };
    bench::run(&arguments)
}

#[test]
fn counted_figures_lie_above_the_floor_of_the_same_boot() {
    let folder = tempfile::tempdir().unwrap();
    let (json, page) = (folder.path().join("figures.json"), folder.path().join("page.md"));
    fs::write(&page, "<!-- bench: begin -->\n<!-- bench: end -->\n").unwrap();
    let files = ["--json", json.to_str().unwrap(), "--markdown", page.to_str().unwrap()];
    let filter = ["--filter", "anonymous", "--mem", "256M"];
    assert_eq!(bench(&[&files[..], &filter].concat()).unwrap(), 0);

    let figures: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    // 15 registers saved and restored, CR2, six to set the entry, the error code, the return.
    assert_eq!(figures["floor"]["fault"], 38);
    // And 128 vectors of 32 bytes zeroed, which are the fewest instructions, with those that set it up.
    let zeroed = figures["floor"]["fault_zero"].as_u64().unwrap();
    assert!((38 + 128..=38 + 172).contains(&zeroed), "{zeroed}");
    let operations = |mode: &str| figures[mode]["operations"].as_array().unwrap().clone();
    let median = |mode: &str| {
        let operations = operations(mode);
        let (name, figures) = (&operations[0][0], &operations[0][1]);
        assert_eq!(name, "anonymous write fault");
        (
            figures["median"].as_u64().unwrap(),
            figures["counts"]["pool_hits"].as_f64().unwrap(),
        )
    };
    let [(queued, no_hits), (inline, _), (pooled, hits)] = ["queued", "inline", "pooled"].map(median);
    assert!(zeroed < inline && inline < queued, "{zeroed} {inline} {queued}");
    // A frame from the pool is zeroed already.
    assert!(pooled + 120 < queued, "{pooled} {queued}");
    assert!(no_hits == 0.0 && hits > 0.9, "{no_hits} {hits}");
    assert_eq!(operations("queued").len(), 2);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("| anonymous read fault "), "{page}");
}

#[test]
fn a_null_call_costs_at_most_120_instructions() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let arguments = ["--json", json.to_str().unwrap(), "--filter", "getpid", "--mem", "64M"];
    assert_eq!(bench(&arguments).unwrap(), 0);
    let figures: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    // What a program pays: the C library's wrapper, the way in, the answer, the way back.
    let median = figures["queued"]["operations"][0][1]["median"].as_u64().unwrap();
    assert!((38..=120).contains(&median), "{median}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let error = bench(&["--linux", "/no/such/kernel"]).unwrap_err();
    assert!(error.to_string().contains("/no/such/kernel"), "{error}");
    let error = bench(&["--markdown", "/no/such/page"]).unwrap_err();
    assert!(error.to_string().contains("/no/such/page"), "{error}");
    let error = bench(&["--filter", "no such operation", "--mem", "256M"]).unwrap_err();
    assert!(error.to_string().contains("no such operation"), "{error}");
}

#[test]
fn one_operation_is_recorded_instruction_by_instruction() {
    assert_eq!(bench(&["--profile", "--mem", "64M", "--filter", "getpid"]).unwrap(), 0);
}
