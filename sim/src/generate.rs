//! Scripts from seeds.

use faultline_mm::{FaultMode, Protection};

use crate::random::Random;
use crate::schedule::{Kind, Schedule};
use crate::script::{Backing, Process, Script, Settings, Step, Thread};

/// A kind of world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Profile {
    /// A little of everything
    Mixed,
    /// Several CPUs in one space, late interrupts, PCIDs
    Tlb,
    /// Copy-on-write: forks of forks, and writes on all sides
    Fork,
    /// Little memory, and allocations that fail
    Memory,
    /// A disk that is slow and fails, shared memory
    Disk,
    /// Pages of 2 MiB
    Huge,
    /// Spaces that end, or begin anew, while threads run in them
    Exit,
    /// One CPU, as the kernel runs today
    Single,
    /// A few pages, used on some CPUs while others change them, in spaces that share their frames
    Race,
    /// A swap area: pages that leave and come back, little memory, devices that fail
    Swap,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Profile; 10] = [
        Profile::Mixed,
        Profile::Tlb,
        Profile::Fork,
        Profile::Memory,
        Profile::Disk,
        Profile::Huge,
        Profile::Exit,
        Profile::Single,
        Profile::Race,
        Profile::Swap,
    ];
}

/// The script of a seed.
#[must_use]
pub fn generate(profile: Profile, seed: u64) -> Script {
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (profile as u64) << 56);
    let random = &mut random;
    let settings = settings(profile, random);
    let kind = random.pick(&[Kind::Random, Kind::Random, Kind::Bounded, Kind::Pct]);
    let schedule = Schedule {
        kind,
        seed: random.next() >> 16,
    };
    let count = match profile {
        Profile::Fork => 2 + random.index(3),
        Profile::Tlb => 1 + random.index(2),
        Profile::Race => random.pick(&[1, 4, 5, 6]),
        Profile::Swap => random.pick(&[1, 2, 2, 3]),
        _ => 1 + random.index(3),
    };
    let restless = match profile {
        Profile::Tlb | Profile::Fork => random.chance(1, 2),
        Profile::Race => true,
        Profile::Swap => random.chance(1, 2),
        _ => false,
    };
    let mut world = Generator {
        profile,
        settings,
        processes: count,
        threads: (0..count)
            .map(|process| {
                if restless && process == 0 {
                    // With two CPUs, each of them uses pages while the other makes them leave.
                    if profile == Profile::Swap { 4 } else { 3 }
                } else {
                    1 + random.index(3)
                }
            })
            .collect(),
        backings: backings(profile),
        // So few that threads meet on them between the leaving of a page and its flush.
        hot: (0..1 + random.index(if profile == Profile::Swap && restless { 3 } else { 5 }))
            .map(|_| 5 + random.index(6))
            .collect(),
        restless,
        random,
    };
    let processes = (0..count).map(|process| world.process(process)).collect();
    Script {
        settings,
        schedule,
        processes,
    }
}

fn settings(profile: Profile, random: &mut Random) -> Settings {
    let cpus = match profile {
        Profile::Single => 1,
        Profile::Race => random.pick(&[3, 4, 4]),
        Profile::Tlb => 2 + random.index(3),
        Profile::Fork => random.pick(&[1, 2, 3, 4, 4, 4]),
        Profile::Swap => random.pick(&[1, 2, 2, 3, 4]),
        _ => random.pick(&[1, 2, 2, 2, 3, 3, 4]),
    };
    let frames = match profile {
        Profile::Memory => 20 + random.below(30) as u32,
        Profile::Huge => 1200 + random.below(600) as u32,
        Profile::Swap => random.pick(&[48, 64, 96, 160]),
        _ => 160,
    };
    Settings {
        cpus,
        balance: cpus > 1 && random.chance(1, 2),
        frames,
        pcids: match profile {
            Profile::Tlb => random.pick(&[0, 1, 1, 2]),
            _ => random.pick(&[0, 0, 1, 2, 3, 8]),
        },
        slots: random.pick(&[1, 2, 3, 8, 16]),
        mode: random.pick(&[
            FaultMode::Queued,
            FaultMode::HandedOff,
            FaultMode::HandedOff,
            FaultMode::Inline,
        ]),
        lateness: match profile {
            Profile::Swap => random.pick(&[0, 6, 7, 7]),
            _ => random.pick(&[0, 3, 6, 7]),
        },
        zeroed: random.pick(&[0, 0, 0, 2, 12]),
        speculation: random.pick(&[0, 2, 8, 14]),
        disk_errors: match profile {
            Profile::Disk => random.pick(&[0, 1, 6]),
            Profile::Swap => random.pick(&[0, 0, 1, 4]),
            _ => random.pick(&[0, 0, 0, 2]),
        },
        swap: match profile {
            Profile::Swap => random.pick(&[2, 8, 24, 64]),
            _ => 0,
        },
        reserve: match profile {
            Profile::Swap => random.pick(&[2, 4, 8]),
            // Of a small machine it is a small part, or faults would find no frame although all are free.
            Profile::Memory => frames / 8,
            _ => Settings::default().reserve,
        },
        run_ahead: match profile {
            // Most worlds of swap are about pages that were written before; what ran ahead was not, and just goes.
            Profile::Swap => random.pick(&[1, 1, 1, 4]),
            _ => random.pick(&[1, 1, 2, 8]),
        },
    }
}

