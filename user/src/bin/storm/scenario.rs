//! What a task of the storm can do, and what it needs for it.

use std::sync::atomic::Ordering::Relaxed;

use crate::board::{Board, Tally};
use crate::{memory, processes, sharing};

/// Options of the storm that tasks look at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pages of each mapping.
    pub pages: usize,
    /// Seed of all that is random.
    pub seed: u64,
    /// How much memory a process of the shortage scenario touches, in MiB.
    pub shortage_mib: usize,
    /// Let a byte be wrong in this task, so that the storm has something to find.
    pub break_task: Option<usize>,
    /// This program's own file.
    pub program: String,
}

/// Something to do, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Sweep,
    Random,
    SamePage,
    Cow,
    Churn,
    Brk,
    Huge,
    File,
    Kill,
    Exec,
    Timer,
    Shortage,
}

/// The kernel refused a call for want of memory; that is no failure.
#[derive(Debug)]
pub struct Refused;

impl Scenario {
    pub const ALL: [Self; 12] = [
        Self::Sweep,
        Self::Random,
        Self::SamePage,
        Self::Cow,
        Self::Churn,
        Self::Brk,
        Self::Huge,
        Self::File,
        Self::Kill,
        Self::Exec,
        Self::Timer,
        Self::Shortage,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::Random => "random",
            Self::SamePage => "same-page",
            Self::Cow => "cow",
            Self::Churn => "churn",
            Self::Brk => "brk",
            Self::Huge => "huge",
            Self::File => "file",
            Self::Kill => "kill",
            Self::Exec => "exec",
            Self::Timer => "timer",
            Self::Shortage => "shortage",
        }
    }

    /// The scenarios of a list of names; `mix` is all but the shortage.
    pub fn list(text: &str) -> Option<Vec<Self>> {
        let mut list = Vec::new();
        for name in text.split(',') {
            if name == "mix" {
                list.extend(Self::ALL.into_iter().filter(|scenario| *scenario != Self::Shortage));
            } else {
                list.push(Self::ALL.into_iter().find(|scenario| scenario.name() == name)?);
            }
        }
        Some(list)
    }

    /// Does one round of it.
    fn round(self, task: &mut Task) -> Result<(), Refused> {
        match self {
            Self::Sweep => memory::sweep(task),
            Self::Random => memory::random(task),
            Self::SamePage => sharing::same_page(task),
            Self::Cow => processes::cow(task),
            Self::Churn => sharing::churn(task),
            Self::Brk => memory::brk(task),
            Self::Huge => memory::huge(task),
            Self::File => memory::file(task),
            Self::Kill => processes::kill(task),
            Self::Exec => processes::exec(task),
            Self::Timer => memory::timer(task),
            Self::Shortage => processes::shortage(task),
        }
    }
}

/// One task of the storm.
pub struct Task {
    pub number: usize,
    pub settings: Settings,
    pub board: &'static Board,
    /// The content of the program's file, as the parent read it.
    pub file: &'static [u8],
    /// Rounds so far.
    pub round: u64,
    /// What the rounds of the present scenario are counted in.
    tally: &'static Tally,
    chance: fastrand::Rng,
}

impl Task {
    /// Does rounds of the scenarios, each chosen by chance, until the time is over.
    pub fn run(number: usize, settings: Settings, board: &'static Board, file: &'static [u8], scenarios: &[Scenario]) {
        let chance = fastrand::Rng::with_seed(settings.seed.wrapping_mul(0x1_0001) ^ number as u64);
        let mut task = Self {
            number,
            settings,
            board,
            file,
            round: 0,
            tally: &board.scenarios[0],
            chance,
        };
        while !board.is_over() {
            let scenario = scenarios[task.draw(scenarios.len())];
            task.tally = &board.scenarios[scenario as usize];
            let counter = match scenario.round(&mut task) {
                Ok(()) => &task.tally.rounds,
                Err(Refused) => &task.tally.refused,
            };
            counter.fetch_add(1, Relaxed);
            task.round += 1;
        }
    }

    /// A number below `end`, by chance.
    pub fn draw(&mut self, end: usize) -> usize {
        self.chance.usize(..end)
    }

    /// The seed of this round's content, which no other task has, nor any of the 15 rounds before. It has 16 bits, which
    /// is what [`word`](faultline_user::word) heeds.
    pub fn content(&self) -> u64 {
        ((self.number as u64) << 4 | self.round & 0xf) ^ self.settings.seed & 0xffff
    }

    /// Takes note of first touches.
    pub fn touched(&self, pages: usize) {
        self.tally.touches.fetch_add(pages as u64, Relaxed);
        self.board.tasks[self.number].fetch_add(pages as u64, Relaxed);
    }

    /// Whether this task has to spoil what it wrote, once, so that the check has something to find.
    pub fn breaks(&self) -> bool {
        self.settings.break_task == Some(self.number) && self.round == 2
    }
}
