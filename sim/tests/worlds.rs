//! Worlds are deterministic and pass, scripts can be read back, and what is wrong with one is said.

use std::sync::Arc;

use faultline_sim::{Campaign, Lane, Profile, Script, Shard, default_jobs, generate};

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
        ("map 5 1 rw paper", "a backing is anonymous, eager, shared or file"),
        ("write 3 4", "too many words"),
        ("thread cpu=2", "there is no such CPU"),
    ] {
        let error = format!("{head}{line}").parse::<Script>().unwrap_err();
        assert_eq!((error.line, error.reason, error.text.as_str()), (4, reason, line));
    }
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
