//! Cases that once failed, made smaller and kept: each runs with its own schedule and with many others.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use faultline_sim::{Kind, Lane, Schedule, Script};

/// Seeds that each case runs with, for each kind of schedule.
const SEEDS: u64 = 150;

#[test]
fn what_once_failed_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut lane = Lane::default();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let script: Script = fs::read_to_string(&path)
            .unwrap()
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let others = [Kind::Random, Kind::Bounded, Kind::Pct]
            .into_iter()
            .flat_map(|kind| (0..SEEDS).map(move |seed| Schedule { kind, seed }));
        for schedule in [script.schedule].into_iter().chain(others) {
            let script = Arc::new(Script {
                schedule,
                ..script.clone()
            });
            if let Some(failure) = lane.run(&script, false).failure {
                eprintln!("{} with schedule {schedule}: {failure}", path.display());
                // A world that panicked keeps the panic hook's lock, for which the harness would wait.
                std::process::exit(1);
            }
        }
        count += 1;
    }
    assert!(count > 0, "there are no cases in {}", folder.display());
}
