//! `sim`: builds the simulation, fast and with all assertions, and runs it.

use anyhow::{Context, bail};

use crate::cli::Sim;
use crate::workspace;

/// Runs the simulation with the arguments that it is given; the status is its own.
///
/// # Errors
/// If it can't be built or started.
pub fn run(arguments: &Sim) -> anyhow::Result<u8> {
    let target = workspace::target_dir().join("simulation");
    let status = workspace::toolchain_command(workspace::cargo())
        .args([
            "build",
            "--quiet",
            "--profile",
            "sim",
            "--package",
            "faultline-sim",
            "--target-dir",
        ])
        .arg(&target)
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("the simulation could not be built");
    }
    let program = target.join("sim/faultline-sim");
    let status = std::process::Command::new(&program)
        .args(&arguments.arguments)
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    match status.code() {
        Some(code) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        None => bail!("the simulation was ended: {status}"),
    }
}
