//! What happens when faults wait for memory and nobody gives any back.
//!
//! Running out of frames is no error: a fault that finds none waits until one is free. Usually somebody frees some: a
//! process ends, unmaps, or a flush releases what waited for it. When faults wait and either nothing at all can run, or
//! nothing was freed for [`PATIENCE`], nobody will: then a *victim* is chosen, the process that holds most memory
//! ([`Holdings`]), and ended by `SIGKILL`. The log, the trace and the report say which, why and how much it held. The next
//! victim is not chosen before this one is gone. Where memory can be reclaimed, waiting is no shortage: first the reclaimer must
//! have gone round all memory twice and freed nothing, with no write under way.
//!
//! The choice looks at every process, one after the other, in a task of its own that was made at the start; it allocates
//! nothing, and shares the CPU fairly with the programs.

mod holdings;

use core::convert::Infallible;
use core::fmt;
use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use faultline_executor::{Class, WaitQueue, yield_now};
use faultline_trace::Kind;
use spin::Mutex;

pub use self::holdings::Holdings;
use crate::machine::{executor, memory};
use crate::process::thread::Name;
use crate::process::tree::Walk;
use crate::process::{ExitStatus, Pid, Process, UNCHOSEN};
use crate::signal::Signal;
use crate::{time, tracing};

/// How long faults may wait for memory while others run, in nanoseconds.
const PATIENCE: u64 = 100_000_000;

/// How many victims the report names, the first ones.
const NAMED: usize = 8;

/// What the task has to do.
enum Choice {
    /// Nothing.
    None,
    /// To choose a victim.
    Wanted,
    /// This is the last victim, until it is gone.
    Made(Option<Arc<Process>>),
}

static CHOICE: Mutex<Choice> = Mutex::new(Choice::None);

/// The task waits here.
static CALLED: WaitQueue = WaitQueue::new();

/// A process that was ended to free memory.
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    pid: Pid,
    name: Name,
    holdings: Holdings,
    /// The process that held most after it, and how much, in pages.
    next: Option<(Pid, u64)>,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        let name = self.name[..length].escape_ascii();
        write!(f, "process {} `{name}`, which held most: {}", self.pid, self.holdings)?;
        match self.next {
            Some((pid, pages)) => write!(f, "; next was process {pid} with {} KiB", pages * 4),
            None => Ok(()),
        }
    }
}

static VICTIMS: Mutex<(u64, [Option<Victim>; NAMED])> = Mutex::new((0, [None; NAMED]));

/// Victims so far, and the first of them.
pub fn victims() -> (u64, [Option<Victim>; NAMED]) {
    *VICTIMS.lock()
}

/// Starts the task.
///
/// # Panics
/// If there is no memory for it, at the start.
pub fn start() {
    // A large process takes long to look at, so this shares the CPU with the programs.
    let task = executor().spawn("shortage", Class::User, serve());
    task.expect("the first tasks find memory").detach();
}

async fn serve() -> Infallible {
    loop {
        CALLED
            .wait_until(|| matches!(*CHOICE.lock(), Choice::Wanted).then_some(()))
            .await;
        let victim = choose().await;
        if let Some(victim) = &victim {
            victim.begin_exit(ExitStatus::Killed(Signal::SIGKILL));
        }
        *CHOICE.lock() = Choice::Made(victim);
    }
}

/// Watches for a shortage that does not end by itself.
#[derive(Default)]
pub struct Watch {
    /// Since when faults have been waiting.
    since: Option<u64>,
}

impl Watch {
    /// Looks whether faults wait; `idle` says that nothing else can run.
    #[inline]
    pub fn look(&mut self, idle: bool) {
        if memory().faults_waiting_for_memory() == 0 {
            self.since = None;
            return;
        }
        self.consider(idle);
    }

    #[cold]
    fn consider(&mut self, idle: bool) {
        let over = {
            let mut choice = CHOICE.lock();
            match &*choice {
                Choice::Wanted => return,
                Choice::Made(Some(victim)) if victim.thread_count() > 0 => return,
                _ => core::mem::replace(&mut *choice, Choice::None),
            }
        };
        drop(over);
        let now = time::now();
        let Some(since) = self.since else {
            // Frames that wait for this CPU to flush are released when it leaves the space.
            memory().leave_spaces();
            self.since = Some(now);
            return;
        };
        if (idle || now - since >= PATIENCE) && memory().reclaim_state().is_hopeless() {
            self.since = None;
            *CHOICE.lock() = Choice::Wanted;
            CALLED.wake_one();
        }
    }
}

/// What a process weighs in the choice: what it holds, in pages, and its own adjustment.
fn weight(process: &Process, pages: u64) -> i64 {
    let adjustment = process.victim_adjustment.load(Ordering::Relaxed);
    let (pages, total) = (pages as i64, memory().account().total as i64);
    match adjustment {
        UNCHOSEN => pages - (1 << 60),
        _ => pages + total / 1000 * i64::from(adjustment),
    }
}

/// The process that weighs most; of several, the youngest.
async fn choose() -> Option<Arc<Process>> {
    let mut most: Option<(i64, Holdings, Arc<Process>)> = None;
    let mut next: Option<(i64, Pid, u64)> = None;
    for process in Walk::all() {
        if process.thread_count() == 0 || process.ending().is_some() {
            continue;
        }
        let holdings = Holdings::of(&process).await;
        let pages = holdings.pages();
        let weight = weight(&process, pages);
        if most.as_ref().is_none_or(|(known, ..)| weight >= *known) {
            let before = most.replace((weight, holdings, process));
            next = before.map(|(weight, holdings, process)| (weight, process.pid, holdings.pages()));
        } else if next.is_none_or(|(known, ..)| weight >= known) {
            next = Some((weight, process.pid, pages));
        }
        yield_now().await;
    }
    let waiting = memory().faults_waiting_for_memory();
    if waiting == 0 {
        // Somebody has given memory back meanwhile.
        return None;
    }
    let (_, holdings, process) = most?;
    let victim = Victim {
        pid: process.pid,
        name: process.name(),
        holdings,
        next: next.map(|(_, pid, pages)| (pid, pages)),
    };
    log::warn!("out of memory: {waiting} faults wait and no frame comes free; killing {victim}");
    tracing::record_for(victim.pid, Kind::MemoryVictim, u64::from(victim.pid), holdings.pages());
    let mut victims = VICTIMS.lock();
    if let Some(place) = victims.1.iter_mut().find(|place| place.is_none()) {
        *place = Some(victim);
    }
    victims.0 += 1;
    Some(process)
}
