//! What each process had in memory at the most, for the report of a run with `processes=on`.
//!
//! Pages are counted by a walk over the page tables, so that no fault pays for it: of every process when its last thread
//! ends, before anything is unmapped, and of all processes every [`INTERVAL`], or less often where the walks take long. A
//! process that frees memory in between may have had more.
//!
//! The table has room for [`ROOM`] processes. A process that finds none takes the place of one that has ended and had less;
//! the report says how many are left out.

use core::convert::Infallible;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use faultline_executor::Class;
use faultline_fallible::Arc;
use spin::Mutex;

use super::thread::Name;
use super::tree::{self, Walk};
use super::{Pid, Process, Thread};
use crate::fs::proc;
use crate::machine::executor;
use crate::syscall::{self, Call, Outcome};
use crate::time;

/// How often all processes are looked at, in nanoseconds.
const INTERVAL: u64 = 10_000_000;

/// The part of the time that walks may take: one in so many.
const SHARE: u64 = 20;

/// Processes that the report can name.
pub const ROOM: usize = 64;

/// What is known of a process.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    pid: Pid,
    parent: Pid,
    name: Name,
    has_ended: bool,
    /// The most pages that it had when it was looked at.
    pages: u64,
    /// Faults served without I/O, and those that waited for it.
    faults: [u64; 2],
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            parent,
            faults: [minor, major],
            ..
        } = self;
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        let name = self.name[..length].escape_ascii();
        write!(f, "{pid} {parent} {} {minor} {major} {name}", self.pages * 4)
    }
}

static IS_ON: AtomicBool = AtomicBool::new(false);

struct Table {
    peaks: [Option<Peak>; ROOM],
    left_out: u64,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    peaks: [None; ROOM],
    left_out: 0,
});

/// Begins to look.
///
/// # Panics
/// If there is no memory for the task, at the start.
pub fn start() {
    IS_ON.store(true, Ordering::Relaxed);
    let task = executor().spawn("peaks", Class::User, serve());
    task.expect("the first tasks find memory").detach();
}

/// Whether processes are looked at.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Those with a place in the table, and how many have none.
pub fn all() -> ([Option<Peak>; ROOM], u64) {
    let table = TABLE.lock();
    (table.peaks, table.left_out)
}

async fn serve() -> Infallible {
    loop {
        let began = time::now();
        for process in Walk::all() {
            if process.thread_count() > 0 {
                look(&process, false).await;
            }
        }
        let now = time::now();
        time::sleep_until(now + INTERVAL.max((now - began) * SHARE)).await;
    }
}

/// A last look at a process whose last thread ends, if that thread has nothing else left to do. Without room for it in the
/// kernel heap there is none.
pub fn before_the_end(thread: &Arc<Thread>, rest: Option<Call>) -> Option<Call> {
    if rest.is_some() || !is_on() || thread.process.thread_count() > 1 {
        return rest;
    }
    let process = thread.process.clone();
    syscall::boxed(|| finish(process)).ok()
}

async fn finish(process: Arc<Process>) -> Outcome {
    look(&process, true).await;
    Outcome::Return(Ok(0))
}

async fn look(process: &Process, has_ended: bool) {
    let pages = proc::pages_of(process).await;
    let used = process.totals();
    let peak = Peak {
        pid: process.pid,
        parent: tree::parent_of(process.pid),
        name: process.name(),
        has_ended: has_ended || process.ending().is_some(),
        pages: pages.own + pages.shared,
        faults: [used.minor_faults, used.major_faults],
    };
    TABLE.lock().note(peak, has_ended);
}

impl Table {
    /// Notes what was seen of a process; `last` says that it is not looked at again.
    fn note(&mut self, mut peak: Peak, last: bool) {
        if let Some(known) = self.peaks.iter_mut().flatten().find(|known| known.pid == peak.pid) {
            peak.pages = peak.pages.max(known.pages);
            // At its end it has no parent any more.
            peak.parent = known.parent;
            *known = peak;
        } else if let Some(place) = self.peaks.iter_mut().find(|place| place.is_none()) {
            *place = Some(peak);
        } else {
            let ended = self.peaks.iter_mut().flatten().filter(|known| known.has_ended);
            let least = ended.min_by_key(|known| known.pages);
            match least.filter(|least| least.pages < peak.pages) {
                Some(least) => {
                    *least = peak;
                    self.left_out += 1;
                }
                None => self.left_out += u64::from(last),
            }
        }
    }
}
