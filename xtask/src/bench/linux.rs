//! Linux beside ours: where its kernel comes from, and how it boots with the benchmark as its first process.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

use crate::machine::{self, Accel, End, Hardware};
use crate::ports::Ports;
use crate::workspace;

/// The options under which Linux is at its best in this comparison: no mitigations, no zeroing at allocation, no
/// accounting of memory groups, no random addresses, huge pages for those who ask.
const OPTIONS: &str = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off init_on_alloc=0 randomize_kstack_offset=off \
    cgroup_disable=memory no5lvl audit=0 nokaslr \
    norandmaps transparent_hugepage=madvise sysctl.vm.overcommit_memory=1";

/// The processor: with ERMS Linux would zero byte by byte, 4096 counted steps instead of 512, and with the host's random
/// numbers no run would be like another.
const CPU: &str = "max,-erms,-rdrand,-rdseed";

/// Debian's packages that depend on the newest kernel of each series.
const PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

/// Where they come from: a list of our own, so that it is the same on every system with apt.
const SOURCES: &str = "deb [signed-by=KEYRING] http://deb.debian.org/debian bookworm main\n\
    deb [signed-by=KEYRING] http://deb.debian.org/debian-security bookworm-security main\n\
    deb [signed-by=KEYRING] http://deb.debian.org/debian bookworm-backports main\n";

/// The keys that sign them, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Linux kernel image.
#[derive(Clone, Debug)]
pub struct Linux {
    /// What the tables call it.
    pub name: String,
    image: PathBuf,
}

impl Linux {
    /// The kernels that were asked for.
    ///
    /// # Errors
    /// Says which file isn't there, or what apt-get said.
    pub fn all(asked: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        let mut kernels = Vec::new();
        for image in asked {
            if image.as_os_str() == "auto" {
                kernels.extend(debian()?);
            } else {
                if !image.is_file() {
                    bail!("there is no Linux kernel {}", image.display());
                }
                kernels.push(Self::new(image.clone()));
            }
        }
        Ok(kernels)
    }

    /// A kernel by its file, `vmlinuz-VERSION`.
    fn new(image: PathBuf) -> Self {
        let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = file.strip_prefix("vmlinuz-").unwrap_or(&file);
        let version = version.trim_end_matches("-cloud-amd64").trim_end_matches("+deb12");
        Self {
            name: format!("Linux {version}"),
            image,
        }
    }

    /// Boots it with the program as its first process and returns what that wrote.
    ///
    /// # Errors
    /// Says how the machine ended, if the program didn't end it.
    pub fn boot(
        &self,
        program: &[u8],
        words: &[String],
        memory: u64,
        accel: Accel,
        limit: Duration,
    ) -> anyhow::Result<String> {
        let hardware = Hardware {
            memory,
            accel,
            cpu: CPU.to_owned(),
            command_line: Some(format!("{OPTIONS} -- {}", words.join(" "))),
            fast_output: false,
            ..Hardware::default()
        };
        let ports = Ports {
            log: Box::new(io::sink()),
            stdout: Box::new(io::sink()),
            stderr: Box::new(io::sink()),
        };
        let outcome = machine::run(&hardware, &self.image, &archive(program)?, ports, Some(limit))?;
        if outcome.end != End::Orderly {
            bail!("{}: {}\n{}{}", self.name, outcome.end, outcome.log, outcome.qemu);
        }
        Ok(outcome.log)
    }
}

/// The archive with the program as `/init`.
fn archive(program: &[u8]) -> anyhow::Result<Vec<u8>> {
    let size = u32::try_from(program.len()).context("the program is larger than 4 GiB")?;
    let entry = Builder::new("init").ino(1).nlink(1).mode(0o755);
    let mut writer = entry.set_mode_file_type(ModeFileType::Regular).write(Vec::new(), size);
    writer.write_all(program)?;
    Ok(trailer(writer.finish()?)?)
}

/// Debian's kernels: those that lie in the target directory, or else the newest ones.
fn debian() -> anyhow::Result<Vec<Linux>> {
    let folder = workspace::target_dir().join("linux");
    let series = |prefix: &str| {
        let mut images: Vec<_> = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .collect();
        images.sort();
        images.pop()
    };
    let prefixes = ["vmlinuz-6.1.", "vmlinuz-6.12."];
    if !prefixes.iter().all(|prefix| series(prefix).is_some()) {
        download(&folder).context(
            "Debian's kernels can't be had; --linux takes the path of any kernel image with a serial console instead",
        )?;
    }
    let images = prefixes.iter().map(|prefix| {
        series(prefix).with_context(|| format!("no {prefix}* in the packages {}", PACKAGES.join(" and ")))
    });
    images.map(|image| Ok(Linux::new(image?))).collect()
}

/// Downloads the packages and keeps their kernel images. apt-get works in a folder of its own, with lists of its own:
/// nothing is installed and nothing of the system's is changed.
fn download(folder: &Path) -> anyhow::Result<()> {
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
        "downloading Debian's 6.1 and 6.12 cloud kernels into {}",
        folder.display()
    );
    said(tool("apt-get").arg("update"))?;
    for package in PACKAGES {
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
        for file in fs::read_dir(content.join("boot"))? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with("vmlinuz-") {
                fs::rename(file.path(), folder.join(file.file_name()))?;
            }
        }
        fs::remove_dir_all(content)?;
    }
    fs::remove_dir_all(work)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_by_its_version() {
        for (file, name) in [
            ("/boot/vmlinuz-6.1.0-56-cloud-amd64", "Linux 6.1.0-56"),
            ("vmlinuz-6.12.117+deb12-cloud-amd64", "Linux 6.12.117"),
            ("bzImage", "Linux bzImage"),
        ] {
            assert_eq!(Linux::new(file.into()).name, name);
        }
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let error = Linux::all(&["/no/such/vmlinuz".into()]).unwrap_err();
        assert!(error.to_string().contains("/no/such/vmlinuz"), "{error}");
    }

    #[test]
    fn the_program_is_the_first_process() {
        let archive = archive(b"program").unwrap();
        let reader = cpio::newc::Reader::new(archive.as_slice()).unwrap();
        let entry = reader.entry();
        assert_eq!((entry.name(), entry.mode(), entry.file_size()), ("init", 0o100_755, 7));
    }
}
