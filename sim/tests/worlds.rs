//! Worlds are deterministic and pass, scripts can be read back, and what is wrong with one is said.

use std::sync::Arc;

use faultline_sim::{Campaign, Lane, Profile, Script, Shard, TraceError, default_jobs, generate, read_trace};

fn campaign(from: u64, seeds: u64) -> Campaign {
    Campaign {
        from,
        seeds,
        profiles: Profile::ALL.to_vec(),
        jobs: default_jobs(),
        shard: Shard { part: 1, of: 1 },
    }
}

#[test]
fn worlds_of_every_profile_pass_and_take_every_transition() {
    let summary = campaign(1_000_000, 10_000).run(|| {});
    if let Some(found) = summary.found {
        eprintln!("{found:?}");
        // A world that panicked keeps the panic hook's lock, for which the harness would wait.
        std::process::exit(1);
    }
    assert_eq!(summary.worlds, 10_000);
    assert_eq!(summary.coverage.missing(), Vec::<String>::new());
}

#[test]
fn a_seed_gives_the_same_world_whatever_ran_before() {
    let mut lane = Lane::default();
    let mut run = |seed: u64, profile: Profile| lane.run(&Arc::new(generate(profile, seed)), true);
    for profile in Profile::ALL {
        for seed in 0..20 {
            let first = run(seed, profile);
            run(seed + 1000, profile);
            let again = run(seed, profile);
            // The ids of tasks go on from one world to the next.
            let same = |event: &&String| !event.contains(" task ");
            let pairs = first.events.iter().filter(same).zip(again.events.iter().filter(same));
            pairs.for_each(|(first, again)| assert_eq!(first, again, "{profile:?} {seed}"));
            assert_eq!(first.events.len(), again.events.len(), "{profile:?} {seed}");
            assert_eq!(first.counts, again.counts, "{profile:?} {seed}");
        }
    }
}

#[test]
fn recording_changes_nothing() {
    let mut lane = Lane::default();
    for seed in 0..200 {
        let script = Arc::new(generate(Profile::Mixed, seed));
        let (silent, recorded) = (lane.run(&script, false), lane.run(&script, true));
        assert_eq!(silent.counts, recorded.counts, "{seed}");
        assert!(silent.events.is_empty() && !recorded.events.is_empty());
    }
}

#[test]
fn scripts_can_be_read_back() {
    for profile in Profile::ALL {
        for seed in 0..200 {
            let script = generate(profile, seed);
            assert_eq!(script.to_string().parse::<Script>().as_ref(), Ok(&script));
        }
    }
}

#[test]
fn what_is_wrong_with_a_script_is_said_with_its_line() {
    let head = "world cpus=2\nprocess\n  thread cpu=0\n";
    for (text, reason) in [
        ("world cpus=9", "a setting is out of range"),
        ("world colour=red", "no such setting, or no such value"),
        ("thread cpu=0", "a thread before the first process"),
        ("read 1", "a step before the first thread"),
        ("schedule fair 1", "a schedule is random, bounded or pct"),
    ] {
        let error = text.parse::<Script>().unwrap_err();
        assert_eq!((error.line, error.reason), (1, reason));
    }
    for (line, reason) in [
        ("jump 3", "no such step"),
        ("read 528", "a page beyond the window"),
        ("read", "a number is missing"),
        ("read x", "not a number that can stand here"),
        ("map 520 9 rw anonymous", "a range beyond the window, or empty"),
        ("map 5 1 q anonymous", "a protection is `none` or some of r, w and x"),
        (
            "map 5 1 rw paper",
            "a backing is anonymous, eager, shared, file or disk",
        ),
        ("write 3 4", "too many words"),
        ("thread cpu=2", "there is no such CPU"),
    ] {
        let error = format!("{head}{line}").parse::<Script>().unwrap_err();
        assert_eq!((error.line, error.reason, error.text.as_str()), (4, reason, line));
    }
}

const TRACE: &str = "
    100 cpu0 task 1 task.start process=0x1 parent=0x0
    110 cpu0 task 1 space 7 fault 1 fault.trap addr=0x401000 access=0x1 ip=0x1000
    120 cpu0 task 1 space 7 fault 1 fault.serve addr=0x401000 class=demand-zero
    130 cpu0 task 2 task.start process=0x2 parent=0x1
    140 cpu0 task 2 space 8 fault 2 fault.trap addr=0x401000 access=0x1 ip=0x1000
    150 cpu0 task 1 space 7 fault 3 fault.trap addr=0x9000 access=0x0 ip=0x1000
    160 cpu0 task 1 space 7 fault 3 fault.denied addr=0x9000 reason=0x3
    170 cpu0 task 2 space 8 fault 4 fault.trap addr=0x403000 access=0x2 ip=0x1000
    180 cpu0 task 2 space 8 fault 4 fault.serve addr=0x403000 class=file
";

#[test]
fn a_trace_becomes_a_script_with_the_same_faults_in_the_same_order() {
    let replay = read_trace(TRACE).unwrap();
    assert_eq!((replay.faults, replay.forks, replay.left_out), (4, 1, 0));
    let script = "world cpus=1 frames=591 pcids=0 slots=64 mode=queued lateness=0 zeroed=0 speculation=0 disk-errors=0
schedule random 0
process
  thread cpu=0
    await 0
    fork 1
    advance
    yield
process
  thread cpu=0
    exec
    await 1
    map 0 1 rw anonymous
    advance
    write 0
    await 2
    fork 2
    advance
    yield
    await 4
    advance
    read 1
process
  thread cpu=0
    await 3
    advance
    write 0
    await 5
    map 2 1 rwx file
    advance
    execute 2
";
    assert_eq!(replay.script.to_string(), script);
    assert_eq!(Lane::default().run(&Arc::new(replay.script), false).failure, None);
}

#[test]
fn what_is_no_trace_is_refused_with_its_line() {
    let text = "100 cpu0 task 1 task.exit status=0x0";
    assert_eq!(read_trace(text), Err(TraceError::NoFault));
    let text = "\n100 cpu0 tusk 1 task.exit";
    let error = read_trace(text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2 is not an event of a trace: 100 cpu0 tusk 1 task.exit"
    );
}

#[test]
fn shards_share_the_seeds_out() {
    let part = |part| Campaign {
        shard: Shard { part, of: 3 },
        ..campaign(1, 100)
    };
    let worlds: Vec<u64> = (1..=3).map(|k| part(k).run(|| {}).worlds).collect();
    assert_eq!(worlds, [34, 33, 33]);
    assert_eq!("0/3".parse::<Shard>(), Err("a shard is K/N, with K from 1 to N"));
    assert!("4/3".parse::<Shard>().is_err() && "1".parse::<Shard>().is_err());
}
