//! The task that goes with a binary trace: it sends blocks that fill slowly, samples counters and reads commands.
//!
//! A command is one line of text from the host:
//!
//! | command | effect |
//! |---|---|
//! | `kill PID` | raises SIGKILL for the process |
//! | `end` | raises SIGKILL for every process, so that the run comes to its orderly end |
//! | `trace LIST` | switches the trace to these categories; an empty list switches it off |

use core::convert::Infallible;

use faultline_executor::Class;
use faultline_trace::{Category, FaultClass, Kind};

use super::{BINARY_AGE, age, is_on, record_for, stream};
use crate::machine::{executor, memory};
use crate::process::tree;
use crate::signal::{Signal, SignalInfo, raise};
use crate::{config, time};

/// How often counters are sampled, in nanoseconds.
const PERIOD: u64 = 500_000;

/// Samples between two that tell of every class of faults.
const RARELY: u32 = 64;

/// Starts the task.
pub fn spawn() {
    if let Ok(task) = executor().spawn("trace", Class::Device, pump()) {
        task.detach();
    } else {
        ::log::warn!("there is no task for the trace: it comes in whole blocks only");
    }
}

async fn pump() -> Infallible {
    let mut round = 0u32;
    loop {
        sample_frames();
        if round.is_multiple_of(RARELY) {
            sample_counts();
        }
        round = round.wrapping_add(1);
        if age() > BINARY_AGE {
            stream::flush();
        }
        stream::receive(obey);
        time::sleep_until(time::now() + PERIOD).await;
    }
}

/// Records every counter as it is now.
pub fn sample() {
    sample_frames();
    sample_counts();
}

fn sample_frames() {
    if !is_on(Kind::SampleFree) {
        return;
    }
    let account = memory().account();
    record_for(0, Kind::SampleFree, account.free + account.cached, account.zeroed);
    record_for(0, Kind::SampleUsed, account.mapped, account.page_tables);
    record_for(0, Kind::SampleHeld, account.reserved, account.quarantined);
    let waiting = memory().faults_waiting_for_memory();
    record_for(
        0,
        Kind::SampleFaults,
        memory().faults_in_flight() as u64,
        waiting as u64,
    );
}

fn sample_counts() {
    if !is_on(Kind::SampleServed) {
        return;
    }
    let stats = memory().stats();
    for class in FaultClass::ALL {
        record_for(0, Kind::SampleServed, class as u64, stats.served[class as usize]);
    }
    record_for(0, Kind::SampleFlushes, stats.tlb_flushes, stats.tlb_pages);
    record_for(0, Kind::SampleSkips, stats.tlb_skips, stats.tlb_bumps);
}

/// Does what the lines of a message say; a line that means nothing is ignored.
fn obey(message: &[u8]) {
    for line in message.split(|&byte| byte == b'\n') {
        let Ok(line) = str::from_utf8(line) else { continue };
        match line.trim().split_once(' ') {
            Some(("kill", pid)) => {
                let process = pid.trim().parse().ok().and_then(tree::find_process);
                if let Some(process) = process {
                    raise::to_process(&process, SignalInfo::kernel(Signal::SIGKILL));
                }
            }
            Some(("trace", list)) => {
                if let Some(categories) = config::categories(list.trim()) {
                    super::set_categories(categories);
                }
            }
            _ if line.trim() == "end" => tree::for_each_living(|process| {
                raise::to_process(process, SignalInfo::kernel(Signal::SIGKILL));
            }),
            _ if line.trim() == "trace" => super::set_categories(Category::empty()),
            _ => {}
        }
    }
}
