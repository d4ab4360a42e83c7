//! Scripts: what runs in a world, as text that a person can read and edit.
//!
//! ```text
//! world cpus=2 frames=120 pcids=2 slots=4 mode=queued lateness=6 zeroed=0 speculation=4 disk-errors=0 swap=32 reserve=4
//! schedule pct 17
//! process
//!   thread cpu=0
//!     map 3 4 rw anonymous
//!     write 3
//!     fork 1
//! process
//!   thread cpu=1
//!     read 3
//! ```
//!
//! The first process runs from the start; the others are made by `fork N`. The first thread of a process runs from its
//! start, the others from `start N`. A line that begins with `#` is a comment. Pages are numbers in the window of
//! [`WINDOW_PAGES`] pages that every space has; page 8 begins a last-level table, and page 520 the next.

use core::fmt;

use faultline_mm::{FaultMode, Protection};

use crate::schedule::Schedule;

/// Pages that scripts use: 8 at the end of one last-level table, all of the next, 8 of a third.
pub const WINDOW_PAGES: usize = 528;

/// Where page 0 is.
pub const WINDOW: u64 = 0x1000_0000 - 8 * 4096;

/// What a mapping is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private zeros, when touched.
    Anonymous,
    /// Private zeros, at once.
    Eager,
    /// Memory that all processes share.
    Shared,
    /// The file that lies in memory, private.
    File,
    /// The file on the disk, private.
    Disk,
}

pub(crate) const BACKINGS: [(&str, Backing); 5] = [
    ("anonymous", Backing::Anonymous),
    ("eager", Backing::Eager),
    ("shared", Backing::Shared),
    ("file", Backing::File),
    ("disk", Backing::Disk),
];

/// One step of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are pages, counts and indices; `WORDS` names them"
)]
pub enum Step {
    /// Load from a page.
    Read { page: usize },
    /// Store to a page.
    Write { page: usize },
    /// Fetch an instruction from a page.
    Execute { page: usize },
    /// Begin a write fault and drop it after its first poll.
    Abandon { page: usize },
    /// The kernel reads a page for a system call.
    CopyIn { page: usize },
    /// The kernel writes a page for a system call.
    CopyOut { page: usize },
    /// Touch every page of a range for writing.
    Populate { page: usize, count: usize },
    /// Map a range where nothing is.
    Map {
        page: usize,
        count: usize,
        protection: Protection,
        backing: Backing,
    },
    /// Map a range, whatever is there.
    Replace {
        page: usize,
        count: usize,
        protection: Protection,
        backing: Backing,
    },
    /// Map the 2 MiB from page 8 by one entry.
    MapHuge { protection: Protection },
    /// Ask for huge pages in a range, or for none.
    Huge { page: usize, count: usize, on: bool },
    /// Unmap a range.
    Unmap { page: usize, count: usize },
    /// Change the protection of a range.
    Protect {
        page: usize,
        count: usize,
        protection: Protection,
    },
    /// Forget the content of a range.
    DontNeed { page: usize, count: usize },
    /// Make the pages of a range leave for the swap area (`MADV_PAGEOUT`).
    PageOut { page: usize, count: usize },
    /// Make the pages of a range the first to leave (`MADV_COLD`).
    Cold { page: usize, count: usize },
    /// Let the pages of a range be dropped until they are written again (`MADV_FREE`).
    Free { page: usize, count: usize },
    /// Read what is swapped out of a range (`MADV_WILLNEED`).
    WillNeed { page: usize, count: usize },
    /// Switch the swap area on, if it is off.
    SwapOn,
    /// Switch the swap area off.
    SwapOff,
    /// Move a range.
    Move { page: usize, count: usize, to: usize },
    /// Make another process, a copy of this one.
    Fork { process: usize },
    /// Unmap everything, as `execve` does.
    Exec,
    /// End the space although threads may run in it.
    End,
    /// Start another thread of the process.
    Start { thread: usize },
    /// End a thread, wherever it is.
    Kill { process: usize, thread: usize },
    /// Wait until no CPU can hold a translation that was changed up to now.
    Flushed,
    /// Flush everything on every CPU, as the reclaimer does, and wait for it.
    FlushEverywhere,
    /// The kernel reads a page of the file on the disk for a system call.
    ReadFile { page: usize },
    /// Drop the pages of the file on the disk that nothing maps, and then, used or not, that of this page.
    Discard { page: usize },
    /// Let others run.
    Yield,
    /// Sleep so many ticks of the virtual clock.
    Sleep { ticks: u64 },
    /// Let the allocation after the next `after` fail.
    FailAllocation { after: u64 },
    /// Give all cached frames back to the buddy lists.
    Drain,
    /// Change the size of the pool of zeroed frames.
    Pool { frames: u32 },
    /// Wait until `advance` was done so many times.
    Await { turn: u64 },
    /// Let the thread that awaits the next turn go on.
    Advance,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Thread {
    /// The CPU that runs it.
    pub cpu: usize,
    /// What it does.
    pub steps: Vec<Step>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Process {
    /// Its threads; the first runs from the start of the process.
    pub threads: Vec<Thread>,
}

/// The machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Virtual CPUs.
    pub cpus: usize,
    /// Whether threads that wait for their turn move to CPUs that are idle.
    pub balance: bool,
    /// Frames of physical memory.
    pub frames: u32,
    /// PCIDs of each CPU; 0 for none.
    pub pcids: u16,
    /// Fault slots.
    pub slots: usize,
    /// Whether faults are queued to the service, served when the poll that met them is over, or by that poll.
    pub mode: FaultMode,
    /// In how many of 8 cases a CPU in user mode does not yet take an interrupt that is due.
    pub lateness: u64,
    /// Frames that the idle task keeps zeroed.
    pub zeroed: u32,
    /// In how many of 16 steps a CPU walks the page tables on its own.
    pub speculation: u64,
    /// In how many of 16 cases the disk, or the swap device, fails.
    pub disk_errors: u64,
    /// Pages of the swap area, which is on from the start; 0 for none, and no reclaimer.
    pub swap: u32,
    /// Frames that faults leave where memory can be reclaimed; the reclaimer starts with twice as many, and stops with
    /// three times as many.
    pub reserve: u32,
    /// Pages that a first write gets at most.
    pub run_ahead: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cpus: 1,
            balance: false,
            frames: 160,
            pcids: 0,
            slots: 8,
            mode: FaultMode::Queued,
            lateness: 0,
            zeroed: 0,
            speculation: 0,
            disk_errors: 0,
            swap: 0,
            reserve: 16,
            run_ahead: 1,
        }
    }
}

