//! Every planted mistake is found within 10,000 worlds, and its case can be made smaller.
//!
//! Mutants are switched on for the whole process, and worlds that panic keep the lock of the panic hook, so this is a
//! program of its own without the test harness.

use faultline_probe::{Mutant, switch_on};
use faultline_sim::{Campaign, Shard, default_jobs, hunt, shrink};

fn main() {
    let campaign = Campaign {
        from: 1,
        seeds: 10_000,
        profiles: Vec::new(),
        jobs: default_jobs(),
        shard: Shard { part: 1, of: 1 },
    };
    let mut survivors = Vec::new();
    for &mutant in Mutant::ALL {
        let verdict = hunt(mutant, &campaign);
        let Some(found) = verdict.killed_by else {
            survivors.push(mutant.name());
            continue;
        };
        println!("{:24} {:6} worlds: {}", mutant.name(), verdict.worlds, found.failure);
        if (mutant as usize).is_multiple_of(8) {
            switch_on(Some(mutant));
            let (smaller, _) = shrink(&found.script);
            switch_on(None);
            assert!(smaller.steps() <= found.script.steps());
        }
    }
    assert_eq!(survivors, Vec::<&str>::new(), "these mutants were not found");
    assert!(Mutant::ALL.len() >= 25);
}
