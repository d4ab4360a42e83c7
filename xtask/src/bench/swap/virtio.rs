//! Pages that come back from swap on a virtio disk over a file of this machine, in time.
//!
//! Under plain TCG the guest's clock follows the host's, and the disk is as fast as the host's: nothing of it repeats. So the
//! systems take turns, round by round, each with a new temporary file, and the least time for a page of all rounds is kept.

use std::iter;

use anyhow::Context;
use indicatif::ProgressBar;
use serde::Serialize;

use super::super::figures::Column;
use super::super::linux::Linux;
use super::super::{Times, keep_least, run_program};
use super::{on_command_line, words};
use crate::build::Artifacts;
use crate::cli;
use crate::config::{Config, Switch};
use crate::disks;
use crate::machine::{Accel, Hardware};

/// Size of the swap area in MiB.
const SWAP: u64 = 64;

/// Parts of the names of the operations that are measured.
const OPERATIONS: [&str; 2] = ["swap-in", "random"];

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rounds {
    /// How many rounds there were.
    pub rounds: u32,
    /// The least time for a page of each operation, in nanoseconds, by system; ours is the first.
    pub systems: Vec<(String, Times)>,
}

/// Measures in turns, as many rounds as were asked for. If the filter leaves nothing to measure, the first shows it.
///
/// # Errors
/// Fails when a machine doesn't come to an orderly end.
pub fn measure(
    artifacts: &Artifacts,
    program: &[u8],
    kernels: &[Linux],
    arguments: &cli::Bench,
    bar: &ProgressBar,
) -> anyhow::Result<Rounds> {
    let systems: Vec<Option<&Linux>> = iter::once(None).chain(kernels.iter().map(Some)).collect();
    let name = |linux: &Option<&Linux>| linux.map_or_else(|| "Faultline".to_owned(), |linux| linux.name.clone());
    let mut rounds = Rounds {
        rounds: arguments.rounds,
        systems: systems.iter().map(|linux| (name(linux), Times::new())).collect(),
    };
    for round in 1..=arguments.rounds {
        for (linux, (name, least)) in systems.iter().zip(&mut rounds.systems) {
            bar.set_message(format!("{name}: virtio disk, round {round} of {}", arguments.rounds));
            let text = match linux {
                None => boot_faultline(artifacts, arguments)?,
                Some(linux) => boot_linux(linux, program, arguments)?,
            };
            let column = Column::parse(&text).with_context(|| name.clone())?;
            keep_least(least, &column, |figures| figures.counts.get("each").copied());
            bar.inc(1);
        }
        if rounds.systems.iter().all(|(_, least)| least.is_empty()) {
            break;
        }
    }
    Ok(rounds)
}

/// A machine with a swap area in a file of its own.
fn machine(arguments: &cli::Bench) -> anyhow::Result<Hardware> {
    Ok(Hardware {
        memory: arguments.memory(),
        accel: Accel::Tcg,
        disks: vec![disks::swap(&format!("{SWAP}M"))?.open()?],
        ..Hardware::default()
    })
}

fn boot_faultline(artifacts: &Artifacts, arguments: &cli::Bench) -> anyhow::Result<String> {
    let mut config = Config::new();
    config.set("zero_pool", Switch::Off)?;
    let words = words(arguments, &OPERATIONS);
    let (text, _) = run_program(artifacts, config, &machine(arguments)?, &words, arguments.timeout)?;
    Ok(text)
}

fn boot_linux(linux: &Linux, program: &[u8], arguments: &cli::Bench) -> anyhow::Result<String> {
    let mut first = ["--init".to_owned(), "--virtio".to_owned(), SWAP.to_string()].to_vec();
    first.extend(words(arguments, &OPERATIONS));
    linux.boot(program, &on_command_line(first), machine(arguments)?, arguments.timeout)
}