/// Everything that a world is made from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Script {
    /// The machine.
    pub settings: Settings,
    /// Who chooses the next step.
    pub schedule: Schedule,
    /// The processes; the first runs from the start.
    pub processes: Vec<Process>,
}

impl Script {
    /// Steps of all threads together.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.processes
            .iter()
            .flat_map(|process| &process.threads)
            .map(|thread| thread.steps.len())
            .sum()
    }
}

fn letters(protection: Protection) -> String {
    protection.to_string().replace('-', "")
}

/// The letters of a protection, or `none`.
struct Letters(Protection);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = letters(self.0);
        f.write_str(if letters.is_empty() { "none" } else { &letters })
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = BACKINGS.iter().find(|(_, backing)| backing == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Read { page } => write!(f, "read {page}"),
            Step::ReadFile { page } => write!(f, "read-file {page}"),
            Step::Discard { page } => write!(f, "discard {page}"),
            Step::Write { page } => write!(f, "write {page}"),
            Step::Execute { page } => write!(f, "execute {page}"),
            Step::Abandon { page } => write!(f, "abandon {page}"),
            Step::CopyIn { page } => write!(f, "copy-in {page}"),
            Step::CopyOut { page } => write!(f, "copy-out {page}"),
            Step::Populate { page, count } => write!(f, "populate {page} {count}"),
            Step::Map {
                page,
                count,
                protection,
                backing,
            } => write!(f, "map {page} {count} {} {backing}", Letters(protection)),
            Step::Replace {
                page,
                count,
                protection,
                backing,
            } => write!(f, "replace {page} {count} {} {backing}", Letters(protection)),
            Step::MapHuge { protection } => write!(f, "map-huge {}", Letters(protection)),
            Step::Huge { page, count, on: true } => write!(f, "huge {page} {count}"),
            Step::Huge { page, count, on: false } => write!(f, "no-huge {page} {count}"),
            Step::Unmap { page, count } => write!(f, "unmap {page} {count}"),
            Step::Protect {
                page,
                count,
                protection,
            } => write!(f, "protect {page} {count} {}", Letters(protection)),
            Step::PageOut { page, count } => write!(f, "page-out {page} {count}"),
            Step::Cold { page, count } => write!(f, "cold {page} {count}"),
            Step::Free { page, count } => write!(f, "free {page} {count}"),
            Step::WillNeed { page, count } => write!(f, "will-need {page} {count}"),
            Step::SwapOn => f.write_str("swap-on"),
            Step::SwapOff => f.write_str("swap-off"),
            Step::DontNeed { page, count } => write!(f, "dont-need {page} {count}"),
            Step::Move { page, count, to } => write!(f, "move {page} {count} {to}"),
            Step::Fork { process } => write!(f, "fork {process}"),
            Step::Exec => f.write_str("exec"),
            Step::End => f.write_str("end"),
            Step::Start { thread } => write!(f, "start {thread}"),
            Step::Kill { process, thread } => write!(f, "kill {process} {thread}"),
            Step::Flushed => f.write_str("flushed"),
            Step::FlushEverywhere => f.write_str("flush-everywhere"),
            Step::Yield => f.write_str("yield"),
            Step::Sleep { ticks } => write!(f, "sleep {ticks}"),
            Step::FailAllocation { after } => write!(f, "fail-allocation {after}"),
            Step::Drain => f.write_str("drain"),
            Step::Pool { frames } => write!(f, "pool {frames}"),
            Step::Await { turn } => write!(f, "await {turn}"),
            Step::Advance => f.write_str("advance"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            cpus,
            balance,
            frames,
            pcids,
            slots,
            mode,
            lateness,
            zeroed,
            speculation,
            disk_errors,
            swap,
            reserve,
            run_ahead,
        } = self.settings;
        let mode = match mode {
            FaultMode::Queued => "queued",
            FaultMode::HandedOff => "handed-off",
            FaultMode::Inline => "inline",
        };
        write!(
            f,
            "world cpus={cpus} frames={frames} pcids={pcids} slots={slots} mode={mode}"
        )?;
        write!(f, " lateness={lateness} zeroed={zeroed} speculation={speculation}")?;
        write!(f, " disk-errors={disk_errors}")?;
        if (swap, reserve) != (0, Settings::default().reserve) {
            write!(f, " swap={swap} reserve={reserve}")?;
        }
        if balance {
            write!(f, " balance=on")?;
        }
        if run_ahead != Settings::default().run_ahead {
            write!(f, " run-ahead={run_ahead}")?;
        }
        writeln!(f)?;
        writeln!(f, "schedule {}", self.schedule)?;
        for process in &self.processes {
            writeln!(f, "process")?;
            for thread in &process.threads {
                writeln!(f, "  thread cpu={}", thread.cpu)?;
                for step in &thread.steps {
                    writeln!(f, "    {step}")?;
                }
            }
        }
        Ok(())
    }
}
