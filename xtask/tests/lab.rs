//! `lab`: an experiment in two parts, interrupted and gone on with, and what it leaves.

use std::fs;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const EXPERIMENT: &str = r#"
title = "Pages and faults"
x = "fault"
[parameters]
fault = ["queued", "inline"]
seed = [1, 2]
memory = ["64M"]
[[program]]
name = "touch"
command = ["touch", "--pages", "8", "sequential"]
[[figure]]
name = "faults"
report = "faults.demand-zero"
[[figure]]
name = "time"
unit = "ns"
report = "time.ns"
"#;

fn lab(folder: &TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faultline"))
        .arg("lab")
        .arg(folder.path().join("pages.toml"))
        .arg("--out")
        .arg(folder.path().join("out"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts")
}

/// Standard output and error of an experiment that succeeds.
fn said(output: &Output) -> (String, String) {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(0), "{out}{error}");
    (out, error)
}

#[test]
fn an_experiment_goes_on_where_it_stopped() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("pages.toml"), EXPERIMENT).unwrap();
    let (listed, _) = said(&lab(&folder, &["--list"]));
    assert!(
        listed.contains("faultline touch fault=inline memory=64M seed=2 (1)"),
        "{listed}"
    );
    assert!(listed.ends_with("4 of 4 runs\n"), "{listed}");

    // One machine makes half of the runs, another one the rest; a third has nothing left to do.
    let (out, error) = said(&lab(&folder, &["--shard", "1/2"]));
    assert!(
        out.starts_with("2 of 4 runs are there: ") && error.contains("run 2 of 2, about "),
        "{out}{error}"
    );
    let (out, _) = said(&lab(&folder, &["--shard", "2/2"]));
    assert!(out.starts_with("4 of 4 runs are there: "), "{out}");
    let (_, error) = said(&lab(&folder, &[]));
    assert!(!error.contains("run 1"), "{error}");

    let read = |name: &str| fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    let table = read("table.csv");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(
        lines[0],
        "system,program,fault,memory,seed,repetition,faults,time,host_seconds"
    );
    assert_eq!(lines.len(), 5);
    assert!(lines[1].starts_with("faultline,touch,inline,64M,1,1,"), "{table}");
    let combined: serde_json::Value = serde_json::from_str(&read("table.json")).unwrap();
    let time = |index: usize, what: &str| combined[index]["figures"]["time"][what].as_f64().unwrap();
    assert_eq!(combined.as_array().unwrap().len(), 2);
    assert_eq!(combined[0]["figures"]["time"]["count"], 2);
    assert!(
        time(0, "median") < time(1, "median"),
        "inline faults take less time: {combined}"
    );
    let picture = read("time.svg");
    assert!(
        picture.contains("Pages and faults: time, ns") && picture.contains("inline"),
        "{picture}"
    );

    // A run that fails is named, and makes the experiment fail.
    let broken = EXPERIMENT.replace("\"sequential\"]", "\"sideways\"]");
    fs::write(folder.path().join("pages.toml"), broken).unwrap();
    let output = lab(&folder, &["--shard", "1/4"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("/bin/touch ended with status "), "{error}");
}

#[test]
fn the_experiments_in_docs_can_be_made() {
    for name in ["queue", "meeting"] {
        let file = format!("{}/../docs/lab/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
            .args(["lab", &file, "--list", "--out", "/nonexistent"])
            .output()
            .unwrap();
        let (out, _) = said(&output);
        assert!(out.contains(" runs\n"), "{out}");
    }
}