const fn backings(profile: Profile) -> &'static [Backing] {
    use Backing::{Anonymous, Disk, Eager, File, Shared};
    match profile {
        Profile::Disk => &[Disk, Disk, Disk, File, Shared, Anonymous],
        Profile::Fork => &[Anonymous, Eager, Anonymous, Eager, File, Disk, Shared],
        Profile::Huge => &[Anonymous, Anonymous, Eager],
        Profile::Swap => &[Anonymous, Anonymous, Anonymous, Eager, Shared, Disk, File],
        _ => &[Anonymous, Anonymous, Eager, File, Disk, Shared],
    }
}

struct Generator<'a> {
    profile: Profile,
    settings: Settings,
    processes: usize,
    threads: Vec<usize>,
    backings: &'static [Backing],
    /// Pages that most steps are about.
    hot: Vec<usize>,
    /// Some threads do nothing but change the rights and the content of hot pages, others nothing but use them.
    restless: bool,
    random: &'a mut Random,
}

impl Generator<'_> {
    fn process(&mut self, process: usize) -> Process {
        let threads = (0..self.threads[process])
            .map(|thread| self.thread(process, thread))
            .collect();
        Process { threads }
    }

    fn thread(&mut self, process: usize, thread: usize) -> Thread {
        let cpu = if self.restless {
            (3 * process + thread) % self.settings.cpus
        } else {
            self.random.index(self.settings.cpus)
        };
        let mut steps = Vec::new();
        let mut next = 2;
        if thread == 0 {
            if process == 0 {
                self.first_steps(&mut steps);
            }
            for other in 1..self.threads[process] {
                steps.push(Step::Start { thread: other });
            }
        }
        let length = match self.random.below(8) {
            _ if self.profile == Profile::Race => 40 + self.random.index(60),
            0 => 24 + self.random.index(30),
            _ if self.restless => 16 + self.random.index(30),
            _ => 4 + self.random.index(20),
        };
        for _ in 0..length {
            if self.restless && thread == 1 && self.random.chance(1, 12) {
                // Many changes in a row, none of which has to wait for anybody.
                steps.push(Step::Populate { page: 4, count: 12 });
                steps.extend((4..16).map(|page| Step::DontNeed { page, count: 1 }));
            }
            if self.profile == Profile::Race
                && process == 0
                && thread == 0
                && next < self.processes
                && self.random.chance(1, 8)
            {
                // What was shared is not for long: it has to be shared again.
                steps.extend(self.hot.iter().map(|&page| Step::Read { page }));
                steps.push(Step::Fork { process: next });
                next += 1;
            }
            if self.profile == Profile::Race && self.random.chance(1, 10) {
                let page = self.hot[self.random.index(self.hot.len())];
                steps.push(Step::DontNeed { page, count: 1 });
                steps.push(Step::Abandon { page });
            }
            let step = if self.profile == Profile::Swap && self.restless {
                self.restless_swap_step(thread == 1)
            } else if self.profile == Profile::Swap && self.random.chance(3, 4) {
                self.swap_step()
            } else if self.restless {
                self.restless_step(process > 0 || thread == 1)
            } else {
                self.step(process)
            };
            steps.push(step);
        }
        Thread { cpu, steps }
    }

    /// How the first process begins.
    fn first_steps(&mut self, steps: &mut Vec<Step>) {
        steps.push(Step::Map {
            page: self.random.index(6),
            count: 8 + self.random.index(10),
            protection: Protection::READ_WRITE,
            backing: match self.random.pick(self.backings) {
                Backing::Eager => Backing::Anonymous,
                backing => backing,
            },
        });
        if self.profile == Profile::Swap {
            // More than there is memory for, in some worlds.
            steps.push(Step::Map {
                page: 24,
                count: 8 + self.random.index(90),
                protection: Protection::READ_WRITE,
                backing: Backing::Anonymous,
            });
            steps.extend(self.hot.iter().map(|&page| Step::Write { page }));
        }
        if self.restless {
            steps.extend(self.hot.iter().map(|&page| Step::Write { page }));
            if self.profile != Profile::Tlb && self.processes > 1 {
                steps.push(Step::Fork { process: 1 });
            }
            return;
        }
        for _ in 0..self.random.index(3) {
            steps.push(self.map());
        }
    }

    /// A page near the ends of last-level tables, most often one of a few.
    fn page(&mut self) -> usize {
        let random = &mut *self.random;
        match random.below(16) {
            0..9 => self.hot[random.index(self.hot.len())],
            9..11 => 5 + random.index(6),
            11..13 => random.index(16),
            13..15 => 514 + random.index(12),
            _ if self.profile == Profile::Huge => 8 + random.index(512),
            _ => random.index(24),
        }
    }

    fn range(&mut self) -> (usize, usize) {
        let page = self.page();
        let count = match self.random.below(64) {
            0..36 => 1,
            36..56 => 1 + self.random.index(4),
            56..63 => 1 + self.random.index(12),
            _ => 1 + self.random.index(520),
        };
        (page, count.min(crate::script::WINDOW_PAGES - page))
    }

    fn protection(&mut self) -> Protection {
        let (rw, r) = (Protection::READ_WRITE, Protection::READ);
        self.random
            .pick(&[rw, rw, rw, rw, r, Protection::empty(), Protection::READ_EXECUTE])
    }

    fn map(&mut self) -> Step {
        let (page, count) = self.range();
        let backing = self.random.pick(self.backings);
        // An eager mapping takes a frame for each page.
        let count = if backing == Backing::Eager { count.min(8) } else { count };
        let protection = self.protection();
        if self.random.chance(1, 3) {
            Step::Replace {
                page,
                count,
                protection,
                backing: if backing == Backing::Eager {
                    Backing::Anonymous
                } else {
                    backing
                },
            }
        } else {
            Step::Map {
                page,
                count,
                protection,
                backing,
            }
        }
    }

    fn step(&mut self, process: usize) -> Step {
        let page = self.page();
        match self.random.below(100) {
            0..24 => Step::Write { page },
            24..40 => Step::Read { page },
            40..42 => Step::Execute { page },
            42..46 => Step::Abandon { page },
            46..49 => Step::CopyIn { page },
            49..53 => Step::CopyOut { page },
            53..55 => Step::Populate {
                page,
                count: (1 + self.random.index(6)).min(crate::script::WINDOW_PAGES - page),
            },
            55..61 if self.profile == Profile::Disk => match self.random.below(6) {
                0..4 => Step::ReadFile { page },
                _ => Step::Discard { page },
            },
            55..66 => self.map(),
            66..72 => {
                let (page, count) = self.range();
                Step::Unmap { page, count }
            }
            72..78 => {
                let (page, count) = self.range();
                let protection = self.protection();
                Step::Protect {
                    page,
                    count,
                    protection,
                }
            }
            78..81 => {
                let (page, count) = self.range();
                Step::DontNeed { page, count }
            }
            81..83 => self.relocation(),
            _ => self.rare(process),
        }
    }

    /// A page that leaves or comes back, or memory that is used up.
    fn swap_step(&mut self) -> Step {
        let page = self.page();
        let (first, count) = self.range();
        match self.random.below(32) {
            0..8 => Step::Write { page },
            8..13 => Step::Read { page },
            13..19 => Step::PageOut { page: first, count },
            19..21 => Step::PageOut { page: 4, count: 8 },
            21 => Step::Cold { page: first, count },
            22 => Step::Free { page: first, count },
            23 => Step::WillNeed { page: first, count },
            24 => Step::DontNeed { page, count: 1 },
            25 => Step::Flushed,
            26..29 => Step::Populate {
                page: 24 + self.random.index(60),
                count: 1 + self.random.index(24),
            },
            29 => Step::Abandon { page },
            30 if self.random.chance(1, 2) => self.random.pick(&[Step::SwapOff, Step::SwapOff, Step::SwapOn]),
            _ => Step::Sleep {
                ticks: self.random.below(60),
            },
        }
    }

    /// An access to a hot page, or what makes it leave or changes it while it is on its way.
    fn restless_swap_step(&mut self, changes: bool) -> Step {
        let page = self.hot[self.random.index(self.hot.len())];
        let count = 1;
        match self.random.below(16) {
            0..4 if changes => Step::PageOut { page, count },
            4..6 if changes => Step::PageOut { page: 4, count: 8 },
            6..9 if changes => Step::DontNeed { page, count },
            9 if changes => Step::Protect {
                page,
                count,
                protection: self
                    .random
                    .pick(&[Protection::READ_WRITE, Protection::READ_WRITE, Protection::READ]),
            },
            10 if changes => Step::Replace {
                page,
                count,
                protection: Protection::READ_WRITE,
                backing: Backing::Anonymous,
            },
            11 if changes => Step::Flushed,
            0..6 => Step::Write { page },
            13 => Step::PageOut { page, count },
            14 => Step::Sleep {
                ticks: self.random.below(30),
            },
            15 => self.swap_step(),
            _ => Step::Read { page },
        }
    }

    /// A change of one page, or an access.
    fn restless_step(&mut self, changes: bool) -> Step {
        let page = self.hot[self.random.index(self.hot.len())];
        let count = 1;
        match self.random.below(8) {
            0..3 if changes => Step::DontNeed { page, count },
            3 | 4 if changes => Step::Protect {
                page,
                count,
                protection: self.random.pick(&[Protection::READ_WRITE, Protection::READ]),
            },
            0..3 => Step::Read { page },
            3 if self.random.chance(1, 3) => Step::Flushed,
            _ => Step::Write { page },
        }
    }

    fn relocation(&mut self) -> Step {
        let (page, count) = self.range();
        let count = count.min(8);
        let to = self.page().min(crate::script::WINDOW_PAGES - count);
        Step::Move { page, count, to }
    }

    fn rare(&mut self, process: usize) -> Step {
        let next = process + 1;
        let forks = next < self.processes;
        let huge = self.profile == Profile::Huge;
        let ends = self.profile == Profile::Exit;
        match self.random.below(20) {
            0..6 if ends && self.random.chance(1, 2) => self.random.pick(&[Step::Exec, Step::End, Step::End]),
            0..4 if forks => Step::Fork { process: next },
            0..4 if huge => Step::MapHuge {
                protection: Protection::READ_WRITE,
            },
            4 => {
                let process = self.random.index(self.processes);
                let thread = self.random.index(self.threads[process]);
                Step::Kill { process, thread }
            }
            5 if self.random.chance(1, 2) => Step::Exec,
            6 if self.random.chance(1, 3) => Step::End,
            7..9 => self.random.pick(&[Step::Flushed, Step::Flushed, Step::FlushEverywhere]),
            9..11 => Step::Yield,
            11..13 => Step::Sleep {
                ticks: self.random.below(60),
            },
            13 | 14 if self.profile == Profile::Memory || self.random.chance(1, 4) => Step::FailAllocation {
                after: self.random.below(5),
            },
            15 => Step::Drain,
            16 => Step::Pool {
                frames: self.random.below(8) as u32,
            },
            17 | 18 if huge => {
                let (page, count) = self.range();
                let on = self.random.chance(2, 3);
                Step::Huge { page, count, on }
            }
            _ => Step::Write { page: self.page() },
        }
    }
}
