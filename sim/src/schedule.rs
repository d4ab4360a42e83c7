//! Who chooses which virtual CPU runs next, and for how many points.

use core::fmt;
use core::str::SplitWhitespace;

use crate::random::Random;

/// A way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Any CPU, for a short or a long while.
    #[default]
    Random,
    /// A CPU runs until it has nothing to do, but for a few preemptions at random points (Musuvathi and Qadeer, PLDI
    /// 2007: most bugs need two).
    Bounded,
    /// Priorities that change at a few random points (Burckhardt and others, ASPLOS 2010: finds a bug of depth d with
    /// a probability that can be stated).
    Pct,
}

/// A way to choose and the seed of the choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Schedule {
    /// The way.
    pub kind: Kind,
    /// The seed.
    pub seed: u64,
}

const NAMES: [(&str, Kind); 3] = [("random", Kind::Random), ("bounded", Kind::Bounded), ("pct", Kind::Pct)];

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, kind)| *kind == self.kind);
        write!(f, "{} {}", name.map_or("", |(name, _)| name), self.seed)
    }
}

impl Schedule {
    /// The schedule in a line of a script.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(words: &mut SplitWhitespace<'_>) -> Result<Self, &'static str> {
        let name = words.next().ok_or("a schedule is missing")?;
        let found = NAMES.iter().find(|(known, _)| *known == name);
        let &(_, kind) = found.ok_or("a schedule is random, bounded or pct")?;
        let seed = words.next().and_then(|word| word.parse().ok());
        Ok(Self {
            kind,
            seed: seed.ok_or("the seed of a schedule is a number")?,
        })
    }
}

/// As good as any number of points.
const FOREVER: u32 = u32::MAX;

/// Points that a schedule looks ahead at most, as a power of two: some worlds take more, most take less.
const HORIZON: u32 = 12;

/// Runs of the same CPU in a row, although others are ready, after which another one has its turn: it may wait for that in
/// a loop.
const PATIENCE: u32 = 256;

/// A schedule at work.
#[derive(Debug)]
pub(crate) struct Chooser {
    kind: Kind,
    random: Random,
    /// The longest grant of a random schedule, as a power of two.
    scale: u32,
    /// The CPU that ran last, and how often in a row.
    last: usize,
    row: u32,
    /// Preemptions, or changes of priority, that are left.
    changes: u32,
    /// Of each CPU; the highest runs.
    priorities: Vec<i64>,
    /// The next lower priority.
    lowest: i64,
}

impl Chooser {
    pub fn new(schedule: Schedule, cpus: usize) -> Self {
        let mut random = Random::new(schedule.seed ^ 0x5eed_0f5c_4ed1);
        let priorities = (0..cpus).map(|_| random.below(1 << 32) as i64).collect();
        let changes = match schedule.kind {
            Kind::Random => 0,
            Kind::Bounded => random.below(6) as u32,
            Kind::Pct => random.below(8) as u32,
        };
        Self {
            kind: schedule.kind,
            scale: 3 + random.below(9) as u32,
            random,
            last: 0,
            row: 0,
            changes,
            priorities,
            lowest: 0,
        }
    }

    /// The CPU that runs next, one of those in `ready`, and for how many points.
    pub fn choose(&mut self, ready: &[usize]) -> (usize, u32) {
        if self.row >= PATIENCE {
            self.row = 0;
            self.give_way(ready);
        }
        let cpu = match self.kind {
            Kind::Random => self.random.pick(ready),
            Kind::Bounded if ready.contains(&self.last) => self.last,
            Kind::Bounded => self.random.pick(ready),
            Kind::Pct => {
                let highest = ready.iter().copied().max_by_key(|&cpu| self.priorities[cpu]);
                highest.unwrap_or(ready[0])
            }
        };
        self.row = if cpu == self.last && ready.len() > 1 {
            self.row + 1
        } else {
            0
        };
        self.last = cpu;
        let points = match self.kind {
            Kind::Random => self.random.spread(self.scale),
            _ if self.changes == 0 => FOREVER,
            _ => self.random.spread(HORIZON),
        };
        (cpu, points)
    }

    /// The CPU has used its points up: it was preempted.
    pub fn preempted(&mut self, cpus: usize) {
        if self.kind != Kind::Random {
            self.changes = self.changes.saturating_sub(1);
            let all: Vec<usize> = (0..cpus).collect();
            self.give_way(&all);
        }
    }

    /// Another CPU has its turn, one of `others` if they matter.
    fn give_way(&mut self, others: &[usize]) {
        match self.kind {
            Kind::Random => {}
            Kind::Bounded => self.last = self.random.pick(others),
            Kind::Pct => {
                self.lowest -= 1;
                self.priorities[self.last] = self.lowest;
            }
        }
    }
}
