//! Linux beside ours: where its kernel comes from, and how it boots with the benchmark as its first process.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::debian;
use crate::machine::{self, End, Hardware};
use crate::ports::Ports;

/// The options under which Linux is at its best in this comparison: no mitigations, no zeroing at allocation, no
/// accounting of memory groups, no random addresses, huge pages for those who ask.
const OPTIONS: &str = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off init_on_alloc=0 randomize_kstack_offset=off \
    cgroup_disable=memory no5lvl audit=0 nokaslr \
    norandmaps transparent_hugepage=madvise sysctl.vm.overcommit_memory=1";

/// With modules for disks: the files of the archive stay in memory when it is short.
const SWAP_OPTIONS: &str = "rootfstype=ramfs";

/// The processor: with ERMS Linux would zero byte by byte, 4096 counted steps instead of 512, and with the host's random
/// numbers no run would be like another.
const CPU: &str = "max,-erms,-rdrand,-rdseed";

/// A Linux kernel image.
#[derive(Clone, Debug)]
pub struct Linux {
    /// What the tables call it.
    pub name: String,
    image: PathBuf,
    /// What it needs for disks.
    modules: Vec<PathBuf>,
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
                kernels.extend(debian::cloud()?.into_iter().map(Self::new));
            } else {
                if !image.is_file() {
                    bail!("there is no Linux kernel {}", image.display());
                }
                kernels.push(Self::new(image.clone()));
            }
        }
        Ok(kernels)
    }

    /// The kernels that were asked for, with disks: the modules lie beside the image.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn all_with_disks(asked: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        let images = asked.iter().map(|image| match image.as_os_str() == "auto" {
            true => debian::generic(),
            false => Ok(image.clone()),
        });
        let kernels = images.map(|image| {
            let image = image?;
            let modules: Vec<_> = debian::MODULES.iter().map(|name| image.with_file_name(name)).collect();
            let missing = [&image].into_iter().chain(&modules).find(|file| !file.is_file());
            if let Some(missing) = missing {
                bail!("there is no {}", missing.display());
            }
            Ok(Self {
                modules,
                ..Self::new(image)
            })
        });
        kernels.collect()
    }

    /// A kernel by its file, `vmlinuz-VERSION`.
    fn new(image: PathBuf) -> Self {
        let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = file.strip_prefix("vmlinuz-").unwrap_or(&file);
        let version = version
            .trim_end_matches("-amd64")
            .trim_end_matches("-cloud")
            .trim_end_matches("+deb12");
        Self {
            name: format!("Linux {version}"),
            image,
            modules: Vec::new(),
        }
    }

    /// Boots it on a machine with this memory, acceleration and these disks, with the program as its first process, and
    /// returns what that wrote.
    ///
    /// # Errors
    /// Says how the machine ended, if the program didn't end it.
    pub fn boot(&self, program: &[u8], words: &[String], machine: Hardware, limit: Duration) -> anyhow::Result<String> {
        let more = if self.modules.is_empty() { "" } else { SWAP_OPTIONS };
        let hardware = Hardware {
            cpu: CPU.to_owned(),
            command_line: Some(format!("{OPTIONS} {more} -- {}", words.join(" "))),
            fast_output: false,
            ..machine
        };
        let ports = Ports {
            log: Box::new(io::sink()),
            stdout: Box::new(io::sink()),
            stderr: Box::new(io::sink()),
        };
        let outcome = machine::run(&hardware, &self.image, &self.archive(program)?, ports, Some(limit))?;
        if outcome.end != End::Orderly {
            bail!("{}: {}\n{}{}", self.name, outcome.end, outcome.log, outcome.qemu);
        }
        Ok(outcome.log)
    }

    /// The archive with the program as `/init`, and the modules.
    fn archive(&self, program: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut archive = Vec::new();
        add(&mut archive, "init", program)?;
        for module in &self.modules {
            let content = fs::read(module).with_context(|| format!("{} can't be read", module.display()))?;
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            add(&mut archive, &name, &content)?;
        }
        Ok(trailer(archive)?)
    }
}

/// Adds a file to an archive.
fn add(archive: &mut Vec<u8>, name: &str, content: &[u8]) -> anyhow::Result<()> {
    let size = u32::try_from(content.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
    let entry = Builder::new(name).ino(1).nlink(1).mode(0o755);
    let mut writer = entry.set_mode_file_type(ModeFileType::Regular).write(archive, size);
    writer.write_all(content)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_by_its_version() {
        for (file, name) in [
            ("/boot/vmlinuz-6.1.0-56-cloud-amd64", "Linux 6.1.0-56"),
            ("vmlinuz-6.12.117+deb12-cloud-amd64", "Linux 6.12.117"),
            ("vmlinuz-6.1.0-56-amd64", "Linux 6.1.0-56"),
            ("bzImage", "Linux bzImage"),
        ] {
            assert_eq!(Linux::new(file.into()).name, name);
        }
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let error = Linux::all(&["/no/such/vmlinuz".into()]).unwrap_err();
        assert!(error.to_string().contains("/no/such/vmlinuz"), "{error}");
        let error = Linux::all_with_disks(&["/no/such/vmlinuz".into()]).unwrap_err();
        assert!(error.to_string().contains("/no/such/vmlinuz"), "{error}");
    }

    #[test]
    fn the_program_is_the_first_process() {
        let archive = Linux::new("vmlinuz".into()).archive(b"program").unwrap();
        let reader = cpio::newc::Reader::new(archive.as_slice()).unwrap();
        let entry = reader.entry();
        assert_eq!((entry.name(), entry.mode(), entry.file_size()), ("init", 0o100_755, 7));
    }
}
