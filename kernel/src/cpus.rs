//! What a CPU does between two turns of its executor: it serves interrupts, and rests when there is nothing to do.
//!
//! Kernel code runs with interrupts off. They are served in user mode and between turns, or tasks of the kernel that always
//! find something to do would never hear of a disk. The CPU waits for one only when a turn found nothing to do and nothing has
//! come up since.
//!
//! The boot CPU has the run to look after ([`scenario`](crate::scenario)) and takes the interrupts of devices. The others only
//! run tasks, and tell it when something has changed that it looks at.

use core::hint::spin_loop;

use faultline_executor::Turn;

use crate::arch::{self, cpu, smp};
use crate::machine::{executor, holds_users, memory};
use crate::process::{run_time, tree};
use crate::tracing;

/// Lets the other CPUs run tasks.
pub fn release() {
    smp::release(run, || memory().acknowledge());
}

/// The loop of a CPU that is not the boot CPU.
fn run() -> ! {
    let cpu = cpu::index();
    let mut seen = News::now();
    loop {
        let turn = executor().turn(cpu);
        tracing::drain_between_turns(turn.idle);
        let news = News::now();
        if news != seen {
            seen = news;
            smp::interrupt(0);
        }
        rest(&turn, None);
    }
}

/// What the boot CPU looks at between its turns, and sleeps until it changes.
#[derive(PartialEq, Eq)]
struct News {
    roots_ended: u64,
    is_over: bool,
    waits_for_memory: bool,
}

impl News {
    fn now() -> Self {
        Self {
            roots_ended: tree::roots_ended(),
            is_over: tree::process_count() == 0 && memory().ending_spaces() == 0,
            waits_for_memory: memory().faults_waiting_for_memory() > 0,
        }
    }
}

/// Lets this CPU wait for an interrupt, or for the next deadline, or until a time, if a turn found nothing to do and nothing
/// has come up since; serves interrupts in any case.
pub fn rest(turn: &Turn, until: Option<u64>) {
    let is_held = turn.polls == 0 && holds_users();
    if is_held || turn.idle && !executor().has_work(cpu::index()) {
        run_time::pause();
        let deadline = turn.next_deadline.into_iter().chain(until).min();
        let deadline = deadline.into_iter().chain(tracing::drain_by()).min();
        arch::alarm::only(deadline.map(arch::clock::counter_at));
        arch::idle();
        run_time::resume();
    } else {
        arch::let_interrupts_in();
    }
}

/// Lets all other CPUs stand still, without a translation of any space, at the end of a run. They never go on.
pub fn stop_for_good() {
    if smp::count() > 1 {
        let number = memory().flush_everywhere();
        while !memory().has_flushed_everywhere(number) {
            arch::let_interrupts_in();
            spin_loop();
        }
        smp::stop();
    }
}
