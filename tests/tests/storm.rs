//! The storm: short ones of every kind, that nothing is lost in; and that it notices when something is.

use std::fs::File;
use std::io::BufReader;

use clap::Parser;
use faultline_tests::{Run, native};
use faultline_trace::Kind;
use faultline_xtask::cli::{Cli, Command};
use faultline_xtask::recording::Recording;
use faultline_xtask::session::FAILED;
use faultline_xtask::{storm, workspace};

/// Runs `storm` with these arguments and returns its status.
fn storm(arguments: &str) -> u8 {
    let words = ["faultline", "storm"].into_iter().chain(arguments.split(' '));
    let Some(Command::Storm(arguments)) = Cli::parse_from(words).command else {
        panic!("not storm")
    };
    storm::run(&arguments).unwrap()
}

#[test]
fn a_mix_of_everything_loses_nothing() {
    assert_eq!(storm("--tasks 24 --seconds 3 --seed 11"), 0);
}

#[test]
fn a_mix_with_faults_served_inline_and_without_the_pool() {
    assert_eq!(
        storm("--tasks 12 --seconds 2 --seed 12 --fault inline --zero-pool off"),
        0
    );
}

#[test]
fn the_same_program_weathers_a_storm_on_linux() {
    let run = native("storm", &["--tasks", "4", "--seconds", "1", "--seed", "17"]);
    assert_eq!(run.status, 0, "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn faults_join_others_that_are_in_flight() {
    let args = ["--tasks", "4", "--seconds", "1", "--scenario", "same-page,random"];
    let guest = Run::new("storm", &args)
        .set("service", "last")
        .set("audit", "100")
        .boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    assert!(
        guest.count("faults.coalesced") > 100,
        "{}",
        guest.count("faults.coalesced")
    );
    assert_eq!((guest.count("audit.errors"), guest.count("faults.in_flight")), (0, 0));
    assert_eq!(
        storm("--tasks 8 --seconds 1 --seed 16 --scenario same-page,cow --service last"),
        0
    );
}

#[test]
fn memory_runs_out_and_victims_are_missed_by_their_parents() {
    assert_eq!(
        storm("--tasks 4 --seconds 3 --seed 13 --mem 64M --scenario shortage"),
        0
    );
}

#[test]
fn a_thousand_tasks_at_once_in_512_mib() {
    assert_eq!(
        storm("--tasks 1000 --pages 16 --seconds 1 --seed 14 --scenario sweep,random"),
        0
    );
}

#[test]
fn a_wrong_byte_fails_the_storm_and_leaves_evidence() {
    let seed = 9001;
    assert_eq!(
        storm(&format!(
            "--tasks 3 --seconds 1 --seed {seed} --scenario sweep --break 1"
        )),
        FAILED
    );
    let folder = workspace::target_dir().join(format!("storm/seed-{seed}"));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(read("failure.txt").contains("--seed 9001"));
    assert!(read("stderr.txt").contains("sweep: word 0 is 0x0000000000000bad"));
    let recording = File::open(folder.join("trace.fltrace")).unwrap();
    let recording = Recording::read(BufReader::new(recording)).unwrap();
    assert!(recording.events.iter().any(|event| event.kind == Kind::FaultCommit));
    assert!(read("report.txt").contains("audit.checks"));
}

#[test]
fn a_lost_frame_fails_the_storm() {
    let seed = 9002;
    assert_eq!(
        storm(&format!("--tasks 2 --seconds 1 --seed {seed} --scenario sweep --leak")),
        FAILED
    );
    let folder = workspace::target_dir().join(format!("storm/seed-{seed}"));
    let failure = std::fs::read_to_string(folder.join("failure.txt")).unwrap();
    assert!(failure.contains("1 are missing"), "{failure}");
}

/// The virtual clock ticks once for each instruction, so these figures are the same in every run.
#[test]
fn sixty_four_tasks_get_equal_shares_and_no_fault_waits_long() {
    let args = "--tasks 64 --seconds 2 --scenario sweep --seed 15";
    let args: Vec<_> = args.split(' ').collect();
    let guest = Run::new("storm", &args).counted().set("audit", "100").boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    let text = String::from_utf8_lossy(&guest.stdout).into_owned();
    let number = |line: &str, key: &str| -> u64 {
        let line = text
            .lines()
            .find(|text| text.starts_with(line))
            .unwrap_or_else(|| panic!("{text}"));
        let field = line
            .split(' ')
            .find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        field.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    };
    let fairness = |key| number("@storm fairness", key);
    assert!(fairness("least") * 100 >= fairness("median") * 80, "{text}");
    let latency = |key| number("@storm histogram name=latency", key);
    assert!(latency("p999") <= 10 * latency("median"), "{text}");
    assert_eq!((guest.count("audit.errors"), guest.count("faults.in_flight")), (0, 0));
    assert!(guest.count("audit.checks") > 3);
}
