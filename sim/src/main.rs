//! The command `sim`: runs many worlds and says what they found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use faultline_probe::Mutant;
use faultline_sim::{
    Campaign, Found, Kind, Lane, Profile, Schedule, Script, Shard, default_jobs, hunt, read_trace, shrink,
};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs mm and executor in many simulated machines, and tries to break them.
///
/// The same seed and profile give the same world on every machine. When a world fails, its script is made smaller and
/// printed with what happened in it, and the exit status is 1.
#[derive(Debug, Parser)]
#[command(name = "sim", bin_name = "cargo run -- sim")]
struct Options {
    /// How many seeds to run, over all shards
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    from: u64,
    /// The kinds of worlds, which the seeds take in turns; all if not given
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    profile: Vec<Profile>,
    /// How many worlds to run at a time; one for each processor if not given
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Run part K of N equal parts of the seeds
    #[arg(long, value_name = "K/N", default_value = "1/1")]
    shard: Shard,
    /// Run one script instead of seeds, and print what happens in it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from", "mutants"])]
    script: Option<PathBuf>,
    /// Repeat the faults of a recorded run: the text that `trace FILE --text` prints; with --print, as a script
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from", "mutants", "script"])]
    replay: Option<PathBuf>,
    /// Write a failing script, made smaller, to this file
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Print the script of a seed instead of running it
    #[arg(long)]
    print: bool,
    /// Plant each known mistake in turn, and see how many worlds it takes to find it
    #[arg(long)]
    mutants: bool,
    /// With --mutants, only the mistake of this name
    #[arg(long, value_name = "NAME", requires = "mutants")]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    // The program ends with the reader of its output. SAFETY: the default action is valid for SIGPIPE, and no other thread
    // runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<bool> {
    if let Some(path) = &options.script {
        return run_script(path);
    }
    if let Some(path) = &options.replay {
        return replay(path, options);
    }
    let campaign = Campaign {
        from: options.from,
        seeds: options.seeds,
        profiles: match options.profile.as_slice() {
            // A mutant is hunted where it would live.
            [] if options.mutants => Vec::new(),
            [] => Profile::ALL.to_vec(),
            profiles => profiles.to_vec(),
        },
        jobs: options.jobs.unwrap_or_else(default_jobs).max(1),
        shard: options.shard,
    };
    if options.print {
        let profile = campaign.profile(options.from);
        print!("{}", faultline_sim::generate(profile, options.from));
        return Ok(true);
    }
    if options.mutants {
        return run_mutants(options, &campaign);
    }
    let bar = bar(campaign.worlds());
    let start = Instant::now();
    let summary = campaign.run(|| bar.inc(1));
    bar.finish_and_clear();
    println!("{summary}");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "in {seconds:.1} s, {:.0} worlds a minute",
        summary.worlds as f64 / seconds * 60.0
    );
    match &summary.found {
        None => Ok(true),
        Some(found) => {
            report(found, options.keep.as_deref())?;
            Ok(false)
        }
    }
}

fn bar(worlds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} worlds, {per_sec}, {eta} left");
    let bar = ProgressBar::new(worlds);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Prints a failing world, made smaller.
fn report(found: &Found, keep: Option<&Path>) -> anyhow::Result<()> {
    let profile = format!("{:?}", found.profile).to_lowercase();
    println!("\nseed {} of profile {profile} fails: {}", found.seed, found.failure);
    println!("making it smaller ...");
    let (script, failure) = shrink(&found.script);
    println!("\n{script}\n{failure}\n\nwhat happened:");
    for event in Lane::default().run(&Arc::new(script.clone()), true).events {
        println!("{event}");
    }
    println!("\n{failure}");
    if let Some(path) = keep {
        let text = format!("# {failure}\n{script}");
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("the script is kept in {}", path.display());
    }
    Ok(())
}

fn run_script(path: &Path) -> anyhow::Result<bool> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let script: Script = text.parse().with_context(|| path.display().to_string())?;
    let outcome = Lane::default().run(&Arc::new(script), true);
    for event in &outcome.events {
        println!("{event}");
    }
    match outcome.failure {
        None => println!("nothing is wrong"),
        Some(ref failure) => println!("{failure}"),
    }
    Ok(outcome.failure.is_none())
}

/// Schedules with which a recorded run is repeated, of each kind.
const REPLAYS: u64 = 10;

/// Repeats a recorded run with several schedules.
fn replay(path: &Path, options: &Options) -> anyhow::Result<bool> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let replay = read_trace(&text).with_context(|| path.display().to_string())?;
    if options.print {
        print!("{}", replay.script);
        return Ok(true);
    }
    println!(
        "{} faults of {} threads in {} spaces and {} forks are repeated, in their order; {} faults are not",
        replay.faults,
        replay
            .script
            .processes
            .iter()
            .skip(1)
            .map(|process| process.threads.len())
            .sum::<usize>(),
        replay.script.processes.len() - 1,
        replay.forks,
        replay.left_out
    );
    println!(
        "not reproduced: computation, time, sizes of mappings (each page is mapped when it is first used), unmapping but \
         where a later fault shows it, signals, what user memory held"
    );
    let kinds = [Kind::Random, Kind::Bounded, Kind::Pct];
    let schedules = kinds
        .into_iter()
        .flat_map(|kind| (0..REPLAYS).map(move |seed| Schedule { kind, seed }));
    let mut lane = Lane::default();
    for schedule in schedules {
        let script = Arc::new(Script {
            schedule,
            ..replay.script.clone()
        });
        if let Some(failure) = lane.run(&script, false).failure {
            let found = Found {
                seed: schedule.seed,
                profile: Profile::Single,
                script,
                failure,
            };
            report(&found, options.keep.as_deref())?;
            return Ok(false);
        }
    }
    println!("nothing is wrong with {} schedules", REPLAYS * 3);
    Ok(true)
}

/// Worlds in which a mutant has to be found.
const MUTANT_WORLDS: u64 = 10_000;

fn run_mutants(options: &Options, campaign: &Campaign) -> anyhow::Result<bool> {
    let mutants: Vec<Mutant> = Mutant::ALL
        .iter()
        .copied()
        .filter(|mutant| options.mutant.as_ref().is_none_or(|name| name == mutant.name()))
        .collect();
    if mutants.is_empty() {
        let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        bail!("no such mutant; there are {}", names.join(", "));
    }
    let campaign = Campaign {
        seeds: MUTANT_WORLDS,
        ..campaign.clone()
    };
    let mut survivors = 0;
    for mutant in &mutants {
        let verdict = hunt(*mutant, &campaign);
        match &verdict.killed_by {
            Some(found) => println!(
                "{:24} killed after {:5} worlds: {}: {}",
                mutant.name(),
                verdict.worlds,
                mutant.text(),
                found.failure
            ),
            None => {
                survivors += 1;
                println!(
                    "{:24} SURVIVED {} worlds: {}",
                    mutant.name(),
                    verdict.worlds,
                    mutant.text()
                );
            }
        }
        if options.mutant.is_some()
            && let Some(found) = &verdict.killed_by
        {
            faultline_probe::switch_on(Some(*mutant));
            report(found, options.keep.as_deref())?;
            faultline_probe::switch_on(None);
        }
    }
    println!("{} of {} mutants were found", mutants.len() - survivors, mutants.len());
    Ok(survivors == 0)
}
