//! Builds the kernel, the boot stage and the sample tasks with a nested cargo.
//!
//! Quiet unless something fails. Builds that are up to date cost a look at the file times. Concurrent callers wait for
//! each other on cargo's own locks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::setup::{CoreLibrary, KERNEL_TARGET, Linker, Toolchain, USER_TARGET};
use crate::workspace;

/// Disk that the builds of kernel and sample tasks take.
const DISK: &str = "200 MB";

/// What the builds leave behind.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The kernel with its symbols and line tables.
    pub kernel: PathBuf,
    /// The boot stage.
    pub boot: PathBuf,
    /// The folder with the sample tasks.
    tasks: PathBuf,
}

impl Artifacts {
    /// The file of a sample task, if there is one by that name.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<PathBuf> {
        task_names()
            .iter()
            .any(|task| task == name)
            .then(|| self.tasks.join(name))
    }
}

/// The names of the sample tasks: the files in `user/src/bin`, and the folders there that have a `main.rs`.
#[must_use]
pub fn task_names() -> Vec<String> {
    let folder = workspace::root().join("user/src/bin");
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let is_task =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
    let mut names: Vec<_> = entries
        .filter(is_task)
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Builds everything that a run needs.
///
/// # Errors
/// Fails with cargo's own words when a build fails.
pub fn all(toolchain: Toolchain) -> anyhow::Result<Artifacts> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {prefix} {wide_msg}").expect("the template is well-formed"));
    let target = workspace::target_dir();
    let kernel_dir = target.join(match toolchain.core {
        CoreLibrary::Prebuilt => "kernel",
        CoreLibrary::BuildStd => "kernel-build-std",
    });
    let user_dir = target.join("user");
    let artifacts = Artifacts {
        kernel: kernel_dir.join(KERNEL_TARGET).join("kernel/faultline-kernel"),
        boot: kernel_dir.join(KERNEL_TARGET).join("kernel/faultline-boot"),
        tasks: user_dir.join(USER_TARGET).join("release"),
    };
    bar.enable_steady_tick(Duration::from_millis(100));

    bar.set_prefix("building the kernel");
    let is_new = !artifacts.kernel.is_file() || !artifacts.tasks.is_dir();
    if is_new && bar.is_hidden() {
        eprintln!(
            "faultline: building the kernel and the sample tasks, which takes a minute or two the first time and about \
             {DISK} of disk in {}",
            target.display()
        );
    }
    run(kernel_command(toolchain, &kernel_dir), &bar)?;
    bar.set_prefix("building the sample tasks");
    let mut command = workspace::toolchain_command(workspace::cargo());
    command.args([
        "build",
        "--release",
        "--package",
        "faultline-user",
        "--bins",
        "--target",
        USER_TARGET,
    ]);
    command.arg("--target-dir").arg(&user_dir);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    run(command, &bar)?;
    bar.finish_and_clear();

    for file in [&artifacts.kernel, &artifacts.boot] {
        if !file.is_file() {
            bail!("cargo built no {}", file.display());
        }
    }
    Ok(artifacts)
}

/// The command that builds the kernel and its boot stage.
#[must_use]
pub fn kernel_command(toolchain: Toolchain, target_dir: &Path) -> Command {
    let mut command = workspace::toolchain_command(workspace::cargo());
    command.args(["build", "--profile", "kernel", "--target", KERNEL_TARGET]);
    command.args(["--package", "faultline-kernel", "--package", "faultline-boot"]);
    command.arg("--target-dir").arg(target_dir);
    if toolchain.core == CoreLibrary::BuildStd {
        command.args([
            "-Zbuild-std=core,alloc,compiler_builtins",
            "-Zbuild-std-features=compiler-builtins-mem",
        ]);
        // -Z wants a nightly toolchain, or this. Cargo builds the library with it anyway.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    if toolchain.linker == Linker::Lld {
        command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld");
    }
    command
}

/// Runs a build and keeps what it says for the case that it fails.
fn run(mut command: Command, bar: &ProgressBar) -> anyhow::Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cargo can't be started")?;
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().expect("standard error is piped")).lines() {
        let line = line.context("cargo's output can't be read")?;
        bar.set_message(line.trim().to_owned());
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait().context("cargo can't be waited for")?;
    if !status.success() {
        bar.finish_and_clear();
        bail!("this build failed: {command:?}\n{said}");
    }
    Ok(())
}
