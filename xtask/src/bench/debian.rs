//! Debian's kernels, by apt-get and without installing anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::workspace;

/// Where packages come from: a list of our own, so that it is the same on every system with apt.
const SOURCES: &str = "deb [signed-by=KEYRING] http://deb.debian.org/debian bookworm main\n\
    deb [signed-by=KEYRING] http://deb.debian.org/debian-security bookworm-security main\n\
    deb [signed-by=KEYRING] http://deb.debian.org/debian bookworm-backports main\n";

/// The keys that sign them, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The modules that make a modelled disk, and those for a virtio disk, in the order in which they need each other.
pub const MODULES: [&str; 8] = [
    "configfs.ko",
    "null_blk.ko",
    "virtio_ring.ko",
    "virtio.ko",
    "virtio_pci_legacy_dev.ko",
    "virtio_pci_modern_dev.ko",
    "virtio_pci.ko",
    "virtio_blk.ko",
];

/// The small kernels for virtual machines, 6.1 and 6.12: those that lie in the target directory, or else the newest ones.
///
/// # Errors
/// What apt-get said.
pub fn cloud() -> anyhow::Result<Vec<PathBuf>> {
    let folder = workspace::target_dir().join("linux");
    let prefixes = ["vmlinuz-6.1.", "vmlinuz-6.12."];
    let packages = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];
    if !prefixes.iter().all(|prefix| newest(&folder, prefix).is_some()) {
        download(&folder, &packages, &[])?;
    }
    let images = prefixes.iter().map(|prefix| {
        newest(&folder, prefix).with_context(|| format!("no {prefix}* in the packages {}", packages.join(" and ")))
    });
    images.collect()
}

/// The kernel for machines of every kind, which has [`MODULES`]; they lie beside it.
///
/// # Errors
/// What apt-get said.
pub fn generic() -> anyhow::Result<PathBuf> {
    let folder = workspace::target_dir().join("linux/generic");
    let whole = || MODULES.iter().all(|module| folder.join(module).is_file());
    if newest(&folder, "vmlinuz-").is_none() || !whole() {
        download(&folder, &["linux-image-amd64"], &MODULES)?;
    }
    newest(&folder, "vmlinuz-").context("the package linux-image-amd64 has no kernel image")
}

/// The last file of a folder whose name begins so.
fn newest(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let files = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    files.filter(named).max()
}

/// Downloads what these packages depend on first, and keeps the kernel images and the files of these names. apt-get works
/// in a folder of its own, with lists of its own: nothing is installed and nothing of the system's is changed.
fn download(folder: &Path, packages: &[&str], files: &[&str]) -> anyhow::Result<()> {
    let fetched = fetch(folder, packages, files);
    fetched.context(
        "Debian's kernels can't be had; --linux takes the path of any kernel image with a serial console instead",
    )
}

fn fetch(folder: &Path, packages: &[&str], files: &[&str]) -> anyhow::Result<()> {
    let work = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial", "packages"] {
        fs::create_dir_all(work.join(part))?;
    }
    fs::write(work.join("sources.list"), SOURCES.replace("KEYRING", KEYRING))?;
    fs::write(work.join("status"), "")?;
    let tool = |name: &str| {
        let mut command = Command::new(name);
        for (option, value) in [
            ("Dir::Etc::sourcelist", work.join("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::State::lists", work.join("lists")),
            ("Dir::State::status", work.join("status")),
            ("Dir::Cache", work.join("cache")),
            ("APT::Sandbox::User", "".into()),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        command.args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64"]);
        command.current_dir(work.join("packages"));
        command
    };
    eprintln!(
        "downloading {} of Debian into {}",
        packages.join(" and "),
        folder.display()
    );
    said(tool("apt-get").arg("update"))?;
    for package in packages {
        let depends = said(tool("apt-cache").args(["depends", package]))?;
        let newest = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .with_context(|| format!("{package} depends on no kernel:\n{depends}"))?;
        said(tool("apt-get").args(["download", newest]))?;
    }
    for package in fs::read_dir(work.join("packages"))? {
        let content = work.join("content");
        said(Command::new("dpkg-deb").arg("-x").arg(package?.path()).arg(&content))?;
        keep(&content, folder, files)?;
        fs::remove_dir_all(content)?;
    }
    fs::remove_dir_all(work)?;
    Ok(())
}

/// Moves kernel images and the files of these names out of a package.
fn keep(content: &Path, folder: &Path, files: &[&str]) -> anyhow::Result<()> {
    for entry in fs::read_dir(content)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            keep(&entry.path(), folder, files)?;
        } else if text.starts_with("vmlinuz-") || files.iter().any(|file| *file == text) {
            fs::rename(entry.path(), folder.join(&name))?;
        }
    }
    Ok(())
}

/// Runs a command and returns what it said.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} can't be started", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
