//! Many worlds: seeds, shards, mutants, and their sums.

use core::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use faultline_probe::{Mutant, switch_on};

use crate::coverage::Coverage;
use crate::generate::{Profile, generate};
use crate::lane::Lane;
use crate::script::Script;
use crate::world::Counts;

/// One of several equal parts of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 1 on.
    pub part: u64,
    /// How many parts there are.
    pub of: u64,
}

impl FromStr for Shard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let numbers = text.split_once('/').and_then(|(part, of)| {
            Some(Shard {
                part: part.parse().ok()?,
                of: of.parse().ok()?,
            })
        });
        match numbers {
            Some(shard) if 0 < shard.part && shard.part <= shard.of => Ok(shard),
            _ => Err("a shard is K/N, with K from 1 to N"),
        }
    }
}

/// Which worlds run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many seeds there are, over all shards.
    pub seeds: u64,
    /// The profiles; the seeds take them in turns.
    pub profiles: Vec<Profile>,
    /// How many worlds run at a time.
    pub jobs: usize,
    /// The part of the seeds that runs here.
    pub shard: Shard,
}

/// A world that failed.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its seed.
    pub seed: u64,
    /// Its profile.
    pub profile: Profile,
    /// Its script.
    pub script: Arc<Script>,
    /// What was wrong.
    pub failure: String,
}

/// The sum of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Worlds that ran.
    pub worlds: u64,
    /// What they counted.
    pub counts: Counts,
    /// What they covered.
    pub coverage: Coverage,
    /// The world with the lowest seed among those that failed before the campaign stopped.
    pub found: Option<Found>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            steps,
            accesses,
            faults,
            stale,
            flushes,
            superfluous,
            victims,
            left,
            written,
            read,
        } = self.counts;
        writeln!(f, "worlds       {}", self.worlds)?;
        writeln!(f, "steps        {steps} runs of a virtual CPU")?;
        writeln!(
            f,
            "accesses     {accesses} by user mode, {stale} of them while a flush was under way"
        )?;
        writeln!(f, "faults       {faults} answered")?;
        writeln!(
            f,
            "flushes      {flushes}, {superfluous} of them with nothing stale to drop"
        )?;
        writeln!(f, "out of memory {victims} processes ended")?;
        writeln!(
            f,
            "swap         {written} pages written and {read} read, {left} accesses between leaving and flush"
        )?;
        writeln!(f, "transitions  {}", self.coverage)?;
        match self.coverage.missing().as_slice() {
            [] => write!(f, "every numbered transition was taken"),
            missing => write!(f, "never taken: {}", missing.join(", ")),
        }
    }
}

impl Campaign {
    /// The profile of a seed.
    #[must_use]
    pub fn profile(&self, seed: u64) -> Profile {
        self.profiles[(seed % self.profiles.len() as u64) as usize]
    }

    /// How many worlds run here.
    #[must_use]
    pub fn worlds(&self) -> u64 {
        let Shard { part, of } = self.shard;
        (self.seeds + of - part) / of
    }

    /// Runs the worlds until one fails; `progress` is told of each that has ended.
    ///
    /// # Panics
    /// If there is no profile, or no thread can be made.
    #[must_use]
    pub fn run(&self, progress: impl Fn() + Sync) -> Summary {
        let next = AtomicU64::new(0);
        let summary = Mutex::new(Summary::default());
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.work(&next, &summary, &progress));
            }
        });
        summary.into_inner().expect("no worker panics while it sums up")
    }

    fn work(&self, next: &AtomicU64, summary: &Mutex<Summary>, progress: &impl Fn()) {
        let mut lane = Lane::default();
        let mut own = Summary::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.worlds() {
                break;
            }
            let seed = self.from + self.shard.part - 1 + index * self.shard.of;
            let profile = self.profile(seed);
            let script = Arc::new(generate(profile, seed));
            let outcome = lane.run(&script, false);
            own.worlds += 1;
            own.counts.add(&outcome.counts);
            own.coverage.merge(&outcome.coverage);
            progress();
            if let Some(failure) = outcome.failure {
                next.fetch_max(self.worlds(), Ordering::Relaxed);
                own.found = Some(Found {
                    seed,
                    profile,
                    script,
                    failure,
                });
                break;
            }
        }
        let mut all = summary.lock().expect("no worker panics while it sums up");
        all.worlds += own.worlds;
        all.counts.add(&own.counts);
        all.coverage.merge(&own.coverage);
        let earlier = |found: &Found| all.found.as_ref().is_none_or(|other| found.seed < other.seed);
        if own.found.as_ref().is_some_and(earlier) {
            all.found = own.found;
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The mutant.
    pub mutant: Mutant,
    /// How many worlds ran.
    pub worlds: u64,
    /// What gave it away; `None` if it survived.
    pub killed_by: Option<Found>,
}

/// The profiles that a mutant is hunted in: all, or the one that is about what it breaks.
const fn ground(mutant: Mutant) -> &'static [Profile] {
    match mutant {
        Mutant::AskNobody => &[Profile::Tlb],
        Mutant::ForgetLimbo => &[Profile::Fork, Profile::Mixed],
        Mutant::ForgetHold
        | Mutant::AskBeforeBump
        | Mutant::LeaveBeforeLoad
        | Mutant::WaitWithoutAsking
        | Mutant::KeepUnseen => &[Profile::Race],
        Mutant::ForgetParked
        | Mutant::ReadTwice
        | Mutant::EarlyResident
        | Mutant::ForgetReadError
        | Mutant::ForgetHole
        | Mutant::BorrowObjectFrame
        | Mutant::LoseStarved => &[Profile::Disk],
        Mutant::WriteUnflushed
        | Mutant::DirtyBeforeExchange
        | Mutant::IgnoreDirty
        | Mutant::DropDirty
        | Mutant::ForgetBatchHold
        | Mutant::ForgetFlushParked
        | Mutant::FreeWhileRead
        | Mutant::ReadSlotTwice
        | Mutant::ForgetSwapReadError
        | Mutant::ForgetWriteError
        | Mutant::ReturnWritable
        | Mutant::CountAtFork
        | Mutant::DetachUsed
        | Mutant::KeepPermit
        | Mutant::ChangeUnflushed
        | Mutant::MapUnflushed
        | Mutant::ForgetEmptyBatch
        | Mutant::SecondSlot => &[Profile::Swap],
        Mutant::OldRoot => &[Profile::Exit],
        Mutant::RefuseJoiner | Mutant::ShareMarkedTable => &[Profile::Single],
        _ => &Profile::ALL,
    }
}

/// Runs a campaign with a mutant switched on, until it is found out; without profiles, in those that suit it. No other
/// campaign may run in the process meanwhile.
#[must_use]
pub fn hunt(mutant: Mutant, campaign: &Campaign) -> Verdict {
    let campaign = Campaign {
        profiles: match campaign.profiles.as_slice() {
            [] => ground(mutant).to_vec(),
            profiles => profiles.to_vec(),
        },
        ..campaign.clone()
    };
    switch_on(Some(mutant));
    let summary = campaign.run(|| {});
    switch_on(None);
    Verdict {
        mutant,
        worlds: summary.worlds,
        killed_by: summary.found,
    }
}
